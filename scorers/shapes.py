"""The playground's checker as a detector: shapes, where they are, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from visalign.images import ImageError
from visalign.playground.checker import NAMES, Found
from visalign.playground.world import SHAPES, SIDE
from visalign.playground.writers import things

from .detection import Detection, Seen


@dataclass(frozen=True)
class ShapeDetector:
    """Finds the shapes of a 32 x 32 playground picture; its confidence is the checker's in the shape."""

    @property
    def labels(self) -> frozenset[str]:
        """Every shape of the playground."""
        return frozenset(SHAPES)

    def detect(self, images: Sequence[Image.Image]) -> list[Seen]:
        """For each picture its shapes, largest first; an ImageError for one of another size."""
        return [
            [_detection(found) for found in things(np.asarray(each))[1]]
            if each.size == (SIDE, SIDE)
            else ImageError(f"the playground's pictures are {SIDE} x {SIDE}, this one is {each.width} x {each.height}")
            for each in images
        ]


def _detection(found: Found) -> Detection:
    x, y = found.at
    best = int(found.shapes.argmax())
    box = (x - found.radius, y - found.radius, x + found.radius, y + found.radius)
    return Detection(SHAPES[best], box, float(found.shapes[best]), colour=NAMES[int(found.colours.argmax())])
