"""Rewards of whole sets of pictures, and the set that a reward wants out of two drawings of each prompt.

DRAGON (Bai et al., arXiv 2504.15217) rewards what a model draws as a distribution: its distance to another one, its
diversity. Every reward here is a function of a set's size, sum and sum of outer products of features, so exchanging one
picture is two updates of rank one and never a second pass. The construction of the two sets is greedy, element by
element; the paper has no public code, and its text is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..images import Picture

Floats = NDArray[np.float64]


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns pictures into points whose cosine is their likeness."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def embed(self, pictures: Sequence[Picture]) -> Tensor:
        """(n, d) unit vectors; NaN in the row of a picture that cannot be read."""


@dataclass(frozen=True)
class Moments:
    """What a reward knows of a set of n features (d,): how many there are, their sum and sum of outer products."""

    count: int
    total: Floats  # (d,)
    outer: Floats  # (d, d)

    @classmethod
    def of(cls, features: Floats) -> Moments:
        """Of features (n, d)."""
        return cls(len(features), features.sum(0), features.T @ features)

    def exchanged(self, out: Floats, into: Floats) -> Moments:
        """With one element taken out and another put in its place: two updates of rank one."""
        outer = self.outer + np.outer(into, into) - np.outer(out, out)
        return Moments(self.count, self.total + into - out, outer)

    @property
    def mean(self) -> Floats:
        """(d,)"""
        return np.asarray(self.total / self.count)

    @property
    def covariance(self) -> Floats:
        """(d, d), divided by n - 1, as Frechet distances are published."""
        return np.asarray((self.outer - self.count * np.outer(self.mean, self.mean)) / (self.count - 1))


SetReward = Callable[[Moments], float]


@dataclass(frozen=True)
class Frechet:
    """Minus the Frechet distance to a reference set (Dowson & Landau, 1982; FID, arXiv 1706.08500; FAD, 1812.08466)."""

    mean: Floats  # (d,) of the reference
    root: Floats  # (d, d) the square root of its covariance

    @classmethod
    def to(cls, reference: Floats) -> Frechet:
        """To features (m, d) of at least two pictures."""
        if len(reference) < 2:
            raise ValueError(f"a distance to a set needs two pictures in it, got {len(reference)}")
        moments = Moments.of(reference)
        values, vectors = np.linalg.eigh(moments.covariance)
        root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
        return cls(moments.mean, root)

    def __call__(self, moments: Moments) -> float:
        """-(|mu - mu_r|^2 + tr S + tr S_r - 2 tr (S_r^(1/2) S S_r^(1/2))^(1/2)); 0 for the reference itself."""
        covariance = moments.covariance
        between = np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(min=0)
        spread = np.trace(covariance) + np.square(self.root).sum() - 2 * np.sqrt(between).sum()
        return -float(np.square(moments.mean - self.mean).sum() + spread)


def vendi(moments: Moments) -> float:
    """The Vendi score of unit vectors: how many different pictures there are in effect, 1 … n (arXiv 2210.02410).

    exp of the entropy of the eigenvalues of K / n, K the cosines; the d x d matrix of outer products has the same ones.
    """
    values = np.linalg.eigvalsh(moments.outer / moments.count)
    positive = values[values > 1e-12]
    return float(np.exp(-(positive * np.log(positive)).sum()))


def average(moments: Moments) -> float:
    """The mean of scores (n, 1): a reward of single pictures."""
    return float(moments.mean[0])


def likeness(features: Floats, exemplars: Floats) -> Floats:
    """(n, 1) each picture's mean cosine to exemplars, unit vectors both: a reward of a picture beside a set."""
    return np.asarray((features @ exemplars.T).mean(1, keepdims=True))


@dataclass(frozen=True)
class Split:
    """Which of the two drawings of each prompt is in the good set; the other one is in the bad set."""

    second: NDArray[np.bool_]  # (n,) whether it is the second
    value: float  # the reward of the good set
    starts: tuple[float, float]  # the rewards of all first and of all second drawings


def greedy(first: Floats, second: Floats, reward: SetReward) -> Split:
    """The good set, from features (n, d) of two drawings of each prompt.

    It begins as the better of the two whole sets (the first where they are equal); then, prompt by prompt, the two are
    exchanged where that raises the reward. An exchange that changes nothing is not made.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"two sets of features (n, d) of two prompts or more, got {first.shape} and {second.shape}")
    held = [Moments.of(each) for each in (first, second)]
    starts = (reward(held[0]), reward(held[1]))
    began = starts[1] > starts[0]
    moments, value = held[int(began)], starts[int(began)]
    taken = np.full(len(first), began)
    good, bad = (second, first) if began else (first, second)
    for row in np.flatnonzero((first != second).any(1)):  # rounding would exchange equals
        other = moments.exchanged(good[row], bad[row])
        if (risen := reward(other)) > value:
            moments, value, taken[row] = other, risen, not began
    return Split(taken, value, starts)
