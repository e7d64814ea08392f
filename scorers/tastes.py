"""Tastes from a few votes: linear utilities whose weights are normal over a population (mixed logit, Train 2009).

A user's utility of a picture is theta · x, with x what frozen features say of it, and a vote is Bradley-Terry on the
gap. Over users theta = mean + root z with z ~ N(0, I): what is common to all is learned from everybody's votes, and
what one user adds is read from one to eight votes as the most likely z, which is small where the votes do not tell. z
is the user's embedding: zeros are nobody, which is the population's mean taste.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import softplus

ROUNDS = 60  # of expectation maximisation: the likelihood settles in its fourth digit
NEWTON = 60  # steps at most; five to ten do
WIDE = 10.0  # deviation of the weights, in features' spreads, where no population narrows them


@dataclass(frozen=True)
class Gaps:
    """u users' votes, m at most: how much further the better item is along each of d features."""

    gap: Tensor  # (u, m, d) float64; zeros where a user has fewer votes, which says nothing
    confidence: Tensor  # (u, m) P(the better is really better), 1/2 a tie

    @classmethod
    def padded(cls, gaps: Sequence[Tensor], confidence: Sequence[Tensor]) -> Gaps:
        """From one (m, d) and one (m,) a user, with m their own."""
        rows = [torch.nn.utils.rnn.pad_sequence(list(each), batch_first=True) for each in (gaps, confidence)]
        return cls(*rows)

    @property
    def together(self) -> Gaps:
        """All votes as one user's."""
        return Gaps(self.gap.flatten(0, 1)[None], self.confidence.flatten()[None])


