"""What some losses remember or count across a batch, as small modules: buffers are checkpointed with the model.

`reduce` takes a scalar tensor to its mean over all processes (the identity on one): the engine injects it, so that
every rank holds the same number. Each `update` is without gradient, and comes before the loss that uses it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .arithmetic import difference, wide
from .pairwise import dpo
from .twosided import bco_pair
from .unpaired import bco, kto

Reduce = Callable[[Tensor], Tensor]


def alone(value: Tensor) -> Tensor:
    """The mean over one process."""
    return value


def global_mean(values: Tensor, reduce: Reduce, weight: Tensor | None = None) -> Tensor:
    """Mean over the elements of all ranks, exact for ranks that hold different numbers of them; 0 if all weigh 0."""
    held = wide(values).detach()
    share = torch.ones_like(held) if weight is None else weight.to(held)
    total = reduce(share.sum())
    return reduce((share * held).sum()) / torch.where(total == 0, 1, total)


class RunningMean(nn.Module):
    """Mean of everything seen so far, in float64: each batch counts by its size."""

    mean: Tensor
    count: Tensor

    def __init__(self, reduce: Reduce = alone) -> None:
        super().__init__()
        self.reduce = reduce
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, values: Tensor) -> Tensor:
        """Take in (n,) values of this rank; returns the mean over everything on all ranks, in their dtype."""
        double = values.double()
        size = self.reduce(double.new_tensor(float(values.numel())))
        batch = self.reduce(double.sum()) / size
        self.count += size
        self.mean += (batch - self.mean) * size / self.count
        return self.mean.to(wide(values).dtype)


class MovingMean(nn.Module):
    """Exponential moving average; the first update sets it."""

    mean: Tensor
    started: Tensor

    def __init__(self, momentum: float = 0.9, reduce: Reduce = alone) -> None:
        super().__init__()
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must be in [0, 1), not {momentum}")
        self.momentum, self.reduce = momentum, reduce
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    @torch.no_grad()
    def update(self, batch: Tensor) -> Tensor:
        """Take in a batch's mean, already the same on every rank; returns the average."""
        kept = torch.where(self.started, self.momentum, 0.0)
        self.mean += (1 - kept) * (batch.double() - self.mean)
        self.started.fill_(True)
        return self.mean.to(batch.dtype)


class RewardShift(nn.Module):
    """BCO's d: the running mean of all implicit rewards beta * ratio (arXiv 2404.04656; TRL <= 0.28 in numbers)."""

    def __init__(self, reduce: Reduce = alone) -> None:
        super().__init__()
        self.seen = RunningMean(reduce)

    def pair(self, win: Tensor, lose: Tensor, *, beta: float) -> Tensor:
        """bco_pair about the shift, this batch included; (b,)."""
        return bco_pair(win, lose, beta=beta, shift=self.seen.update(beta * torch.cat([wide(win), wide(lose)])))

    def single(self, ratio: Tensor, desirable: Tensor, *, beta: float, undesirable_weight: float = 1.0) -> Tensor:
        """bco about the shift, this batch included; (b,)."""
        shift = self.seen.update(beta * wide(ratio))
        return bco(ratio, desirable, beta=beta, shift=shift, undesirable_weight=undesirable_weight)


class ReferencePoint(nn.Module):
    """KTO's z0: the mean log-ratio of mismatched answers over all ranks, not below zero (arXiv 2402.01306).

    Mismatched: prompt i with the answer of another prompt, so that a batch needs two prompts. `momentum` averages it
    over batches; 0 is the paper's estimate.
    """

    def __init__(self, momentum: float = 0.0, reduce: Reduce = alone) -> None:
        super().__init__()
        self.reduce = reduce
        self.average = MovingMean(momentum, reduce)

    def update(self, mismatched: Tensor, weight: Tensor | None = None) -> Tensor:
        """z0 from (n,) log-ratios of mismatched answers, each with its weight: one number, without gradient."""
        return self.average.update(global_mean(mismatched, self.reduce, weight)).clamp(min=0)

    def kto(
        self,
        ratio: Tensor,
        desirable: Tensor,
        mismatched: Tensor,
        *,
        beta: float,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
    ) -> Tensor:
        """kto about z0 of this batch; (b,)."""
        weights = {"desirable_weight": desirable_weight, "undesirable_weight": undesirable_weight}
        return kto(ratio, desirable, self.update(mismatched), beta=beta, **weights)


def dynamic_beta(
    gap: Tensor, usual: Tensor | float, *, beta: float, strength: float = 0.6, floor: float = 1e-3
) -> Tensor:
    """beta (1 + strength (gap - usual)), not below `floor`, without gradient (beta-DPO, arXiv 2407.08639, eq. 9)."""
    return (beta * (1 + strength * (gap.detach() - usual))).clamp(min=floor)


def scored_beta(score_gap: Tensor, *, beta: float, strength: float = 0.5, rate: float = 0.5) -> Tensor:
    """beta (1 + strength (1 - e^(-rate gap))), not below beta: (b,), clearer pairs bind more (MM-RLHF, 2502.10391)."""
    risen = -(-rate * wide(score_gap).detach().clamp(min=0)).expm1()
    return beta * (1 + strength * risen)


class BetaDPO(nn.Module):
    """beta-DPO: beta follows how far the batch's mean gap lies above its moving average (arXiv 2407.08639)."""

    def __init__(self, strength: float = 0.6, momentum: float = 0.9, reduce: Reduce = alone) -> None:
        super().__init__()
        self.strength, self.reduce = strength, reduce
        self.usual = MovingMean(momentum, reduce)
        self.spread = MovingMean(momentum, reduce)

    def beta(self, win: Tensor, lose: Tensor, *, beta: float) -> Tensor:
        """The batch's beta, one number: against the average before this batch, which then takes the batch in."""
        gap = global_mean(difference(win, lose), self.reduce)
        before = torch.where(self.usual.started, self.usual.mean.to(gap.dtype), gap)
        self.usual.update(gap)
        return dynamic_beta(gap, before, beta=beta, strength=self.strength)

    def keep(self, win: Tensor, lose: Tensor) -> Tensor:
        """(b,) Gaussian weights about the usual gap, by which the paper draws the 80 % of pairs that it trains on."""
        gap = difference(win, lose).detach()
        mean = self.usual.mean.to(gap.dtype)
        deviation = self.spread.update(global_mean((gap - mean).square(), self.reduce)).sqrt()
        return (-0.5 * ((gap - mean) / deviation.clamp(min=1e-7)).square()).exp()

    def forward(self, win: Tensor, lose: Tensor, *, beta: float) -> Tensor:
        """DPO at the batch's beta; (b,)."""
        return dpo(win, lose, beta=self.beta(win, lose, beta=beta))
