"""A vision-language model as a judge: it compares two candidates, or rates one, aspect by aspect of a rubric.

Comparisons are asked in both orders, since models favour a place (arXiv 2306.05685, section 3.3); P(first is better) is
the mean of the two, which takes out what the judge says for a place alone. Where the backend tells the probabilities of
tokens, an answer is the expectation over the letters or ratings (arXiv 2303.16634, section 2), and one that has little
probability on any of them counts as none. What cannot be read is invalid with its reason.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from visalign.rulings import Ruling
from visalign.scoring import Sample, Scores, Spec

from . import answers, rubrics, wording
from .answer_book import Book
from .chat import MOST_LOGPROBS, Chat, Sampling
from .polling import Asked, Poll, Reading, by_object, by_token
from .rubrics import Aspect, Rubric

T = TypeVar("T")
BATCH = 32  # pairs or samples whose pictures are held at once
LETTER, OBJECT = 8, 1024  # tokens of an answer: one letter or number with room around it, JSON with reasons
Conflict = Literal["mean", "tie", "drop"]
CHOICES = {"answer": ("token", "json"), "orders": ("both", "one"), "conflict": ("mean", "tie", "drop")}


class VLMJudge:
    """Compares pairs (`prefer`, `rulings`) and rates samples (`score`) by asking a backend.

    Args:
        backend: a `Chat`, or its name and settings: {name: endpoint, url: …, model: …}, {name: local, folder: …}.
        rubric: the name of one that ships, a YAML file, or a mapping.
        answer: "token" asks each aspect by itself for one letter or digit; "json" all aspects at once with reasons.
        orders: "both", or "one" for half the price and with the bias of the first place.
        conflict: what becomes of a pair whose two orders have another winner each. "mean" of the two chances; "tie", as
            DenseDPO does; "drop": it could not say.
        least_mass: probability that must be on the letters or ratings for an answer by tokens to count.
        logprobs: whether to ask for probabilities of tokens; some servers refuse such questions.
        repeats: how often everything is asked, each time under another seed.
        reasks: how often an answer that cannot be read is asked for again.
        book: a file that keeps every answer; what is in it is not asked again.
        longest: side in pixels of the pictures that are sent.
        tokens: of an answer; None: as many as its form needs. Models that think aloud need more.
    """

    def __init__(
        self,
        backend: Chat | Mapping[str, Any] | str,
        *,
        rubric: str | Path | Mapping[str, Any] | Rubric = "overall",
        answer: Literal["token", "json"] = "token",
        orders: Literal["both", "one"] = "both",
        conflict: Conflict = "mean",
        least_mass: float = 0.5,
        logprobs: bool = True,
        repeats: int = 1,
        reasks: int = 1,
        temperature: float = 0.0,
        book: str | os.PathLike[str] | Book | None = None,
        longest: int = 1024,
        tokens: int | None = None,
        name: str = "",
    ) -> None:
        _check({"answer": answer, "orders": orders, "conflict": conflict}, least_mass, longest)
        self.rubric, self.apart, self.both = rubrics.load(rubric), answer == "token", orders == "both"
        if self.apart and self.rubric.highest > 9:
            raise ValueError(f"a rating of {self.rubric.highest} is more than one token: rate to 9, or answer=json")
        self.conflict, self.least_mass, self.longest = conflict, least_mass, longest
        sampling = Sampling(
            tokens=tokens or (LETTER if self.apart else OBJECT),
            temperature=temperature,
            top_logprobs=MOST_LOGPROBS if self.apart and logprobs else 0,
        )
        opened = book if isinstance(book, Book) else Book(book)
        self.poll = Poll(_chat(backend), opened, sampling, reasks, repeats)
        model = Path(str(self.poll.backend.identity.get("model", "vlm"))).name
        self.name = name or f"{model}-{self.rubric.name}"

    @property
    def spec(self) -> Spec:
        """The scale of its ratings."""
        ends = float(self.rubric.lowest), float(self.rubric.highest)
        return Spec(self.name, "rating", ends, reads=("prompt", "image", "video", "answer", "source"))

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Ratings (n,), the aspects' weighted mean; sigma by the ratings' probabilities, aspects as if independent.

        A sample is invalid where one of its aspects is; the aspects that could be read are in `aspects`, NaN elsewhere.
        """
        found = self._asked(samples, self._ratings)
        rows = [[_rating(each, name) for name, _ in self._weights()] for each in found]
        table = torch.tensor(rows, dtype=torch.float64).reshape(len(samples), len(self.rubric.aspects), 2)
        weights = torch.tensor([weight for _, weight in self._weights()], dtype=torch.float64)
        values, sigma = table[..., 0] @ weights, (table[..., 1] * weights).square().sum(-1).sqrt()
        aspects = {name: table[:, place, 0] for place, (name, _) in enumerate(self._weights())}
        reasons = {row: _why(each) for row, each in enumerate(found) if values[row].isnan()}
        return Scores(values, aspects, sigma, ~values.isnan(), reasons=reasons)

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,), the weighted mean over the aspects; NaN where any of them could not be told."""
        found = [self.settled(each) for each in self.rulings(first, second)]
        chances = [sum(weight * each[name] for name, weight in self._weights()) for each in found]
        return torch.tensor(chances, dtype=torch.float64)

    def rulings(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[list[Ruling]]:
        """For each pair what was ruled in each order, repetition and aspect; items are named "first" and "second"."""
        pairs = list(zip(first, second, strict=True))
        if wrong := [one.prompt for one, other in pairs if one.prompt != other.prompt]:
            raise ValueError(f"a judge compares candidates for one prompt; of a pair, one is for {wrong[0]!r} alone")
        found = self._asked(pairs, self._comparisons)
        return [[_ruling(pair[0].prompt, each) for each in read] for pair, read in zip(pairs, found, strict=True)]

    def settled(self, ruled: Iterable[Ruling]) -> dict[str, float]:
        """Aspect -> P(first is better): both orders brought together, then the mean over repetitions that could say."""
        found: dict[str, dict[int, list[float]]] = {each.name: {} for each in self.rubric.aspects}
        for each in ruled:
            found[each.aspect].setdefault(each.repeat, []).append(each.chance)
        return {name: _mean([together(each, self.conflict) for each in by.values()]) for name, by in found.items()}

    def close(self) -> None:
        """Let go of the book."""
        self.poll.book.close()

    def _asked(self, things: Sequence[T], asked: Any) -> list[list[Reading]]:
        names = [each.name for each in self.rubric.aspects]
        parts = [things[start : start + BATCH] for start in range(0, len(things), BATCH)]
        return [each for part in parts for each in self.poll.about(part, asked, names)]

    def _comparisons(self, pair: tuple[Sample, Sample]) -> list[Asked]:
        head = wording.opening(pair[0], self.rubric, self.longest)
        shown = [wording.subject(each, self.longest) for each in pair]
        values = wording.labels(self.rubric)
        return [
            Asked(wording.comparison(head, shown[place], shown[1 - place], self.rubric, aspect), read, place)
            for place in (0, 1)[: 1 + self.both]
            for aspect, read in self._forms(values, lambda said: values[answers.label(said, list(values))])
        ]

    def _ratings(self, sample: Sample) -> list[Asked]:
        head, shown = wording.opening(sample, self.rubric, self.longest), wording.subject(sample, self.longest)
        ends = self.rubric.lowest, self.rubric.highest
        forms = self._forms(wording.ratings(self.rubric), lambda said: answers.rating(said, *ends))
        return [Asked(wording.question(head, shown, self.rubric, aspect), read) for aspect, read in forms]

    def _forms(self, values: Mapping[str, float], value: Any) -> list[tuple[Aspect | None, Any]]:
        """How it is asked and read: each aspect by a token, or None, all of them, by JSON."""
        if self.apart:
            return [(each, by_token(each.name, values, self.least_mass)) for each in self.rubric.aspects]
        return [(None, by_object([each.name for each in self.rubric.aspects], value))]

    def _weights(self) -> list[tuple[str, float]]:
        return [(each.name, each.weight / self.rubric.total) for each in self.rubric.aspects]


def together(chances: Sequence[float], conflict: Conflict) -> float:
    """P(first is better) from what was said in each order; NaN where one could not say, or as `conflict` has it."""
    middle = sum(chances) / len(chances)
    sides = {math.copysign(1, each - 0.5) if each != 0.5 else 0 for each in chances}
    if math.isnan(middle) or conflict == "mean" or len(sides) == 1:
        return middle
    return 0.5 if conflict == "tie" else math.nan


def _check(given: Mapping[str, str], least_mass: float, longest: int) -> None:
    for name, value in given.items():
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, got {value!r}")
    if not 0 < least_mass <= 1 or longest < 1:
        raise ValueError(f"least_mass lies above 0 and up to 1, longest is at least 1; got {least_mass} and {longest}")


def _chat(backend: Chat | Mapping[str, Any] | str) -> Chat:
    if isinstance(backend, Chat):
        return backend
    from visalign import registry

    made: Chat = registry.build("chat", backend)
    return made


def _mean(values: Sequence[float]) -> float:
    known = [each for each in values if not math.isnan(each)]
    return sum(known) / len(known) if known else math.nan


def _ruling(prompt: str, read: Reading) -> Ruling:
    chance = 1 - read.value if read.place else read.value  # an answer is about what was shown first
    return Ruling(prompt, ("first", "second"), chance, read.place, read.aspect, read.repeat, read.reason, read.mass)


def _rating(found: Sequence[Reading], aspect: str) -> tuple[float, float]:
    """Mean and standard deviation of the repetitions that could be read: of the mixture of their distributions."""
    known = [each for each in found if each.aspect == aspect and not math.isnan(each.value)]
    middle = _mean([each.value for each in known])
    return middle, math.sqrt(_mean([each.sigma**2 + (each.value - middle) ** 2 for each in known]))


def _why(found: Sequence[Reading]) -> str:
    """Each reason once, with the aspects that it is about."""
    about: dict[str, dict[str, None]] = {}
    for each in found:
        if each.reason:
            about.setdefault(each.reason, {})[each.aspect] = None
    return "; ".join(f"{', '.join(aspects)}: {reason}" for reason, aspects in about.items())
