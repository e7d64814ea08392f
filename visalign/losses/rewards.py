"""Objectives for reward models: `score_win` and `score_lose` are (b,) scores that it gives, x their gap."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import difference, wide
from .pairwise import Number, dpo
from .registry import loss


@loss(
    "reward",
    paper="1952 (Bradley and Terry)",
    formula="-log s(x - margin)",
    when="The default for a reward model. A margin (0.57 in VideoAlign and EditReward) asks for a clear lead.",
)
def bradley_terry(score_win: Tensor, score_lose: Tensor, *, margin: Number = 0.0) -> Tensor:
    """Bradley-Terry negative log-likelihood of a vote."""
    return dpo(score_win, score_lose, beta=1.0, margin=margin)


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
