"""A figure that the playground's model has never drawn: a zorp, for subject-driven tuning from four pictures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..draws import generator
from .world import Scene, Thing, draw

NAME = "zorp"  # a word that the text encoder has a token for and no use
CAPTION = f"a {NAME}"
BODY, EYE = Thing("diamond", "purple", radius=9.0), Thing("circle", "yellow", radius=3.0)
# What the base is asked for instead: the figure in other words, and what must not be lost.
OTHERS = (
    "a purple diamond", "a yellow circle", "a zorp above a red square", "a zorp left of a green ring", "a blue cross",
    "a red circle left of a blue square", "two green triangles", "a pink ring above a black diamond",
)  # fmt: skip


def portrait(row: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture (32, 32, 3) of the figure: an eye on a body, somewhere near the middle."""
    random = generator(seed, NAME, row, "portrait")
    x, y = (float(16 + random.uniform(-3, 3)) for _ in range(2))
    warm = int(random.integers(236, 250))
    parts = tuple(Thing(each.shape, each.colour, radius=each.radius, at=(x, y)) for each in (BODY, EYE))
    return draw(Scene(parts, tint=(warm, 244, 242)))
