"""Pictures made worse, for methods that ask whether an answer depends on what is seen.

Each takes dialogues and draws and gives the dialogues about other pictures, as the network's processor would have
handed them over: pixels are normalised ones. A record's random numbers are drawn once: policy and reference that are
given the result see the same, and of n dialogues about b records the i-th is record i mod b, so that the winner's and
the loser's picture stay one. Where a picture comes in tiles (LLaVA-NeXT, Idefics) each tile is treated alike: a crop is
the same rectangle of every tile. Tiles that only fill up stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..batches import Dialogues
from ..draws import Draws
from .packing import pictures_of, repacked

FAINT = 2.0**-10
"""What Idefics is shown for nothing: it takes a picture of zeros for padding and leaves it out."""


class Corruption(Protocol):
    """One of the functions below; another `stream` draws anew."""

    def __call__(self, dialogues: Dialogues, draw: Draws, *, stream: str) -> Dialogues:
        """The n dialogues about worse pictures; `draw` is of b records, n a multiple of b."""


def cropped(
    dialogues: Dialogues,
    draw: Draws,
    *,
    scale: tuple[float, float] = (0.01, 0.2),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    stream: str = "crop",
) -> Dialogues:
    """A small part of each picture, blown up to its size: 1 … 20 % of the area (mDPO, arXiv 2406.11839).

    The rectangle is that of torchvision's RandomResizedCrop; one that does not fit a very flat picture is cut to it.
    """

    def change(picture: Tensor, own: Draws, name: str) -> Tensor:
        top, left, high, wide = window(own.uniforms(name, 4)[0].tolist(), picture.shape[-2:], scale, ratio)
        return resized(picture[..., top : top + high, left : left + wide], picture.shape[-2:])

    return _each(dialogues, draw, stream, change)


def noised(dialogues: Dialogues, draw: Draws, *, step: int = 500, stream: str = "picture noise") -> Dialogues:
    """Each picture at a step 0 … 999 of a diffusion (see `signal`): sqrt(abar) x + sqrt(1 - abar) e."""
    kept = signal(step)

    def change(picture: Tensor, own: Draws, name: str) -> Tensor:
        return math.sqrt(kept) * picture + math.sqrt(1 - kept) * own.normal(name, picture.shape, picture)[0]

    return _each(dialogues, draw, stream, change)


def speckled(dialogues: Dialogues, draw: Draws, *, share: float = 0.3, stream: str = "speckles") -> Dialogues:
    """Each picture with a random `share` of its pixels set to its mean colour (OPA-DPO, arXiv 2501.09695)."""
    if not 0 <= share <= 1:
        raise ValueError(f"the share of pixels must lie in 0 … 1, got {share}")
    below = float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))

    def change(picture: Tensor, own: Draws, name: str) -> Tensor:
        hit = own.normal(name, picture.shape[-2:], picture.float())[0] < below
        return torch.where(hit, picture.mean((-2, -1), keepdim=True), picture)

    return _each(dialogues, draw, stream, change)


def blank(dialogues: Dialogues, draw: Draws | None = None, *, stream: str = "") -> Dialogues:
    """Pictures of zeros, which is the mean colour that the processor normalises by. Nothing is drawn."""
    value = FAINT if "pixel_attention_mask" in dialogues.media else 0.0
    empty = [torch.full_like(each, value) for each in pictures_of(dialogues.media)]
    return replace(dialogues, media=repacked(dialogues.media, empty))


def shuffled(dialogues: Dialogues, draw: Draws, *, stream: str = "") -> Dialogues:
    """Every record's dialogues about the next record's pictures; ValueError for one record, or pictures of other sizes.

    The only one that depends on how records fall into batches.
    """
    if len(draw) < 2:
        raise ValueError("one record has no other's picture to take: shuffled pictures need a micro_batch of 2 or more")
    pictures = pictures_of(dialogues.media)
    counts = shown(dialogues, len(pictures))
    if len(set(counts)) > 1:
        raise ValueError(f"pictures can be exchanged only where every record has as many; these have {counts}")
    per = counts[0]
    block = per * len(draw)  # rows come in blocks of one answer to each record
    other = [pictures[place // block * block + (place + per) % block] for place in range(len(pictures))]
    if any(first.shape != second.shape for first, second in zip(pictures, other, strict=True)):
        raise ValueError("pictures of different sizes take different numbers of tokens, and cannot be exchanged")
    return replace(dialogues, media=repacked(dialogues.media, other))


CORRUPTIONS: Mapping[str, Corruption] = {
    "crop": cropped,
    "noise": noised,
    "speckle": speckled,
    "blank": blank,
    "shuffle": shuffled,
}


def corruption(name: str) -> Corruption:
    """One of CORRUPTIONS by name; ValueError lists them."""
    if name not in CORRUPTIONS:
        raise ValueError(f"a picture is made worse by one of {', '.join(CORRUPTIONS)}; not by {name!r}")
    return CORRUPTIONS[name]


@cache
def signal(step: int) -> float:
    """abar at a step 0 … 999: the product of 1 - beta_k, beta_k = s(-6 + 12 k / 999) (0.005 - 0.00001) + 0.00001.

    The schedule of visual contrastive decoding, which POVID, CHiP and TARS took over: 0.7448 at 500, 0.0812 at 999.
    """
    if not 0 <= step <= 999:
        raise ValueError(f"a step of the noise lies in 0 … 999, got {step}")
    betas = torch.linspace(-6, 6, 1000, dtype=torch.float64).sigmoid() * (5e-3 - 1e-5) + 1e-5
    return float((1 - betas[: step + 1]).prod())


def window(
    numbers: Sequence[float], size: Sequence[int], scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle, from four uniform numbers; `ratio` is width by height."""
    high, wide = size
    area = high * wide * math.fsum([scale[0], (scale[1] - scale[0]) * numbers[0]])
    shape = ratio[0] * (ratio[1] / ratio[0]) ** numbers[1]
    height = min(max(round(math.sqrt(area / shape)), 1), high)
    width = min(max(round(math.sqrt(area * shape)), 1), wide)
    return int(numbers[2] * (high - height + 1)), int(numbers[3] * (wide - width + 1)), height, width


