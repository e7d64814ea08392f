"""Stable Diffusion 3 and FLUX.1: what ours draw is what diffusers' own pipelines draw, and they train as UNets do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import tiny
import torch
from diffusers import FluxPipeline
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, attention_backend
from drawn import (
    PROMPTS,
    SIZE,
    batched_as_alone,
    checkpointing_changes_no_bit,
    drawer,
    noise_of,
    nudge,
    ours,
    pairs,
    pipeline,
    theirs,
)

from visalign.batches import Condition
from visalign.diffusion.guidance import guided
from visalign.diffusion.source import SpecError
from visalign.models import attention, flux, users
from visalign.models.folder import Folder, FolderError
from visalign.models.pipelines import Reflected, negative_guidance
from visalign.models.publish import absent_parts, attach_lora, publish
from visalign.process import Flow
from visalign.trainers import DiffusionDPO

FAMILIES = ["sd3", "flux"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    path = tmp_path_factory.mktemp("model")
    kinds = [*FAMILIES, "sd3 without T5", "schnell"]
    return {kind: Folder.open(tiny.folder(path / kind.replace(" ", "_"), kind)) for kind in kinds}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Folder]) -> Folder:
    return folders[request.param]


@pytest.fixture(autouse=True)
def nothing_of_the_process_is_changed() -> Iterator[None]:
    before = _AttentionBackendRegistry._active_backend
    yield
    assert _AttentionBackendRegistry._active_backend is before


@pytest.mark.parametrize("kind", ["sd3", "sd3 without T5", "flux", "schnell"])
def test_drawing_equals_diffusers_own_pipeline(folders: dict[str, Folder], kind: str) -> None:
    drawing = drawer(folders[kind])
    noise, pipe = noise_of(drawing), pipeline(folders[kind])
    expected = theirs(pipe, noise)
    assert torch.allclose(ours(folders[kind], drawing.model, noise), expected, atol=1e-5 * float(expected.abs().max()))
    pixels = theirs(pipe, noise, "np")
    found = np.concatenate(list(drawing.batches(PROMPTS, [3, 4])))
    assert found.shape == (2, *SIZE, 3)
    assert np.abs(found / 255 - pixels).max() < 0.6 / 255


def test_another_size_has_another_shift_and_is_drawn_as_the_pipeline_draws_it(folders: dict[str, Folder]) -> None:
    drawing = drawer(folders["flux"], size=(16, 16))
    first = next(drawing.batches(PROMPTS, [3, 4]))
    drawing.settings = replace(drawing.settings, size=(32, 48))
    found = next(drawing.batches(PROMPTS, [3, 4]))
    assert (first.shape, found.shape) == ((2, 16, 16, 3), (2, 32, 48, 3))
    pixels = theirs(pipeline(folders["flux"]), noise_of(drawing), "np")
    assert np.abs(found / 255 - pixels).max() < 0.6 / 255
    assert drawing.model.process != folders["flux"].process_at((16, 16))


@pytest.mark.parametrize("kind", ["sd3", "sd3 without T5", "flux"])
def test_prompts_are_read_as_the_pipeline_reads_them(folders: dict[str, Folder], kind: str) -> None:
    text, pooled = folders[kind].encoders().encode_prompts([*PROMPTS, ""])
    pipe = pipeline(folders[kind])
    others = {"prompt_2": None} | ({} if kind == "flux" else {"prompt_3": None, "do_classifier_free_guidance": False})
    found = pipe.encode_prompt([*PROMPTS, ""], **others)
    expected = (found[0], found[1] if kind == "flux" else found[2])
    assert pooled is not None
    assert text.shape == (3, *((512, 48) if kind == "flux" else (12 + 256, 48)))
    assert torch.allclose(text, expected[0], atol=1e-4)
    assert torch.allclose(pooled, expected[1], atol=1e-5)
    assert (kind == "sd3 without T5") == (not text[:, 12:].any())


def test_patches_and_their_places_are_fluxs() -> None:
    x = torch.arange(2 * 4 * 6 * 8.0).reshape(2, 4, 6, 8)
    tokens = flux.packed(x)
    assert torch.equal(tokens, FluxPipeline._pack_latents(x, 2, 4, 6, 8))
    assert torch.equal(flux.unpacked(tokens, x), x)
    assert torch.equal(flux.places(x), FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32))
    with pytest.raises(ValueError, match="6 x 7 latents are none: give even sides"):
        flux.packed(x[..., :7])


def test_the_path_follows_the_size_and_says_so_where_it_does_not_know_it(folders: dict[str, Folder]) -> None:
    grown, fixed = folders["flux"], folders["sd3"]
    small, large = (grown.process_at(size) for size in ((16, 16), (1024, 1024)))
    assert isinstance(small, Flow) and isinstance(large, Flow) and isinstance(grown.process, Flow)
    assert 1 < float(small.shifted(torch.tensor(0.5))) / 0.5 < float(large.shifted(torch.tensor(0.5))) / 0.5
    assert fixed.process_at((16, 16)) == fixed.process_at((1024, 1024)) == fixed.process
    with pytest.raises(ValueError, match=r"depends on the picture's size: take `sized\(tokens\)`"):
        grown.process.grid(4)
    assert (fixed.default_size, grown.default_size) == ((16, 16), (256, 256))


def test_a_network_that_is_told_its_guidance_is_asked_once_and_told_it(folders: dict[str, Folder]) -> None:
    encoders = folders["flux"].encoders()
    condition, empty = (encoders.conditions(words, SIZE) for words in (PROMPTS, ["", ""]))
    asked: list[Condition] = []

    def predict(x: torch.Tensor, t: torch.Tensor, told: Condition) -> torch.Tensor:
        asked.append(told)
        return x

    assert condition.guidance is not None and condition.guidance.tolist() == [3.5, 3.5]
    for number in (0.0, 1.0, 7.0):
        guided(predict, condition, empty, number)(torch.zeros(2, 4, 8, 12), torch.ones(2))
    assert [each.guidance.tolist() for each in asked if each.guidance is not None] == [[0, 0], [1, 1], [7, 7]]
    assert all(torch.equal(each.text, condition.text) for each in asked)
    assert folders["sd3"].guidance is None is folders["schnell"].guidance
    model = folders["flux"].denoiser(train="lora", rank=2, size=SIZE)
    x, t = torch.randn(2, 4, 8, 12), torch.full((2,), 0.5)
    one, other = (guided(model.policy, condition, empty, number)(x, t) for number in (1.0, 7.0))
    assert not torch.allclose(one, other, atol=1e-3)
    with pytest.raises(ValueError, match="needs the condition's `pooled` text and, if it embeds it, `guidance`"):
        model.policy(x, t, replace(condition, guidance=None))


@pytest.mark.parametrize("train", ["lora", "full"])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_loss_begins_at_log_2_bit_for_bit(folder: Folder, train: str, precision: torch.dtype) -> None:
    model, batch = folder.denoiser(train=train, rank=4, size=(16, 16)), pairs(folder)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        loss = DiffusionDPO(beta=5000).loss(batch, model)
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    assert sum(float(each.grad.square().sum()) for each in model.trainable().values() if each.grad is not None) > 0


def test_adapters_on_a_bfloat16_network_begin_at_log_2_too(folder: Folder) -> None:
    model, batch = folder.denoiser(train="lora", rank=4, dtype="bf16", size=(16, 16)), pairs(folder)
    assert {each.dtype for each in model.trainable().values()} == {torch.float32}
    loss = DiffusionDPO(beta=5000).loss(batch, model)
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()


def test_adapters_stand_at_every_projection_of_pictures_and_of_text(folder: Folder) -> None:
    model = folder.denoiser(train="lora", rank=2)
    adapted = {name.split(".lora_")[0].split(".", 2)[-1] for name in model.trainable()}
    joint = {f"attn.{name}" for name in ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj")}
    more = {f"{part}.net.{layer}" for part in ("ff", "ff_context") for layer in ("0.proj", "2")}
    expected = joint | {"attn.to_add_out"}
    expected |= (
        more if folder.family.name == "flux" else {f"attn2.{each}" for each in ("to_q", "to_k", "to_v", "to_out.0")}
    )
    assert adapted == expected


def test_a_batch_of_three_is_three_batches_of_one(folder: Folder) -> None:
    batched_as_alone(folder, pairs(folder, 3), 2e-6, size=(16, 16))


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(folder: Folder) -> None:
    checkpointing_changes_no_bit(folder, pairs(folder), size=(16, 16))


def test_a_lora_loads_in_plain_diffusers_and_draws_the_same(folder: Folder, tmp_path: Path) -> None:
    model = folder.denoiser(train="lora", rank=3, alpha=6.0, size=SIZE)
    noise = noise_of(drawer(folder))
    before = ours(folder, model, noise)
    nudge(model, 0.1)
    publish(model, folder, tmp_path / "weights", {"name": "tiny", "beta": 5000})
    found = ours(folder, model, noise)
    pipe = pipeline(folder)
    pipe.load_lora_weights(tmp_path / "weights")
    expected = theirs(pipe, noise)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(before, found, atol=1e-2)
    bare = folder.network()
    attach_lora(bare, tmp_path / "weights")
    condition = folder.encoders().conditions(PROMPTS, SIZE)
    t = torch.full((2,), 400.0)
    at_once = folder.family.ask(bare, noise, t, condition)
    assert torch.allclose(at_once, folder.family.ask(model.network, noise, t, condition), atol=1e-5)
    lines = (tmp_path / "weights" / "README.md").read_text()
    assert f"from diffusers import {folder.pipeline_class}" in lines and "load_lora_weights" in lines
    drawn = next(drawer(folder, f"+{tmp_path / 'weights'}").batches(PROMPTS, [3, 4]))
    assert np.abs(drawn / 255 - theirs(pipe, noise, "np")).max() < 0.6 / 255


@pytest.mark.parametrize("kind", [*FAMILIES, "sd3 without T5"])
def test_full_weights_load_as_a_plain_pipeline(folders: dict[str, Folder], kind: str, tmp_path: Path) -> None:
    model = folders[kind].denoiser(train="full")
    nudge(model)
    publish(model, folders[kind], tmp_path / "weights", {"name": "tiny"})
    made = Folder.open(tmp_path / "weights")
    loaded = getattr(diffusers, made.pipeline_class).from_pretrained(made.path, **absent_parts(made)).transformer
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.network.parameters(), strict=True))
    assert not [file for file in made.path.rglob("*") if file.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


@pytest.mark.parametrize("kernel", ["sdpa", "flash"])
def test_every_layer_takes_the_kernel_whatever_the_default_of_the_process_is(folder: Folder, kernel: str) -> None:
    """Torch's flash kernel runs on a CPU too, where nobody would choose it; nothing runs under xformers there."""
    plain, fitted = folder.network(), folder.network()
    before = {name: type(each.processor) for name, each in attention.layers(plain).items()}
    attention.install(fitted, attention.Resolution(kernel, kernel, "", {}))
    condition = folder.encoders().conditions(PROMPTS, SIZE)
    x, t = torch.randn(2, 4, 8, 12), torch.full((2,), 400.0)
    with torch.no_grad():
        expected = folder.family.ask(plain, x, t, condition)
        with attention_backend("_native_math"):
            found = folder.family.ask(fitted, x, t, condition)
    assert torch.allclose(found, expected, atol=1e-5)
    layers = attention.layers(fitted)
    assert len(layers) == len(before) == (3 if folder.family.name == "sd3" else 2)
    if folder.family.name == "flux":
        assert {each.processor._attention_backend.value for each in layers.values()} == {
            {"sdpa": "native", "flash": "_native_flash"}[kernel]
        }
    elif kernel == "flash":
        assert {type(each.processor) for each in layers.values()} == {attention.FlashProcessor}
    else:
        assert {name: type(each.processor) for name, each in layers.items()} == before
    untouched = {getattr(each.processor, "_attention_backend", None) for each in attention.layers(plain).values()}
    assert untouched == {None}


