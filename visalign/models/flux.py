"""FLUX.1 dev and schnell: a transformer over 2 x 2 patches of latents and T5's tokens, with places by rotation.

Patches are packed and unpacked in here, so that everyone else sees latents (n, 16, h, w). The pipeline spaces its
levels evenly, and shifts them by the size of the picture where the scheduler says so (dev; schnell's does not).

FLUX.1-dev was distilled from guided answers and is told how much they were guided (`guidance_embeds`): it is asked
once, and `guidance` is the number it is told. In training that is GUIDANCE unless the run says otherwise: preferences
are about what the model draws, and 3.5 is what it draws with by default; diffusers' LoRA script for FLUX
(train_dreambooth_lora_flux.py) has that default too, and flow_grpo's FLUX runs draw and train at one number. Where
plain fine-tuning shall keep the distilled guidance, 1 is the usual advice (black-forest-labs/flux issue 79).
FLUX.1-schnell is told nothing, and was distilled without an empty prompt: draw it with a guidance of 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Condition
from ..process import Ddpm, Flow, from_scheduler
from .encoders import PictureCoder, Reader
from .family import Config, Family
from .sd3 import t5
from .stable_diffusion import clip, factor, ids
from .weights import JOINT

if TYPE_CHECKING:
    from .folder import Folder

TOKENS = 512  # of a prompt, the pipeline's `max_sequence_length`
PATCH = 2  # latents of a token along a side
SIDE = 128  # latents of a side of the pipeline's own pictures: its configs name none
GUIDANCE = 3.5  # FluxPipeline's default
TARGETS = (*JOINT, "ff.net.0.proj", "ff.net.2", "ff_context.net.0.proj", "ff_context.net.2")


def packed(x: Tensor) -> Tensor:
    """(n, tokens, 4 c) of latents (n, c, h, w): a token is a patch of 2 x 2, row by row."""
    n, c, h, w = x.shape
    if h % PATCH or w % PATCH:
        raise ValueError(f"FLUX reads patches of 2 x 2 latents, and {h} x {w} latents are none: give even sides")
    patches = x.reshape(n, c, h // PATCH, PATCH, w // PATCH, PATCH).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, (h // PATCH) * (w // PATCH), c * PATCH * PATCH)


def unpacked(tokens: Tensor, like: Tensor) -> Tensor:
    """The tokens (n, tokens, 4 c) as latents shaped like `like` (n, c, h, w)."""
    n, c, h, w = like.shape
    patches = tokens.reshape(n, h // PATCH, w // PATCH, c, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    return patches.reshape(n, c, h, w)


def places(x: Tensor) -> Tensor:
    """(tokens, 3) of latents (n, c, h, w): 0, row and column of each patch."""
    rows, columns = (torch.arange(side // PATCH, device=x.device, dtype=torch.float32) for side in x.shape[-2:])
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([torch.zeros_like(grid[0]), *grid], dim=-1).flatten(0, 1)


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """(n, c, h, w) of a `FluxTransformer2DModel`, which wants times in 0 … 1; ValueError for a part that is missing."""
    if condition.pooled is None or (condition.guidance is None and network.config.guidance_embeds):
        raise ValueError("a FLUX transformer needs the condition's `pooled` text and, if it embeds it, `guidance`")
    dtype, text = network.x_embedder.weight.dtype, condition.text
    answer: Tensor = network(
        packed(x_t.to(dtype)),
        text.to(dtype),
        condition.pooled.to(dtype),
        time / 1000,
        places(x_t),
        torch.zeros(text.shape[1], 3, device=x_t.device),
        condition.guidance if network.config.guidance_embeds else None,
        return_dict=False,
    )[0]
    return unpacked(answer, x_t)


def read(folder: Folder, dtype: torch.dtype, device: torch.device) -> Reader:
    """T5's 512 states, and CLIP's pooled ones, which are not projected."""
    tokenizer, encoder = clip(folder, "", dtype, device, projected=False)
    words = t5(folder, "_2", dtype, device, TOKENS)

    def encoded(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return words(prompts), encoder(ids(tokenizer, prompts, device)).pooler_output

    return encoded


def size(config: Config, per_latent: int) -> tuple[int, int]:
    """The square of the pipeline's own pictures."""
    return SIDE * per_latent, SIDE * per_latent


def path(scheduler: Mapping[str, Any]) -> Ddpm | Flow:
    """The scheduler's path, with the even levels that the pipeline hands it."""
    found = from_scheduler(scheduler)
    return replace(found, ends="even") if isinstance(found, Flow) else found


def guidance(config: Config) -> float | None:
    """What the network is told in training; None where it is told nothing."""
    return GUIDANCE if config.get("guidance_embeds", False) else None


def example(config: Config, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Condition]:
    """A latent of (height, width) and its condition, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(1, int(config.get("in_channels", 64)) // PATCH**2, *shape)
        text = torch.empty(1, tokens, int(config.get("joint_attention_dim", 4096)))
        pooled = torch.empty(1, int(config.get("pooled_projection_dim", 768)))
        return x, Condition(text, pooled, guidance=None if guidance(config) is None else torch.empty(1))


FLUX = Family(
    "flux", "FluxPipeline", "transformer", "FluxTransformer2DModel", ask, PictureCoder, read, factor, size, example,
    targets=TARGETS, tokens=TOKENS, patch=lambda config: PATCH, path=path, guidance=guidance,
)  # fmt: skip
