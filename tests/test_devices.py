"""Devices are never mixed: what trains, draws and scores on a GPU, run on one that is none (see `pretended`)."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import answered
import methods
import pytest
import tiny
import tiny_scorers
import torch
from pretended import GPU, Mixed, gpu, real
from torch import Tensor

from visalign import registry
from visalign.batches import Condition, Pairs, moved
from visalign.diffusion.guided import guided_takes
from visalign.diffusion.sampling import generate
from visalign.draws import Draws
from visalign.models import attention
from visalign.models.folder import Folder
from visalign.scoring import paired
from visalign.trainers import DiffusionDPO
from visalign.training.learner import Step

SIZES: dict[str, tuple[int, ...]] = {
    "sdxl": (16, 16), "sd3": (16, 16), "flux": (16, 16), "animatediff": (4, 16, 16), "wan": (5, 32, 32),
}  # fmt: skip
PROMPTS = ["a red circle", "a blue square", "", "a red circle"]
HALF = ["diffusion_dpo", "mapo", "inversion_dpo", "spo", "flow_dpo", "dense_dpo"]


def test_what_a_gpu_refuses_is_refused_and_what_it_takes_is_taken() -> None:
    here = torch.ones(3)
    with gpu() as device:
        there = here.to(device)
        assert (there + there).device == GPU and (there * torch.tensor(2.0)).device == GPU
        assert real(there[torch.tensor([0, 2])] + torch.tensor([1.0, 2.0], device=device)).tolist() == [2.0, 3.0]
        with pytest.raises(Mixed, match="is given tensors of the GPU and, of the CPU"):
            there + here
        with pytest.raises(Mixed, match="is given tensors of the GPU and, of the CPU"):
            torch.stack([there.sum(), here.sum()])
        with pytest.raises(Mixed, match="is given tensors of the GPU and, of the CPU"):
            here[there.long()]
        with pytest.raises(Mixed, match="a generator of the CPU draws on the GPU"):
            torch.randn(3, device=device, generator=torch.Generator())


@pytest.mark.parametrize("name", [*methods.DENOISING, *methods.VARIANTS])
def test_a_method_says_on_a_gpu_what_it_says_on_the_cpu(name: str) -> None:
    said = Step(methods.method(name), methods.model_of(name))(methods.given(name))
    step = Step(methods.method(name), methods.model_of(name))
    with gpu() as device:
        found = step.to(device)(moved(methods.given(name), device))
        assert {each.device for each in (found.each, *found.metrics.values())} == {GPU}
    torch.testing.assert_close(real(found.each), said.each.detach())


def test_attention_is_chosen_for_what_autocast_computes_in_and_not_for_what_is_stored(tmp_path: Path) -> None:
    folder = Folder.open(tiny.folder(tmp_path / "sd15"))
    with gpu() as device:
        plain, half = (folder.denoiser(rank=2, device=device, precision=each) for each in ("no", "bf16"))
    assert "needs fp16 or bf16" in plain.attention.refused["flash"]
    assert "needs fp16 or bf16" not in half.attention.refused["flash"]


@pytest.mark.skipif(attention.unloaded() is None, reason="xformers' library loads here")
def test_an_xformers_whose_library_does_not_load_is_refused_with_the_reason() -> None:
    with gpu() as device:
        why = attention.refuse_xformers(attention.Setting(device, torch.bfloat16, (8,)))
    assert "xformers' CUDA library does not load: lib" in (why or "")


@pytest.mark.parametrize("name", HALF)
def test_under_a_gpus_autocast_no_two_precisions_meet_and_losses_are_single(name: str) -> None:
    batch = of_floats(methods.given(name))
    step = Step(methods.method(name), methods.model_of(name, dtype=torch.float32))
    with gpu() as device, torch.autocast("cuda", torch.bfloat16):
        found = step.to(device)(moved(batch, device))
    assert found.each.dtype == torch.float32 and bool(real(found.each).isfinite().all())


def test_a_language_method_says_on_a_gpu_what_it_says_on_the_cpu() -> None:
    batch = answered.pairs("qwen2_vl")
    said, step = (Step(registry.load("method", "mllm_dpo")(), answered.moved_on("qwen2_vl")) for _ in range(2))
    with gpu() as device:
        found = step.to(device)(moved(batch, device))
        assert {each.device for each in (found.each, *found.metrics.values())} == {GPU}
    torch.testing.assert_close(real(found.each), said(batch).each.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", SIZES)
def test_a_family_encodes_trains_and_draws_on_a_gpu_as_on_the_cpu(kind: str, tmp_path: Path) -> None:
    folder = Folder.open(tiny.folder(tmp_path / kind, kind))
    expected = done(folder, torch.device("cpu"), SIZES[kind])
    with gpu() as device:
        found = done(folder, device, SIZES[kind])
    for name, value in expected.items():
        assert found[name].device == GPU, name
        torch.testing.assert_close(real(found[name]), value.detach(), atol=2e-3, rtol=1e-3)


def done(folder: Folder, device: torch.device, size: tuple[int, ...]) -> dict[str, Tensor]:
    """What a model folder's parts say on a device: encoded, trained, drawn, decoded."""
    encoders = folder.encoders(device=device)
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x, deviation = encoders.encode_images(pixels)
    told, empty = (encoders.conditions(each, size) for each in (PROMPTS, [""] * 4))
    model = folder.denoiser(rank=2, device=device, size=size)
    with torch.no_grad():
        for each in model.trainable().values():
            each.add_(0.02)
    draw, one = Draws(0, ("a", "b"), (0, 0)), torch.ones(2, device=device)
    loss = Step(DiffusionDPO(beta=20.0), model)(Pairs(x, deviation, told, draw, one, one))
    drawn = generate(model, halved(told), halved(empty), x, steps=2, guidance=3.0)
    takes = guided_takes(model, x, halved(told), halved(empty), draw, steps=3, guidance=2.0, levels=(0.5, 0.6))
    return {"x": x, "text": told.text, "loss": loss.each, "takes": takes.x, "pixels": encoders.decode(drawn)}


@pytest.mark.parametrize("name", ["hpsv2.1", "pickscore", "clipscore", "aesthetic_v2", "mps", "image_reward"])
def test_a_scorer_says_on_a_gpu_what_it_says_on_the_cpu(name: str, tmp_path: Path) -> None:
    make = tiny_scorers.makers(tmp_path)[name]
    samples = paired(tiny_scorers.pictures(3), ["a red circle", "", "a painting"])
    expected = make().score(samples).values
    with gpu():
        found = make(device="cuda").score(samples).values
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def halved(whole: Condition) -> Condition:
    """The conditions of the first half."""
    parts: dict[str, Any] = {each.name: getattr(whole, each.name) for each in fields(whole)}
    cut: dict[str, Any] = {name: None if each is None else each[: len(each) // 2] for name, each in parts.items()}
    return Condition(**cut)


def of_floats(value: Any) -> Any:
    """The batch in float32, as data are."""
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if hasattr(value, "__dataclass_fields__"):
        return replace(value, **{each.name: of_floats(getattr(value, each.name)) for each in fields(value)})
    return value
