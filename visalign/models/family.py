"""What a kind of diffusers pipeline says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Condition
from ..process import Ddpm, Flow, from_scheduler
from .weights import ATTENTION

if TYPE_CHECKING:
    from .encoders import Coder, Reader
    from .folder import Folder

Config = Mapping[str, Any]


def alone(config: Config) -> int:
    """Each latent for itself."""
    return 1


def untold(config: Config) -> float | None:
    """Nothing: guidance is what is made of two answers."""
    return None


@dataclass(frozen=True)
class Family:
    """The facts and functions of a kind; `size` is (height, width) of pictures, (frames, height, width) of clips."""

    name: str  # "sdxl"
    pipeline: str  # its class in diffusers
    part: str  # where the network is in the pipeline, and in its folder: "unet" or "transformer"
    network: str  # its class in diffusers
    ask: Callable[[Any, Tensor, Tensor, Condition], Tensor]  # (network, x_t, the network's time, condition) -> answer
    coder: Callable[[Folder, torch.device], Coder]  # pixels and latents
    reader: Callable[[Folder, torch.dtype, torch.device], Reader]  # prompts
    factor: Callable[[Config], int]  # of vae/config.json: pixels per latent along a side
    size: Callable[[Config, int], tuple[int, ...]]  # of the network's config and the factor: what it was made for
    example: Callable[[Config, tuple[int, ...], int], tuple[Tensor, Condition]]  # one latent and condition, on meta
    targets: tuple[str, ...] = ATTENTION  # the ends of the names of the layers that a LoRA adapts
    time_ids: bool = False  # whether it is told original size and crop, as SDXL is
    clips: bool = False  # whether it draws clips
    rate: float = 8.0  # frames a second of its clips
    stride: int = 1  # frames of a clip per latent frame after the first
    tokens: int | None = None  # of a prompt, where its text encoder's config does not say
    refuse: Callable[[Config], str | None] = lambda index: None  # why a folder of that model_index.json cannot be used
    patch: Callable[[Config], int] = alone  # of the network's config: latents of a token along a side
    path: Callable[[Config], Ddpm | Flow] = from_scheduler  # of scheduler/scheduler_config.json
    guidance: Callable[[Config], float | None] = untold  # of the network's config: what it is told in training

    @property
    def shipped(self) -> str:
        """The file of the playground's votes that are on what this family draws."""
        return "moving.parquet" if self.clips else "records.parquet"
