"""Losses of K answers to one prompt: `ratio` is (b, K) log-ratios and `score` (b, K) scores, higher better, any order.

An item whose score is NaN is absent. Equal scores pull nothing apart. In formulas s_i = beta ratio_i, G_i is the gain
(2^score_i - 1) / (best possible DCG), and each function returns (b,). Nothing is sorted: who stands above whom is a
(b, K, K) comparison, so that permuting the items permutes the gradients.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import wide
from .pairwise import Number
from .registry import loss

ABSENT = -torch.inf


def better(score: Tensor) -> Tensor:
    """(b, K, K): whether item i has a higher score than item j; an absent item is in no pair."""
    return score[..., :, None] > score[..., None, :]


def gaps(values: Tensor) -> Tensor:
    """(b, K, K): value of i minus value of j."""
    return values[..., :, None] - values[..., None, :]


def scaled(ratio: Tensor, beta: Number) -> Tensor:
    """s = beta * ratio, (b, K), for a number or a (b,) beta."""
    return wide(ratio) * (beta[..., None] if isinstance(beta, Tensor) and beta.ndim else beta)


def _same(values: Tensor) -> Tensor:
    """(K, K): whether i is j."""
    return torch.eye(values.shape[-1], dtype=torch.bool, device=values.device)


def place(score: Tensor) -> Tensor:
    """(b, K) places from 1, best first; equal scores share the better place, an absent item has place 1."""
    return 1 + better(score).sum(-2)


def _mean_over(values: Tensor, pairs: Tensor) -> Tensor:
    """Mean of (b, K, K) values over the pairs that count, zero where there is none."""
    return values.where(pairs, 0.0).sum((-1, -2)) / pairs.sum((-1, -2)).clamp(min=1)


def _masked_log_softmax(logits: Tensor, present: Tensor) -> Tensor:
    """log softmax over the present items; zero, not -inf, for the absent ones, whose weights are zero."""
    return logits.masked_fill(~present, ABSENT).log_softmax(-1).masked_fill(~present, 0.0)


def _target(score: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The scores as log-probabilities over the present items, and which are present."""
    present = ~score.isnan()
    return _masked_log_softmax(wide(score) / temperature, present), present


@loss(
    "list",
    paper="2305.18290 app. A.3",
    formula="sum_i [logsumexp_{j not above i} s_j - s_i]",
    when="Full rankings of K.",
    pair_form="dpo",
)
def plackett_luce(ratio: Tensor, score: Tensor, *, beta: Number) -> Tensor:
    """Plackett-Luce likelihood of the ranking (ListMLE); items of equal score stay in each other's sum (Breslow)."""
    s = scaled(ratio, beta)
    below = better(score) | (score[..., :, None] == score[..., None, :]) | _same(s)
    rivals = s[..., None, :].masked_fill(~below, ABSENT)
    return (rivals.logsumexp(-1) - s).sum(-1)


@loss(
    "list",
    paper="2402.01878",
    formula="mean over pairs of -log s(s_i - s_j)",
    when="Rankings of which every pair is trusted.",
    pair_form="dpo",
)
def all_pairs(ratio: Tensor, score: Tensor, *, beta: Number) -> Tensor:
    """DPO on every pair whose scores differ."""
    return _mean_over(-logsigmoid(gaps(scaled(ratio, beta))), better(score))


@loss(
    "list",
    paper="2402.01878",
    formula="mean over j of -log s(s_best - s_j)",
    when="Only the winner is trusted.",
    pair_form="dpo",
)
def best_vs_rest(ratio: Tensor, score: Tensor, *, beta: Number) -> Tensor:
    """DPO of the best item (all of them, if several share the score) against every other."""
    best = ~better(score).any(-2)
    return _mean_over(-logsigmoid(gaps(scaled(ratio, beta))), better(score) & best[..., :, None])


@loss(
    "list",
    paper="2402.01878",
    formula="-log s(s_best - s_worst)",
    when="Only the two ends are trusted.",
    pair_form="dpo",
)
def best_vs_worst(ratio: Tensor, score: Tensor, *, beta: Number) -> Tensor:
    """DPO of the best item against the worst."""
    above = better(score)
    ends = above & ~above.any(-2)[..., :, None] & ~above.any(-1)[..., None, :]
    return _mean_over(-logsigmoid(gaps(scaled(ratio, beta))), ends)


