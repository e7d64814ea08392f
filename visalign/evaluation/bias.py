"""What a judge leans to, from its rulings: place, size, its own family; and whether it agrees with itself.

A judge that is good and leans a little is still of use: what it leans to can be taken out (both orders, a length
control) once it is known how much. Intervals resample whole prompts.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from ..data.comparisons import compared
from ..records import DataError, Preference
from ..rulings import Ruling
from . import ruled
from .agreement import krippendorff
from .ruled import Pair, Trusted
from .statistics import Interval, win_rate

FEW = 10  # prompts: an interval over fewer says little


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    measured: Interval | None  # None: the rulings cannot tell
    unbiased: float  # what a judge without the fault would give
    words: str

    def json(self) -> dict[str, Any]:
        """A plain mapping."""
        measured = None if self.measured is None else self.measured.json()
        return {"measured": measured, "unbiased": self.unbiased, "words": self.words}


@dataclass(frozen=True)
class Report:
    """All findings on one judge."""

    findings: tuple[Finding, ...]
    rulings: int
    prompts: int

    def __getitem__(self, name: str) -> Finding:
        return next(each for each in self.findings if each.name == name)

    def rows(self) -> list[list[str]]:
        """A table: name, measured, unbiased, in words."""
        return [
            [each.name, "–" if each.measured is None else str(each.measured), f"{each.unbiased:g}", each.words]
            for each in self.findings
        ]

    def text(self) -> str:
        """JSON."""
        found = {each.name: each.json() for each in self.findings}
        return json.dumps({"rulings": self.rulings, "prompts": self.prompts, "findings": found}, indent=1) + "\n"


def trusted(records: Iterable[Preference]) -> dict[Pair, float]:
    """What people, or a judge to be trusted, think of pairs; of several records on a pair, the mean.

    Of rankings every two items; of utilities the greater one is surely better.
    """
    found: defaultdict[Pair, list[float]] = defaultdict(list)
    for each in records:
        table = compared(each, ties="half")
        pairs = [] if isinstance(table, str) else combinations(range(len(each.items)), 2)
        for i, j in pairs:
            pair, turned = ruled.named(each.prompt, (each.items[i], each.items[j]), each.aspect)
            if not math.isnan(said := float(table[i][j])):
                found[pair].append(1 - said if turned else said)
    return {pair: float(np.mean(said)) for pair, said in found.items()}


def known(ruling: Ruling, trusted: Trusted) -> bool:
    """Whether something is trusted of a ruling's pair."""
    return ruled.looked_up(ruled.straight(ruling), trusted) is not None


def examine(
    rulings: Sequence[Ruling], *, own: Collection[str] = (), trusted: Trusted | None = None, seed: int = 0
) -> Report:
    """Everything that the rulings can tell.

    Args:
        rulings: of one judge.
        own: models of the judge's own family; without it there is no finding on self-preference.
        trusted: what the pairs are really like. Without it, size and self-preference are mixed with quality.
    """
    if not rulings:
        raise DataError("there are no rulings to examine")
    straight = [ruled.straight(each) for each in rulings]
    valid = [each for each in straight if each.valid]
    effects = ruled.effects(valid, own, trusted or {}, seed)
    known = "beside what trusted votes say" if trusted else "mixed with quality, as there are no trusted votes"
    findings = (
        _share("invalid", [(each.prompt, float(not each.valid)) for each in straight], 0.0, _invalid, seed),
        _share("ties", [(each.prompt, float(each.chance == 0.5)) for each in valid], 0.0, _ties, seed),
        _share("position", ruled.first_place(valid), 0.5, _position, seed),
        _odds("position_odds", effects.get("position"), "being shown first", "no pair was shown in both orders"),
        _share("consistency", ruled.same_winner(valid), 1.0, _consistency, seed),
        _odds("size_odds", effects.get("size"), f"twice the size, {known},", "no pair has items of two known sizes"),
        _odds("self_odds", effects.get("own"), f"being of its own family, {known},", "no pair has one item of its own"),
        _share("cycles", ruled.rings(valid), 0.0, _circular, seed),
        _share("retest", ruled.retest(valid), 1.0, lambda found: _retested(found, valid), seed),
    )
    return Report(findings, len(rulings), len({each.prompt for each in rulings}))


def _share(
    name: str, values: Sequence[tuple[str, float]], unbiased: float, words: Callable[[Interval], str], seed: int
) -> Finding:
    if not values:
        return Finding(name, None, unbiased, f"not measured: {LACKING[name]}")
    found = win_rate([value for _, value in values], [prompt for prompt, _ in values], seed=seed)
    return Finding(name, found, unbiased, words(found) + _few(found))


LACKING = {
    "invalid": "there are no rulings",
    "ties": "no ruling is valid",
    "position": "no pair was shown in both orders",
    "consistency": "no pair was shown in both orders",
    "cycles": "no prompt has three items that were all compared",
    "retest": "no question was asked twice (repeats)",
}


def _odds(name: str, found: Interval | None, what: str, lacking: str) -> Finding:
    if found is None:
        return Finding(name, None, 0.0, f"not measured: {lacking}")
    factor = math.exp(found.value)
    said = f"{what} multiplies the odds by {factor:.2f} [{math.exp(found.low):.2f}, {math.exp(found.high):.2f}]"
    lean = "" if found.low > 0 or found.high < 0 else ", which may be chance"
    return Finding(name, found, 0.0, said + lean + _few(found))


def _few(found: Interval) -> str:
    return f" (only {found.groups} prompts: take the interval as too narrow)" if found.groups < FEW else ""


def _position(found: Interval) -> str:
    said = f"what is shown first wins {found.value:.1%} of the time"
    if found.low > 0.5:
        return f"{said}: the judge leans to the first place"
    return f"{said}: the judge leans to the second place" if found.high < 0.5 else f"{said}: no lean to be seen"


def _consistency(found: Interval) -> str:
    return f"in {found.value:.1%} of the pairs both orders have the same winner"


def _invalid(found: Interval) -> str:
    return f"{found.value:.1%} of the questions have no answer that can be read"


def _ties(found: Interval) -> str:
    return f"{found.value:.1%} of the answers are ties"


def _circular(found: Interval) -> str:
    return f"{found.value:.1%} of the triples go round in a ring; a coin would make it 25 %"


def _retested(found: Interval, valid: Sequence[Ruling]) -> str:
    units = [[str(each) for each in said] for _, said in ruled.repeated(valid)]
    return f"asked again, it says the same in {found.value:.1%}; Krippendorff's alpha {krippendorff(units):.2f}"
