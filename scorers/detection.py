"""Things seen in pictures: what a detector says of one, and which of them count as found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visalign.images import ImageError

Box: TypeAlias = tuple[float, float, float, float]  # left, top, right, bottom in pixels


@dataclass(frozen=True, eq=False)
class Detection:
    """One thing in a picture."""

    label: str
    box: Box
    confidence: float  # in [0, 1]
    mask: NDArray[np.bool_] | None = None  # (h, w) of the whole picture, where the detector draws outlines
    colour: str | None = None  # where the detector names colours itself


Seen: TypeAlias = "list[Detection] | ImageError"


@runtime_checkable
class Detector(Protocol):
    """Anything that finds things in pictures."""

    @property
    def labels(self) -> frozenset[str]:
        """Everything that it can find; the absence of anything else says nothing."""

    def detect(self, images: Sequence[Image.Image]) -> list[Seen]:
        """For each RGB picture its things in any order, or why it cannot be searched."""


@dataclass(frozen=True)
class Limits:
    """Which detections count: the constants of github.com/djghosh13/geneval, evaluation/evaluate_images.py."""

    confidence: float = 0.3  # a detection counts above this
    counting: float = 0.9  # the same where a prompt is about how many there are
    most: int = 16  # detections of one label
    overlap: float = 1.0  # of two boxes of a label whose IoU reaches this, the less confident one goes; 1: both stay

    def __post_init__(self) -> None:
        shares = (self.confidence, self.counting, self.overlap)
        if not all(0 <= each <= 1 for each in shares) or self.most < 1:
            raise ValueError(f"confidence, counting and overlap lie in [0, 1] and most is at least 1, got {self}")

    def found(self, things: Sequence[Detection], *, counting: bool = False) -> Mapping[str, list[Detection]]:
        """Label -> the things that count, surest first."""
        least = self.counting if counting else self.confidence
        by_label: dict[str, list[Detection]] = {}
        for each in sorted(things, key=lambda each: -each.confidence):
            if each.confidence > least:
                by_label.setdefault(each.label, []).append(each)
        return {label: self._apart(each[: self.most]) for label, each in by_label.items()}

    def _apart(self, things: Sequence[Detection]) -> list[Detection]:
        """Without those that overlap a surer one."""
        kept: list[Detection] = []
        for each in things:
            if self.overlap == 1 or all(shared(each.box, other.box) < self.overlap for other in kept):
                kept.append(each)
        return kept


def shared(one: Box, other: Box) -> float:
    """Intersection over union of two boxes of whole pixels, whose last ones belong to them, as GenEval counts."""
    inner = (max(one[0], other[0]), max(one[1], other[1]), min(one[2], other[2]), min(one[3], other[3]))
    common = _pixels(inner)
    union = _pixels(one) + _pixels(other) - common
    return common / union if union else 0.0


def _pixels(box: Box) -> float:
    return max(box[2] - box[0] + 1, 0.0) * max(box[3] - box[1] + 1, 0.0)
