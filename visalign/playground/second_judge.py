"""A second judge that makes no votes, to see whether gains transfer: it draws what the caption asks for and compares.

Where the checker takes a picture apart (segments, nearest colours, templates), this one works the other way round,
analysis by synthesis: it draws the caption's things in their colours, moves and resizes each of them until the drawing
explains the most of the picture, and scores what is left over. The two share the renderer and no rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .captions import parse
from .world import COLOURS, RADIUS, SIDE, Scene, Thing, coverage

WIDTH = 16  # of a template, pixels
HALF = WIDTH // 2
APART = 8  # two things stand at least so far apart, pixels
RIGHT = 0.5  # a score above this counts as clean and right
TOLERANCE = 20.0  # root mean square difference in grey levels (0-255) at which the score is one half
SHARPNESS = 3.0  # and the grey levels over which it falls
OFFSETS = (0.0, 0.25, 0.5, 0.75)  # places within a pixel
RADII = tuple(float(each) for each in np.arange(3.5, 6.4, 0.3))


def scores(pictures: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """How well the best drawing of each caption explains its (32, 32, 3) uint8 picture: (n,) in [0, 1]."""
    left = [unexplained(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return 1.0 / (1.0 + np.exp((np.array(left) - TOLERANCE) / SHARPNESS))


def unexplained(picture: np.ndarray, caption: str) -> float:
    """Root mean square difference in grey levels between a picture and the best drawing of its caption found.

    ValueError if the picture has another shape or the caption cannot be read.
    """
    if picture.shape != (SIDE, SIDE, 3):
        raise ValueError(f"the second judge reads ({SIDE}, {SIDE}, 3) pictures, got {picture.shape}")
    wanted = parse(caption)
    pixels = picture.astype(np.float32)
    ground = np.array((24, 26, 52), dtype=np.float32) if wanted.style == "night" else border(pixels)
    drawn = best_drawing(pixels, ground, wanted)
    worst_eighth = np.sort(np.square(pixels - drawn).mean(-1), axis=None)[-SIDE * SIDE // 8 :]
    return float(np.sqrt(worst_eighth.mean()))


def border(pixels: np.ndarray) -> np.ndarray:
    """The background as the median of the picture's rim, (3,)."""
    rim = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3), pixels[:, :2].reshape(-1, 3)])
    return np.asarray(np.median(rim, axis=0))


def best_drawing(pixels: np.ndarray, ground: np.ndarray, wanted: Scene) -> np.ndarray:
    """The things of a scene where they explain the picture best, in the order that its relation asks for."""
    gains = [gain(pixels, ground, thing, wanted.style) for thing in wanted.things]
    centres = related(gains, wanted.relation) if wanted.relation else apart(gains)
    drawn = np.broadcast_to(ground, pixels.shape).copy()
    for thing, each, at in zip(wanted.things, gains, centres, strict=True):
        mask = np.zeros((SIDE + WIDTH, SIDE + WIDTH, 1), dtype=np.float32)
        shape = templates(thing.shape, thing.size, wanted.style)[each[:, at[0], at[1]].argmax()]
        mask[at[0] : at[0] + WIDTH, at[1] : at[1] + WIDTH, 0] = shape
        mask = mask[HALF:-HALF, HALF:-HALF]
        drawn = drawn * (1 - mask) + np.array(COLOURS[thing.colour], dtype=np.float32) * mask
    return drawn


def gain(pixels: np.ndarray, ground: np.ndarray, thing: Thing, style: str | None) -> np.ndarray:
    """By how much each template at each place lowers the squared error: (templates, 33, 33).

    |p - g|^2 - |p - g - m (c - g)|^2 = 2 m (p - g)(c - g) - m^2 |c - g|^2, summed over the template m.
    """
    contrast = np.array(COLOURS[thing.colour], dtype=np.float32) - ground
    toward = np.pad((pixels - ground) @ contrast, HALF)
    windows = sliding_window_view(toward, (WIDTH, WIDTH)).reshape(-1, WIDTH * WIDTH)
    masks = templates(thing.shape, thing.size, style).reshape(-1, WIDTH * WIDTH)
    found = 2 * masks @ windows.T - float(contrast @ contrast) * np.square(masks).sum(1, keepdims=True)
    return np.asarray(found.reshape(len(masks), SIDE + 1, SIDE + 1))


@lru_cache(maxsize=128)
def templates(shape: str, size: str | None, style: str | None) -> np.ndarray:
    """Coverage of one shape at every radius of its size and every place within a pixel: (templates, 16, 16)."""
    low, high = RADIUS[size]
    radii = [radius for radius in RADII if low - 0.15 <= radius <= high + 0.15]
    middle = slice(SIDE // 2 - HALF, SIDE // 2 + HALF)
    return np.stack([
        coverage(shape, radius, (SIDE / 2 + dx, SIDE / 2 + dy), style)[middle, middle]
        for radius in radii for dx in OFFSETS for dy in OFFSETS
    ])  # fmt: skip


def related(gains: Sequence[np.ndarray], relation: str) -> list[tuple[int, int]]:
    """The places of two things that gain the most among those that stand in the relation."""
    axis = 1 if relation in ("left of", "right of") else 0
    first, second = gains if relation in ("left of", "above") else (gains[1], gains[0])
    maps = [each.max(0) for each in (first, second)]
    lines = [each.max(1 - axis) for each in maps]
    later = np.array([[a + b if y - x >= APART else -np.inf for y, b in enumerate(lines[1])]
                      for x, a in enumerate(lines[0])])  # fmt: skip
    chosen = np.unravel_index(later.argmax(), later.shape)
    places = [_on_line(each, axis, int(line)) for each, line in zip(maps, chosen, strict=True)]
    return places if relation in ("left of", "above") else places[::-1]


def _on_line(field: np.ndarray, axis: int, line: int) -> tuple[int, int]:
    """The best place of a map (33, 33) whose coordinate along `axis` is `line`."""
    other = int(field.take(line, axis).argmax())
    return (line, other) if axis == 0 else (other, line)


def apart(gains: Sequence[np.ndarray]) -> list[tuple[int, int]]:
    """Places for things without a relation: the surest first, the others away from it."""
    maps = [each.max(0).copy() for each in gains]
    places: dict[int, tuple[int, int]] = {}
    while len(places) < len(maps):
        free = [index for index in range(len(maps)) if index not in places]
        index = max(free, key=lambda each: float(maps[each].max()))
        row, column = (int(each) for each in np.unravel_index(maps[index].argmax(), maps[index].shape))
        places[index] = (row, column)
        for each in maps:
            each[max(row - APART, 0) : row + APART + 1, max(column - APART, 0) : column + APART + 1] = -np.inf
    return [places[index] for index in range(len(maps))]