@loss(
    "list",
    paper="2508.09826",
    formula="mean over pairs k places apart, k in skips, of -log s(s_i - s_j)",
    when="Long rankings of which near and far pairs both matter. Formula after the paper's abstract.",
    pair_form="dpo",
)
def ranklist(ratio: Tensor, score: Tensor, *, beta: Number, skips: tuple[int, ...] = (1, 2)) -> Tensor:
    """RankNet on pairs that stand a given number of places apart: 1 is next neighbours, more are RankList's skips."""
    apart = -gaps(place(score))
    wanted = torch.isin(apart, torch.tensor(list(skips), device=apart.device)) & better(score)
    return _mean_over(-logsigmoid(gaps(scaled(ratio, beta))), wanted)


@loss(
    "list",
    paper="2402.05369",
    formula="-sum_i softmax(score / t)_i log softmax(s)_i",
    when="Scores whose size means something: a soft target over the K (P = s(gap / t) for a pair).",
    pair_form="dpo_soft",
)
def infonca(ratio: Tensor, score: Tensor, *, beta: Number, temperature: float = 1.0) -> Tensor:
    """Cross-entropy from the scores' softmax to the policy's (InfoNCA; the dpo-rw of EXO)."""
    target, present = _target(score, temperature)
    return -(target.exp() * present * _masked_log_softmax(scaled(ratio, beta), present)).sum(-1)


@loss(
    "list",
    paper="2402.05369",
    formula="-mean_i log s(-s_i) - sum_i softmax(score / t)_i log s(s_i)",
    when="As infonca, each item against the reference, so that the best cannot fall (a pair: t -> 0).",
    beta=0.01,
    pair_form="nca_pair",
)
def nca(ratio: Tensor, score: Tensor, *, beta: Number, temperature: float = 1.0) -> Tensor:
    """Noise contrastive alignment: every item pushed down alike, pulled up by its share of the scores."""
    target, present = _target(score, temperature)
    s = scaled(ratio, beta)
    push = (logsigmoid(-s) * present).sum(-1) / present.sum(-1).clamp(min=1)
    return -push - (target.exp() * present * logsigmoid(s)).sum(-1)


@loss(
    "list",
    paper="2402.00856",
    formula="KL(softmax(s) || softmax(score / t))",
    when="As infonca, mode-seeking (a pair: logit(1 - epsilon) = gap / t).",
    pair_form="exo_pair",
)
def exo(ratio: Tensor, score: Tensor, *, beta: Number, temperature: float = 1.0) -> Tensor:
    """Exact optimization: the reverse KL, from the policy's softmax to the scores'."""
    target, present = _target(score, temperature)
    own = _masked_log_softmax(scaled(ratio, beta), present)
    return (own.exp() * present * (own - target)).sum(-1)


@loss(
    "list",
    paper="2306.17492",
    formula="sum_k [logsumexp(T_k x_k, T_kj x_j for j below k) - T_k x_k], T_kj = r_k - r_j, T_k = max_j T_kj",
    when="The ranking term of PRO, alone: temperatures from score gaps, x the mean log-probabilities; no reference.",
    scale="nats",
)
def pro_ranking(mean_logp: Tensor, score: Tensor) -> Tensor:
    """Ranking term of preference ranking optimization on (b, K) mean log-probabilities."""
    above = better(score)
    gap = gaps(wide(score)).where(above, 0.0)
    own = gap.amax(-1) * wide(mean_logp)
    rivals = (gap * wide(mean_logp)[..., None, :]).masked_fill(~above, ABSENT)
    return (torch.cat([rivals, own[..., None]], -1).logsumexp(-1) - own).sum(-1)


