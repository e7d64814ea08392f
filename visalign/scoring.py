"""What judges look at and say: samples, scores, the protocols of scorers and judges, and P(first is better).

A scorer gives each sample a number on a scale of its own, higher is better; a judge compares two samples. The bridge
between them is a link function: logistic (Bradley & Terry, 1952) or normal (Thurstone, 1927).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One thing to be judged: a prompt, and the image, video or answer that was made for it."""

    prompt: str
    image: Image.Image | None = None
    video: tuple[Image.Image, ...] | None = None  # frames in order
    answer: str | None = None
    user: str | None = None  # whose taste to judge by
    source: Image.Image | None = None  # what the prompt shows: the image of a question, the original of an edit


@dataclass(frozen=True)
class Scores:
    """What a scorer says about n samples. Where it could not judge, `valid` is False and the value NaN, never 0."""

    values: Tensor  # (n,) higher is better, on the scorer's own scale
    aspects: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (n,)
    sigma: Tensor | None = None  # (n,) standard deviation of the value, where the scorer knows it
    valid: Tensor | None = None  # (n,) bool; None: all of them
    right: Tensor | None = None  # (n,) bool: good enough to count as right, where the scorer draws such a line

    def __post_init__(self) -> None:
        n = len(self.values)
        parts = {"sigma": self.sigma, "valid": self.valid, "right": self.right, **self.aspects}
        ragged = {name: tuple(part.shape) for name, part in parts.items() if part is not None and part.shape != (n,)}
        if self.values.ndim != 1 or ragged:
            raise ValueError(f"scores of {n} samples need shape ({n},) each, got {ragged or tuple(self.values.shape)}")
        if not torch.isfinite(self.values[self.judged]).all():
            raise ValueError("a score is not finite although its sample counts as judged: mark it in `valid`")

    @property
    def judged(self) -> Tensor:
        """(n,) bool: which samples the scorer could judge."""
        return torch.ones(len(self.values), dtype=torch.bool) if self.valid is None else self.valid

    def __len__(self) -> int:
        return len(self.values)


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives samples a number."""

    @property
    def name(self) -> str:
        """What records and reports call it."""

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; a batch scores as its samples do one by one."""


@runtime_checkable
class Judge(Protocol):
    """Anything that compares two samples of one prompt."""

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,) in [0, 1]; NaN where it could not say."""


def bradley_terry(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """P(first is better) = sigmoid((first - second) / temperature), the shape of the scores.

    Temperature 0 is a judge without noise: 1, 0, or 1/2 on a draw. NaN in, NaN out.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    gap = first - second
    return torch.sigmoid(gap / temperature) if temperature else (torch.sign(gap) + 1) / 2


def thurstone(first: Tensor, second: Tensor, sigma_first: Tensor, sigma_second: Tensor) -> Tensor:
    """P(first is better) where each score is normal with its own sigma: Phi(gap / sqrt(sum of variances))."""
    spread = torch.sqrt(sigma_first.square() + sigma_second.square())
    if not bool((spread > 0).all()):
        raise ValueError("Thurstone's model needs a positive sigma; use bradley_terry(…, temperature=0) without one")
    chance: Tensor = torch.special.ndtr((first - second) / spread)
    return chance


def from_votes(first: int, second: int, prior: float = 0.0) -> float:
    """Share of votes for the first, with `prior` imaginary votes on each side; 1/2 when nobody voted."""
    total = first + second + 2 * prior
    return 0.5 if total == 0 else (first + prior) / total


@dataclass(frozen=True)
class ByScore:
    """The judge that a scorer makes: it prefers the higher score, through Bradley-Terry at a temperature."""

    scorer: Scorer
    temperature: float = 0.0

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,); NaN where either sample could not be scored."""
        left, right = self.scorer.score(first), self.scorer.score(second)
        chance = bradley_terry(left.values, right.values, self.temperature)
        return torch.where(left.judged & right.judged, chance, torch.nan)


@dataclass(frozen=True)
class BothOrders:
    """A judge asked twice, with the sides exchanged: takes out what it says for the first place alone."""

    judge: Judge

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """The mean of P(first) and 1 - P(second), (n,)."""
        return (self.judge.prefer(first, second) + 1 - self.judge.prefer(second, first)) / 2


def from_utilities(values: Tensor, temperature: float = 1.0) -> Tensor:
    """P(row is better than column), (K, K), among K items; 1/2 on the diagonal."""
    return bradley_terry(values[:, None], values[None, :], temperature)
