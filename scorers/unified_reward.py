"""UnifiedReward: Wang et al., 2025 (arXiv 2503.05236) and its successors; github.com/CodeGoat24/UnifiedReward.

A vision-language model that was trained to write its judgements: a rating (1.0), ratings of three axes (2.0), which of
two pictures is better (1.0, and Think, which reasons first: arXiv 2505.03318), or a JSON table of its own dimensions
(Flex). What is not exactly one judgement of the asked form is invalid with its reason, never a number. The default
wordings ask for the released forms in words of this project; the released ones are given as `wordings`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from visalign.scoring import Sample, Scores, Spec, picture

from . import answers, vlm
from .answer_book import Book
from .answers import Unreadable
from .chat import Answer, Chat, Question, Sampling, png
from .clip import PathLike
from .polling import Asked, Poll, Reading

AXES = ("Alignment", "Coherence", "Style")
LOWEST, HIGHEST, SHARED = 1, 5, 10.0  # of a rating; what two scores of Flex add up to
NUMBER = r"(-?\d+(?:\.\d+)?)(?![.\d]*\d|/)"
FINAL = re.compile(rf"Final Score\W*:\W*?{NUMBER}", re.IGNORECASE)
AXIS = re.compile(rf"^\W*({'|'.join(AXES)}) Score[^:\n]*:\W*?{NUMBER}", re.IGNORECASE | re.MULTILINE)
SAID = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)
VERDICTS = {"image 1 is better": 1.0, "image 2 is better": 0.0, "images are equally good": 0.5}
WINNERS = {"image 1": 1.0, "image 2": 0.0}
HOLE = "{prompt}"
LONGEST, SIZED = 1024, "at most {} pixels a side, then the model's own"  # of the pictures that are sent
WORDINGS = {
    "rating": (
        "The picture was generated for this caption: {prompt}\nHow well does it show what the caption says, and how "
        'good does it look? Weigh both, and close with a line "Final Score: X", with X from 1 to 5.'
    ),
    "axes": (
        "The picture was generated for this caption: {prompt}\nRate three things from 1 to 5, one line each:\n"
        "Alignment Score (1-5): X\nCoherence Score (1-5): Y\nStyle Score (1-5): Z\nAlignment is whether it shows what "
        "the caption says, coherence whether it makes sense as a picture, style how good it looks."
    ),
    "winner": (
        "Both pictures were generated for this caption: {prompt}\nWhich one shows the caption better and looks better? "
        'Give your reasons, and close with one of these sentences: "Image 1 is better." "Image 2 is better." "Both '
        'images are equally good."'
    ),
    "flex": (
        "Both pictures were generated for this caption: {prompt}\nCompare them in semantics, quality and aesthetics, "
        f"each in dimensions that matter here. In each dimension the two share {SHARED:g} points. Answer with JSON: "
        '{"categories": [{"name": "...", "dims": [{"name": "...", "score_1": 6, "score_2": 4}], "cat_winner": "Image '
        '1"}], "winner": "Image 1"}'
    ),
}


class UnifiedReward:
    """Rates samples (`score`) and compares pairs (`prefer`) with a UnifiedReward model behind a backend.

    Args:
        backend: a `Chat`, or its name and settings: {name: endpoint, url: …, model: …}, {name: local, folder: …}.
        rating: the form of a rating: "rating" (1.0) or "axes" (2.0), of which the mean is the score.
        comparison: the form of a comparison: "winner" (1.0, Think) or "flex".
        wordings: form -> a text file with {prompt}, instead of this project's own words.
        orders: "both", each pair asked in both orders and the mean taken, or "one".
        book: a file that keeps every answer; what is in it is not asked again.
    """

    def __init__(
        self,
        backend: Chat | Mapping[str, Any] | str,
        *,
        rating: Literal["rating", "axes"] = "rating",
        comparison: Literal["winner", "flex"] = "winner",
        wordings: Mapping[str, PathLike] | None = None,
        orders: Literal["both", "one"] = "both",
        reasks: int = 0,
        book: str | os.PathLike[str] | None = None,
        longest: int = LONGEST,
        tokens: int = 4096,
        name: str = "unified_reward",
    ) -> None:
        if rating not in ("rating", "axes") or comparison not in ("winner", "flex") or orders not in ("both", "one"):
            raise ValueError(
                "rating is rating or axes, comparison winner or flex, orders both or one; "
                f"got {rating!r}, {comparison!r} and {orders!r}"
            )
        self.rating, self.comparison, self.both, self.longest = rating, comparison, orders == "both", longest
        self.wordings = WORDINGS | {form: _wording(form, file) for form, file in (wordings or {}).items()}
        self.poll = Poll(_chat(backend), Book(book), Sampling(tokens=tokens), reasks)
        said = replace(self.describe(rating), name=name, preprocessing=SIZED.format(longest))
        self.name, self.spec = name, vlm.worded(said, *self.wordings.values())

    @staticmethod
    def describe(rating: str = "rating") -> Spec:
        """What it is, before any model is asked."""
        return Spec(
            name="unified_reward",
            scale="rating" if rating == "rating" else f"mean rating of {', '.join(AXES)}",
            range=(float(LOWEST), float(HIGHEST)),
            files=("CodeGoat24/UnifiedReward-qwen-7b", "CodeGoat24/UnifiedReward-2.0-qwen3vl-8b"),
            license="MIT (code and weights)",
            preprocessing=SIZED.format(LONGEST),
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Ratings 1 … 5, (n,); with `rating="axes"` the axes are `aspects`."""
        names = AXES if self.rating == "axes" else ("",)
        found = self.poll.about(samples, self._rated, names)
        table = torch.tensor([[each.value for each in read] for read in found]).reshape(len(samples), len(names))
        values = table.mean(-1)
        reasons = {row: _why(read) for row, read in enumerate(found) if values[row].isnan()}
        aspects = {name: table[:, place] for place, name in enumerate(names) if name}
        return Scores(values, aspects, valid=~values.isnan(), reasons=reasons)

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,): 1, 0 or 1/2 of each order, and their mean; NaN where one could not be read."""
        pairs = list(zip(first, second, strict=True))
        if wrong := [one.prompt for one, other in pairs if one.prompt != other.prompt]:
            raise ValueError(f"candidates are compared for one prompt; of a pair, one is for {wrong[0]!r} alone")
        found = self.poll.about(pairs, self._compared, [""])
        chances = [[1 - each.value if each.place else each.value for each in read] for read in found]
        return torch.tensor([sum(each) / len(each) for each in chances])

    def _rated(self, sample: Sample) -> list[Asked]:
        read = by(axes, AXES) if self.rating == "axes" else by(final, ("",))
        return [Asked(self._question(self.rating, sample), read)]

    def _compared(self, pair: tuple[Sample, Sample]) -> list[Asked]:
        read = by(flex if self.comparison == "flex" else winner, ("",))
        orders = (pair, pair[::-1])[: 1 + self.both]
        return [Asked(self._question(self.comparison, *shown), read, place) for place, shown in enumerate(orders)]

    def _question(self, form: str, *shown: Sample) -> Question:
        """Pictures first, then words, as the models were trained."""
        pictures = (png(picture(each), self.longest) for each in shown)
        return Question((*pictures, self.wordings[form].replace(HOLE, shown[0].prompt)))


def by(parse: Callable[[Answer], Sequence[float]], aspects: Sequence[str]) -> Callable[[Answer], list[Reading]]:
    """Reads the aspects' values; where they cannot be read, each says why."""

    def read(answer: Answer) -> list[Reading]:
        try:
            answers.refused(answer)
            return [Reading(aspect, value) for aspect, value in zip(aspects, parse(answer), strict=True)]
        except Unreadable as error:
            return [Reading(aspect, reason=str(error)) for aspect in aspects]

    return read


