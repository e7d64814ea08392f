"""PPD: attention to users beside a frozen network, its loss, and what is published of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import methods
import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign.batches import Condition, Pairs
from visalign.cli import main
from visalign.config import ConfigError
from visalign.diffusion import errors, noise_pairs, personal
from visalign.diffusion.source import Source, SpecError
from visalign.drawing import Drawer, Settings
from visalign.draws import Draws
from visalign.models import users
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.folder import Folder
from visalign.models.publish import publish
from visalign.models.users import Shape
from visalign.models.weights import Full
from visalign.records import DataError
from visalign.trainers import PPD, DiffusionDPO

FAMILIES = ["sd15", "sd21", "sdxl"]
PROMPTS = ["a red circle left of a blue square", "a green square"]
SHAPE = Shape(tokens=3, width=6)
PEOPLE = {
    name: torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 6))).float()
    for seed, name in enumerate(["anna", "ben", "a+b"])
}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / "sd15", "sd15"))


@pytest.fixture(scope="module")
def run(sd15: Folder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on sd15: its weights moved, its settings written down, its users beside it."""
    out = tmp_path_factory.mktemp("run")
    save_file(PEOPLE, out / "users.safetensors")
    model = nudged(denoiser(sd15), 0.3)
    publish(model, sd15, out / "weights", {"name": "tiny"})
    (out / "run.yaml").write_text(f"model: {{folder: {sd15.path}}}\ndata: {{users: {out / 'users.safetensors'}}}\n")
    return out


def denoiser(folder: Folder, **changes: Any) -> NetworkDenoiser:
    return folder.denoiser(train="user", users=SHAPE, **changes)


