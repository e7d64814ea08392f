"""Small clips for tests: noise that moves, films that PyAV writes of it, and encoders of clips on real VAEs."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import tiny
import torch
from diffusers import AutoencoderKLWan
from numpy.typing import NDArray
from torch import Tensor

from visalign.data import clips
from visalign.draws import Draws
from visalign.records import Preference


def noise(seed: int, frames: int = 9, size: tuple[int, int] = (16, 20)) -> NDArray[np.uint8]:
    """(frames, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), dtype=np.uint8)


def film(
    path: Path,
    frames: NDArray[np.uint8],
    codec: str = "libx264",
    *,
    rate: int = 8,
    faststart: bool = False,
    ratio: Fraction | None = None,
) -> Path:
    """A film of these frames, in yuv420p, whose pixels have `ratio` of width to height; its container by the path's
    ending."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as made:
        stream: Any = made.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if ratio is not None:
            stream.codec_context.sample_aspect_ratio = ratio
        for each in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        made.mux(stream.encode())
    return path


def pairs(folder: Path, count: int, frames: int = 9, size: tuple[int, int] = (16, 20)) -> list[Preference]:
    """Records of `count` pairs of clips, the first preferred, with their animated WebPs in `folder`."""
    for i in range(count):
        for j, name in enumerate(("one", "other")):
            clips.write(folder / f"{i}-{name}.webp", noise(2 * i + j, frames, size))
    return [
        Preference(f"a red circle {i % 2}", (f"{i}-one.webp", f"{i}-other.webp"), verdict="first", key=f"pair-{i}")
        for i in range(count)
    ]


class Filming:
    """Encoders of clips: a tiny VAE of its own kind, and texts that are noise named by the prompt."""

    wants_time_ids, guidance = False, None
    guidance = None

    def __init__(self, *, causal: bool) -> None:
        torch.manual_seed(0)
        self.causal, self.fingerprint = causal, f"tiny {causal}"
        self.factor, self.stride, self.channels = (8, 4, 16) if causal else (2, 1, 4)
        self.vae: Any = wan() if causal else tiny.vae()
        self.clips: list[Tensor] = []

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        frames, height, width = size
        return self.channels, 1 + (frames - 1) // self.stride, height // self.factor, width // self.factor

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.clips.extend(pixels)
        if self.causal:
            posterior = self.vae.encode(pixels).latent_dist
            return posterior.mean, posterior.std
        posterior = self.vae.encode(pixels.transpose(1, 2).flatten(0, 1)).latent_dist
        mean, deviation = (
            each.unflatten(0, (len(pixels), -1)).transpose(1, 2) for each in (posterior.mean, posterior.std)
        )
        return mean, deviation

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        like = torch.zeros(())
        return torch.cat([Draws(0, (each,), (0,)).normal("text", (3, 5), like) for each in prompts]), None


def wan() -> AutoencoderKLWan:
    """A causal VAE: eight pixels a latent along a side, one frame and then four a latent frame."""
    made: AutoencoderKLWan = AutoencoderKLWan(
        base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
    ).eval()
    return made
