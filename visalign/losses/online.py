"""Losses of answers that the policy itself has just written."""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import difference, wide
from .pairwise import Number, dpo
from .registry import loss


@loss(
    "online",
    paper="2405.21046",
    formula="-log s(z) + alpha log pi(y), y written by the reference",
    when="Online DPO that should keep exploring: the optimism term makes the reference's answers less likely.",
)
def xpo(win: Tensor, lose: Tensor, logp_of_reference: Tensor, *, beta: Number, alpha: float = 1e-5) -> Tensor:
    """Exploratory preference optimization; `logp_of_reference`: the policy's, of the answer the reference wrote."""
    return dpo(win, lose, beta=beta) + alpha * wide(logp_of_reference)


@loss(
    "online",
    paper="2312.00886",
    formula="beta sum_t sg(r_t) log p_t - (P - 1/2) log pi(y)",
    when="Nash learning: y from the policy, its rival from the mixture, P from a judge. Only the gradient counts.",
)
def nash_md(token_logp: Tensor, token_ratio: Tensor, preference: Tensor, *, beta: Number) -> Tensor:
    """Nash-MD policy gradient; `token_*` are (b, T), zero beyond the answer, `preference` is P(y beats its rival)."""
    penalty = beta * (wide(token_ratio).detach() * wide(token_logp)).sum(-1)
    return penalty - (preference - 0.5) * wide(token_logp).sum(-1)


@loss(
    "online",
    paper="2310.00212",
    formula="-1/2 min(A h, A clip(h, h_old - clip, h_old + clip)), A = sg[(r_w - r_l) - z]",
    when="Two fresh answers with rewards. Only the gradient counts.",
)
def p3o(
    win: Tensor,
    lose: Tensor,
    score_win: Tensor,
    score_lose: Tensor,
    old_win: Tensor,
    old_lose: Tensor,
    *,
    beta: Number,
    clip: float = 0.2,
) -> Tensor:
    """Pairwise proximal policy optimization, on-policy (importance ratio 1); `old_*` are the log-ratios when drawn."""
    gap = difference(win, lose)
    before = difference(old_win, old_lose)
    advantage = (difference(score_win, score_lose) - beta * gap).detach()
    clipped = torch.minimum(torch.maximum(gap, before - clip), before + clip)
    return -0.5 * torch.minimum(advantage * gap, advantage * clipped)
