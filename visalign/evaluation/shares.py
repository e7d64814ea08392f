"""Shares of things counted, part of whole, and everything that is measured as plain values for JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np

from .statistics import Grouped, Interval, gap, wilson, win_rate


@dataclass(frozen=True)
class Share:
    """`part` of `whole`, with an interval over the groups that they came from, if it was asked for."""

    part: int
    whole: int
    interval: Interval | None = None
    groups: tuple[tuple[int, int], ...] = field(default=(), repr=False, compare=False)  # (part, whole) of each

    @classmethod
    def over(cls, groups: Sequence[tuple[int, int]]) -> Share:
        """(part, whole) of each group (an answer, a picture): pooled, the interval over groups that have any.

        A cluster bootstrap; Wilson's where no group has more than one.
        """
        part, whole = sum(each for each, _ in groups), sum(each for _, each in groups)
        kept = tuple(groups)
        if not whole:
            return cls(part, whole, groups=kept)
        if max(all_ for _, all_ in groups) == 1:  # independent trials need no drawing
            found = Interval(part / whole, *wilson(part / whole, whole), 0.95, whole, whole, "Wilson")
            return cls(part, whole, found, kept)
        values = [float(number < some) for some, all_ in groups for number in range(all_)]
        names = [name for name, (_, all_) in enumerate(groups) for _ in range(all_)]
        return cls(part, whole, win_rate(values, names), kept)

    def against(self, other: Share) -> Interval | None:
        """This minus the other, paired: both of the same groups in order. None where one has nothing to count.

        Raises ValueError where they have different numbers of groups.
        """
        return gap(self._grouped, other._grouped) if self.whole and other.whole else None

    @property
    def _grouped(self) -> Grouped:
        counts = np.asarray(self.groups, dtype=np.float64).reshape(-1, 2)
        return Grouped(counts[:, 0], counts[:, 1])

    @property
    def value(self) -> float:
        """In [0, 1]; NaN where there is nothing to be part of."""
        return self.part / self.whole if self.whole else math.nan

    def __str__(self) -> str:
        if not self.whole:
            return "none to count"
        return f"{self.interval or f'{self.value:.3f}'} ({self.part}/{self.whole})"

    def json(self) -> dict[str, Any]:
        """Value, counts, and the interval's ends."""
        ends = {"low": self.interval.low, "high": self.interval.high} if self.interval else {}
        return {"value": plain(self.value), "part": self.part, "whole": self.whole, **ends}


def plain(value: Any) -> Any:
    """What JSON can hold: dataclasses as mappings, shares and intervals by their own `json`, NaN as null."""
    if isinstance(value, Share | Interval):
        return value.json()
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return None if isinstance(value, float) and math.isnan(value) else value
