"""Guidance by two networks: one line of arithmetic, weights as sums, and the grammar that names who takes part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_process import normal, stable
from torch import Tensor

from visalign import cli
from visalign.batches import Condition
from visalign.cli.evaluate import short
from visalign.config import load, to_yaml
from visalign.diffusion.guidance import guided, pushed
from visalign.diffusion.sampling import generate, initial_noise
from visalign.diffusion.source import Source, SpecError
from visalign.drawing import Drawer, Settings
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.families import ask
from visalign.models.folder import Folder, FolderError
from visalign.models.mixing import Mix, Networks, combined, negative_mix, weighed
from visalign.models.pipelines import Reflected, negative_guidance
from visalign.models.publish import publish
from visalign.models.weights import Full
from visalign.process import Ddpm, Flow

PROMPTS = ["a red circle left of a blue square", "a green square"]
SMALL = Settings(steps=5, guidance=3.0, size=16)
A, B, C = Path("/a"), Path("/b"), Path("/c")


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two LoRAs on it, and the same two merged into whole folders: runs called dpo, npo, full-dpo, full-npo."""
    root = tmp_path_factory.mktemp(request.param)
    base = Folder.open(tiny.folder(root / "base", request.param))
    for seed, name in enumerate(("dpo", "npo")):
        model = base.denoiser(train="lora", rank=2)
        moved(model.trainable(), seed)
        publish(model, base, root / name / "weights", {"name": name})
        pipe = base.pipeline(safety_checker=None) if request.param == "sd15" else base.pipeline()
        pipe.load_lora_weights(root / name / "weights")
        pipe.fuse_lora()
        pipe.unload_lora_weights()
        pipe.save_pretrained(root / f"full-{name}" / "weights", safe_serialization=True)
    for name in ("dpo", "npo", "full-dpo", "full-npo"):
        run = load("playground_dpo", [f"model.folder={root / 'base'}"])
        (root / name / "run.yaml").write_text(to_yaml(run))
    return root


def moved(parameters: Mapping[str, torch.nn.Parameter], seed: int, size: float = 0.2) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in parameters.values():
            each.add_(size * torch.randn(each.shape, generator=generator))


