"""From one loss an element to one number; separate from the losses, so that any loss goes with any of these."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arithmetic import wide


def mean(each: Tensor, weight: Tensor | None = None) -> Tensor:
    """Weighted mean of (b,) losses; zero, with zero gradient, where all weights are zero."""
    if weight is None:
        return wide(each).mean()
    total = wide(weight).sum()
    return (wide(weight) * wide(each)).sum() / total.where(total != 0, 1.0)


def dr_dpo(each: Tensor, weight: Tensor | None = None, *, temperature: float = 1.0) -> Tensor:
    """-t log mean exp(-L / t): pairs of high loss, likely mislabelled, count less (Dr. DPO, arXiv 2407.07880).

    `weight` is (b,); the weighted mean stands inside the logarithm. t -> infinity is the mean.
    """
    weights = torch.ones_like(each) if weight is None else wide(weight)
    logits = -wide(each) / temperature + weights.log()
    return -temperature * (logits.logsumexp(0) - weights.sum().log())


def group_means(each: Tensor, group: Tensor, groups: int) -> Tensor:
    """(groups,) mean loss of each group, from (b,) losses and group numbers; -inf for a group that is not there."""
    totals = wide(each).new_zeros(groups).index_add(0, group, wide(each))
    counts = group.bincount(minlength=groups)
    return torch.where(counts > 0, totals / counts.clamp(min=1), -math.inf)


def group_max(each: Tensor, group: Tensor) -> Tensor:
    """The worst group's mean loss: alignment that leaves no group of users behind (MaxMin, arXiv 2402.08925)."""
    return group_means(each, group, int(group.max()) + 1).max()
