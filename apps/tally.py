"""Votes counted as they come and go, so that the next pair is found without going through all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from visalign.evaluation.arena import OUTCOME
from visalign.records import Preference

from .pool import Spot

About = tuple[Spot, str, str]  # a spot and two models


class Tally:
    """The votes that count, by key; those on the whole ("overall") by rater, by pair, and by who won."""

    def __init__(self, records: Iterable[Preference] = ()) -> None:
        self.records: dict[str, Preference] = {}
        self.by_rater: dict[str, set[About]] = {}
        self.by_pair: Counter[About] = Counter()
        self._won: Counter[tuple[str, str]] = Counter()  # halves of wins
        for record in records:
            self.add(record)

    def add(self, record: Preference) -> None:
        """Count a vote, in place of one with its key."""
        self.remove(record.key)
        self.records[record.key] = record
        self._count(record, 1)

    def remove(self, key: str) -> None:
        """Count a vote no longer, if it was counted."""
        record = self.records.pop(key, None)
        if record is not None:
            self._count(record, -1)

    def _count(self, record: Preference, sign: int) -> None:
        if record.aspect != "overall" or len(record.models) != 2:
            return
        pair = about(record)
        self.by_pair[pair] += sign
        if record.user:
            seen = self.by_rater.setdefault(record.user, set())
            seen.add(pair) if sign > 0 else seen.discard(pair)
        first, second = record.models
        if record.verdict in OUTCOME:
            halves = round(2 * OUTCOME[record.verdict])
            self._won[first, second] += sign * halves
            self._won[second, first] += sign * (2 - halves)

    def wins(self, names: Sequence[str]) -> NDArray[np.float64]:
        """(m, m) how often row beat column, a tie as half."""
        return np.array([[self._won[one, other] / 2 for other in names] for one in names])

    @property
    def overall(self) -> int:
        """How many votes there are on the whole."""
        return self.by_pair.total()


def about(record: Preference) -> About:
    """What a vote is about."""
    return Spot(record.prompt, record.seeds[0] if record.seeds else 0), record.models[0], record.models[1]
