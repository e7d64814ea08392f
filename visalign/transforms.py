"""Scores on one scale, and several scores as one: what `scorers/ensemble.py` and training methods combine with.

Scales differ a hundredfold (PickScore near 22, ImageReward near 0.5), so a mean of raw scores is a mean of one. What is
applied sample by sample takes frozen constants, so that a batch scores as its samples do; what looks at a group (the K
pictures of a prompt) says so. NaN marks what could not be judged and stays NaN, and no other number depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

GUARD = 1e-4  # added to a group's deviation, as GRPO's released code does
HARMONIC_GUARD = 1e-8  # added to each reward of the harmonic mean, as in github.com/andrew-miao/RPO


@dataclass(frozen=True)
class ZScore:
    """(value - mean) / std with frozen constants."""

    mean: float
    std: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"a z-score needs a finite mean and a std above 0, got {self.mean} and {self.std}")

    @classmethod
    def fitted(cls, values: Tensor) -> ZScore:
        """The constants (std with ddof 0) of the values that were judged."""
        seen = values[~values.isnan()].double()
        if len(seen) < 2 or not float(seen.std(correction=0)) > 0:
            raise ValueError(f"a z-score cannot be fitted to {len(seen)} values without spread")
        return cls(float(seen.mean()), float(seen.std(correction=0)))

    def __call__(self, values: Tensor) -> Tensor:
        """The shape of the values."""
        return (values - self.mean) / self.std


@dataclass(frozen=True)
class Quantile:
    """The share of a frozen sample that lies below a value, ties as halves: a rank that needs no batch."""

    sample: tuple[float, ...]  # sorted

    @classmethod
    def fitted(cls, values: Tensor) -> Quantile:
        """Of the values that were judged."""
        seen = values[~values.isnan()].double()
        if not len(seen):
            raise ValueError("a quantile cannot be fitted to no values")
        return cls(tuple(seen.sort().values.tolist()))

    def __call__(self, values: Tensor) -> Tensor:
        """In [0, 1], the shape of the values."""
        sample = torch.tensor(self.sample, dtype=torch.float64, device=values.device)
        wide = values.double().contiguous()
        below, upto = (torch.searchsorted(sample, wide, right=side).double() for side in (False, True))
        share = ((below + upto) / (2 * len(self.sample))).to(values.dtype)
        return torch.where(values.isnan(), torch.nan, share)


@dataclass(frozen=True)
class LogSigmoid:
    """log sigmoid((value - reference) / temperature): beyond the reference a gain is worth little (arXiv 2402.00742).

    Summed over scorers it is a soft "and": log of the probability that all of them call it better than the reference.
    """

    reference: float
    temperature: float = 1.0

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)

    def __call__(self, values: Tensor) -> Tensor:
        """At most 0, the shape of the values."""
        return logsigmoid((values - self.reference) / self.temperature)


@dataclass(frozen=True)
class Affine:
    """scale value + shift."""

    scale: float = 1.0
    shift: float = 0.0

    def __call__(self, values: Tensor) -> Tensor:
        """The shape of the values."""
        return self.scale * values + self.shift


Transform = Callable[[Tensor], Tensor]
TRANSFORMS: Mapping[str, type] = {
    "zscore": ZScore, "quantile": Quantile, "log_sigmoid": LogSigmoid, "affine": Affine,
}  # fmt: skip


# Within a group of K, the last axis ----------------------------------------------------------------------------------


def group_zscore(values: Tensor, ddof: int = 1) -> Tensor:
    """(…, K) advantages: (value - mean) / (std + 1e-4) over the judged of a group; 0 where alone."""
    return group_centred(values) / (group_deviation(values, ddof) + GUARD)


def group_centred(values: Tensor) -> Tensor:
    """(…, K) by how much a value lies above the mean of the judged of its group."""
    return values - values.nanmean(-1, keepdim=True)


def group_deviation(values: Tensor, ddof: int = 1) -> Tensor:
    """(…, 1) standard deviation of the judged of a group; 0 where there is one or none."""
    seen = ~values.isnan()
    squares = group_centred(values).where(seen, 0.0).square().sum(-1, keepdim=True)
    return (squares / (seen.sum(-1, keepdim=True) - ddof).clamp(min=1)).sqrt()


def group_rank(values: Tensor) -> Tensor:
    """(…, K) in [0, 1]: the share of the other judged ones that a value beats, ties as halves; 1/2 where alone."""
    seen = ~values.isnan()
    beaten = (torch.sign(values[..., :, None] - values[..., None, :]) + 1) / 2
    others = seen[..., None, :] & ~torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)
    count = others.sum(-1)
    share = beaten.where(others, 0.0).sum(-1) / count.clamp(min=1)
    return torch.where(seen, share.where(count > 0, 0.5), torch.nan)


# Several scores as one, (members, …) to (…) --------------------------------------------------------------------------


def mean(values: Tensor, sigma: Tensor | None = None) -> Tensor:
    """The mean over members."""
    return values.mean(0)


def minimum(values: Tensor, sigma: Tensor | None = None) -> Tensor:
    """The worst member's word: conservative optimisation (arXiv 2310.02743)."""
    return values.amin(0)


