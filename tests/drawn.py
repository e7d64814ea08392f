"""What the tests of model folders share: pairs, a policy that left its reference, pictures as diffusers draws them."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import FluxPipeline

from visalign.batches import Condition, Pairs
from visalign.contract import Denoiser
from visalign.diffusion import errors, noise_pairs
from visalign.diffusion.sampling import generate, initial_noise
from visalign.diffusion.source import Source
from visalign.drawing import Drawer, Settings
from visalign.draws import Draws
from visalign.models import flux
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.folder import Folder
from visalign.models.publish import absent_parts

PROMPTS = ["a red circle left of a blue square", "a green square"]
SIZE = (16, 24)  # not square: rows and columns are not exchanged


def pairs(folder: Folder, b: int = 2) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    win, lose = (torch.randn(b, 4, 8, 8, generator=generator) for _ in range(2))
    condition = folder.encoders().conditions([*PROMPTS, ""][:b] * 2, (16, 16))
    draw = Draws(0, tuple(f"pair {i}" for i in range(b)), (0,) * b)
    return Pairs(win, lose, condition, draw, torch.ones(b), torch.ones(b))


def nudge(model: NetworkDenoiser, size: float = 0.02) -> None:
    """Move everything trainable a little, so that the policy is no longer its reference."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))


def checkpointing_changes_no_bit(folder: Folder, batch: Pairs, **how: Any) -> None:
    """The gradients of a LoRA with and without gradient checkpointing are equal; `how` goes to the denoiser."""
    found = []
    for checkpointing in (False, True):
        model = folder.denoiser(train="lora", rank=2, checkpointing=checkpointing, **how).train()
        nudge(model)
        errors(model, noise_pairs(model.process, batch), batch.condition).policy.sum().backward()
        found.append({name: each.grad for name, each in model.trainable().items() if each.grad is not None})
    assert len(found[0]) == len(found[1]) > 0
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def batched_as_alone(folder: Folder, batch: Pairs, tolerance: float, **how: Any) -> None:
    """Errors of a batch are those of its pairs one by one, to the tolerance."""
    model = folder.denoiser(train="lora", rank=4, **how)
    nudge(model)
    together = errors(model, noise_pairs(model.process, batch), batch.condition)
    for i in range(len(batch)):
        one = part(batch, i)
        alone = errors(model, noise_pairs(model.process, one), one.condition)
        for found, expected in ((alone.policy, together.policy), (alone.reference, together.reference)):
            assert torch.allclose(found, expected[[i, len(batch) + i]], atol=tolerance, rtol=0)


def pipeline(folder: Folder, **changed: Any) -> Any:
    pipe = folder.pipeline(**absent_parts(folder) | changed)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(pipe: Any, noise: torch.Tensor, kind: str = "latent", guidance: float = 3.0) -> Any:
    """What diffusers' own pipeline draws of PROMPTS from this noise; under the empty prompt where FLUX is not told."""
    height, width = (2 * side for side in noise.shape[-2:])
    settings = {"num_inference_steps": 5, "height": height, "width": width, "output_type": kind}
    if not isinstance(pipe, FluxPipeline):
        return pipe(PROMPTS, latents=noise, guidance_scale=guidance, **settings).images
    if not pipe.transformer.config.guidance_embeds:
        settings |= {"negative_prompt": ["", ""], "true_cfg_scale": guidance}
    found = pipe(PROMPTS, latents=flux.packed(noise), guidance_scale=guidance, **settings).images
    return flux.unpacked(found, noise) if kind == "latent" else found


def drawer(folder: Folder, spec: str = "", **settings: Any) -> Drawer:
    return Drawer(Source.find(f"{folder.path}{spec}"), Settings(steps=5, guidance=3.0, **{"size": SIZE} | settings))


def noise_of(drawing: Drawer) -> torch.Tensor:
    return initial_noise([3, 4], drawing.encoders.latent_shape(drawing.size), torch.zeros(()))


def ours(folder: Folder, model: Denoiser, noise: torch.Tensor) -> torch.Tensor:
    told, untold = (folder.encoders().conditions(words, SIZE) for words in (PROMPTS, ["", ""]))
    return generate(model, told, untold, noise, steps=5, guidance=3.0)


def part(batch: Pairs, i: int) -> Pairs:
    """The i-th pair of a batch, as a batch of one."""
    rows = torch.tensor([i, len(batch) + i])
    told = {name: value[rows] for name, value in vars(batch.condition).items() if value is not None}
    draw = Draws(batch.draw.seed, batch.draw.keys[i : i + 1], batch.draw.visits[i : i + 1])
    one = slice(i, i + 1)
    return Pairs(batch.win[one], batch.lose[one], Condition(**told), draw, batch.confidence[one], batch.weight[one])
