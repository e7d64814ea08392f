"""The playground's captioner, which reads pictures as the checker does, and its rewriter, which knows the grammar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..draws import generator
from ..images import ImageError
from ..scoring import Sample, opened
from .captions import caption, paraphrase, parse
from .checker import NAMES, Found, look
from .corpus import wrong_colour, wrong_shape
from .world import RELATIONS, SHAPES, SIDE, Scene, Thing

MOST = 3  # things in a scene that a caption can tell


def seen(picture: NDArray[np.uint8]) -> Scene | None:
    """The scene that a (32, 32, 3) picture shows, unplaced; None where the world has no words for it."""
    style, found = things(picture)
    if not 1 <= len(found) <= MOST:
        return None
    shown = tuple(_thing(each) for each in found)
    return Scene(shown, _relation(found) if len(found) == 2 else None, style)


def things(picture: NDArray[np.uint8]) -> tuple[str | None, list[Found]]:
    """The style of a (32, 32, 3) picture and the things in it, largest first: whichever style explains them better."""
    readings = [(style, look(picture, style)[0]) for style in (None, "outline")]
    return max(readings, key=lambda each: _sureness(each[1]))


def _sureness(found: Sequence[Found]) -> float:
    """How well the shapes are told apart under a style: the least sure of them."""
    return min((float(each.shapes.max()) for each in found), default=0.0)


def _thing(found: Found) -> Thing:
    return Thing(SHAPES[int(found.shapes.argmax())], NAMES[int(found.colours.argmax())])


def _relation(found: Sequence[Found]) -> str:
    """How the first stands to the second, along the axis that parts them more."""
    (x, y), (other_x, other_y) = found[0].at, found[1].at
    across, down = other_x - x, other_y - y
    if abs(across) >= abs(down):
        return "left of" if across > 0 else "right of"
    return "above" if down > 0 else "below"


@dataclass(frozen=True)
class Describer:
    """Says what a playground picture shows: things, colours and their relation as the checker sees them, no sizes."""

    name = "checker"

    def caption(self, samples: Sequence[Sample]) -> list[str | None]:
        """A caption of each, None for what is no 32 x 32 picture of one to three things."""
        return [None if isinstance(each, ImageError) else self._one(np.asarray(each)) for each in opened(samples)]

    def _one(self, pixels: NDArray[np.uint8]) -> str | None:
        scene = seen(pixels) if pixels.shape == (SIDE, SIDE, 3) else None
        return None if scene is None else caption(scene)


@dataclass(frozen=True)
class Grammar:
    """Says a playground caption again: `weak` keeps its meaning, `medium` changes one thing's color or shape, `strong`
    a color, a shape and the relation."""

    strength: Literal["weak", "medium", "strong"] = "medium"
    seed: int = 0
    name = "grammar"

    def rewrite(self, texts: Sequence[str], keys: Sequence[str]) -> list[str | None]:
        """Each text in other words, None for what is not the playground's language."""
        return [self._one(text, key) for text, key in zip(texts, keys, strict=True)]

    def _one(self, text: str, key: str) -> str | None:
        random = generator(self.seed, f"{key}\n{text}", 0, "rewrite")
        try:
            scene = parse(text)
        except ValueError:
            return None
        if self.strength == "medium":
            scene = (wrong_colour, wrong_shape)[int(random.integers(2))](scene, random)
        if self.strength == "strong":
            scene = turned(wrong_shape(wrong_colour(scene, random), random), random)
        return paraphrase(scene, random)


def turned(scene: Scene, random: np.random.Generator) -> Scene:
    """The scene with another relation between its two things, where it has one."""
    others = [each for each in RELATIONS if each != scene.relation]
    return replace(scene, relation=str(random.choice(others))) if scene.relation else scene
