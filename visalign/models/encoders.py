"""Pictures or clips and prompts to what a denoiser sees, and latents back to pixels. Never trained here.

`Encoders` is one class for every kind of pipeline: a `Coder` between pixels and latents, and a `Reader` of prompts. The
autoencoder runs in float32 always: Stable Diffusion XL's overflows in half precision, and a latent is made once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..batches import Condition

if TYPE_CHECKING:
    from .folder import Folder

Reader = Callable[[Sequence[str]], tuple[Tensor, Tensor | None]]  # prompts -> (n, tokens, width), pooled (n, width)
CODING = ("vae", "text_encoder", "tokenizer")  # how the folders of what encodes begin


class Coder(Protocol):
    """An autoencoder, with the numbers by which a denoiser sees its latents."""

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior, as the denoiser sees it, of pixels (n, 3, ...) in [-1, 1]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, ...) in [-1, 1] of latents (n, c, ...)."""

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one latent of a picture (height, width) or clip (frames, height, width) of so many pixels."""


class Encoders:
    """A model folder's autoencoder and its text encoders; `guidance` is told to a network that is told it.

    Each is loaded when it is first asked: where all prompts are in a cache, T5 never takes its gigabytes.
    """

    def __init__(self, folder: Folder, dtype: torch.dtype, device: torch.device, guidance: float | None = None) -> None:
        self.folder, self.dtype, self.device, self.guidance = folder, dtype, device, guidance
        self.factor, self.stride = folder.grain, folder.family.stride
        self.wants_time_ids = folder.family.time_ids

    @cached_property
    def coder(self) -> Coder:
        """The autoencoder."""
        return self.folder.family.coder(self.folder, self.device)

    @cached_property
    def _read(self) -> Reader:
        return self.folder.family.reader(self.folder, self.dtype, self.device)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every file and setting that changes what these encoders return."""
        digest = hashlib.sha256(f"{self.dtype} {self.folder.zero_empty}".encode())
        parts = sorted(each for each in self.folder.path.iterdir() if each.is_dir() and each.name.startswith(CODING))
        for part in parts:
            for file in sorted(part.glob("*")):
                digest.update(f"{part.name}/{file.name}".encode())
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()[:32]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior, scaled as the denoiser sees it, of pixels (n, 3, h, w) or clips
        (n, 3, frames, h, w) in [-1, 1]."""
        return self.coder.encode(pixels.to(self.device, torch.float32))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) or clips (n, 3, frames, h, w) in [0, 1]."""
        return (self.coder.decode(latents.to(self.device, torch.float32)) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Hidden states (n, tokens, width) and, where the kind has it, pooled text (n, width); longer prompts are cut.

        Where the pipeline draws its unconditional branch with zeros (`force_zeros_for_empty_prompt`), "" gives zeros
        too, so that dropped prompts train what sampling will use.
        """
        text, pooled = self._read(prompts)
        if self.folder.zero_empty:
            told = torch.tensor([bool(prompt) for prompt in prompts], device=self.device)
            text = text * told[:, None, None]
            pooled = None if pooled is None else pooled * told[:, None]
        return text, pooled

    def conditions(self, prompts: Sequence[str], size: tuple[int, ...]) -> Condition:
        """Conditions of n prompts for pictures of (height, width) pixels, each unique prompt encoded once."""
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        text, pooled = self.encode_prompts(unique)
        time_ids = None
        if self.wants_time_ids:
            height, width = size
            time_ids = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts), device=self.device)
        told = None if self.guidance is None else torch.full((len(prompts),), self.guidance, device=self.device)
        return Condition(text[rows], None if pooled is None else pooled[rows], time_ids, guidance=told)

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one latent of a picture or clip of this size in pixels."""
        return self.coder.latent_shape(size)


class PictureCoder:
    """diffusers' `AutoencoderKL`: latents (c, h / factor, w / factor), less the shift and times the scale."""

    def __init__(self, folder: Folder, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        self.vae: Any = AutoencoderKL.from_pretrained(
            folder.path, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.vae.to(device).eval().requires_grad_(False)
        self.scale = float(self.vae.config.scaling_factor)
        self.shift = float(self.vae.config.shift_factor or 0.0)
        self.factor = folder.factor

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pixels (n, 3, h, w)."""
        posterior = self.vae.encode(pixels).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [-1, 1]."""
        pixels: Tensor = self.vae.decode(latents / self.scale + self.shift).sample
        return pixels

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """(channels, height, width)."""
        height, width = size
        return (int(self.vae.config.latent_channels), height // self.factor, width // self.factor)
