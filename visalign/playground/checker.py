"""The rule checker: reads a picture and says how well it shows its caption, aspect by aspect.

Every pixel is told apart as background, grey clutter or one of the palette's colours; connected pixels of one colour
are a thing; its shape is the template that its mask resembles most. Scores are in [0, 1] and are made of margins, so a
picture that is nearly right scores between. They are calibrated on pictures that went through the autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
from scipy import ndimage
from scipy.special import expit, softmax

from .captions import parse
from .world import COLOURS, SHAPES, SIDE, Scene, Thing, coverage

ASPECTS = ("objects", "colours", "relations", "cleanliness")
CLEAN_AND_RIGHT = 0.5  # an overall score above this counts as a clean and right picture
GRID = 14  # masks are compared at this many samples a side
SMALLEST = 9  # pixels; fewer are specks
NAMES = tuple(COLOURS)
PALETTE = np.array([COLOURS[name] for name in NAMES], dtype=np.float32)


@dataclass(frozen=True)
class Verdict:
    """What the checker says of one picture; each aspect in [0, 1], `overall` their product."""

    objects: float  # count, shapes and named sizes
    colours: float
    relations: float
    cleanliness: float

    @property
    def overall(self) -> float:
        """The product of the aspects."""
        return self.objects * self.colours * self.relations * self.cleanliness


@dataclass(frozen=True)
class Found:
    """A thing that was seen: how likely each colour, shape and size is, and where it stands."""

    colours: np.ndarray  # (colours,)
    shapes: np.ndarray  # (shapes,)
    radius: float
    at: tuple[float, float]


def check(picture: np.ndarray, caption: str) -> Verdict:
    """Judge one (32, 32, 3) uint8 picture; ValueError if it is of another shape or the caption cannot be read."""
    if picture.shape != (SIDE, SIDE, 3) or picture.dtype != np.uint8:
        raise ValueError(
            f"the checker reads ({SIDE}, {SIDE}, 3) uint8 pictures, the playground's, "
            f"got {picture.shape} {picture.dtype}: other pictures need another scorer"
        )
    wanted = parse(caption)
    return judged(*look(picture, wanted.style), wanted)


def judged(found: list[Found], cleanliness: float, wanted: Scene) -> Verdict:
    """What was seen in a picture against what it should show."""
    if len(found) != len(wanted.things):
        return Verdict(0.4 * expit(-abs(len(found) - len(wanted.things))) * 2, *_partial(found, wanted), cleanliness)
    scored = [_matched(order, wanted) for order in permutations(found)]
    objects, colours, relations = max(scored, key=lambda each: float(np.prod(each)))
    return Verdict(objects, colours, relations, cleanliness)


def scores(pictures: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str]) -> dict[str, np.ndarray]:
    """Every aspect and "overall" of n pictures, each (n,) float64."""
    verdicts = [check(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return {name: np.array([getattr(each, name) for each in verdicts]) for name in (*ASPECTS, "overall")}


def _partial(found: list[Found], wanted: Scene) -> tuple[float, float]:
    """Colours and relation where the count is wrong: the best that the things at hand can show."""
    colours = [max((float(each.colours[NAMES.index(t.colour)]) for each in found), default=0.0) for t in wanted.things]
    return float(np.prod(colours)), 0.5 if wanted.relation else 1.0


def _matched(order: tuple[Found, ...], wanted: Scene) -> tuple[float, float, float]:
    pairs = list(zip(order, wanted.things, strict=True))
    objects = float(np.prod([each.shapes[SHAPES.index(t.shape)] * _size(each, t) for each, t in pairs]))
    colours = float(np.prod([each.colours[NAMES.index(t.colour)] for each, t in pairs]))
    return objects, colours, _relation(order, wanted.relation)


def _size(found: Found, wanted: Thing) -> float:
    """How well the radius fits a named size: small is below 4.6 pixels, large above 5.6."""
    if wanted.size is None:
        return 1.0
    sign = 1.0 if wanted.size == "large" else -1.0
    return float(expit(sign * (found.radius - 5.1) / 0.1))


def _relation(order: tuple[Found, ...], relation: str | None) -> float:
    if relation is None:
        return 1.0
    (x, y), (other_x, other_y) = order[0].at, order[1].at
    gap = {"left of": other_x - x, "right of": x - other_x, "above": other_y - y, "below": y - other_y}[relation]
    return float(expit((gap - 6.0) / 0.8))


def look(picture: np.ndarray, style: str | None = None) -> tuple[list[Found], float]:
    """The things in a picture, largest first, and how clean everything around them is."""
    pixels = picture.astype(np.float32)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    found = regions(classify(pixels, ground))
    covered = np.any(found, axis=0) if found else np.zeros((SIDE, SIDE), dtype=bool)
    around = ~ndimage.binary_dilation(covered, iterations=2)
    strays = np.linalg.norm(pixels - ground, axis=-1)[around] > 45
    cleanliness = float(expit((5.0 - strays.sum()) / 1.0))
    return [_describe(pixels, region, ground, style) for region in found], cleanliness


def regions(kinds: np.ndarray) -> list[np.ndarray]:
    """Connected pixels of one colour, largest first, without specks and without the rims of larger ones.

    The rim of a red thing on a pale ground is pink: a region that lies within a pixel of larger ones is their edge.
    """
    seen = []
    for colour in range(len(NAMES)):
        labels, count = ndimage.label(kinds == colour, structure=np.ones((3, 3)))
        seen += [labels == index for index in range(1, count + 1)]
    kept: list[np.ndarray] = []
    for region in sorted(seen, key=lambda each: -int(each.sum())):
        edge = ndimage.binary_dilation(np.any(kept, axis=0), np.ones((3, 3))) if kept else np.zeros_like(region)
        if (region & ~edge).sum() >= SMALLEST:
            kept.append(region)
    return kept


def classify(pixels: np.ndarray, ground: np.ndarray) -> np.ndarray:
    """For each pixel the index of its colour, -1 for background, -2 for grey; (32, 32) int."""
    # An edge pixel mixes a colour with the ground, so each colour offers its half-mixture too.
    centres = np.concatenate([PALETTE, 0.6 * PALETTE + 0.4 * ground])
    greys = np.array([[130.0] * 3, [155.0] * 3, [185.0] * 3], dtype=np.float32)
    every = np.concatenate([centres, ground[None], greys])
    nearest = np.linalg.norm(pixels[:, :, None] - every, axis=-1).argmin(-1)
    kinds = np.where(nearest < len(centres), nearest % len(PALETTE), np.where(nearest == len(centres), -1, -2))
    return np.asarray(kinds)


def _describe(pixels: np.ndarray, region: np.ndarray, ground: np.ndarray, style: str | None) -> Found:
    strength = np.linalg.norm(pixels - ground, axis=-1) * region
    core = strength >= 0.75 * strength.max()
    colour = pixels[core].mean(0)
    colours = softmax(-np.square(np.linalg.norm(PALETTE - colour, axis=-1) / 22.0))
    near = ndimage.binary_dilation(region)
    toward = (colour - ground) / max(float(np.square(colour - ground).sum()), 1.0)
    mask = np.clip(((pixels - ground) @ toward), 0, 1) * near
    errors = np.square(canonical(mask)[None] - templates(style)).mean((1, 2))
    rows, columns = np.indices(mask.shape)
    at = (float((mask * columns).sum() / mask.sum()) + 0.5, float((mask * rows).sum() / mask.sum()) + 0.5)
    shapes = softmax(-errors / 0.003)
    return Found(colours, shapes, _radius(mask, int(shapes.argmax()), style), at)


def _radius(mask: np.ndarray, shape: int, style: str | None) -> float:
    """The radius whose drawing has the area that was seen: area grows with its square."""
    unit = float(coverage(SHAPES[shape], 5.0, (16, 16), style).sum())
    return 5.0 * float(np.sqrt(mask.sum() / unit))


def canonical(mask: np.ndarray) -> np.ndarray:
    """A mask (32, 32) cut to what it covers, resampled to (14, 14): where and how large it was is gone."""
    ys, xs = (_extent(mask.max(axis)) for axis in (1, 0))
    grid = np.meshgrid(np.linspace(*ys, GRID), np.linspace(*xs, GRID), indexing="ij")
    return np.asarray(ndimage.map_coordinates(mask, grid, order=1, mode="constant"))


def _extent(profile: np.ndarray) -> tuple[float, float]:
    """First and last coordinate of a profile's support, to a fraction of a pixel by how full the end pixels are."""
    over = np.flatnonzero(profile > 0.5 * profile.max())
    first, last = int(over[0]), int(over[-1])
    before = profile[first - 1] if first > 0 else 0.0
    after = profile[last + 1] if last + 1 < len(profile) else 0.0
    return first - float(before), last + float(after)


@lru_cache(maxsize=8)
def templates(style: str | None) -> np.ndarray:
    """The canonical mask of each shape, averaged over sizes and places within a pixel: (shapes, 14, 14)."""
    places = [(16 + dx, 16 + dy) for dx in (0.0, 0.33, 0.66) for dy in (0.0, 0.33, 0.66)]
    radii = (4.1, 4.8, 5.5, 6.1)
    return np.stack([
        np.mean([canonical(coverage(shape, radius, at, style)) for radius in radii for at in places], axis=0)
        for shape in SHAPES
    ])  # fmt: skip
