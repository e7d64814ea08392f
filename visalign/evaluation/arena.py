"""Votes on pairs of models as numbers: strengths, win rates, what the side is worth, and which pair to ask next.

Ties are half a win for each. "Both bad" says nothing of which is better: it is counted beside, not as a tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..records import Preference
from .statistics import Interval, wilson

Floats = NDArray[np.float64]
OUTCOME = {"first": 1.0, "second": 0.0, "tie": 0.5}
PRIOR = 0.5  # imaginary wins of each over each, so that who was never beaten still has a finite strength
ELO = 400 / np.log(10)  # points for a factor e in the odds


@dataclass(frozen=True)
class Bouts:
    """n decided votes, each between two of m models."""

    models: tuple[str, ...]  # (m,)
    first: NDArray[np.int64]  # (n,) index of the model that drew items[0]
    second: NDArray[np.int64]  # (n,)
    outcome: Floats  # (n,) 1: the first won, 0: the second, 1/2: a tie
    group: NDArray[np.int64]  # (n,) prompts, by number: votes on one prompt are not independent

    @classmethod
    def of(cls, records: Iterable[Preference], models: Sequence[str] = ()) -> Bouts:
        """From records that a person decided and whose two models are known; others are passed over."""
        kept = [each for each in records if each.verdict in OUTCOME and len(set(each.models)) == 2]
        names = tuple(models) or tuple(sorted({name for each in kept for name in each.models}))
        place = {name: number for number, name in enumerate(names)}
        kept = [each for each in kept if place.keys() >= set(each.models)]
        prompts = {each.prompt: number for number, each in enumerate(kept)}
        sides = np.array([[place[name] for name in each.models] for each in kept], dtype=np.int64).reshape(-1, 2)
        outcome = np.array([OUTCOME[str(each.verdict)] for each in kept])
        _, group = np.unique([prompts[each.prompt] for each in kept], return_inverse=True)
        return cls(names, sides[:, 0], sides[:, 1], outcome, group.astype(np.int64))

    def __len__(self) -> int:
        return len(self.outcome)

    def wins(self) -> Floats:
        """(m, m) how often row beat column."""
        return np.asarray(self.grouped().sum(axis=0))

    def grouped(self) -> Floats:
        """(groups, m, m) the same, prompt by prompt."""
        count, m = int(self.group.max(initial=-1)) + 1, len(self.models)
        table = np.zeros((count, m, m))
        np.add.at(table, (self.group, self.first, self.second), self.outcome)
        np.add.at(table, (self.group, self.second, self.first), 1 - self.outcome)
        return table


def strengths(wins: ArrayLike, prior: float = PRIOR, *, rounds: int = 200, tolerance: float = 1e-9) -> Floats:
    """(..., m) Bradley-Terry log-strengths, mean 0, from (..., m, m) wins, with `prior` added to each pair both ways.

    Newton's method on the concave log-likelihood, its steps at most 1; for one table without prior the same as
    `statistics.strengths`. Raises ValueError where it does not settle: without a prior, an unbeaten model.
    """
    table = np.asarray(wins, dtype=np.float64)
    m = table.shape[-1]
    table = (table + prior) * (1 - np.eye(m))
    games, found = table + table.swapaxes(-1, -2), np.zeros(table.shape[:-1])
    for _ in range(rounds):
        chance = _chance(found)
        slope = (table - games * chance).sum(-1)
        try:
            step = np.linalg.solve(_information(games, chance) + 1 / m, slope[..., None])[..., 0]
        except np.linalg.LinAlgError:  # the strengths ran apart until no chance was left
            break
        step /= np.maximum(1.0, np.abs(step).max(-1, keepdims=True))
        found = found + step - (found + step).mean(-1, keepdims=True)
        if np.abs(step).max(initial=0.0) < tolerance:
            return np.asarray(found, dtype=np.float64)
    raise ValueError(f"strengths did not settle in {rounds} rounds: some model was never beaten, or never met")


def _chance(strength: Floats) -> Floats:
    """(..., m, m) P(row beats column)."""
    return 1 / (1 + np.exp(strength[..., None, :] - strength[..., :, None]))


def _information(games: Floats, chance: Floats) -> Floats:
    """(..., m, m) Fisher's information of the strengths: the graph Laplacian weighted with games p (1 - p)."""
    weight = games * chance * (1 - chance)
    return np.asarray(weight.sum(-1)[..., None] * np.eye(games.shape[-1]) - weight)


def ratings(bouts: Bouts, *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> dict[str, Interval]:
    """Each model's strength in Elo points (mean 0), with a percentile interval over resampled prompts."""
    table = bouts.grouped()
    groups, m = len(table), len(bouts.models)
    if not groups:
        raise ValueError("no decided votes to rate models by")
    times = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    drawn = strengths((times @ table.reshape(groups, -1)).reshape(resamples, m, m)) * ELO
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    value, games = strengths(table.sum(0)) * ELO, (table.sum(0) + table.sum(0).T).sum(1)
    return {
        name: Interval(float(value[i]), float(low[i]), float(high[i]), level, int(games[i]), groups)
        for i, name in enumerate(bouts.models)
    }


def win_rates(bouts: Bouts, level: float = 0.95) -> dict[str, Interval]:
    """Each model's share of its votes won, a tie half of one, with Wilson's interval; without votes no row."""
    wins = bouts.wins()
    games = (wins + wins.T).sum(1)
    return {name: _share(float(wins[i].sum()), int(games[i]), level) for i, name in enumerate(bouts.models) if games[i]}


def left_wins(records: Iterable[Preference], level: float = 0.95) -> Interval | None:
    """The share of decided votes that went to what was shown first (left); far from 1/2 is a bias of the side."""
    decided = [each for each in records if each.verdict in ("first", "second") and each.shown_first is not None]
    left = sum((each.verdict == "first") == (each.shown_first == 0) for each in decided)
    return _share(left, len(decided), level) if decided else None


def _share(won: float, count: int, level: float) -> Interval:
    low, high = wilson(won / count, count, level)
    return Interval(won / count, low, high, level, count, count, "Wilson")


def worth(wins: ArrayLike, prior: float = PRIOR) -> Floats:
    """(m, m) how much one more vote on each pair would tell: the growth of the log determinant of the information.

    log(1 + p (1 - p) d' S d), with S the strengths' covariance and d the pair's contrast: the D-optimal next
    comparison under Bradley-Terry. Symmetric; 0 on the diagonal.
    """
    table = np.asarray(wins, dtype=np.float64)
    m = len(table)
    chance = _chance(strengths(table, prior))
    games = (table + table.T + 2 * prior) * (1 - np.eye(m))
    spread = np.linalg.inv(_information(games, chance) + 1 / m)
    variance = np.diag(spread)[:, None] + np.diag(spread)[None, :] - 2 * spread
    return np.asarray(np.log1p(chance * (1 - chance) * variance))
