"""Losses that couple the pairs of a batch: splitting the batch changes them, so a per-pair weight means nothing here.

`gather` brings the values of all ranks together and says where ours begin; the default is one process.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .arithmetic import difference, wide
from .pairwise import Number, dpo
from .registry import loss
from .state import dynamic_beta

Gather = Callable[[Tensor], tuple[Tensor, int]]


def here(values: Tensor) -> tuple[Tensor, int]:
    """One process: its own values, which begin at 0."""
    return values, 0


def matched(own: Tensor, other: Tensor, gather: Gather) -> Tensor:
    """For each of our (b,) `own` values, the value of the same rank among all `other` values; no gradient."""
    everyone, start = gather(own.detach())
    opposite, _ = gather(other.detach())
    place = everyone.argsort(stable=True).argsort()[start : start + len(own)]
    return opposite.sort().values[place]


@loss(
    "h",
    "batch",
    paper="2406.05882",
    formula="mean -log s(beta (sort(w) - sort(l)))",
    when="Winners and losers that do not belong together: the winners' distribution should lie above the losers'.",
    beta=0.01,
    ordered=False,
)
def aot_unpaired(win: Tensor, lose: Tensor, *, beta: Number, gather: Gather = here) -> Tensor:
    """Alignment by optimal transport, unpaired: DPO between values of equal rank.

    Element i is the loss of our i-th winner with the loser of its rank, wherever that lives; the losers' gradient is
    taken against their own partners, so that any split of a batch over processes gives one gradient.
    """
    high, low = wide(win), wide(lose)
    each = dpo(high, matched(high, low, gather), beta=beta)
    mirror = dpo(matched(low, high, gather), low, beta=beta)
    return each + (mirror - mirror.detach())


@loss(
    "h",
    "batch",
    paper="2406.05882",
    formula="mean -log s(beta (sort(log pi_w - log pi_l) - sort(log ref_w - log ref_l)))",
    when="As aot_unpaired for pairs: the policy's gaps should lie above the reference's as distributions.",
    beta=0.01,
    ordered=False,
)
def aot(
    win: Tensor, lose: Tensor, logp_win: Tensor, logp_lose: Tensor, *, beta: Number, gather: Gather = here
) -> Tensor:
    """Alignment by optimal transport, paired: our i-th policy gap against the reference gap of its rank."""
    policy = difference(logp_win, logp_lose)
    reference = policy.detach() - difference(win, lose).detach()
    return dpo(policy, matched(policy, reference, gather), beta=beta)


@loss(
    "h",
    "batch",
    paper="2407.08639",
    formula="-log s(beta_B h), beta_B = beta (1 + strength (mean h - usual))",
    when="Batches of unequal quality; `state.BetaDPO` keeps the usual gap and agrees over ranks.",
)
def beta_dpo(win: Tensor, lose: Tensor, usual: Number, *, beta: float, strength: float = 0.6) -> Tensor:
    """DPO with the batch's own beta; `usual` is the moving average of the mean gap."""
    gap = difference(win, lose)
    return dpo(win, lose, beta=dynamic_beta(gap.mean(), usual, beta=beta, strength=strength))
