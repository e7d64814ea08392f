"""Asking until it can be read: questions about things, what was read in the answers, and why some were not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from visalign.images import ImageError, Misuse

from . import answers
from .answer_book import Book
from .answers import Unreadable
from .chat import Answer, Chat, Question, Sampling
from .wording import once_more

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """What one answer says of one aspect."""

    aspect: str
    value: float = math.nan  # a chance or a rating; NaN: it could not be read
    sigma: float = math.nan  # standard deviation of the value; NaN: not known
    mass: float | None = None  # probability that lay on the possible answers; None: not known
    reason: str | None = None  # why there is no value
    place: int = 0  # which of two was shown first
    repeat: int = 0


@dataclass(frozen=True)
class Asked:
    """A question, how its answer is read (one reading an aspect), and which of two it shows first."""

    question: Question
    read: Callable[[Answer], list[Reading]]
    place: int = 0


@dataclass(frozen=True)
class Poll:
    """A backend, how it answers, and the book that its answers are kept in."""

    backend: Chat
    book: Book
    sampling: Sampling
    reasks: int = 1  # how often an answer that came but could not be read is asked for again
    repeats: int = 1

    def __post_init__(self) -> None:
        if self.reasks < 0 or self.repeats < 1:
            raise ValueError(f"reasks is at least 0 and repeats at least 1, got {self.reasks} and {self.repeats}")

    def about(
        self, things: Sequence[T], asked: Callable[[T], list[Asked]], aspects: Sequence[str]
    ) -> list[list[Reading]]:
        """Every thing's readings. One whose pictures cannot be opened is not asked about: each aspect says why."""
        found: list[list[Reading]] = [[] for _ in things]
        cards: list[tuple[int, Asked]] = []
        for row, thing in enumerate(things):
            try:
                cards += [(row, each) for each in asked(thing)]
            except Misuse:
                raise
            except ImageError as error:
                found[row] = [Reading(aspect, reason=str(error)) for aspect in aspects]
        for repeat in range(self.repeats):
            drawn = replace(self.sampling, seed=self.sampling.seed + repeat)
            for (row, card), read in zip(cards, self._readings([card for _, card in cards], drawn), strict=True):
                found[row] += [replace(each, place=card.place, repeat=repeat) for each in read]
        return found

    def _readings(self, cards: Sequence[Asked], sampling: Sampling) -> list[list[Reading]]:
        """One list a card; what could not be read is asked for again, with a word on the form."""
        questions = [card.question for card in cards]
        came = self.book.ask(self.backend, questions, sampling)
        found = [card.read(answer) for card, answer in zip(cards, came, strict=True)]
        for _ in range(self.reasks):
            rows = [row for row, read in enumerate(found) if came[row].failure is None and any(e.reason for e in read)]
            for row in rows:
                questions[row] = once_more(questions[row])
            again = self.book.ask(self.backend, [questions[row] for row in rows], sampling)
            for row, answer in zip(rows, again, strict=True):
                found[row] = [
                    old if old.reason is None else new
                    for old, new in zip(found[row], cards[row].read(answer), strict=True)
                ]
        return found


def by_token(aspect: str, values: Mapping[str, float], least_mass: float) -> Callable[[Answer], list[Reading]]:
    """Reads one label: the expectation of the labels' values."""

    def read(answer: Answer) -> list[Reading]:
        try:
            found = answers.choice(answer, list(values), least_mass)
        except Unreadable as error:
            return [Reading(aspect, reason=str(error))]
        return [Reading(aspect, found.mean(values), found.deviation(values), found.mass)]

    return read


def by_object(aspects: Sequence[str], value: Callable[[Any], float]) -> Callable[[Answer], list[Reading]]:
    """Reads a JSON object with every aspect; one that is missing or wrong does not spoil the others."""

    def read(answer: Answer) -> list[Reading]:
        try:
            whole = answers.objects(answer)
        except Unreadable as error:
            return [Reading(aspect, reason=str(error)) for aspect in aspects]
        return [_of(whole, aspect, value) for aspect in aspects]

    return read


def _of(whole: Mapping[str, Any], aspect: str, value: Callable[[Any], float]) -> Reading:
    try:
        return Reading(aspect, value(answers.said(whole, aspect)))
    except Unreadable as error:
        return Reading(aspect, reason=str(error))