def nudged(model: NetworkDenoiser, size: float = 0.05) -> NetworkDenoiser:
    """Everything trainable moved a little, so that policy and reference differ."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for each in model.trainable().values():
            each.add_(size * torch.randn(each.shape, generator=generator).to(each))
    return model


def pairs(folder: Folder, names: tuple[str, ...] = ("anna", "ben")) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    b = len(names)
    win, lose = (torch.randn(b, 4, 8, 8, generator=generator) for _ in range(2))
    told = folder.encoders().conditions(PROMPTS[:b] * 2, (16, 16))
    user = torch.stack([PEOPLE[name] for name in names]).repeat(2, 1, 1)
    draw = Draws(0, tuple(f"pair {i}" for i in range(b)), (0,) * b)
    return Pairs(win, lose, replace(told, user=user), draw, torch.ones(b), torch.ones(b))


def nobody(condition: Condition) -> Condition:
    assert condition.user is not None
    return replace(condition, user=torch.zeros_like(condition.user))


# The network


def test_at_the_first_step_it_is_the_base_bit_for_bit(folder: Folder) -> None:
    model, batch = denoiser(folder), pairs(folder)
    at = noise_pairs(model.process, batch)
    plain = folder.denoiser(train="full").policy(at.x, at.t, replace(batch.condition, user=None))
    for condition in (batch.condition, nobody(batch.condition), replace(batch.condition, user=None)):
        assert torch.equal(model.policy(at.x, at.t, condition), plain)
    assert torch.equal(model.reference(at.x, at.t, batch.condition), plain)
    assert torch.equal(PPD().loss(batch, model).each, -logsigmoid(torch.zeros(2)))


def test_under_bf16_autocast_the_first_loss_is_log_2_bit_for_bit_and_has_a_gradient(folder: Folder) -> None:
    model, batch = denoiser(folder), pairs(folder)
    with torch.autocast("cpu", torch.bfloat16):
        loss = PPD(dropout=0).loss(batch, model)
    assert torch.equal(loss.each, -logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    assert sum(float(each.grad.norm()) for each in model.trainable().values() if each.grad is not None) > 0


def test_the_second_attention_is_the_formula_written_out(sd15: Folder) -> None:
    model = nudged(denoiser(sd15))
    name, layer = next((n, m) for n, m in model.network.named_modules() if n.endswith("attn2"))
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, 4, layer.to_q.weight.shape[1], generator=generator)
    text, user = (torch.randn(1, n, layer.to_k.weight.shape[1], generator=generator) for n in (5, 3))
    new, heads = layer.processor, layer.heads

    def attention(states: Tensor, key: Any, value: Any) -> Tensor:
        found = []
        query, keys, values = layer.to_q(hidden), key(states), value(states)
        for q, k, v in zip(*(each.chunk(heads, -1) for each in (query, keys, values)), strict=True):
            found.append(torch.softmax(q @ k.mT / k.shape[-1] ** 0.5, -1) @ v)
        return torch.cat(found, -1)

    z = attention(text, layer.to_k, layer.to_v) + attention(user, new.to_k, new.to_v)
    assert torch.allclose(layer(hidden, encoder_hidden_states=(text, user)), layer.to_out[0](z), atol=1e-6), name
    alone = layer.to_out[0](attention(text, layer.to_k, layer.to_v))
    assert torch.allclose(layer(hidden, encoder_hidden_states=text), alone, atol=1e-6)


def test_after_training_users_differ_and_the_reference_is_still_the_base(folder: Folder) -> None:
    model, batch = nudged(denoiser(folder)), pairs(folder)
    at = noise_pairs(model.process, batch)
    plain = folder.denoiser(train="full").policy(at.x, at.t, replace(batch.condition, user=None))
    answer = model.policy(at.x, at.t, batch.condition)
    assert torch.equal(model.reference(at.x, at.t, batch.condition), plain)
    assert torch.equal(model.policy(at.x, at.t, replace(batch.condition, user=None)), plain)
    assert not torch.allclose(answer, plain, atol=1e-4)
    assert not torch.allclose(answer, model.policy(at.x, at.t, nobody(batch.condition)), atol=1e-4)
    assert batch.condition.user is not None
    swapped = replace(batch.condition, user=batch.condition.user.flip(0))
    assert not torch.allclose(answer, model.policy(at.x, at.t, swapped), atol=1e-4)


def test_one_copy_of_the_weights_is_held_and_only_what_is_new_is_trained(folder: Folder) -> None:
    plain = {name for name, _ in folder.network().named_parameters()}
    model = denoiser(folder)
    new = model.trainable()
    assert sum(each.numel() for each in model.parameters()) == sum(
        each.numel() for each in folder.network().parameters()
    ) + sum(each.numel() for each in new.values())
    assert not plain & new.keys()
    assert {name for name, each in model.network.named_parameters() if each.requires_grad} == new.keys()
    layers = sum(name.endswith("attn2.to_k.weight") for name in plain)
    assert len(new) == 2 * layers + 4
    loss = PPD(beta=100, dropout=0).loss(pairs(folder), nudged(model))
    loss.each.sum().backward()
    assert all(each.grad is not None and float(each.grad.norm()) > 0 for each in new.values())


def test_at_the_start_the_gradient_goes_to_the_new_values_alone(sd15: Folder) -> None:
    model = denoiser(sd15)
    PPD(beta=100, dropout=0).loss(pairs(sd15), model).each.sum().backward()
    norms = {name: float(each.grad.norm()) for name, each in model.trainable().items() if each.grad is not None}
    assert {name for name, norm in norms.items() if norm} == {name for name in norms if name.endswith("to_v.weight")}


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(folder: Folder) -> None:
    found = []
    for checkpointing in (False, True):
        model = nudged(denoiser(folder, checkpointing=checkpointing)).train()
        PPD(beta=100).loss(pairs(folder), model).each.sum().backward()
        found.append({name: each.grad for name, each in model.trainable().items() if each.grad is not None})
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_in_half_precision_the_new_layers_stay_in_float32(sd15: Folder) -> None:
    model, batch = nudged(denoiser(sd15, dtype="bf16")), pairs(sd15)
    assert {each.dtype for each in model.trainable().values()} == {torch.float32}
    at = noise_pairs(model.process, batch)
    assert torch.isfinite(model.policy(at.x, at.t, batch.condition)).all()


def test_networks_and_embeddings_that_do_not_go_together_are_refused(sd15: Folder) -> None:
    batch = pairs(sd15)
    at = noise_pairs(sd15.process, batch)
    with pytest.raises(ValueError, match="without attention to users"):
        sd15.denoiser(train="lora", rank=1).policy(at.x, at.t, batch.condition)
    wide = replace(batch.condition, user=torch.zeros(4, 3, 7))
    with pytest.raises(ValueError, match=r"trained with embeddings of .*width=6.*got .*width=7"):
        denoiser(sd15).policy(at.x, at.t, wide)
    with pytest.raises(ValueError, match="go together"):
        sd15.denoiser(train="user")


# The method


def test_without_dropout_the_loss_is_diffusion_dpo_told_of_the_user(sd15: Folder) -> None:
    model, batch = nudged(denoiser(sd15)), pairs(sd15)
    assert torch.equal(PPD(beta=300, dropout=0).loss(batch, model).each, DiffusionDPO(beta=300).loss(batch, model).each)
    everybody = replace(batch, condition=nobody(batch.condition))
    dropped = PPD(beta=300, dropout=1).loss(batch, model).each
    assert torch.equal(dropped, DiffusionDPO(beta=300).loss(everybody, model).each)


def test_the_loss_compares_the_told_policy_with_the_untold_reference() -> None:
    model, batch = methods.denoiser("v_prediction", "user"), methods.personal(methods.pairs())
    at = noise_pairs(model.process, batch)
    policy = (model.policy(at.x, at.t, batch.condition) - at.target).square().flatten(1).mean(1)
    untold = model.reference(at.x, at.t, replace(batch.condition, user=None))
    reference = (untold - at.target).square().flatten(1).mean(1)
    win, lose = (policy - reference).chunk(2)
    loss = PPD(beta=200, dropout=0).loss(batch, model)
    assert torch.allclose(loss.each, -logsigmoid(-100 * (win - lose)), rtol=1e-9)


def test_dropout_takes_the_user_from_both_of_a_pair_and_in_the_share_that_it_says() -> None:
    batch = methods.personal(methods.pairs())
    gone = 0
    for visit in range(300):
        user = PPD(dropout=0.25).told(replace(batch, draw=methods.draws(4, visit))).user
        assert user is not None
        empty = (user == 0).flatten(1).all(1)
        assert torch.equal(empty[:4], empty[4:])
        gone += int(empty[:4].sum())
    assert abs(gone / 1200 - 0.25) < 4 * (0.25 * 0.75 / 1200) ** 0.5


def test_what_it_cannot_do_without_is_said_with_the_mend(sd15: Folder) -> None:
    batch = pairs(sd15)
    with pytest.raises(ConfigError, match=r"data\.users=FILE and model\.train=user"):
        PPD().loss(replace(batch, condition=replace(batch.condition, user=None)), denoiser(sd15))
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        PPD(beta=0)
    with pytest.raises(ValueError, match=r"dropout must lie in 0 … 1, got 1\.5"):
        PPD(dropout=1.5)


@pytest.mark.parametrize("changes", [["model.train=lora", "data.users=FILE"], ["model.train=user"]])
def test_users_and_attention_to_them_go_together(
    changes: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [each.replace("FILE", str(run / "users.safetensors")) for each in changes]
    settings = ["data.path=playground", f"data.cache={tmp_path}", "data.users=null", f"out={tmp_path / 'out'}"]
    assert main(["train", "playground_ppd", *settings, *changes]) == 2
    assert "model.train=user and data.users=FILE go together" in capsys.readouterr().err


# What is published


def test_what_is_published_loads_into_the_base_and_answers_the_same(folder: Folder, tmp_path: Path) -> None:
    model, batch = nudged(denoiser(folder)), pairs(folder)
    publish(model, folder, tmp_path / "weights", {"name": "tiny", "beta": 5000})
    network = folder.network()
    users.load(network, tmp_path / "weights" / users.USER_FILE)
    other = NetworkDenoiser(Full(network, reference=False), folder.process)
    at = noise_pairs(model.process, batch)
    assert torch.equal(other.policy(at.x, at.t, batch.condition), model.policy(at.x, at.t, batch.condition))
    card = (tmp_path / "weights" / "README.md").read_text()
    assert "BASE+HERE,user=NAME,users=FILE" in card and "(3, 6)" in card


def test_layers_of_another_network_are_refused(sd15: Folder, tmp_path: Path) -> None:
    publish(denoiser(sd15), sd15, tmp_path / "weights", {})
    other = tiny.unet(48)
    with pytest.raises(ValueError, match="is of another network"):
        users.load(other, tmp_path / "weights" / users.USER_FILE)
    save_file({"a": torch.zeros(1)}, tmp_path / "no.safetensors")
    with pytest.raises(ValueError, match="holds no attention to users"):
        users.shape_of(tmp_path / "no.safetensors")


def drawn(spec: str, guidance: float = 2.0) -> Any:
    drawer = Drawer(Source.find(spec), Settings(steps=3, guidance=guidance, size=16))
    return np.concatenate(list(drawer.batches(PROMPTS, [5, 6])))


def test_users_draw_differently_and_a_mixture_of_one_is_that_one(run: Path) -> None:
    anna, ben, everybody = (drawn(f"{run}{said}") for said in (",user=anna", ",user=ben", ""))
    assert not np.array_equal(anna, ben)
    assert not np.array_equal(anna, everybody)
    assert np.array_equal(anna, drawn(f"{run},user=1*anna+0*ben"))
    assert not np.array_equal(drawn(f"{run},user=0.5*anna+0.5*ben"), anna)


def test_user_guidance_of_one_is_none_and_of_zero_is_everybodys(run: Path) -> None:
    assert np.array_equal(drawn(f"{run},user=anna"), drawn(f"{run},user=anna,user_guidance=1"))
    everybody, zero = (drawn(f"{run}{said}").astype(int) for said in ("", ",user=anna,user_guidance=0"))
    assert abs(everybody - zero).max() <= 1
    assert not np.array_equal(drawn(f"{run},user=anna,user_guidance=3"), drawn(f"{run},user=anna"))


def test_layers_draw_on_a_base_that_is_named_and_with_another_file_of_users(run: Path, sd15: Folder) -> None:
    spec = f"{sd15.path}+{run / 'weights'},user=anna,users={run / 'users.safetensors'}"
    assert np.array_equal(drawn(spec), drawn(f"{run},user=anna"))
    with pytest.raises(SpecError, match="user=anna needs users=FILE"):
        Source.find(f"{sd15.path}+{run / 'weights'},user=anna")
    with pytest.raises(SpecError, match=r"user needs a model that was trained with model\.train=user"):
        Source.find(f"{sd15.path},user=anna")


def test_the_command_draws_for_a_user(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    words = ["--prompts", "a red circle", "--steps", "2", "--size", "16", "--out", str(out)]
    assert main(["generate", f"{run},user=0.4*anna+0.6*ben", *words]) == 0
    assert len(list((out / "pictures").iterdir())) == 1


# Mixtures


def test_a_mixture_is_the_weighed_sum_and_its_weights_sum_to_one() -> None:
    mixed = personal.taste("0.25*anna+.75*ben", PEOPLE)
    assert torch.allclose(mixed, 0.25 * PEOPLE["anna"] + 0.75 * PEOPLE["ben"])
    assert torch.equal(personal.taste("a+b", PEOPLE), PEOPLE["a+b"])
    assert torch.allclose(personal.taste("2*anna+-1*ben", PEOPLE), 2 * PEOPLE["anna"] - PEOPLE["ben"])
    with pytest.raises(DataError, match=r"sum to 0\.8, not 1"):
        personal.taste("0.3*anna+0.5*ben", PEOPLE)
    with pytest.raises(DataError, match=r"no user 'carl': there are 3, a\+b, anna, ben"):
        personal.taste("0.3*anna+0.7*carl", PEOPLE)


def test_what_everybody_likes_is_left_where_nobody_is_asked_for(sd15: Folder) -> None:
    model, batch = nudged(denoiser(sd15)), pairs(sd15)
    at = noise_pairs(model.process, batch)
    answer = personal.towards_user(model.policy, 2.5)
    user, everybody = (model.policy(at.x, at.t, each) for each in (batch.condition, nobody(batch.condition)))
    assert torch.allclose(answer(at.x, at.t, batch.condition), everybody + 2.5 * (user - everybody), atol=1e-5)
    assert torch.allclose(answer(at.x, at.t, nobody(batch.condition)), everybody, atol=1e-6)
    untold = replace(batch.condition, user=None)
    assert torch.equal(answer(at.x, at.t, untold), model.policy(at.x, at.t, untold))


def test_errors_are_of_the_dropped_condition(sd15: Folder) -> None:
    model, batch = nudged(denoiser(sd15)), pairs(sd15)
    at = noise_pairs(model.process, batch)
    told, untold = (errors(model, at, each) for each in (batch.condition, nobody(batch.condition)))
    assert torch.equal(told.reference, untold.reference)
    assert not torch.equal(told.policy, untold.policy)
