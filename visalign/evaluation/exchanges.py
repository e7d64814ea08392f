"""Questions about pictures with the models' answers side by side: what is made up marked, what is left out listed."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from PIL import Image

from .objects import Place
from .report import SMALLEST, data_uri, enlarged, png

Piece = tuple[str, bool]  # words, and whether they are made up
SIDE = 360  # pixels: larger pictures are shown smaller


@dataclass(frozen=True)
class Reply:
    """What one model answered."""

    model: str
    pieces: tuple[Piece, ...]
    note: str  # what to think of it
    faults: int  # things made up, or 1 for a wrong yes or no
    missing: tuple[str, ...] = ()  # what is there and is not named

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(words for words, _ in self.pieces)

    def beside(self, first: Reply) -> tuple[str, Literal["good", "bad", ""]]:
        """What became of the first model's answer, in a word, and whether that is good."""
        if self.faults == first.faults:
            return "", ""
        return ("mended", "good") if self.faults < first.faults else ("worse", "bad")


@dataclass(frozen=True)
class Exchange:
    """One question about one picture, and every model's reply."""

    id: str
    question: str  # "": it is not known
    truth: str
    replies: tuple[Reply, ...]
    picture: Callable[[], Image.Image] | None = None  # opens it; raises ImageError

    @property
    def change(self) -> tuple[int, bool, int, bool]:
        """How far replies are from the first model's: in faults, for the worse, in what is left out, in words.

        One alone has its own.
        """
        first, *others = self.replies
        return (
            max((abs(each.faults - first.faults) for each in others), default=first.faults),
            any(each.faults > first.faults for each in others),
            max((abs(len(each.missing) - len(first.missing)) for each in others), default=len(first.missing)),
            any(each.text != first.text for each in others),
        )

    @property
    def shown(self) -> list[tuple[Reply, str, str]]:
        """Each reply, what became of the first one's in a word, and whether that is good or bad."""
        return [(each, *each.beside(self.replies[0])) for each in self.replies]

    @property
    def uri(self) -> str:
        """The picture as a data URI; "" if there is none to show."""
        return "" if self.picture is None else _uri(self.picture())


def side_by_side(models: Mapping[str, Sequence[Exchange]]) -> list[Exchange]:
    """Every model's exchanges, with a reply each, about the same questions in one order; what changed comes first."""
    rows = zip(*models.values(), strict=True)
    joined = [
        replace(
            row[0], replies=tuple(replace(one.replies[0], model=name) for name, one in zip(models, row, strict=True))
        )
        for row in rows
    ]
    return sorted(joined, key=lambda one: one.change, reverse=True)


def pieces(text: str, places: Sequence[Place], wrong: Collection[str]) -> tuple[Piece, ...]:
    """The text in pieces; the places of what is wrong are marked. Places are those in `text.lower()`."""
    shown = text if len(text) == len(text.lower()) else text.lower()
    found: list[Piece] = []
    start = 0
    for name, first, behind in places:
        if name in wrong and start <= first < behind:
            found += [(shown[start:first], False), (shown[first:behind], True)]
            start = behind
    return tuple(piece for piece in (*found, (shown[start:], False)) if piece[0])


def _uri(picture: Image.Image) -> str:
    """Small pictures are enlarged without smoothing, large ones are made smaller, as JPEG."""
    if min(picture.size) < SMALLEST:
        return data_uri(png(enlarged(np.asarray(picture))))
    shown, file = picture.copy(), io.BytesIO()
    shown.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    shown.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
