"""The shapes world: captioned pictures of one to three coloured shapes, drawn from a written-down scene.

A scene says what a caption says (things, colours, sizes, a relation, a style) and what it leaves free (places, the tint
of the background, sizes that no word names). Pictures are 32 x 32; every number here is in pixels of that canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32
FINE = 8  # drawn this much finer, then averaged down
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 57), "orange": (243, 134, 32), "yellow": (240, 205, 30), "green": (42, 157, 72),
    "blue": (38, 84, 201), "purple": (134, 60, 174), "pink": (240, 128, 184), "black": (36, 36, 42),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "ring")
RELATIONS = ("left of", "right of", "above", "below")
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
SIZES = ("small", "large")
RADIUS = {"small": (4.0, 4.6), "large": (5.6, 6.2), None: (4.0, 6.2)}
STYLES = ("outline", "striped", "night")  # the base corpus draws "outline" sometimes, the other two never
PLACES = {"left of": ((8, 16), (24, 16)), "above": ((16, 8), (16, 24))}  # so that no two things ever touch


@dataclass(frozen=True)
class Thing:
    """One shape, and what its caption says of it; `radius` and `at` are None until it is placed."""

    shape: str
    colour: str
    size: str | None = None  # None: the caption does not say
    radius: float | None = None
    at: tuple[float, float] | None = None  # centre, from the left and from the top


@dataclass(frozen=True)
class Scene:
    """What is to be drawn: things, the relation of the first to the second, a style, and what no caption says."""

    things: tuple[Thing, ...]
    relation: str | None = None  # of the first thing to the second, where there are two
    style: str | None = None
    tint: tuple[int, int, int] = (246, 245, 242)


def place(scene: Scene, random: np.random.Generator) -> Scene:
    """The scene with a radius, a place and a tint for everything that was free; relations hold by 14 pixels or more."""
    centres = _centres(scene, random)
    things = tuple(
        replace(thing, at=at, radius=float(random.uniform(*RADIUS[thing.size])))
        for thing, at in zip(scene.things, centres, strict=True)
    )
    warm = random.uniform(-1, 1)  # from cool to warm, pale either way
    tint = (
        int(240 + 10 * max(warm, 0)),
        int(240 + 4 * abs(warm)),
        int(240 - 14 * warm if warm > 0 else 240 + 12 * -warm),
    )
    return replace(scene, things=things, tint=tint)


def _centres(scene: Scene, random: np.random.Generator) -> list[tuple[float, float]]:
    count = len(scene.things)
    if count == 1:
        base = [(16.0, 16.0)]
    elif count == 2 and scene.relation:
        forward = scene.relation in PLACES
        pair = PLACES[scene.relation if forward else INVERSE[scene.relation]]
        base = [*pair] if forward else [*reversed(pair)]
    elif count == 2:
        base = [*PLACES[str(random.choice(["left of", "above"]))]]
    else:
        base = [(8.0, 8.0), (24.0, 8.0), (16.0, 24.0)]
    reach = 4.0 if count == 1 else 0.7
    return [(x + random.uniform(-reach, reach), y + random.uniform(-reach, reach)) for x, y in base]


def outline(shape: str, radius: float) -> list[tuple[float, float]]:
    """Corners of a polygon of roughly equal area for each shape, around the origin."""
    if shape in ("circle", "ring"):
        return [(radius * math.cos(a), radius * math.sin(a)) for a in np.linspace(0, 2 * math.pi, 48, endpoint=False)]
    if shape == "square":
        side = 0.88 * radius
        return [(-side, -side), (side, -side), (side, side), (-side, side)]
    if shape == "triangle":
        return [(0, -1.1 * radius), (1.1 * radius, 0.85 * radius), (-1.1 * radius, 0.85 * radius)]
    if shape == "diamond":
        return [(0, -1.12 * radius), (0.85 * radius, 0), (0, 1.12 * radius), (-0.85 * radius, 0)]
    arm, width = 1.1 * radius, 0.38 * radius
    quarter = [(width, -arm), (width, -width), (arm, -width)]
    return [(x * c - y * d, x * d + y * c) for c, d in ((1, 0), (0, 1), (-1, 0), (0, -1)) for x, y in quarter]


def coverage(shape: str, radius: float, at: tuple[float, float], style: str | None = None) -> np.ndarray:
    """How much of each pixel a shape covers, (32, 32) in [0, 1]."""
    canvas = Image.new("L", (SIDE * FINE, SIDE * FINE))
    draw = ImageDraw.Draw(canvas)

    def polygon(scale: float, value: int) -> None:
        corners = outline(shape, radius * scale)
        draw.polygon([((x + at[0]) * FINE, (y + at[1]) * FINE) for x, y in corners], fill=value)

    polygon(1.0, 255)
    if shape == "ring":
        polygon(0.5, 0)
    elif style == "outline":
        polygon(0.5 if shape != "cross" else 0.36, 0)
    mask: np.ndarray = np.asarray(canvas, dtype=np.float32).reshape(SIDE, FINE, SIDE, FINE).mean((1, 3)) / 255
    if style == "striped":
        mask = mask * (0.25 + 0.75 * ((np.arange(SIDE) // 2) % 2))[None, :]
    return mask


def draw(scene: Scene) -> np.ndarray:
    """The picture of a placed scene: (32, 32, 3) uint8."""
    ground = (24, 26, 52) if scene.style == "night" else scene.tint
    picture = np.broadcast_to(np.array(ground, dtype=np.float32), (SIDE, SIDE, 3)).copy()
    for thing in scene.things:
        if thing.radius is None or thing.at is None:
            raise ValueError(f"{thing} has no place yet: call place() before draw()")
        mask = coverage(thing.shape, thing.radius, thing.at, scene.style)[..., None]
        picture = picture * (1 - mask) + np.array(COLOURS[thing.colour], dtype=np.float32) * mask
    return picture.round().clip(0, 255).astype(np.uint8)
