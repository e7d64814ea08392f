"""What pictures look like, whoever judges them: statistics that warn when a judge is being pleased by a trick.

Each is compared with the base model's as a ratio, and each has a band stated before anything was trained. Out of the
band above on saturation or edges is what reward hacking looks like; below on diversity is mode collapse; below on
motion are clips that stand still, which judges often prefer (DenseDPO, arXiv 2506.03517, calls it dynamic degree).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[np.uint8]  # (n, h, w, 3), or clips (n, frames, h, w, 3)
Floats = NDArray[np.float64]

EDGE = 0.1  # share of the luminance range that a pixel differs from its neighbour by, to count as an edge
THUMBNAIL = 16  # side of the thumbnails that diversity is measured on


@dataclass(frozen=True)
class Band:
    """Where the ratio to the base model's value may lie."""

    low: float
    high: float

    def holds(self, ratio: float) -> bool:
        """Whether the ratio is inside."""
        return self.low <= ratio <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} … {self.high:g}"


# Wide enough for a model that learns to leave clutter away (fewer edges, fewer grey levels), too narrow for one that
# burns its colours, fills with texture, goes flat, draws one picture for every prompt or lets nothing move.
BANDS: Mapping[str, Band] = {
    "saturation": Band(0.6, 1.6),
    "brightness": Band(0.6, 1.6),
    "edge density": Band(0.35, 1.5),
    "entropy": Band(0.5, 1.3),
    "diversity": Band(0.6, 1.6),
    "motion": Band(0.7, 1.5),  # of clips
}


def luminance(pictures: Pictures) -> Floats:
    """(n, h, w) in [0, 1], ITU-R BT.601 weights."""
    grey: Floats = pictures.astype(np.float64) @ np.array([0.299, 0.587, 0.114]) / 255
    return grey


def saturation(pictures: Pictures) -> Floats:
    """(n,) mean HSV saturation, in [0, 1]: 1 - min / max of a pixel's channels, 0 for black."""
    high, low = pictures.max(-1).astype(np.float64), pictures.min(-1).astype(np.float64)
    ratio = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    return _mean(ratio)


def brightness(pictures: Pictures) -> Floats:
    """(n,) mean luminance, in [0, 1]."""
    return _mean(luminance(pictures))


def edge_density(pictures: Pictures) -> Floats:
    """(n,) share of pixels whose luminance differs from the right or lower neighbour's by more than EDGE."""
    grey = luminance(pictures)
    right = np.abs(np.diff(grey, axis=2))[:, :-1]
    down = np.abs(np.diff(grey, axis=1))[:, :, :-1]
    return _mean((np.maximum(right, down) > EDGE).astype(np.float64))


def entropy(pictures: Pictures) -> Floats:
    """(n,) Shannon entropy of the histogram of 256 grey levels, in bits (0 … 8)."""
    levels = np.rint(luminance(pictures) * 255).astype(np.int64).reshape(len(pictures), -1)
    shares = (np.bincount(row, minlength=256) / row.size for row in levels)
    return np.array([-(share[share > 0] * np.log2(share[share > 0])).sum() for share in shares])


def motion(clips: Pictures) -> Floats:
    """(n,) mean change of luminance from frame to frame, in [0, 1], of clips (n, frames, h, w, 3)."""
    grey = luminance(clips)
    return _mean(np.abs(np.diff(grey, axis=1)))


def diversity(pictures: Pictures, groups: Sequence[Hashable]) -> float:
    """Mean distance between pictures of one prompt: root mean square of their thumbnails' difference, in [0, 1].

    Where every prompt has one picture only, the distance is taken between the pictures of all prompts: it then says
    whether the model draws one picture for everything.
    """
    small = _thumbnails(frames(pictures)).reshape(len(pictures), -1)
    alone = len(set(groups)) == len(groups)
    members = [np.arange(len(small))] if alone else list(_members(groups))
    distances = [_mean_distance(small[rows]) for rows in members if len(rows) > 1]
    if not distances:
        raise ValueError("diversity needs at least two pictures")
    return float(np.mean(distances))


def statistics(pictures: Pictures, groups: Sequence[Hashable]) -> dict[str, float]:
    """Every statistic of BANDS, averaged over n uint8 pictures or the frames of n clips, "motion" of clips alone.

    `groups` names the prompt that each was drawn for.
    """
    if pictures.dtype != np.uint8 or pictures.ndim not in (4, 5) or pictures.shape[-1] != 3:
        shapes = "(n, h, w, 3) or (n, frames, h, w, 3)"
        raise ValueError(f"pictures must be uint8 {shapes}, got {pictures.dtype} {pictures.shape}")
    each = frames(pictures)
    found = {
        "saturation": float(saturation(each).mean()),
        "brightness": float(brightness(each).mean()),
        "edge density": float(edge_density(each).mean()),
        "entropy": float(entropy(each).mean()),
        "diversity": diversity(pictures, groups),
    }
    return found | {"motion": float(motion(pictures).mean())} if pictures.ndim == 5 else found


def frames(pictures: Pictures) -> Pictures:
    """(m, h, w, 3): pictures as they are, of clips every frame."""
    return pictures.reshape(-1, *pictures.shape[-3:])


@dataclass(frozen=True)
class Drift:
    """One statistic of a model beside the base model's."""

    name: str
    base: float
    value: float
    band: Band

    @property
    def ratio(self) -> float:
        """Value over base; infinite where the base has none of it."""
        return self.value / self.base if self.base else (1.0 if self.value == self.base else float("inf"))

    @property
    def holds(self) -> bool:
        """Whether the model stayed in the band."""
        return self.band.holds(self.ratio)


def drift(base: Mapping[str, float], other: Mapping[str, float]) -> list[Drift]:
    """Each statistic of `other` beside the base's, with its band."""
    return [Drift(name, base[name], other[name], band) for name, band in BANDS.items() if name in base]


def _mean(values: Floats) -> Floats:
    flat: Floats = values.reshape(len(values), -1).mean(1)
    return flat


def _thumbnails(pictures: Pictures) -> Floats:
    """(n, THUMBNAIL * THUMBNAIL * 3) in [0, 1], by averaging blocks; a ragged border is left away."""
    n, height, width, _ = pictures.shape
    tall, wide = max(1, height // THUMBNAIL), max(1, width // THUMBNAIL)
    kept = pictures[:, : height // tall * tall, : width // wide * wide].astype(np.float64) / 255
    blocks = kept.reshape(n, height // tall, tall, width // wide, wide, 3)
    small: Floats = blocks.mean((2, 4)).reshape(n, -1)
    return small


def _members(groups: Sequence[Hashable]) -> Iterator[NDArray[np.int64]]:
    rows: dict[Hashable, list[int]] = {}
    for row, group in enumerate(groups):
        rows.setdefault(group, []).append(row)
    return (np.array(members) for members in rows.values())


def _mean_distance(points: Floats) -> float:
    """Mean root-mean-square distance over all pairs of rows."""
    squares = (points**2).sum(1)
    gaps = np.maximum(squares[:, None] + squares[None, :] - 2 * points @ points.T, 0.0)
    upper = np.triu_indices(len(points), k=1)
    return float(np.sqrt(gaps[upper] / points.shape[1]).mean())
