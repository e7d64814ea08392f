"""Losses that look at single tokens, or at the segments of a video.

Sequence columns are (b,); columns named `token_*`, `guide_*`, `mask_*` are (b, T), zero where the answer has no token
(see `inputs.TokenPairs`, which makes them). KL columns hold KL(reference || policy) over the vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .arithmetic import wide
from .pairwise import Number, dpo
from .registry import loss


@loss(
    "token",
    paper="2404.11999",
    formula="-log s(beta (h - (K_l - K_w))), K = sum_t KL(ref_t || pi_t)",
    when="Keep the divergence of the two answers alike. Needs both models' whole distributions.",
    scale="nats",
)
def tdpo1(win: Tensor, lose: Tensor, kl_win: Tensor, kl_lose: Tensor, *, beta: Number) -> Tensor:
    """Token-level DPO, first form: the difference of sequential KLs joins the gap."""
    return dpo(wide(win) + wide(kl_win), wide(lose) + wide(kl_lose), beta=beta)


@loss(
    "token",
    paper="2404.11999",
    formula="-log s(beta (h - alpha (K_l - sg K_w)))",
    when="As tdpo1, with the winner's KL as a fixed mark. The form that the paper recommends.",
    scale="nats",
)
def tdpo2(win: Tensor, lose: Tensor, kl_win: Tensor, kl_lose: Tensor, *, beta: Number, alpha: float = 0.5) -> Tensor:
    """Token-level DPO, second form: no gradient through the winner's KL, and a weight alpha."""
    return dpo(wide(win) + alpha * wide(kl_win).detach(), wide(lose) + alpha * wide(kl_lose), beta=beta)


@loss(
    "token",
    paper="2506.14574",
    formula="-log s(beta sum_t (1 + alpha beta g_t) w_t - beta sum_t (1 - alpha beta g_t) l_t)",
    when="A trained DPO or SimPO model g is at hand to say which tokens matter.",
    scale="nats",
)
def tgdpo(
    token_win: Tensor,
    token_lose: Tensor,
    guide_win: Tensor,
    guide_lose: Tensor,
    *,
    beta: float,
    alpha: float = 0.5,
) -> Tensor:
    """Token-guided DPO; `guide_*` are the guide's (b, T) log-ratios, taken without gradient."""
    strength = alpha * beta
    win = ((1 + strength * wide(guide_win).detach()) * wide(token_win)).sum(-1)
    lose = ((1 - strength * wide(guide_lose).detach()) * wide(token_lose)).sum(-1)
    return dpo(win, lose, beta=beta)


@loss(
    "token",
    paper="2410.05102",
    formula="-log s(beta (sum m w_t - sum m l_t + sum d K_w,t - sum d K_l,t)) + l1 mean(|m|)",
    when="Learned masks decide which tokens carry the reward (m) and which the KL (d).",
    scale="nats",
)
def sparsepo(
    token_win: Tensor,
    token_lose: Tensor,
    token_kl_win: Tensor,
    token_kl_lose: Tensor,
    mask_win: Tensor,
    mask_lose: Tensor,
    kl_mask_win: Tensor,
    kl_mask_lose: Tensor,
    *,
    beta: Number,
    l1: float = 0.0,
) -> Tensor:
    """SparsePO on given (b, T) masks; `l1` weighs the mean size of the reward masks. (Its own "MaPO" is a mask.)"""
    win = (mask_win * wide(token_win) + kl_mask_win * wide(token_kl_win)).sum(-1)
    lose = (mask_lose * wide(token_lose) + kl_mask_lose * wide(token_kl_lose)).sum(-1)
    size = mask_win.abs().mean(-1) + mask_lose.abs().mean(-1)
    return dpo(win, lose, beta=beta) + l1 * size


@loss(
    "token",
    paper="2406.11827 eq. 2",
    formula="min(sg[o_w o_l], ceiling) (-log s(z)), o = exp(mean_t (log p_t - log sum_v p_v^2))",
    when="Off-policy answers should count less. The paper's code has ceiling 1, TRL >= 0.29 none (inf).",
    scale="nats",
)
def wpo(
    win: Tensor, lose: Tensor, on_policy_win: Tensor, on_policy_lose: Tensor, *, beta: Number, ceiling: float = 1.0
) -> Tensor:
    """Weighted preference optimization: DPO weighted by how likely the policy itself is to write the two answers."""
    weight = (wide(on_policy_win) * wide(on_policy_lose)).detach().clamp(max=ceiling)
    return weight * dpo(win, lose, beta=beta)


@loss(
    "token",
    paper="2506.03517 app. E",
    formula="mean over segments with label != 0 of -log s(label z)",
    when="Videos labelled segment by segment: some prefer the one, some the other, ties pull nothing.",
    beta=500.0,
)
def segment_dpo(segment_win: Tensor, segment_lose: Tensor, label: Tensor, *, beta: Number) -> Tensor:
    """DenseDPO: a preference for each segment; `segment_*` and `label` (+1, 0, -1) are (b, S).

    Ties get exactly zero gradient. The paper averages over all segments of a batch: weigh a sample by its number of
    segments that are not ties.
    """
    per_pair = beta[..., None] if isinstance(beta, Tensor) and beta.ndim else beta
    sign = label.sign()
    each = dpo(sign * wide(segment_win), sign * wide(segment_lose), beta=per_pair)
    told = sign != 0
    return each.where(told, 0.0).sum(-1) / told.sum(-1).clamp(min=1)


def on_policy_weight(logp: Tensor, log_collision: Tensor, mask: Tensor) -> Tensor:
    """WPO's omega, (b,): exp of the mean over tokens of log p_t - log sum_v p_v^2, all (b, T); no gradient."""
    aligned = (wide(logp) - wide(log_collision)).detach().where(mask.bool(), 0.0)
    return (aligned.sum(-1) / mask.sum(-1).clamp(min=1)).exp()


def log_collision(logits: Tensor) -> Tensor:
    """log sum_v p_v^2 from (..., V) logits: the log-probability that two draws agree, which WPO aligns to."""
    log_p = wide(logits).log_softmax(-1)
    return torch.logsumexp(2 * log_p, -1)


def vocabulary_kl(reference_logits: Tensor, policy_logits: Tensor) -> Tensor:
    """KL(reference || policy) of the next token, from (..., V) logits: TDPO's sequential forward KL, token by token."""
    reference, policy = wide(reference_logits).log_softmax(-1), wide(policy_logits).log_softmax(-1)
    return (reference.exp() * (reference - policy)).sum(-1)
