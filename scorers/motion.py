"""The moving playground's checker as a scorer of clips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from visalign.images import Misuse
from visalign.scoring import Prefers, Sample, Scores, Spec

from .clips import frames

if TYPE_CHECKING:
    from visalign.playground.moving_checker import Seen


@dataclass(frozen=True)
class Motion(Prefers):
    """Reads a clip of the moving playground and says how well it shows its prompt: the mean over its frames.

    A frame's score is the product of its aspects, each in [0, 1]; an aspect is the mean over the frames. "dynamic" is
    the moving thing's mean displacement in pixels per frame. A clip is right if every frame is clean and right. It
    cannot judge what is no clip of 32 x 32 pixels, nor a prompt of another language: such samples are marked invalid.
    """

    name = "motion"
    spec = Spec(
        name,
        "mean over the frames of the product of the checker's aspects",
        (0.0, 1.0),
        reads=("prompt", "video"),
        preprocessing="none: 32 x 32 pixels as they are, every frame",
    )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), each aspect and "dynamic" (n,), and whether a clip is right in every frame."""
        from visalign.playground.moving_checker import ASPECTS

        seen, reasons = _read(samples)
        values, *aspects = torch.full((len(ASPECTS) + 2, len(samples)), torch.nan, dtype=torch.float64)
        right = torch.zeros(len(samples), dtype=torch.bool)
        for row, each in seen.items():
            values[row], right[row] = each.overall, each.right
            numbers = (*(float(each.aspects[name].mean()) for name in ASPECTS), each.dynamic)
            for aspect, number in zip(aspects, numbers, strict=True):
                aspect[row] = number
        table = dict(zip((*ASPECTS, "dynamic"), aspects, strict=True))
        return Scores(values, table, valid=~values.isnan(), right=right, reasons=reasons)


def _read(samples: Sequence[Sample]) -> tuple[dict[int, Seen], dict[int, str]]:
    """What the checker says of each clip, by row; and why it can say nothing of the others."""
    from visalign.playground.moving_checker import check

    seen: dict[int, Seen] = {}
    reasons: dict[int, str] = {}
    for row, sample in enumerate(samples):
        try:
            shown = [np.asarray(each) for each in frames(sample)]
            if len({each.shape for each in shown}) != 1:
                raise ValueError("the frames of the clip differ in size" if shown else "the sample has no video")
            seen[row] = check(np.stack(shown), sample.prompt)
        except Misuse:
            raise
        except ValueError as error:
            reasons[row] = str(error)
    return seen, reasons
