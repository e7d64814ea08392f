"""UnifiedReward: Wang et al., 2025 (arXiv 2503.05236) and its successors; github.com/CodeGoat24/UnifiedReward.

A vision-language model that was trained to write its judgements: a rating (1.0), ratings of three axes of a picture or
a clip (2.0), points of an edit (Edit); which of two pictures or edits is better (1.0, Edit, and Think, which reasons
first: arXiv 2505.03318), their shares of three axes (2.0), or a JSON table of its own dimensions (Flex). Of two clips
it sees eight frames each, from the first to the last, as the released scripts show them. What is not exactly one
judgement of the asked form is invalid with its reason, never a number. The default wordings ask for the
released forms in words of this project; the released ones are given as `wordings`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from visalign.scoring import Sample, Scores, Spec, compared

from . import answers, vlm
from .answer_book import Book
from .answers import Unreadable
from .chat import Answer, Chat, Question, Sampling, png
from .clip import PathLike
from .polling import Asked, Poll, Reading
from .running import one_of
from .unified_forms import FORMS, HIGHEST, HOLE, LOWEST, POINTS, Form

Rating = Literal["rating", "axes", "clip", "edit"]
Comparison = Literal["winner", "shares", "flex", "edit_winner", "edit_scores", "clip_winner", "clip_flex"]
EDIT = ("following", "quality")  # the two questions about an edit
LONGEST, SIZED = 1024, "at most {} pixels a side, then the model's own"  # of the pictures that are sent
READS = {"clip": ("prompt", "video"), "edit": ("prompt", "image", "source")}
SCALES = {
    "rating": "rating",
    "axes": "mean rating of alignment, coherence and style",
    "clip": "mean rating of alignment, physics and style",
    "edit": "geometric mean of the lower points of following and of quality",
}


class UnifiedReward:
    """Rates samples (`score`) and compares pairs (`prefer`) with a UnifiedReward model behind a backend.

    Args:
        backend: a `Chat`, or its name and settings: {name: endpoint, url: …, model: …}, {name: local, folder: …}.
        rating: what a sample is asked for: "rating" (1.0); "axes" of a picture or of a "clip" (2.0), whose mean is the
            score; or "edit", of `source` into `image` by the prompt: sqrt(min(success, restraint) min(naturalness,
            cleanness)), 0 … 25, as VIEScore pools (arXiv 2312.14867), on which its two questions are modelled.
        comparison: what a pair is asked for: "winner" (1.0, Think), "shares" (2.0), "flex", "edit_winner" or
            "edit_scores", of which the higher wins; of clips "clip_winner" (1.0, 2.0, Think) or "clip_flex".
        wordings: form -> a text file with {prompt}, instead of this project's own words.
        orders: "both", each pair asked in both orders and the mean taken, or "one".
        book: a file that keeps every answer; what is in it is not asked again.
    """

    def __init__(
        self,
        backend: Chat | Mapping[str, Any] | str,
        *,
        rating: Rating = "rating",
        comparison: Comparison = "winner",
        wordings: Mapping[str, PathLike] | None = None,
        orders: Literal["both", "one"] = "both",
        reasks: int = 0,
        book: str | os.PathLike[str] | None = None,
        longest: int = LONGEST,
        tokens: int = 4096,
        name: str = "unified_reward",
    ) -> None:
        self.rating = one_of("rating", rating, get_args(Rating))
        self.both = one_of("orders", orders, ("both", "one")) == "both"
        self.forms = FORMS | {form: _worded(form, file) for form, file in (wordings or {}).items()}
        self.comparison, self.longest = one_of("comparison", comparison, get_args(Comparison)), longest
        self.poll = Poll(_chat(backend), Book(book), Sampling(tokens=tokens), reasks)
        said = replace(self.describe(rating), name=name, preprocessing=SIZED.format(longest))
        self.name, self.spec = name, vlm.worded(said, *(each.wording for each in self.forms.values()))

    @staticmethod
    def describe(rating: str = "rating") -> Spec:
        """What it is, before any model is asked."""
        return Spec(
            name="unified_reward",
            scale=SCALES[one_of("rating", rating, SCALES)],
            range=(0.0, float(POINTS)) if rating == "edit" else (float(LOWEST), float(HIGHEST)),
            files=("CodeGoat24/UnifiedReward-qwen-7b", "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b"),
            license="MIT (code and weights)",
            reads=READS.get(rating, ("prompt", "image")),
            preprocessing=SIZED.format(LONGEST),
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,) on the scale of `spec`; what they are made of are `aspects`."""
        names = [name for each in self._asked for name in self.forms[each].aspects]
        found = self.poll.about(samples, self._rated, names)
        table = torch.tensor([[each.value for each in read] for read in found]).reshape(len(samples), len(names))
        values = _pooled(table) if self.rating == "edit" else table.mean(-1)
        reasons = {row: _why(read) for row, read in enumerate(found) if values[row].isnan()}
        aspects = {name: table[:, place] for place, name in enumerate(names) if name}
        return Scores(values, aspects, valid=~values.isnan(), reasons=reasons)

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,), the mean of what each order says: 1, 0, 1/2, or a share; NaN where it says none."""
        pairs = compared(first, second)
        if wrong := [one.prompt for one, other in pairs if one.prompt != other.prompt]:
            raise ValueError(f"candidates are compared for one prompt; of a pair, one is for {wrong[0]!r} alone")
        found = self.poll.about(pairs, self._compared, [""])
        chances = [[1 - each.value if each.place else each.value for each in read] for read in found]
        return torch.tensor([sum(each) / len(each) for each in chances])

    @property
    def _asked(self) -> tuple[str, ...]:
        return EDIT if self.rating == "edit" else (self.rating,)

    def _rated(self, sample: Sample) -> list[Asked]:
        return [self._about(self.forms[each], [sample]) for each in self._asked]

    def _compared(self, pair: tuple[Sample, Sample]) -> list[Asked]:
        form = self.forms[self.comparison]
        return [self._about(form, shown, place) for place, shown in enumerate((pair, pair[::-1])[: 1 + self.both])]

    def _about(self, form: Form, shown: Sequence[Sample], place: int = 0) -> Asked:
        """Pictures first, then words, as the models were trained."""
        pictures = (png(each, self.longest) for each in form.pictures(shown))
        asked = Question((*pictures, form.wording.replace(HOLE, shown[0].prompt)))
        return Asked(asked, by(form.read, form.aspects), place)


def by(parse: Callable[[Answer], Sequence[float]], aspects: Sequence[str]) -> Callable[[Answer], list[Reading]]:
    """Reads the aspects' values; where they cannot be read, each says why. What was cut off may have gone on."""

    def read(answer: Answer) -> list[Reading]:
        try:
            answers.refused(answer)
            if answer.cut:
                raise Unreadable(f"cut off at the greatest number of tokens: {answer.text[-answers.QUOTED :]!r}")
            return [Reading(aspect, value) for aspect, value in zip(aspects, parse(answer), strict=True)]
        except Unreadable as error:
            return [Reading(aspect, reason=str(error)) for aspect in aspects]

    return read


def _pooled(points: Tensor) -> Tensor:
    """(n,) of success, restraint, naturalness and cleanness (n, 4); NaN where one is."""
    return (points[:, :2].amin(-1) * points[:, 2:].amin(-1)).sqrt()


def _why(found: Sequence[Reading]) -> str:
    return "; ".join(dict.fromkeys(each.reason for each in found if each.reason))


def _worded(form: str, file: PathLike) -> Form:
    """A form in the words of a file; pictures alone may be asked about without the prompt, where its own words do."""
    if form not in FORMS:
        raise ValueError(f"wordings are of {', '.join(FORMS)}, got {form!r}")
    text = Path(file).expanduser().read_text(encoding="utf-8")
    if HOLE not in text and HOLE in FORMS[form].wording:
        raise ValueError(f"the wording of {file} holds no {HOLE}, where the prompt goes")
    return replace(FORMS[form], wording=text)


def _chat(backend: Chat | Mapping[str, Any] | str) -> Chat:
    if isinstance(backend, Chat):
        return backend
    from visalign import registry

    made: Chat = registry.build("chat", backend)
    return made
