"""Personal taste, measured: how often a scorer says what a user says, and whether embeddings tell users apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from .statistics import Interval, mean

Floats = NDArray[np.float64]
RIDGE = 1e-3  # of the mean variance, on the covariance within users


def agreement(leads: Floats, users: Sequence[Hashable]) -> Interval:
    """How often the item that the user voted for has the higher score: `leads` (m,) are scores of it minus the other's.

    A draw counts half. The interval is over users: votes of one user are not independent.
    """
    return mean((np.sign(leads) + 1) / 2, users)


def gain(leads: Floats, others: Floats, users: Sequence[Hashable]) -> Interval:
    """How much more often one scorer agrees with the votes than another, paired on the vote."""
    return mean((np.sign(leads) - np.sign(others)) / 2, users)


def identified(
    embeddings: Floats, users: Sequence[Hashable], *, top: int = 16, held: float = 0.1, seed: int = 0
) -> Interval:
    """How often a user is among the `top` that a linear classifier finds for an embedding that it was not fitted on.

    PPD (arXiv 2501.06655) checks its embeddings so: several (n, d) a user, a tenth held back, top 16 of 300 users. The
    classifier is linear discriminant analysis. Users of one embedding are refused; each keeps one to be fitted on.
    """
    names = list(dict.fromkeys(users))
    of = np.array([names.index(user) for user in users])
    lonely = [name for number, name in enumerate(names) if (of == number).sum() < 2]
    if lonely:
        raise ValueError(f"{len(lonely)} users have one embedding only, the first {lonely[0]!r}: give two or more each")
    asked = held_back(of, held, seed)
    ranked = np.argsort(-discriminants(embeddings[~asked], of[~asked], embeddings[asked]), axis=1)[:, :top]
    return mean((ranked == of[asked][:, None]).any(1), of[asked].tolist())


def held_back(of: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """(n,) which are held back: about a share of each user's, at least one and never all."""
    rng, asked = np.random.default_rng(seed), np.zeros(len(of), dtype=bool)
    for number in range(of.max() + 1):
        own = rng.permutation(np.flatnonzero(of == number))
        asked[own[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return asked


def discriminants(known: Floats, of: NDArray[np.int64], asked: Floats) -> Floats:
    """(asked, users) linear discriminant functions: log-likelihoods up to what all users share."""
    centres = np.stack([known[of == number].mean(0) for number in range(of.max() + 1)])
    apart = known - centres[of]
    within = apart.T @ apart / max(len(known) - len(centres), 1)
    within += RIDGE * max(float(np.trace(within)) / len(within), 1e-12) * np.eye(len(within))
    turned = np.linalg.solve(within, centres.T)
    return np.asarray(asked @ turned - (centres.T * turned).sum(0) / 2)