def final(answer: Answer) -> list[float]:
    """The last "Final Score: X"."""
    found = FINAL.findall(_told(answer))
    if not found:
        raise Unreadable(f"says no final score: {_told(answer)[-answers.QUOTED :]!r}")
    return [answers.rating(found[-1], LOWEST, HIGHEST)]


def axes(answer: Answer) -> list[float]:
    """The last "AXIS Score (1-5): X" of each axis."""
    found = {axis.capitalize(): value for axis, value in AXIS.findall(_told(answer))}
    if missing := [axis for axis in AXES if axis not in found]:
        raise Unreadable(f"says no score of {', '.join(missing)}: {_told(answer)[-answers.QUOTED :]!r}")
    return [answers.rating(found[axis], LOWEST, HIGHEST) for axis in AXES]


def winner(answer: Answer) -> list[float]:
    """P(the first is better) of the one verdict; the released evaluation takes any text that holds the right one."""
    text = _told(answer)
    marked = SAID.findall(text)
    said = (marked[-1] if marked else text).lower()
    found = {value for verdict, value in VERDICTS.items() if verdict in said}
    if len(found) != 1:
        raise Unreadable(f"gives {len(found) or 'no'} verdicts: {said[-answers.QUOTED :]!r}")
    return [found.pop()]


def flex(answer: Answer) -> list[float]:
    """P(the first is better) of the JSON's winner, if its scores are what was asked for."""
    whole = answers.objects(answer)
    said = str(whole.get("winner", "")).strip().lower().rstrip(".")
    if said not in WINNERS:
        raise Unreadable(f"the winner is {whole.get('winner')!r} and none of Image 1, Image 2")
    categories: Any = whole.get("categories")
    dims = [dim for each in categories for dim in each["dims"]] if _tabular(categories) else []
    if not dims:
        raise Unreadable("the JSON has no categories with dimensions")
    for dim in dims:
        both = [answers.rating(dim.get(name), 0, int(SHARED)) for name in ("score_1", "score_2")]
        if not math.isclose(sum(both), SHARED, abs_tol=1e-6):
            raise Unreadable(f"the scores of {dim.get('name')!r} are {both} and not {SHARED:g} together")
    return [WINNERS[said]]


def _tabular(categories: Any) -> bool:
    """Whether it is a list of objects with a list of objects, "dims", in each."""
    listed = isinstance(categories, list) and all(isinstance(each, dict) for each in categories)
    return listed and all(
        isinstance(each.get("dims"), list) and all(isinstance(dim, dict) for dim in each["dims"]) for each in categories
    )


def _told(answer: Answer) -> str:
    """What was said after thinking."""
    return answers.THOUGHT.sub("", answer.text).strip()


def _why(found: Sequence[Reading]) -> str:
    return "; ".join(dict.fromkeys(each.reason for each in found if each.reason))


def _wording(form: str, file: PathLike) -> str:
    if form not in WORDINGS:
        raise ValueError(f"wordings are of {', '.join(WORDINGS)}, got {form!r}")
    text = Path(file).expanduser().read_text(encoding="utf-8")
    if HOLE not in text:
        raise ValueError(f"the wording of {file} holds no {HOLE}, where the prompt goes")
    return text


def _chat(backend: Chat | Mapping[str, Any] | str) -> Chat:
    if isinstance(backend, Chat):
        return backend
    from visalign import registry

    made: Chat = registry.build("chat", backend)
    return made
