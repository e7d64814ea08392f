"""Rulings regrouped: by pair, by order, by repetition, by triple; values with the prompt that each belongs to."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from ..rulings import Ruling
from . import odds
from .statistics import Interval

CERTAIN = 0.95  # a trusted verdict without doubt counts as this chance, since the odds of 1 are infinite
Pair = tuple[str, tuple[str, str], str]  # prompt, items in the order of their names, aspect
Trusted = Mapping[Pair, float]  # P(the first of the items is better)
Values = list[tuple[str, float]]  # prompt, value


def named(prompt: str, items: tuple[str, str], aspect: str) -> tuple[Pair, bool]:
    """The pair, and whether its items had to change places."""
    turned = items[0] > items[1]
    return (prompt, (items[1], items[0]) if turned else items, aspect), turned


def straight(each: Ruling) -> Ruling:
    """The same ruling with its items in the order of their names."""
    (_, items, _), turned = named(each.prompt, each.items, each.aspect)
    if not turned:
        return each
    sizes = None if each.sizes is None else (each.sizes[1], each.sizes[0])
    models = None if each.models is None else (each.models[1], each.models[0])
    chance, shown = 1 - each.chance, 1 - each.shown_first
    return replace(each, items=items, chance=chance, shown_first=shown, sizes=sizes, models=models)


def winner(chance: float) -> int:
    """1 the first, -1 the second, 0 a tie."""
    return (chance > 0.5) - (chance < 0.5)


def both_orders(valid: Sequence[Ruling]) -> list[tuple[Ruling, Ruling]]:
    """Rulings of the same pair and repetition in both orders."""
    orders: defaultdict[tuple[Pair, int], dict[int, Ruling]] = defaultdict(dict)
    for each in valid:
        orders[_pair(each), each.repeat][each.shown_first] = each
    return [(found[0], found[1]) for found in orders.values() if len(found) == 2]


def first_place(valid: Sequence[Ruling]) -> Values:
    """P(shown first wins), over both orders of each pair: quality cancels."""
    return [(one.prompt, (one.first_shown + other.first_shown) / 2) for one, other in both_orders(valid)]


def same_winner(valid: Sequence[Ruling]) -> Values:
    """Whether both orders have the same winner."""
    return [(one.prompt, float(winner(one.chance) == winner(other.chance))) for one, other in both_orders(valid)]


def repeated(valid: Sequence[Ruling]) -> list[tuple[str, list[int]]]:
    """The winners that each question had, where it was asked more than once."""
    said: defaultdict[tuple[Pair, int], list[int]] = defaultdict(list)
    for each in valid:
        said[_pair(each), each.shown_first].append(winner(each.chance))
    return [(pair[0], found) for (pair, _), found in said.items() if len(found) > 1]


def retest(valid: Sequence[Ruling]) -> Values:
    """For each two repetitions of a question, whether they agree."""
    return [(prompt, float(one == other)) for prompt, found in repeated(valid) for one, other in combinations(found, 2)]


def settled(valid: Sequence[Ruling]) -> dict[Pair, float]:
    """P(first is better) of each pair: the mean over each order's mean."""
    found: defaultdict[Pair, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for each in valid:
        found[_pair(each)][each.shown_first].append(each.chance)
    return {pair: float(np.mean([np.mean(part) for part in orders.values()])) for pair, orders in found.items()}


def rings(valid: Sequence[Ruling]) -> Values:
    """For each three items of a prompt and aspect with three clear winners, whether they beat each other in a ring."""
    wins: defaultdict[tuple[str, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for (prompt, items, aspect), chance in settled(valid).items():
        if better := winner(chance):
            wins[prompt, aspect][items] = better
    return [(prompt, ring) for (prompt, _), found in wins.items() for ring in _rings(found)]


def _rings(wins: Mapping[tuple[str, str], int]) -> Iterator[float]:
    names = sorted({name for pair in wins for name in pair})
    for a, b, c in combinations(names, 3):
        if {(a, b), (b, c), (a, c)} <= wins.keys():
            yield float(wins[a, b] == wins[b, c] == -wins[a, c])


def effects(valid: Sequence[Ruling], own: Collection[str], trusted: Trusted, seed: int) -> dict[str, Interval]:
    """Of place, doubled size and own family on the log-odds, beside the trusted odds where there are any."""
    kept = [each for each in valid if not trusted or looked_up(each, trusted) is not None]
    both = {id(each) for pair in both_orders(kept) for each in pair}
    features = {
        "position": [(1.0 - 2 * each.shown_first) * (id(each) in both) for each in kept],
        "size": [math.log2(each.sizes[0] / each.sizes[1]) if each.sizes and all(each.sizes) else 0.0 for each in kept],
        "own": [float(each.models[0] in own) - (each.models[1] in own) if each.models else 0.0 for each in kept],
        "trusted": [_logit(looked_up(each, trusted)) for each in kept],
    }
    return odds.effects(features, [each.chance for each in kept], [each.prompt for each in kept], seed=seed)


def looked_up(each: Ruling, trusted: Trusted) -> float | None:
    """What is trusted of a ruling's pair in its aspect, else overall."""
    return trusted.get(_pair(each), trusted.get((each.prompt, each.items, "overall")))


def _pair(each: Ruling) -> Pair:
    return each.prompt, each.items, each.aspect


def _logit(chance: float | None) -> float:
    if chance is None:
        return 0.0
    inside = min(max(chance, 1 - CERTAIN), CERTAIN)
    return math.log(inside / (1 - inside))