def most_likely(votes: Gaps, mean: Tensor, root: Tensor, start: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The most likely z (u, d) of each user, and its covariance (u, d, d) by Laplace; root is (d, d).

    Newton on -log P(votes | mean + root z) + |z|^2 / 2, which is convex: `start` (u, d) saves steps and changes nothing
    else. A step that does not go down is halved.
    """
    offset, slope = votes.gap @ mean, votes.gap @ root
    z = torch.zeros(len(slope), slope.shape[-1], dtype=slope.dtype) if start is None else start
    for _ in range(NEWTON):
        down, curved = _newton(z, offset, slope, votes.confidence)
        if float(down.abs().max()) < 1e-9:
            break
        size, before = torch.ones(len(z), 1, dtype=z.dtype), _cost(z, offset, slope, votes.confidence)
        while bool((worse := _cost(z - size * down, offset, slope, votes.confidence) > before + 1e-9).any()):
            size = torch.where(worse[:, None], size / 2, size)
        z = z - size * down
    return z, torch.linalg.inv(curved)


def _cost(z: Tensor, offset: Tensor, slope: Tensor, confidence: Tensor) -> Tensor:
    lead = offset + (slope @ z[..., None])[..., 0]
    return (softplus(lead) - confidence * lead).sum(-1) + z.square().sum(-1) / 2


def _newton(z: Tensor, offset: Tensor, slope: Tensor, confidence: Tensor) -> tuple[Tensor, Tensor]:
    """The Newton step (u, d) and the Hessian (u, d, d)."""
    chance = torch.sigmoid(offset + (slope @ z[..., None])[..., 0])
    gradient = ((chance - confidence)[..., None] * slope).sum(1) + z
    curved = slope.mT @ ((chance * (1 - chance))[..., None] * slope) + torch.eye(z.shape[-1], dtype=z.dtype)
    return torch.linalg.solve(curved, gradient), curved


def pooled(votes: Gaps) -> Tensor:
    """The weights (d,) that explain everybody's votes as one voter's."""
    width = votes.gap.shape[-1]
    z, _ = most_likely(votes.together, torch.zeros(width).double(), WIDE * torch.eye(width).double())
    return WIDE * z[0]


def population(votes: Gaps, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Mean (d,) and root (d, d) of the users' weights: expectation maximisation with Laplace's approximation.

    The covariance is shrunk by one imaginary user whose weights deviate by a tenth in every direction.
    """
    mean = pooled(votes)
    root, z = torch.eye(len(mean), dtype=mean.dtype), None
    for _ in range(rounds):
        z, doubt = most_likely(votes, mean, root, z)
        weights = mean + z @ root.T
        mean = weights.mean(0)
        apart = weights - mean
        total = apart.T @ apart + (root @ doubt @ root.T).sum(0) + 0.01 * torch.eye(len(mean), dtype=mean.dtype)
        root = torch.linalg.cholesky(total / (len(z) + 1))
    return mean, root


@dataclass(frozen=True)
class Tastes:
    """A population of tastes: how features become d coordinates, and how users' weights on them are spread."""

    centre: Tensor  # (D,) of the features
    axes: Tensor  # (D, d) from centred features to coordinates
    mean: Tensor  # (d,) of the weights
    root: Tensor  # (d, d) the weights' covariance is root root^T
    everybody: Tensor  # (d,) the weights that explain all votes as one voter's: the population scorer
    features: str = "checker"  # whose features they are

    @classmethod
    def learned(
        cls, better: Sequence[Tensor], worse: Sequence[Tensor], confidence: Sequence[Tensor], *, features: str,
        width: int = 32,
    ) -> Tastes:  # fmt: skip
        """From each user's features of the better and the worse items, (m, D) each, and P(better), (m,).

        Features are told in their spreads; more than `width` of them are turned into the `width` directions in which
        pictures differ most.
        """
        seen = torch.cat([*better, *worse]).double()
        centre, axes = coordinates(seen, width)
        gaps = [(one - other).double() @ axes for one, other in zip(better, worse, strict=True)]
        votes = Gaps.padded(gaps, [each.double() for each in confidence])
        return cls(centre, axes, *population(votes), pooled(votes), features)

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return len(self.mean)

    def read(self, better: Tensor, worse: Tensor, confidence: Tensor) -> Tensor:
        """A user's z (d,) from features (m, D) of m votes' better and worse items; zeros without votes."""
        gap = (better - worse).double() @ self.axes
        return most_likely(Gaps(gap[None], confidence.double()[None]), self.mean, self.root)[0][0]

    def utilities(self, features: Tensor, z: Tensor) -> Tensor:
        """(n,) utilities of features (n, D) for users z (n, d) or one user (d,)."""
        weights = self.mean + z.double() @ self.root.T
        return ((features.double() - self.centre) @ self.axes * weights).sum(-1)

    def common(self, features: Tensor) -> Tensor:
        """(n,) utilities for everybody at once, the population scorer's."""
        return (features.double() - self.centre) @ self.axes @ self.everybody

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file; whose features they are is in its metadata."""
        from safetensors.torch import save_file

        tensors = {each.name: getattr(self, each.name).contiguous() for each in fields(self) if each.name != "features"}
        save_file(tensors, path, metadata={"visalign.tastes": json.dumps({"features": self.features})})
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Tastes:
        """Read what `save` wrote; ValueError for another file."""
        from safetensors import safe_open

        if not Path(path).is_file():
            raise ValueError(f"no population of tastes at {path}: make one with `visalign users RECORDS --out DIR`")
        with safe_open(str(path), framework="pt") as file:
            about = (file.metadata() or {}).get("visalign.tastes")
            if about is None:
                raise ValueError(
                    f"{path} holds no population of tastes: `visalign users` writes DIR/tastes.safetensors"
                )
            return cls(**{name: file.get_tensor(name) for name in file.keys()}, **json.loads(about))  # noqa: SIM118


def coordinates(seen: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Centre (D,) and axes (D, d <= width) of features (n, D): spreads, or the directions of most spread."""
    centre, spread = seen.mean(0), seen.std(0)
    scale = torch.where(spread > 1e-9, 1 / spread, 0.0)
    if seen.shape[1] <= width:
        return centre, torch.diag(scale)
    told = (seen - centre) * scale
    values, directions = torch.linalg.eigh(told.T @ told / len(told))
    kept = directions[:, -width:] / values[-width:].clamp(min=1e-9).sqrt()
    return centre, scale[:, None] * kept
