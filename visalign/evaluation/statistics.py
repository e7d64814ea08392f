"""Win rates and means with intervals that know that pictures of one prompt are not independent.

Everything here resamples whole prompts (the cluster bootstrap; Field & Welsh, 2007): forty seeds of one prompt tell
about that prompt, not about forty.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate with its confidence interval, and what stands behind it."""

    value: float
    low: float
    high: float
    level: float  # 0.95: a 95 % interval
    count: int  # values averaged
    groups: int  # independent groups (prompts) they came from
    method: str = "cluster bootstrap"

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"

    def json(self) -> dict[str, float | int | str]:
        """A plain mapping for report.json."""
        return asdict(self)


@dataclass(frozen=True)
class Grouped:
    """Values collapsed to what the bootstrap needs: a sum and a count for each group."""

    sums: Floats  # (groups,)
    counts: Floats  # (groups,)

    @classmethod
    def of(cls, values: ArrayLike, groups: Sequence[Hashable]) -> Grouped:
        """From n values and the group each belongs to. NaN (nobody could say) is refused: take it out first."""
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1 or len(array) != len(groups):
            raise ValueError(f"each value needs its group: got shape {array.shape} and {len(groups)} groups")
        if not len(array):
            raise ValueError("no values to average: the evaluation is empty")
        if not np.isfinite(array).all():
            raise ValueError(f"{int((~np.isfinite(array)).sum())} of {len(array)} values are not finite")
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        index = np.array([numbers[group] for group in groups])
        return cls(np.bincount(index, weights=array).astype(np.float64), np.bincount(index).astype(np.float64))

    @property
    def mean(self) -> float:
        """The mean of all values."""
        return float(self.sums.sum() / self.counts.sum())

    def resampled(self, resamples: int, seed: int) -> Floats:
        """(resamples,) means of as many groups drawn with replacement, in blocks that fit in the cache."""
        groups = len(self.sums)
        rng, chance = np.random.default_rng(seed), np.full(groups, 1 / groups)
        blocks = [min(1000, resamples - start) for start in range(0, resamples, 1000)]
        drawn = (rng.multinomial(groups, chance, size=block) for block in blocks)
        return np.concatenate([(times @ self.sums) / (times @ self.counts) for times in drawn])


def mean(
    values: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of n values with a percentile interval over resampled groups. Paired designs pass differences."""
    grouped = Grouped.of(values, groups)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(grouped.resampled(resamples, seed), [tail, 100 - tail])
    count = int(grouped.counts.sum())
    return Interval(grouped.mean, float(low), float(high), level, count, len(grouped.sums))


def gap(first: Grouped, second: Grouped, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """The first's pooled mean minus the second's, of the same groups in the same order, which are drawn together.

    Groups may be empty; draws in which one side has nothing to count say nothing and are left out.
    """
    if len(first.sums) != len(second.sums):
        raise ValueError(f"a paired difference needs the same groups: got {len(first.sums)} and {len(second.sums)}")
    with np.errstate(invalid="ignore"):
        gaps = first.resampled(resamples, seed) - second.resampled(resamples, seed)  # one seed: the same groups
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(gaps[np.isfinite(gaps)], [tail, 100 - tail])
    count = int(first.counts.sum())
    return Interval(first.mean - second.mean, float(low), float(high), level, count, len(first.sums))


def win_rate(
    chances: ArrayLike, groups: Sequence[Hashable], *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """The mean of P(first is better), ties as 1/2, with its interval.

    When every comparison went one way a bootstrap cannot leave that value, so Wilson's interval on the number of
    groups takes its place, and `method` says so.
    """
    array = np.asarray(chances, dtype=np.float64)
    if ((array < 0) | (array > 1)).any():
        raise ValueError(f"chances lie in [0, 1], got {array.min():.3g} … {array.max():.3g}")
    found = mean(array, groups, level=level, resamples=resamples, seed=seed)
    if found.value not in (0.0, 1.0):
        return found
    low, high = wilson(found.value, found.groups, level)
    return Interval(found.value, low, high, level, found.count, found.groups, "Wilson")


def wilson(share: float, count: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` independent trials (JASA 1927)."""
    z = float(norm.ppf((1 + level) / 2))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(0.0, middle - half), min(1.0, middle + half)


def strengths(wins: ArrayLike, *, tolerance: float = 1e-10, most: int = 100_000) -> Floats:
    """Bradley-Terry log-strengths (m,), mean 0, from wins[i, j] = how often i beat j (a tie is half a win each).

    The minorise-maximise iteration of Hunter (Annals of Statistics 2004, eq. 3). It has a solution only if no split of
    the models leaves one side unbeaten (his assumption 1); otherwise this raises.
    """
    table = np.asarray(wins, dtype=np.float64)
    if table.ndim != 2 or table.shape[0] != table.shape[1] or (table < 0).any():
        raise ValueError(f"wins must be a square table of counts, got shape {table.shape}")
    np.fill_diagonal(table := table.copy(), 0.0)
    if not _strongly_connected(table > 0):
        raise ValueError("some models were never beaten by the others: their strength has no finite estimate")
    games, won, power = table + table.T, table.sum(1), np.ones(len(table))
    for _ in range(most):
        new = won / (games / (power[:, None] + power[None, :])).sum(1)
        new /= np.exp(np.log(new).mean())
        moved, power = float(np.abs(np.log(new / power)).max()), new
        if moved < tolerance:
            return np.asarray(np.log(power), dtype=np.float64)
    raise ValueError(f"Bradley-Terry strengths did not settle in {most} rounds")


def _strongly_connected(edges: NDArray[np.bool_]) -> bool:
    """Whether every node reaches every other: the transitive closure by repeated squaring."""
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(max(1, len(edges).bit_length())):
        reach = reach @ reach
    return bool(reach.all())
