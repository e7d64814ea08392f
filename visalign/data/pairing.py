"""From a record's scores or verdict to the two items that are compared, and how sure the comparison is."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..models.critic import criticism
from ..records import Preference
from . import segments
from .encode import Encoded


@dataclass(frozen=True)
class Pair:
    """Which two items of a record are compared."""

    record: Preference
    win: int  # index of the better item
    lose: int
    confidence: float  # P(win is really better), 1/2 for a tie

    @property
    def scores(self) -> tuple[float, float]:
        """A scorer's values of the two items; NaN where the record holds votes or probabilities instead."""
        values = self.record.utilities
        said = self.record.scale == "utility"
        return (float(values[self.win]), float(values[self.lose])) if said else (float("nan"), float("nan"))


@dataclass(frozen=True)
class Chosen:
    """What a record is trained on: the preferred answer, and the other where there is one."""

    record: Preference
    items: tuple[int, ...]  # of the record's answers
    confidence: float = 1.0  # P(the first is really better)
    critique: str = ""  # how a critic is asked about the answers, where critiques of them are what is learnt
    digest: str = ""  # of all tokens and pixels
    relevance: tuple[Tensor, ...] = ()  # (L,) of each dialogue, where words' likeness to the picture was asked for

    @property
    def turns(self) -> list[tuple[str, str]]:
        """A question and an answer to it for each dialogue, that of the preferred answer first."""
        said = [self.record.items[item] for item in self.items]
        if not self.critique:
            return [(self.record.prompt, answer) for answer in said]
        about = [self.record.captions[item] for item in self.items]
        return [
            (criticism(self.critique, self.record.prompt, answer), text)
            for answer, text in zip(said, about, strict=True)
        ]

    @property
    def pair(self) -> Pair:
        """The two answers that are compared."""
        win, lose = self.items
        return Pair(self.record, win, lose, self.confidence)


def paired(record: Preference, temperature: float = 0.0) -> Pair | str:
    """The best and the worst item of a record, or why there are none: "both bad" or "not judged".

    A verdict decides where there is one, else the scores. Confidence is the winner's share of the two items'
    probability or votes, and for utilities Bradley-Terry at `temperature` (0: certain). Of two clips that were judged
    by segments each segment has a vote: the winner has the majority, its confidence is its share, ties counted half.
    """
    if record.verdict == "both_bad":
        return "both bad"
    if _by_segments(record) and not math.isnan(first := segments.share(segments.chances(record))):
        return Pair(record, 0, 1, first) if first >= 0.5 else Pair(record, 1, 0, 1 - first)
    values = record.utilities
    seen = np.flatnonzero(~np.isnan(values))
    if record.scale == "votes" and not values[seen].any():  # nobody voted, which is not a tie
        seen = seen[:0]
    if len(seen) < 2:
        said = {"first": (0, 1, 1.0), "second": (1, 0, 1.0), "tie": (0, 1, 0.5)}.get(record.verdict or "")
        return Pair(record, *said) if said else "not judged"
    order = seen[np.argsort(-values[seen], kind="stable")]
    win, lose = int(order[0]), int(order[-1])
    return Pair(record, win, lose, _confidence(record, float(values[win]), float(values[lose]), temperature))


def _by_segments(record: Preference) -> bool:
    return len(record.items) == 2 and record.scores.shape[1] > 1 and not (record.answers or record.verdict)


def _confidence(record: Preference, win: float, lose: float, temperature: float) -> float:
    if win == lose:
        return 0.5
    return float(segments.chance(record.scale, np.array([win]), np.array([lose]), temperature))


def sorted_out(
    records: Iterable[Preference], encoded: Encoded, temperature: float, *, skip: bool
) -> tuple[list[Pair], Counter[str]]:
    """The pairs to train on, and how many records were left out for which reason."""
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for record in encoded.usable(records):
        found = paired(record, temperature)
        if isinstance(found, str):
            left_out[found] += 1
        elif skip and found.confidence == 0.5:
            left_out["tie"] += 1
        else:
            pairs.append(found)
    return pairs, left_out
