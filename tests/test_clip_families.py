"""Models of clips: what ours draw is what diffusers' own pipelines draw, and they are trained as pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from visalign.batches import Condition, Pairs
from visalign.diffusion import errors, noise_pairs
from visalign.diffusion.sampling import generate, initial_noise
from visalign.draws import Draws
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.folder import Folder
from visalign.models.publish import absent_parts, publish
from visalign.records import DataError
from visalign.trainers import DiffusionDPO

FAMILIES = ["animatediff"]
PROMPTS = ["a red circle left of a blue square", "a green square"]
SIZES = {"animatediff": (4, 16, 16)}


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param))


def size_of(folder: Folder) -> tuple[int, ...]:
    return SIZES[folder.family.name]


def pairs(folder: Folder) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    encoders = folder.encoders()
    win, lose = (torch.randn(2, *encoders.latent_shape(size_of(folder)), generator=generator) for _ in range(2))
    condition = encoders.conditions(PROMPTS * 2, size_of(folder))
    draw = Draws(0, ("clip 0", "clip 1"), (0, 0))
    return Pairs(win, lose, condition, draw, torch.ones(2), torch.ones(2))


def nudge(model: NetworkDenoiser, size: float = 0.02) -> None:
    """Move everything trainable a little, so that the policy is no longer its reference."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def pipeline(folder: Folder) -> Any:
    pipe = folder.pipeline(**absent_parts(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, noise: torch.Tensor, size: tuple[int, ...], kind: str = "latent") -> torch.Tensor:
    """What diffusers' own pipeline draws of PROMPTS from this noise."""
    frames, height, width = size
    found: torch.Tensor = pipe(
        PROMPTS, latents=noise, num_frames=frames, height=height, width=width, num_inference_steps=5,
        guidance_scale=3.0, output_type=kind,
    ).frames  # fmt: skip
    return found


def ours(folder: Folder, model: NetworkDenoiser, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise, and the latents that we draw of PROMPTS from it."""
    encoders = folder.encoders()
    noise = initial_noise([3, 4], encoders.latent_shape(size), torch.zeros(()))
    told, untold = (encoders.conditions(words, size) for words in (PROMPTS, ["", ""]))
    return noise, generate(model, told, untold, noise, steps=5, guidance=3.0)


def test_sampling_equals_diffusers_own_pipeline(folder: Folder) -> None:
    size = size_of(folder)
    noise, found = ours(folder, folder.denoiser(train="lora", rank=2), size)
    pipe = pipeline(folder)
    expected = drawn(pipe, noise, size)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    pixels = drawn(pipe, noise, size, "pt").transpose(1, 2)
    assert pixels.shape == (2, 3, *size)
    assert torch.allclose(folder.encoders().decode(found), pixels, atol=1e-4)


def test_the_loss_begins_at_log_2_bit_for_bit_and_has_a_gradient(folder: Folder) -> None:
    model, batch = folder.denoiser(train="lora", rank=4), pairs(folder)
    loss = DiffusionDPO(beta=5000).loss(batch, model)
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    assert all(each.grad is not None for each in model.trainable().values())
    assert sum(float(each.grad.square().sum()) for each in model.trainable().values() if each.grad is not None) > 0


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(folder: Folder) -> None:
    found = []
    for checkpointing in (False, True):
        model = folder.denoiser(train="lora", rank=2, checkpointing=checkpointing).train()
        nudge(model)
        batch = pairs(folder)
        errors(model, noise_pairs(model.process, batch), batch.condition).policy.sum().backward()
        found.append({name: each.grad for name, each in model.trainable().items() if each.grad is not None})
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_batch_of_two_is_two_batches_of_one(folder: Folder) -> None:
    """And so is the text told to every frame of its own clip."""
    model, batch = folder.denoiser(train="lora", rank=2), pairs(folder)
    at = noise_pairs(model.process, batch)
    with torch.no_grad():
        together = model.policy(at.x, at.t, batch.condition)
        for row in range(4):
            told = Condition(batch.condition.text[row : row + 1])
            alone = model.policy(at.x[row : row + 1], at.t[row : row + 1], told)
            assert torch.allclose(alone, together[row : row + 1], atol=1e-5)


def test_a_lora_loads_in_plain_diffusers_and_draws_the_same_clip(folder: Folder, tmp_path: Path) -> None:
    model, size = folder.denoiser(train="lora", rank=3, alpha=6.0), size_of(folder)
    before = ours(folder, model, size)[1]
    nudge(model, 0.1)
    publish(model, folder, tmp_path / "weights", {"name": "tiny", "beta": 5000})
    noise, found = ours(folder, model, size)
    pipe = pipeline(folder)
    pipe.load_lora_weights(tmp_path / "weights")
    theirs = drawn(pipe, noise, size)
    assert torch.allclose(found, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert not torch.allclose(before, found, atol=1e-2)


def test_full_weights_load_as_a_plain_pipeline(folder: Folder, tmp_path: Path) -> None:
    import diffusers

    model = folder.denoiser(train="full")
    nudge(model)
    publish(model, folder, tmp_path / "weights", {"name": "tiny"})
    loaded = getattr(diffusers, folder.pipeline_class).from_pretrained(tmp_path / "weights")
    network = getattr(loaded, folder.family.part)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), model.network.parameters(), strict=True))


def test_frames_are_encoded_each_by_itself_and_come_back(tmp_path: Path) -> None:
    encoders = Folder.open(tiny.folder(tmp_path, "animatediff")).encoders()
    clips = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, deviation = encoders.encode_images(clips)
    assert mean.shape == deviation.shape == (2, *encoders.latent_shape((5, 16, 16))) == (2, 4, 5, 8, 8)
    alone = encoders.encode_images(clips[1:, :, 3:4])
    assert torch.allclose(alone[0][:, :, 0], mean[1:, :, 3], atol=1e-6)
    assert encoders.decode(mean).shape == (2, 3, 5, 16, 16)
    with pytest.raises(DataError, match="clips of 1 to 8 frames, not of 9"):
        encoders.latent_shape((9, 16, 16))