@loss(
    "list",
    paper="2306.17492",
    formula="-(K - 1)^2 log pi(y_best)",
    when="The supervised term of PRO, alone.",
)
def sft_best(logp: Tensor, score: Tensor) -> Tensor:
    """Negative log-likelihood of the best of K, (b, K) summed log-probabilities, times (K - 1)^2."""
    present = ~score.isnan()
    best = present & ~better(score).any(-2)
    chosen = (wide(logp) * best).sum(-1) / best.sum(-1).clamp(min=1)
    return -(present.sum(-1) - 1).square() * chosen


def _gains(score: Tensor) -> Tensor:
    """G: (2^score - 1) over the best DCG that the scores allow; zero for absent items and all-zero lists.

    Scores are relevances here, not below zero: a shift of them changes the gains.
    """
    present = ~score.isnan()
    gain = (wide(score) * math.log(2.0)).expm1().where(present, 0.0)
    ideal = gain.masked_fill(~present, ABSENT).sort(-1, descending=True).values
    ideal = ideal.where(ideal != ABSENT, 0.0)
    discount = torch.arange(2, gain.shape[-1] + 2, device=gain.device, dtype=gain.dtype).log2()
    best = (ideal / discount).sum(-1, keepdim=True)
    return gain / best.where(best != 0, 1.0)


@loss(
    "list",
    paper="2402.01878",
    formula="-mean over pairs of |1/D_i - 1/D_j| |G_i - G_j| log s(s_i - s_j), D = log2(1 + place by s)",
    when="The top of the list matters most; scores are relevances, from 0. A pair is DPO times its lambda weight.",
)
def lipo_lambda(ratio: Tensor, score: Tensor, *, beta: Number) -> Tensor:
    """LambdaRank weights on the pairs (LiPO-lambda). Items that the policy cannot tell apart stand as scored."""
    s = scaled(ratio, beta)
    ahead = (gaps(s) < 0) | ((gaps(s) == 0) & better(score).transpose(-1, -2))
    present = ~score.isnan()
    places = 1 + (ahead & present[..., None, :]).sum(-1)
    discount = 1 / (1 + places).to(s.dtype).log2()
    weight = gaps(discount).abs() * gaps(_gains(score)).abs()
    return _mean_over(-weight * logsigmoid(gaps(s)), better(score))


@loss(
    "list",
    paper="2410.04346",
    formula="-sum_i G_i / log2(3/2 + sum_j s(-alpha (s_i - s_j))), j = i included",
    when="Optimise NDCG itself, smoothed; scores are relevances, from 0.",
    saturates="no gradient between items far apart",
)
def approx_ndcg(ratio: Tensor, score: Tensor, *, beta: Number, alpha: float = 25.0) -> Tensor:
    """Smooth NDCG: places counted with sigmoids of steepness alpha; the j = i term gives the 1/2."""
    present = ~score.isnan()
    worse = torch.sigmoid(-alpha * gaps(scaled(ratio, beta))) * present[..., None, :]
    return -(_gains(score) / (1.5 + worse.sum(-1)).log2()).sum(-1)


@loss(
    "list",
    paper="2504.15477",
    formula="-mean_i w_i log s(-log mean_{j != i} e^(s_j - s_i)), w_i = (2^score_i - 1) / log2(1 + rank_i)",
    when="Relevance marks on a list that was shown in a given order. A pair is DPO times half its weight.",
)
def irpo(ratio: Tensor, score: Tensor, rank: Tensor, *, beta: Number) -> Tensor:
    """In-context ranking preference optimization; `rank` is (b, K), the place at which each item was shown, from 1."""
    s, present = scaled(ratio, beta), ~score.isnan()
    rivals = present[..., None, :] & present[..., :, None] & ~_same(s)
    alone = ~rivals.any(-1, keepdim=True)
    risen = (-gaps(s)).masked_fill(~rivals, ABSENT).masked_fill(alone, 0.0).logsumexp(-1)
    lead = rivals.sum(-1).clamp(min=1).to(s.dtype).log() - risen
    weight = (wide(score) * math.log(2.0)).expm1() / (1 + rank).to(s.dtype).log2()
    return -(weight * logsigmoid(lead)).where(~alone[..., 0], 0.0).sum(-1) / present.sum(-1).clamp(min=1)