def mean_minus_std(values: Tensor, sigma: Tensor | None = None, *, strength: float = 1.0) -> Tensor:
    """The mean less `strength` deviations of the members (ddof 0)."""
    return values.mean(0) - strength * values.std(0, correction=0)


def mean_minus_variance(values: Tensor, sigma: Tensor | None = None, *, strength: float = 1.0) -> Tensor:
    """The mean less `strength` variances of the members (ddof 0): uncertainty-weighted optimisation (2310.02743)."""
    return values.mean(0) - strength * values.var(0, correction=0)


def inverse_variance(values: Tensor, sigma: Tensor | None = None) -> Tensor:
    """The mean weighted by one over each member's variance; ValueError for members without a sigma."""
    if sigma is None or not bool((sigma > 0)[~values.isnan()].all()):
        raise ValueError("inverse_variance needs a positive sigma of every member; use mean for scorers without one")
    weight = sigma.square().reciprocal()
    return (weight * values).sum(0) / weight.sum(0)


def total(values: Tensor, sigma: Tensor | None = None) -> Tensor:
    """The sum over members: with `log_sigmoid` a soft "and"."""
    return values.sum(0)


def harmonic(values: Tensor, sigma: Tensor | None = None, *, balance: float = 0.5) -> Tensor:
    """Lambda-harmonic reward of two members (RPO, arXiv 2407.12164, eq. 6): `balance` is lambda, the first's weight.

    1 / (lambda / (first + 1e-8) + (1 - lambda) / (second + 1e-8)). Rewards are not negative: clamp cosines first.
    """
    if len(values) != 2:
        raise ValueError(f"the harmonic reward balances two scorers, got {len(values)}")
    if not 0.0 <= balance <= 1.0:
        raise ValueError(f"balance must lie in 0 … 1, got {balance}")
    if bool((values < 0).any()):
        raise ValueError("the harmonic reward is for rewards of 0 and more: use transforms that keep to that")
    first, second = values + HARMONIC_GUARD
    reward: Tensor = 1 / (balance / first + (1 - balance) / second)
    return reward


COMBINATIONS: Mapping[str, Callable[..., Tensor]] = {
    each.__name__: each
    for each in (mean, minimum, mean_minus_std, mean_minus_variance, inverse_variance, total, harmonic)
}


# Calibration ---------------------------------------------------------------------------------------------------------


def vote_nll(gaps: Tensor, outcomes: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of votes under sigmoid(gap / temperature); outcome 1, 0, or 1/2 for a tie."""
    z = gaps.double() / temperature
    return float((softplus(-z) + (1 - outcomes.double()) * z).mean())


def fitted_temperature(gaps: Tensor, outcomes: Tensor, *, rounds: int = 100) -> float:
    """The temperature at which sigmoid(gap / temperature) has the least `vote_nll`; pairs that were not judged are NaN.

    The likelihood is convex in 1 / temperature, so Newton's method with halved steps finds its one optimum. ValueError
    where there is none: no vote, no gap, gaps that never err, or that agree with votes no better than chance.
    """
    seen = ~(gaps.isnan() | outcomes.isnan())
    gap, said = gaps[seen].double(), outcomes[seen].double()
    if not len(gap) or not bool((gap != 0).any()):
        raise ValueError(f"a temperature cannot be fitted to {len(gap)} votes without a gap in score")
    if not float(((said - 0.5) * gap).sum()) > 0:
        raise ValueError("these scores agree with the votes no better than chance: no temperature fits them")
    if bool(((said - 0.5) * gap > 0).logical_or(gap == 0).all()) and bool((said[gap != 0] % 1 == 0).all()):
        raise ValueError("these scores never err on these votes: the best temperature is 0; give more votes")
    unit = float(gap.abs().mean())
    slope = _newton(gap / unit, said, rounds)
    return unit / slope


def _newton(gap: Tensor, said: Tensor, rounds: int) -> float:
    """The slope k that minimises the mean of -log sigmoid(k gap) over votes."""
    slope = 1.0
    for _ in range(rounds):
        chance = torch.sigmoid(slope * gap)
        gradient = float(((chance - said) * gap).mean())
        curvature = float((chance * (1 - chance) * gap.square()).mean())
        move = gradient / max(curvature, 1e-12)
        while slope - move <= 0 or vote_nll(gap, said, 1 / (slope - move)) > vote_nll(gap, said, 1 / slope) + 1e-15:
            move /= 2
            if abs(move) < 1e-14 * slope:
                return slope
        slope -= move
        if abs(move) < 1e-12 * slope:
            break
    return slope


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")
