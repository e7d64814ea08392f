"""What moves a judge's odds: a logistic regression on chances, with intervals over whole prompts.

The model of one ruling is log(p / (1 - p)) = sum of coefficient x feature, p the chance that the first item is better
(Papke & Wooldridge, 1996, for chances that are not 0 or 1). Every feature changes its sign with the items' order, so
there is no constant. A ridge of RIDGE keeps coefficients finite where a feature alone tells all verdicts apart.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .statistics import Interval

Floats = NDArray[np.float64]
RIDGE = 0.01  # of the sum of squares, beside a sum of log-likelihoods
STEP = 2.0  # the most that a coefficient moves at once: Newton's step overshoots where chances saturate
RESAMPLES = 400


def fit(features: Floats, chances: Floats, weights: Floats, *, tolerance: float = 1e-9, most: int = 200) -> Floats:
    """(k,) coefficients that maximise the weighted log-likelihood of (n,) chances by (n, k) features."""
    found: Floats = np.zeros(features.shape[1])
    for _ in range(most):
        said = 1 / (1 + np.exp(-features @ found))
        slope = features.T @ (weights * (chances - said)) - RIDGE * found
        curve = (features * (weights * said * (1 - said))[:, None]).T @ features + RIDGE * np.eye(len(found))
        step = np.clip(np.linalg.solve(curve, slope), -STEP, STEP)
        found = found + step
        if float(np.abs(step).max()) < tolerance:
            return found
    raise ValueError(f"the odds did not settle in {most} rounds")


def effects(
    features: Mapping[str, ArrayLike],
    chances: ArrayLike,
    groups: Sequence[Hashable],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Name -> what one unit of the feature adds to the log-odds, each beside the others, with its interval.

    Features that never vary from 0 have no effect to tell and are left out.
    """
    kept = {name: np.asarray(each, dtype=np.float64) for name, each in features.items() if np.any(each)}
    told = np.asarray(chances, dtype=np.float64)
    if not kept or not len(told):
        return {}
    table = np.stack(list(kept.values()), axis=1)
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    index, count = np.array([numbers[each] for each in groups]), len(numbers)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    drawn = np.stack([fit(table, told, each[index]) for each in times])
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail], axis=0)
    middle = fit(table, told, np.ones(len(told)))
    return {
        name: Interval(float(middle[i]), float(low[i]), float(high[i]), level, len(told), count)
        for i, name in enumerate(kept)
    }