def drawn(drawer: Drawer) -> Tensor:
    """Latents of two prompts from two seeds."""
    told, untold = (drawer.encoders.conditions(words, drawer.size) for words in (PROMPTS, ["", ""]))
    noise = initial_noise([3, 4], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    return generate(
        drawer.model, told, untold, noise, steps=drawer.settings.steps, guidance=drawer.settings.guidance,
        negative=drawer.negative.policy, reflection=drawer.reflection,
    )  # fmt: skip


def opened(spec: str, settings: Settings = SMALL) -> Drawer:
    return Drawer(Source.find(spec), settings)


def close(ours: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((ours - theirs).abs().max() <= tolerance * theirs.abs().max())


def nothing(n: int) -> Condition:
    return Condition(torch.zeros(n, 1, 1))


def test_guidance_is_the_published_number() -> None:
    assert float(pushed(torch.tensor(0.4), torch.tensor(-0.1), 7.5)) == pytest.approx(3.65, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_answers_in_half_precision_are_not_rounded_once_more(dtype: torch.dtype) -> None:
    told, untold = (normal(2, 4, 4, 4, seed=seed).to(dtype) for seed in (1, 2))
    assert torch.equal(pushed(told, untold, 5.0), pushed(told.float(), untold.float(), 5.0))


@pytest.mark.parametrize("process", [stable(), stable("v_prediction"), Flow()], ids=["epsilon", "v", "flow"])
def test_guiding_the_answers_is_guiding_the_noise_they_imply(process: Ddpm | Flow) -> None:
    """So one line serves noise, v and velocity: what they imply at one x_t is affine in them."""
    x, told, untold = (normal(2, 4, 4, 4, seed=seed) for seed in range(3))
    t = process.grid(10)[7].expand(2)
    _, implied = process.split(pushed(told, untold, 5.0), x, t)
    expected = pushed(process.split(told, x, t)[1], process.split(untold, x, t)[1], 5.0)
    assert torch.allclose(implied, expected, atol=1e-10)


def test_a_negative_network_replaces_the_unconditional_branch_and_is_no_extra_term() -> None:
    told, untold = Condition(torch.ones(2, 1, 1)), nothing(2)
    positive = lambda x, t, c: 0.3 * x + c.text.reshape(-1, 1)  # noqa: E731
    negative = lambda x, t, c: -0.2 * x - 5 + c.text.reshape(-1, 1)  # noqa: E731
    x, t = normal(2, 3), torch.zeros(2)
    found = guided(positive, told, untold, 4.0, negative)(x, t)
    assert torch.allclose(found, (-0.2 * x - 5) + 4.0 * ((0.3 * x + 1) - (-0.2 * x - 5)))
    assert torch.equal(guided(positive, told, untold, 1.0, negative)(x, t), 0.3 * x + 1)
    assert torch.equal(guided(positive, told, untold, 0.0, negative)(x, t), -0.2 * x - 5)


def test_the_same_network_on_both_sides_is_plain_guidance_in_one_call() -> None:
    asked = []

    def predict(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        asked.append(len(x))
        return 0.3 * x + condition.text.reshape(-1, 1)

    x, t, told = normal(2, 3), torch.zeros(2), Condition(torch.ones(2, 1, 1, dtype=torch.float64))
    empty = Condition(torch.zeros(2, 1, 1, dtype=torch.float64))
    assert torch.equal(guided(predict, told, empty, 4.0, predict)(x, t), guided(predict, told, empty, 4.0)(x, t))
    assert asked == [4, 4]


@pytest.mark.parametrize(("merge_weight", "expected"), [(0.0, 1.1), (0.25, 1.025), (1.0, 0.8)])
def test_merged_weights_are_the_published_numbers(merge_weight: float, expected: float) -> None:
    """theta_base = 1, eta = 0.3, delta = -0.2; alpha is 1 - merge_weight."""
    mix = negative_mix(Mix({A: 1.0}), Mix({B: 1.0}), Mix({C: 1.0}), alpha=1 - merge_weight)
    states = {A: {"w": torch.tensor(1.0)}, B: {"w": torch.tensor(1.3)}, C: {"w": torch.tensor(0.8)}}
    found = combined((weight, states[path]) for path, weight in mix.full.items())
    assert float(found["w"]) == pytest.approx(expected, abs=1e-6)


def test_what_cancels_in_a_mix_is_left_out() -> None:
    base, policy, negative = Mix({A: 1.0}), Mix({B: 1.0}), Mix({C: 1.0})
    assert negative_mix(base, policy, negative, alpha=1, beta=0) == policy
    assert negative_mix(base, policy, negative, alpha=0, beta=1) == negative
    assert negative_mix(base, policy, negative, alpha=0.7, beta=0.3).full == {B: 0.7, C: 0.3}
    on_one_base = negative_mix(base, Mix({A: 1.0}, {B: 1.0}), Mix({A: 1.0}, {C: 1.0}), alpha=0.1, beta=1.0)
    assert on_one_base == Mix({A: 1.0}, {B: 0.1, C: 1.0})
    assert weighed((0.5, {A: 2.0}), (-1.0, {A: 1.0})) == {}


def test_weights_of_different_networks_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="they differ in w"):
        combined([(0.5, {"w": torch.zeros(2)}), (0.5, {"w": torch.zeros(3)})])
    with pytest.raises(ValueError, match="they differ in more"):
        combined([(0.5, {"w": torch.zeros(2)}), (0.5, {"w": torch.zeros(2), "more": torch.zeros(1)})])


def test_loras_on_one_base_share_one_network_and_answer_as_merged_weights_do(trained: Path) -> None:
    light = opened(f"{trained}/dpo,negative={trained}/npo,alpha=0.5")
    heavy = opened(f"{trained}/full-dpo,negative={trained}/full-npo,alpha=0.5")
    assert (len(light.networks.held), len(heavy.networks.held)) == (1, 2)
    assert close(drawn(light), drawn(heavy), 1e-4)
    assert not close(drawn(light), drawn(opened(f"{trained}/dpo")), 1e-2)


def test_alpha_1_and_beta_0_is_plain_guidance_bit_for_bit(trained: Path) -> None:
    for name in ("dpo", "full-dpo"):
        plain, mixed = opened(f"{trained}/{name}"), opened(f"{trained}/{name},negative={trained}/npo,alpha=1,beta=0")
        assert len(mixed.networks.held) == 1
        assert torch.equal(drawn(plain), drawn(mixed))


def test_a_negative_that_stands_apart_but_is_the_policy_is_plain_guidance(trained: Path) -> None:
    """Two networks with the same weights: the arithmetic's difference is one batch of 2n against two of n."""
    process, size = Folder(trained / "base").process, (16, 16)
    encoders = Folder(trained / "base").encoders()
    told, untold = (encoders.conditions(words, size) for words in (PROMPTS, ["", ""]))
    dpo = Folder(trained / "full-dpo" / "weights")
    one, other = (NetworkDenoiser(Full(dpo.network().double(), reference=False), process).eval() for _ in range(2))
    noise = initial_noise([3, 4], (4, 8, 8), torch.zeros((), dtype=torch.float64))
    settings: dict[str, Any] = {"steps": 5, "guidance": 4.0}
    together = generate(one, told, untold, noise, **settings)
    apart = generate(one, told, untold, noise, negative=other.policy, **settings)
    assert torch.allclose(together, apart, atol=1e-11)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_two_networks_draw_along_any_path(prediction: str) -> None:
    """Equal networks change nothing; another negative does: for noise, v and flow."""
    process = Flow() if prediction == "flow" else stable(prediction)
    torch.manual_seed(0)
    one, other = (NetworkDenoiser(Full(tiny.unet(8).double(), reference=False), process).eval() for _ in range(2))
    told, untold = (Condition(normal(1, 5, 8, seed=seed)) for seed in range(2))
    noise = normal(1, 4, 8, 8)
    settings: dict[str, Any] = {"steps": 6, "guidance": 3.0}
    plain = generate(one, told, untold, noise, **settings)
    same = generate(one, told, untold, noise, negative=lambda x, t, c: one.policy(x, t, c), **settings)
    apart = generate(one, told, untold, noise, negative=other.policy, **settings)
    assert torch.allclose(plain, same, atol=1e-10)
    assert float((plain - apart).abs().max()) > 1e-2


def test_a_role_leaves_its_network_as_it_found_it(trained: Path) -> None:
    mixes = [Mix({trained / "base": 1.0}, {trained / "dpo" / "weights": scale}) for scale in (1.0, -1.5)]
    strong, weak = Networks([*mixes, mixes[0]], torch.float32, "cpu").roles[:2]
    state = {name: each.clone() for name, each in strong.network.state_dict().items()}
    scaling = [dict(layer.scaling) for layer in strong._layers]
    condition = Folder(trained / "base").encoders().conditions(PROMPTS, (16, 16))
    x, t = normal(2, 4, 8, 8).float(), torch.tensor([500, 500])
    first, second, again = (ask(role, x, t, condition) for role in (strong, weak, strong))
    assert torch.equal(first, again)
    assert not torch.allclose(first, second, atol=1e-3)
    assert scaling == [dict(layer.scaling) for layer in strong._layers]
    assert all(torch.equal(each, state[name]) for name, each in strong.network.state_dict().items())


def test_a_plain_diffusers_pipeline_with_two_networks_draws_what_we_draw(trained: Path) -> None:
    drawer = opened(f"{trained}/full-dpo,negative={trained}/full-npo,alpha=0.5")
    noise = initial_noise([3, 4], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    theirs = drawer.pipeline()(
        PROMPTS, latents=noise, num_inference_steps=5, guidance_scale=3.0, height=16, width=16, output_type="latent"
    ).images
    assert close(drawn(drawer), theirs)


def test_a_users_own_pipeline_takes_its_loaded_adapters_as_the_negative(trained: Path) -> None:
    drawer = opened(f"{trained}/dpo,negative={trained}/npo,alpha=0.5")
    pipe = Folder(trained / "base").pipeline()
    pipe.set_progress_bar_config(disable=True)
    for name in ("dpo", "npo"):
        pipe.load_lora_weights(trained / name / "weights", adapter_name=name)
    pipe.set_adapters(["dpo"])
    with pytest.raises(ValueError, match="no adapter npq; loaded are dpo, npo"):
        negative_guidance(pipe, {"npq": 1.0})
    noise = initial_noise([3, 4], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    settings: dict[str, Any] = {"latents": noise, "num_inference_steps": 5, "height": 16, "width": 16}
    plain = pipe(PROMPTS, guidance_scale=1.0, output_type="latent", **settings).images
    negative_guidance(pipe, {"dpo": 0.5, "npo": 1.0})
    assert close(drawn(drawer), pipe(PROMPTS, guidance_scale=3.0, output_type="latent", **settings).images)
    # Without guidance diffusers asks for the told half alone: two pictures are no pair of halves.
    assert torch.equal(plain, pipe(PROMPTS, guidance_scale=1.0, output_type="latent", **settings).images)
    assert pipe(PROMPTS[0], num_inference_steps=1).images[0].size == (16, 16)


def test_a_users_own_pipeline_reflects_between_two_scales_of_its_adapter(trained: Path) -> None:
    drawer = opened(f"{trained}/dpo,scale=0.8,strong_scale=1.5,weak_scale=-1.5")
    assert len(drawer.networks.held) == 1
    pipe = Folder(trained / "base").pipeline()
    pipe.load_lora_weights(trained / "dpo" / "weights", adapter_name="style")
    pipe.set_adapters(["style"], [0.8])
    reflected = Reflected(pipe, strong={"style": 1.5}, weak={"style": -1.5})
    noise = initial_noise([3, 4], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    theirs = reflected(
        PROMPTS, latents=noise, num_inference_steps=5, guidance_scale=3.0, height=16, width=16, output_type="latent"
    ).images
    assert close(drawn(drawer), theirs)


def test_the_hash_tells_what_draws_apart_and_is_the_same_when_it_is_the_same(trained: Path) -> None:
    specs = [
        f"{trained}/dpo", f"{trained}/dpo,scale=0.5", f"{trained}/npo", f"{trained}/dpo,negative={trained}/npo",
        f"{trained}/dpo,negative={trained}/npo,alpha=0.5", f"{trained}/dpo,weak={trained}/base",
        f"{trained}/dpo,weak={trained}/base,variant=release", f"{trained}/base",
    ]  # fmt: skip
    hashes = [opened(spec).weights_hash for spec in specs]
    assert len(set(hashes)) == len(hashes)
    assert opened(f"{trained}/../{trained.name}/dpo").weights_hash == hashes[0]
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in hashes)


def test_a_drawer_draws_again_with_other_settings_and_says_what_it_did(trained: Path) -> None:
    drawer = opened(f"{trained}/dpo,negative={trained}/npo")
    first = np.concatenate(list(drawer.batches(PROMPTS, [1, 2])))
    drawer.settings = replace(drawer.settings, guidance=1.0, batch=1)
    second = list(drawer.batches(PROMPTS, [1, 2]))
    assert first.shape == (2, 16, 16, 3)
    assert len(second) == 2
    assert not np.array_equal(first, np.concatenate(second))
    proof = drawer.proof("a red circle", 7)
    assert {"seed": 7, "steps": 5, "guidance": 1.0, "weights": drawer.weights_hash}.items() <= proof.items()
    assert proof["sampler"] == "DDIM, eta 0"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (",negativ=x", "unknown setting negativ; did you mean negative? Known: "),
        (",alpha=0.5", "alpha: mixes a negative model, and none is given; add negative=MODEL"),
        (",scale=2", "scale weighs a LoRA, and"),
        (",weak_scale=2", "weak_scale weighs a LoRA, and the model has none"),
        (",reflect=many", "reflect: expected a whole number, got 'many'"),
        (",reflect=-1", "reflect is a number of steps, got -1"),
        (",weak_guidance=much", "weak_guidance: expected a number, got 'much'"),
        (",variant=released", "variant: expected one of paper, release, got 'released'"),
        (",negative", "options read name=value, got 'negative'"),
        (",reflect=1,reflect=2", "gives reflect twice"),
        (",reflect=4", "of 4 steps 0 … 3 can be reflected, got 4"),
        (",negative=BASE,alpha=0.5", "was trained from is not known, and alpha=0.5, beta=1 needs it: add base=MODEL"),
    ],
)
def test_options_that_cannot_be_are_one_line_with_the_mend(
    trained: Path, options: str, says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = f"{trained}/base{options}".replace("BASE", f"{trained}/base")
    given = ["generate", spec, "--prompts", "a red circle", "--steps", "4", "--out", str(tmp_path)]
    assert cli.main(given) == 2
    text = capsys.readouterr().err
    assert says in text
    assert len(text.strip().splitlines()) == 1


def test_weights_are_summed_in_float32_and_returned_in_their_own_dtype() -> None:
    big, small = torch.tensor([256.0], dtype=torch.bfloat16), torch.tensor([0.75], dtype=torch.bfloat16)
    found = combined([(1.0, {"w": big}), (2.0, {"w": small}), (-1.0, {"w": big})])["w"]
    assert (found.dtype, float(found)) == (torch.bfloat16, 1.5)  # 256 + 1.5 in bfloat16 is 258


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_half_precision_draws_with_all_who_take_part(trained: Path, dtype: str) -> None:
    """In the pipeline's order of work too: what differs from float32 is rounding, well below what the gap moves."""
    spec = f"{trained}/full-dpo,negative={trained}/full-npo,alpha=0.5,weak={trained}/npo,reflect=2"
    whole, half = opened(spec), opened(spec, replace(SMALL, dtype=dtype))
    first, second = (next(each.batches(PROMPTS, [1, 2])).astype(int) for each in (whole, half))
    assert abs(first - second).mean() < 3
    assert whole.weights_hash != half.weights_hash
    assert half.pipeline()(PROMPTS[0], num_inference_steps=3).images[0].size == (16, 16)


def test_reports_name_models_by_the_last_parts_of_their_paths() -> None:
    given = ["playground", "runs/demo/dpo/", "runs/demo/dpo,negative=runs/npo,alpha=1", "a/b+c/d"]
    assert short(given) == ["playground", "dpo", "dpo,negative=npo,alpha=1", "b+d"]
    assert short(["a/dpo", "b/dpo"]) == ["a/dpo", "b/dpo"]


def test_a_model_beside_the_first_is_looked_for_as_strictly(trained: Path) -> None:
    with pytest.raises(FolderError, match=r"no model_index\.json in nowhere"):
        Source.find(f"{trained}/dpo,negative=./nowhere")
    with pytest.raises(SpecError, match=r"base=MODEL"):
        Source.find(f"{trained}/base,negative={trained}/full-npo/weights,alpha=0.5")
    found = Source.find(f"{trained}/base,negative={trained}/full-npo/weights,alpha=0.5,base={trained}/base")
    assert found.negative == Mix({trained / "full-npo" / "weights": 1.0})


def test_generate_draws_with_all_who_take_part(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["--steps", "3", "--size", "16", "--out", str(tmp_path), "--prompts", "a red circle"]
    spec = f"{trained}/dpo,negative={trained}/npo,weak={trained}/base,reflect=1"
    assert cli.main(["generate", spec, *small, "--weak-prompts", "a circle"]) == 0
    assert (tmp_path / "pictures" / "00000-0.png").is_file()
    capsys.readouterr()
    assert cli.main(["generate", f"{trained}/dpo", *small, "--weak-prompts", "a circle"]) == 2
    assert "does not reflect: add ,reflect=N" in capsys.readouterr().err
    assert cli.main(["generate", f"{trained}/dpo,reflect=1", *small, "--weak-prompts", "a circle"]) == 2
    assert "told to nobody under weak_guidance=0: add ,weak_guidance=1" in capsys.readouterr().err
