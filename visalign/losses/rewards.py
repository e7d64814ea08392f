"""Objectives for reward models: `score_win` and `score_lose` are (b,) scores that it gives, x their gap."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import bounded_exp, difference, log1pexp, wide
from .pairwise import Number, dpo
from .registry import loss, recipe


@loss(
    "reward",
    paper="1952 (Bradley and Terry)",
    formula="-log s(x - margin)",
    when="The default for a reward model. A margin (0.57 in VideoAlign and EditReward) asks for a clear lead.",
)
def bradley_terry(score_win: Tensor, score_lose: Tensor, *, margin: Number = 0.0) -> Tensor:
    """Bradley-Terry negative log-likelihood of a vote."""
    return dpo(score_win, score_lose, beta=1.0, margin=margin)


recipe(
    "hpsv2",
    bradley_terry,
    paper="2306.09341",
    formula="-y log s(x) - (1 - y) log s(-x), scores exp(logit_scale) cos",
    when="CLIP scorers as HPS v2 trains them, on plain or soft votes; the paper sums over the batch.",
)


@loss(
    "reward",
    paper="2305.01569 eq. 2",
    formula="KL(P || s(x))",
    when="CLIP scorers as PickScore trains them: a tie is P = 1/2, whose optimum is 0.",
)
def pickscore(score_win: Tensor, score_lose: Tensor, confidence: Number) -> Tensor:
    """PickScore's KL from the vote to the softmax of the two scores; `confidence` is P(win is better)."""
    certain = torch.as_tensor(confidence, dtype=wide(score_win).dtype, device=score_win.device)
    entropy = torch.special.entr(certain) + torch.special.entr(1 - certain)
    gap = difference(score_win, score_lose)
    divergence: Tensor = torch.lerp(log1pexp(gap), log1pexp(-gap), certain) - entropy
    return divergence


def _given_margin(margin: Tensor) -> Tensor:
    return margin


recipe(
    "bradley_terry_by_margin",
    bradley_terry,
    paper="2307.09288 eq. 2",
    formula="-log s(x - margin)",
    when="Votes that say by how much: the `margin` of each pair is the lead that is asked for.",
    sets={"margin": _given_margin},
)


@loss(
    "reward",
    paper="2410.01257",
    formula="-strength log s(x)",
    when="Votes with a strength, from slightly (1) to much better (3).",
)
def scaled_bradley_terry(score_win: Tensor, score_lose: Tensor, strength: Tensor) -> Tensor:
    """Scaled Bradley-Terry (HelpSteer2-Preference): the strength multiplies the loss, and is no margin."""
    return wide(strength) * bradley_terry(score_win, score_lose)


@loss(
    "reward",
    paper="2312.09244",
    formula="(r_w + r_l)^2",
    when="Blended in with a weight near 0.01: votes leave the zero of a reward free, this fixes it.",
)
def centering(score_win: Tensor, score_lose: Tensor) -> Tensor:
    """Squared sum of the two scores, which keeps rewards centred on zero."""
    return (wide(score_win) + wide(score_lose)).square()


@loss(
    "reward",
    paper="2501.13918",
    formula="-log s(x - log k), or for a tie that less log s(-x - log k) and log(k^2 - 1)",
    when="Votes with ties; a tie says that the scores are near.",
)
def bradley_terry_ties(score_win: Tensor, score_lose: Tensor, tie: Tensor, *, k: float = 5.0) -> Tensor:
    """Bradley-Terry with ties (Rao and Kupper 1967): three probabilities that sum to one; `tie` is (b,), k > 1."""
    gap, lead = difference(score_win, score_lose), math.log(k)
    won = -logsigmoid(gap - lead)
    return torch.where(tie.bool(), won - logsigmoid(-gap - lead) - math.log(k * k - 1), won)


@loss(
    "reward",
    paper="1970 (Davidson)",
    formula="-log of e^(x/2), or of nu for a tie, over e^(x/2) + e^(-x/2) + nu",
    when="As bradley_terry_ties, with odds of a tie that are greatest, nu / 2, between equals.",
)
def davidson_ties(score_win: Tensor, score_lose: Tensor, tie: Tensor, *, nu: float = 1.0) -> Tensor:
    """Davidson's model of votes with ties; `tie` is (b,), nu > 0."""
    half = difference(score_win, score_lose) / 2
    logits = torch.stack([half, -half, torch.full_like(half, math.log(nu))])
    return logits.logsumexp(0) - torch.where(tie.bool(), logits[2], half)


@loss(
    "reward",
    paper="2508.03789",
    formula="E[-log s(z - margin)], z normal with mean x and variance sigma_w^2 + sigma_l^2",
    when="A model that says how sure it is: scores are normal, and the loss is a mean over what they may be.",
)
def gaussian_bradley_terry(
    score_win: Tensor, score_lose: Tensor, log_sigma_win: Tensor, log_sigma_lose: Tensor,
    *, margin: float = 0.0, nodes: int = 64,
) -> Tensor:  # fmt: skip
    """The loss of HPSv3's released code, which draws 1,000 samples, by Gauss-Hermite quadrature.

    Exact to 1e-14 for a deviation of 1, 3e-8 for 3, 1e-4 for 6.
    """
    drawn, weight = _quadrature(score_win, score_lose, log_sigma_win, log_sigma_lose, nodes)
    return log1pexp(margin - drawn) @ weight.exp()