def test_head_widths_and_kernels_of_layers_that_are_not_known(folders: dict[str, Folder]) -> None:
    assert attention.head_widths(folders["sd3"].network()) == (8,)
    assert attention.head_widths(folders["flux"].network()) == (16,)
    network = folders["sd3"].network()
    name, layer = next(iter(attention.layers(network).items()))
    layer.set_processor(attention.FlashProcessor(layer.processor))
    with pytest.raises(attention.AttentionError, match=f"'{name}' has a FlashProcessor, which is not known here"):
        attention.install(network, attention.Resolution("sdpa", "sdpa", "", {}))
    model = folders["flux"].denoiser(train="lora", rank=2)
    assert model.attention.resolved == "sdpa"


def test_what_needs_a_unet_is_refused_in_one_line_that_says_what_serves(folder: Folder) -> None:
    with pytest.raises(ValueError, match=r"beside a UNet's cross-attention, and a .*Transformer2DModel has none"):
        folder.denoiser(train="user", users=users.Shape(2, 3))
    pipe = pipeline(folder)
    for put in (lambda: negative_guidance(pipe, folder.network()), lambda: Reflected(pipe, weak=folder.network())):
        with pytest.raises(FolderError, match=r"has a .*Transformer2DModel: draw with `visalign generate`"):
            put()
    with pytest.raises(FolderError, match="draw with `visalign generate`"):
        drawer(folder).pipeline()


