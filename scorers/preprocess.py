"""From a picture to the square that an image tower reads: letterbox (HPS v2) or shortest side and centre crop (CLIP).

Each geometry has two ways in: `image` for a picture, as the official code does it, and `pixels` for a batch of tensors
that gradients flow through. Mean and deviation are OpenAI CLIP's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from visalign.scoring import several

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
RIBBON = 64  # how many times longer than wide a picture may be to be resized before it is cut
CROPPED = "shortest side {}, bicubic in 8 bits (Pillow), centre crop, CLIP's normalization"


class Geometry(Protocol):
    """A way to make a picture square."""

    @property
    def size(self) -> int:
        """Its side in pixels."""

    def image(self, image: Image.Image, out: Tensor | None = None) -> Tensor:
        """(3, size, size) normalized, of an RGB picture; written into `out` where that is given."""

    def pixels(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size) normalized, of (n, 3, h, w) in [0, 1]; differentiable."""


@dataclass(frozen=True)
class Letterbox:
    """Longest side to `size` (bicubic, on the float tensor, not clamped), black bars, then normalize.

    As in github.com/tgxs002/HPSv2 with torchvision >= 0.17. Before that its resize was not antialiased, which is what
    `antialias=False` gives; the tables of the HPS v2 README are from then.
    """

    size: int = 224
    antialias: bool = True

    def image(self, image: Image.Image, out: Tensor | None = None) -> Tensor:
        """(3, size, size), bit for bit what `pixels` makes of the same values."""
        return normalized(self._boxed(unit(image)[None])[0], out)

    def pixels(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size)."""
        return normalized(self._boxed(pixels))

    def _boxed(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        scale = self.size / max(height, width)
        tall, wide = (max(1, round(side * scale)) for side in (height, width))
        small = resized(pixels, tall, wide, antialias=self.antialias)
        top, left = (self.size - tall) // 2, (self.size - wide) // 2
        padding = (left, self.size - wide - left, top, self.size - tall - top)
        return F.pad(small, padding) if any(padding) else small


@dataclass(frozen=True)
class Crop:
    """Shortest side to `size` (bicubic, Pillow's, 8 bits), centre crop, then normalize: CLIP's own processing.

    An odd rest is halved downwards as transformers does, or to the even number as torchvision does (`halves`).
    """

    size: int = 224
    halves: Literal["floor", "even"] = "floor"

    def image(self, image: Image.Image, out: Tensor | None = None) -> Tensor:
        """(3, size, size), bit for bit transformers' Pillow processor (or torchvision's, where halves are "even").

        A ribbon would grow to a giant picture first; it is resized and cut in one call, equal but for the last bit.
        """
        wide, tall = self._grown(*image.size)
        left, top = self._rest(wide), self._rest(tall)
        if max(wide, tall) <= RIBBON * self.size:
            grown = image.resize((wide, tall), Image.Resampling.BICUBIC)
            return normalized(unit(grown.crop((left, top, left + self.size, top + self.size))), out)
        across, down = image.width / wide, image.height / tall
        box = (left * across, top * down, (left + self.size) * across, (top + self.size) * down)
        return normalized(unit(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box=box)), out)

    def pixels(self, pixels: Tensor) -> Tensor:
        """(n, 3, size, size); one axis after the other, each clamped to [0, 1], as Pillow's 8 bits are."""
        wide, tall = self._grown(pixels.shape[-1], pixels.shape[-2])
        left, top = self._rest(wide), self._rest(tall)
        across = resized(pixels, pixels.shape[-2], wide, antialias=True)[..., left : left + self.size].clamp(0, 1)
        down = resized(across, tall, self.size, antialias=True)[..., top : top + self.size, :].clamp(0, 1)
        return normalized(down)

    def _grown(self, width: int, height: int) -> tuple[int, int]:
        """Width and height with the shorter one at `size`."""
        short = min(width, height)
        return int(self.size * width / short), int(self.size * height / short)

    def _rest(self, side: int) -> int:
        over = side - self.size
        return over // 2 if self.halves == "floor" else round(over / 2)


def unit(image: Image.Image) -> Tensor:
    """(3, h, w) in [0, 1] of an RGB picture."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255)


def resized(pixels: Tensor, tall: int, wide: int, *, antialias: bool) -> Tensor:
    """Bicubic; the same tensor where the size is right already."""
    if tuple(pixels.shape[-2:]) == (tall, wide):
        return pixels
    return F.interpolate(pixels, (tall, wide), mode="bicubic", align_corners=False, antialias=antialias)


def normalized(pixels: Tensor, out: Tensor | None = None) -> Tensor:
    """By CLIP's mean and deviation of each channel; into `out` where that is given."""
    mean, std = (torch.tensor(each, device=pixels.device, dtype=pixels.dtype)[:, None, None] for each in (MEAN, STD))
    return torch.div(torch.sub(pixels, mean, out=out), std, out=out)


def checked(pixels: Tensor) -> Tensor:
    """Pixels for a differentiable score: (n, 3, h, w) floats in [0, 1], else a ValueError that says what they are.

    Half precision becomes single, with the graph: the resize knows no other, and its rounding would be seen.
    """
    if pixels.ndim != 4 or pixels.shape[1] != 3 or not pixels.numel() or not pixels.is_floating_point():
        raise ValueError(f"pixels must be floats (n, 3, h, w), no side 0; got {pixels.dtype} {tuple(pixels.shape)}")
    low, high = pixels.detach().aminmax()
    if not bool((low >= 0) & (high <= 1)):
        raise ValueError(f"pixels must lie in [0, 1], these lie in [{low:g}, {high:g}]: decode or clamp them first")
    return pixels.float() if pixels.dtype in (torch.float16, torch.bfloat16) else pixels


def asked(pixels: Tensor, prompts: Sequence[str]) -> list[str]:
    """The prompts of n pixels, one each; ValueError for another number of them."""
    texts = several(prompts)
    if len(texts) != len(pixels):
        raise ValueError(f"{len(pixels)} pictures as pixels and {len(texts)} prompts: give one each")
    return texts