@loss(
    "reward",
    paper="2508.03789",
    formula="-log E[s(z)], z normal with mean x and variance sigma_w^2 + sigma_l^2",
    when="As gaussian_bradley_terry, the likelihood of the vote itself: doubt is not punished twice.",
)
def gaussian_likelihood(
    score_win: Tensor, score_lose: Tensor, log_sigma_win: Tensor, log_sigma_lose: Tensor, *, nodes: int = 64
) -> Tensor:
    """Negative log marginal likelihood of a vote when both scores are normal."""
    drawn, weight = _quadrature(score_win, score_lose, log_sigma_win, log_sigma_lose, nodes)
    return -(logsigmoid(drawn) + weight).logsumexp(-1)


def _quadrature(
    win: Tensor, lose: Tensor, log_sigma_win: Tensor, log_sigma_lose: Tensor, nodes: int
) -> tuple[Tensor, Tensor]:
    """The gap at each node, (b, nodes), and the logarithms of the nodes' weights, which sum to 1."""
    gap = difference(win, lose)
    log_spread = torch.logaddexp(2 * wide(log_sigma_win), 2 * wide(log_sigma_lose)) / 2
    at, weight = (torch.tensor(each, dtype=gap.dtype, device=gap.device) for each in _hermite(nodes))
    return gap[..., None] + bounded_exp(log_spread)[..., None] * at, weight


@cache
def _hermite(nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and logarithms of weights for a standard normal number; the outermost weights underflow in float32."""
    at, weight = np.polynomial.hermite_e.hermegauss(nodes)
    return at.tolist(), np.log(weight / weight.sum()).tolist()


@loss(
    "reward",
    paper="2410.01257",
    formula="(score - rating)^2",
    when="Ratings rather than votes: marks of 1 to 5, mean opinion scores, centred first.",
)
def squared_rating(score: Tensor, rating: Tensor) -> Tensor:
    """Regression of a reward on a rating, item by item."""
    return difference(score, rating).square()


@loss(
    "reward",
    paper="2406.08469",
    formula="max(0, m - x)^2 / 2 gamma, a line of slope -1 below m - gamma",
    when="PAL's released code: scores are minus the distance to a user's ideal point.",
    saturates="no gradient for x > margin",
)
def smooth_hinge(score_win: Tensor, score_lose: Tensor, *, margin: float = 1.0, gamma: float = 5.0) -> Tensor:
    """Quadratically smoothed hinge on the gap (a Huber loss of margin - x)."""
    short = torch.relu(margin - difference(score_win, score_lose))
    return torch.where(short < gamma, short.square() / (2 * gamma), short - gamma / 2)


@loss(
    "reward",
    paper="2505.24846",
    formula="-log sum_k f_k s(x_k) + alpha sum_k f_k log f_k, f = softmax(route)",
    when="Voters of several minds (MiCRo): K heads, and a router that says which one speaks for a prompt.",
)
def mixture_bradley_terry(heads_win: Tensor, heads_lose: Tensor, route: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Mixture of Bradley-Terry models; heads are (b, K) scores, `route` (b, K) logits, alpha keeps the router open."""
    share = wide(route).log_softmax(-1)
    fit = (share + logsigmoid(difference(heads_win, heads_lose))).logsumexp(-1)
    return -fit + alpha * (share.exp() * share).sum(-1)


def hedge(route: Tensor, losses: Tensor, temperature: float = 1.0) -> Tensor:
    """The shares that MiCRo's second stage moves its router to: softmax(route) times exp(-losses / t), renormalised.

    All (b, K); `losses` are those of the heads on votes whose context is known (Hedge, Freund and Schapire 1997).
    """
    return (wide(route).log_softmax(-1) - losses / temperature).softmax(-1)


@loss(
    "reward",
    paper="2410.02197",
    formula="-log s(S / t), S = sum over planes of v1 u2 - v2 u1",
    when="Preferences that go in circles, which no scalar score can express.",
)
def general_preference(vector_win: Tensor, vector_lose: Tensor, *, temperature: float = 0.1) -> Tensor:
    """General preference model on (b, 2d) embeddings: a skew-symmetric score, so that swapping the pair negates it."""
    return -logsigmoid(skew_score(vector_win, vector_lose) / temperature)


def skew_score(first: Tensor, second: Tensor) -> Tensor:
    """Sum over planes of v1 u2 - v2 u1 for (b, 2d) embeddings v and u: how far `first` beats `second`, (b,)."""
    v, u = wide(first), wide(second)
    return (v[..., 0::2] * u[..., 1::2] - v[..., 1::2] * u[..., 0::2]).sum(-1)