def test_nobody_answers_for_the_empty_prompt_where_guidance_is_told(folders: dict[str, Folder]) -> None:
    for kind in ("flux", "sd3"):
        spec = f",negative={folders[kind].path},alpha=0.5,base={folders[kind].path}"
        if kind == "flux":
            with pytest.raises(SpecError, match="told its guidance and never asked that; leave negative= out"):
                drawer(folders[kind], spec)
        else:
            assert next(drawer(folders[kind], spec).batches(PROMPTS, [3, 4])).shape == (2, *SIZE, 3)


def test_a_reflection_between_guidances_moves_the_picture(folder: Folder) -> None:
    plain, reflected = (
        next(drawer(folder, spec).batches(PROMPTS, [3, 4])) for spec in ("", ",weak_guidance=1,reflect=2")
    )
    assert np.abs(plain.astype(int) - reflected.astype(int)).max() > 3


@pytest.mark.parametrize(("kind", "wrong"), [("sd3", 18), ("flux", 30)])
def test_sides_that_are_no_whole_tokens_are_refused(folders: dict[str, Folder], kind: str, wrong: int) -> None:
    with pytest.raises(SpecError, match=f"sides of multiples of 4 pixels, not {wrong} x {wrong}"):
        drawer(folders[kind], size=wrong)
