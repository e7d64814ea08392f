"""Clips judged a second at a time: DenseDPO's protocol for labels by a vision-language model (arXiv 2506.03517).

Two clips of one structure are cut into segments; the judge compares each segment, in both orders, and says a tie unless
both agree. The segments' labels are what DenseDPO trains on; a clip's own label is the majority of its segments.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from visalign import registry
from visalign.data.segments import majority, segments
from visalign.records import Preference
from visalign.scoring import Judge, Sample, compared

from .clips import Frames, frames
from .vlm_judge import VLMJudge


class SegmentJudge:
    """Compares clips segment by segment.

    Args:
        judge: a judge, or a name and settings; of a `VLMJudge`, which is meant where there is no name, the rubric is
            then `video_detail`, and conflicts are ties.
        rate: frames a second of the clips.
        seconds: of a segment.
        shown: frames a second that the judge is shown.
        book: a file that keeps every answer of a judge that is given by its settings.
    """

    def __init__(
        self,
        judge: Judge | Mapping[str, Any] | str,
        *,
        rate: float,
        seconds: float = 1.0,
        shown: float = 8.0,
        book: str | os.PathLike[str] | None = None,
    ) -> None:
        if min(rate, seconds, shown) <= 0:
            raise ValueError(f"rate, seconds and shown are above 0, got {rate}, {seconds} and {shown}")
        self.judge: Judge = _built(judge, book) if isinstance(judge, Mapping | str) else judge
        self.rate, self.seconds, self.shown = rate, seconds, shown
        self.name = f"{getattr(self.judge, 'name', type(self.judge).__name__)}-segments"

    def labels(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Tensor]:
        """For each pair of clips (S,): P(first is better) in each segment, NaN where the judge could not say."""
        lefts: list[Sample] = []
        rights: list[Sample] = []
        counts = []
        for pair in compared(first, second):
            one, other = (frames(each) for each in pair)
            cuts = self._cut(one, other)
            lefts += [_part(pair[0], one, cut, self._step) for cut in cuts]
            rights += [_part(pair[1], other, cut, self._step) for cut in cuts]
            counts.append(len(cuts))
        return list(torch.split(self.judge.prefer(lefts, rights), counts))

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """(n,): 1, 0 or 1/2 by the majority of the segments that could be judged; NaN where none could."""
        return torch.tensor([float(majority(each)) for each in self.labels(first, second)], dtype=torch.float64)

    def judged(self, record: Preference, label: Tensor) -> Preference:
        """The record of two clips with the label of each segment: probabilities (2, S)."""
        chances = np.asarray(label, dtype=np.float64)
        table, length = np.stack([chances, 1 - chances]), self.rate * self.seconds
        return record.judged(table, scale="probability", judge=self.name, segment=length)

    def close(self) -> None:
        """Let go of the judge's files."""
        if isinstance(self.judge, VLMJudge):
            self.judge.close()

    @property
    def _step(self) -> float:
        return max(1.0, self.rate / self.shown)

    def _cut(self, one: Frames, other: Frames) -> list[range]:
        counts = [len(one), len(other)]
        if counts[0] != counts[1] or not counts[0]:
            raise ValueError(f"two clips have as many frames, at least 1; got {counts[0]} and {counts[1]}")
        return segments(counts[0], self.rate * self.seconds)


def _part(sample: Sample, whole: Frames, part: range, step: float) -> Sample:
    """The sample with the frames of a segment, every `step`-th."""
    shown = dict.fromkeys(int(place) for place in np.arange(part.start, part.stop, step))
    return replace(sample, video=tuple(whole[place] for place in shown), image=None)


def _built(given: Mapping[str, Any] | str, book: str | os.PathLike[str] | None) -> Judge:
    """The judge of a name and settings; ValueError for one that compares no samples."""
    settings = {"name": given} if isinstance(given, str) else {"name": "vlm", **given}
    if settings["name"] == "vlm":
        settings = {"rubric": "video_detail", "conflict": "tie", "book": book, **settings}
    made = registry.build("judge", settings)
    if not isinstance(made, Judge):
        raise ValueError(f"the judge {settings['name']} compares no samples: it has no prefer")
    return made
