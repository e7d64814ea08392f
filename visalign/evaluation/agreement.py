"""Whether judges agree: raters among themselves, and a scorer with what people voted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from ..records import Preference
from .statistics import Interval, wilson


@dataclass(frozen=True)
class Agreement:
    """How well several raters of the same things agree."""

    share: float  # of pairs of raters of one thing, those who said the same
    alpha: float  # Krippendorff's: 1 they agree, 0 no better than chance; NaN where nobody ever differed in kind
    units: int  # things that two or more rated
    raters: int


def krippendorff(units: Iterable[Sequence[str]]) -> float:
    """Krippendorff's alpha for nominal data ("Computing Krippendorff's Alpha-Reliability", 2011), any raters missing.

    Each unit is the list of what its raters said. NaN if all of them only ever said one and the same thing.
    """
    rated = [list(each) for each in units if len(each) > 1]
    names = sorted({value for each in rated for value in each})
    place = {name: number for number, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))  # the coincidence matrix
    for each in rated:
        for i, one in enumerate(each):
            for j, other in enumerate(each):
                table[place[one], place[other]] += (i != j) / (len(each) - 1)
    marginal, total = table.sum(1), table.sum()
    expected = total**2 - (marginal**2).sum()
    if not expected:
        return float("nan")
    return float(1 - (total - 1) * (total - np.trace(table)) / expected)


def between_raters(records: Iterable[Preference]) -> Agreement | None:
    """Agreement of users on the same two items of the same prompt and aspect; None if no two rated the same."""
    said: dict[tuple[str, tuple[str, ...], str], dict[str, str]] = {}
    for each in records:
        if each.verdict and each.user:
            said.setdefault((each.prompt, each.items, each.aspect), {})[each.user] = each.verdict
    units = [list(each.values()) for each in said.values() if len(each) > 1]
    if not units:
        return None
    pairs = [one == other for unit in units for one, other in combinations(unit, 2)]
    raters = {user for each in said.values() if len(each) > 1 for user in each}
    return Agreement(float(np.mean(pairs)), krippendorff(units), len(units), len(raters))


def with_scores(
    records: Iterable[Preference], scores: Mapping[str, float], level: float = 0.95
) -> tuple[Interval, int] | None:
    """How often the item with the higher score is the one that was voted for, and how many votes had no say.

    `scores` maps items to values. Ties, "both bad", equal scores and items without a score have no say; None if none is
    left.
    """
    right, silent = [], 0
    for each in records:
        values = [scores.get(item, float("nan")) for item in each.items[:2]]
        if each.verdict not in ("first", "second") or len(values) < 2 or not abs(values[0] - values[1]) > 0:
            silent += each.verdict is not None
            continue
        right.append((values[0] > values[1]) == (each.verdict == "first"))
    if not right:
        return None
    value = float(np.mean(right))
    low, high = wilson(value, len(right), level)
    return Interval(value, low, high, level, len(right), len(right), "Wilson"), silent