def resized(picture: Tensor, size: Sequence[int]) -> Tensor:
    """(..., 3, h, w) at another size, bilinear, in float32 at least."""
    flat = picture.reshape(-1, *picture.shape[-3:]).to(torch.promote_types(picture.dtype, torch.float32))
    found = interpolate(flat, tuple(size), mode="bilinear", align_corners=False)
    return found.reshape(*picture.shape[:-2], *size).to(picture.dtype)


def _each(dialogues: Dialogues, draw: Draws, stream: str, change: Callable[[Tensor, Draws, str], Tensor]) -> Dialogues:
    """The dialogues with every picture changed by its record's draws; a record's second picture draws other numbers."""
    if not len(draw) or len(dialogues) % len(draw):
        raise ValueError(f"{len(dialogues)} dialogues cannot be about {len(draw)} records")
    pictures = pictures_of(dialogues.media)
    counts = shown(dialogues, len(pictures))
    places = [(row % len(draw), which) for row, count in enumerate(counts) for which in range(count)]
    found = []
    for picture, (record, which) in zip(pictures, places, strict=True):
        own = Draws(draw.seed, draw.keys[record : record + 1], draw.visits[record : record + 1])
        found.append(change(picture, own, f"{stream}/{which}" if which else stream))
    return replace(dialogues, media=repacked(dialogues.media, found))


def shown(dialogues: Dialogues, pictures: int) -> list[int]:
    """How many of so many pictures each dialogue is about; ValueError where that cannot be told."""
    if dialogues.shown is not None:
        counts: list[int] = dialogues.shown.tolist()
        if sum(counts) != pictures:
            raise ValueError(f"the dialogues say that they are about {counts} pictures, and there are {pictures}")
        return counts
    if not pictures or pictures % len(dialogues):
        raise ValueError(f"{pictures} pictures in {len(dialogues)} dialogues: it cannot be told whose is whose")
    return [pictures // len(dialogues)] * len(dialogues)
