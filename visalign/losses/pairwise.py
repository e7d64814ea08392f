"""Losses of a pair of log-ratios: how much likelier the winner and the loser are under the policy than the reference.

Every function takes `win` and `lose`, (b,) log-ratios, and returns (b,) losses, in float32 at least. What follows
them by position are further columns of the batch; what must be named are settings. `beta` is a number or (b,).
In formulas w and l are the two log-ratios, h = w - l, z = beta h, and s is the logistic sigmoid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .arithmetic import bounded_exp, difference, log1pexp, wide
from .registry import loss

Number = float | Tensor


@loss("h", paper="2305.18290 eq. 7", formula="-log s(z - margin)", when="The default: a plain vote on each pair.")
def dpo(win: Tensor, lose: Tensor, *, beta: Number, margin: Number = 0.0) -> Tensor:
    """Direct preference optimization; `margin` is the lead, in units of z, that the winner must have."""
    return log1pexp(margin - beta * difference(win, lose))


@loss(
    "h",
    paper="2309.06657",
    formula="max(0, 1 - z)",
    when="Pairs already told apart should pull no more.",
    beta=0.05,
    saturates="no gradient for z > 1",
)
def hinge(win: Tensor, lose: Tensor, *, beta: Number) -> Tensor:
    """Hinge on the scaled gap (the loss of SLiC-HF on normalised likelihoods, as RSO writes it)."""
    return torch.relu(1 - beta * difference(win, lose))


@loss(
    "h",
    paper="2310.12036 eq. 17",
    formula="(h - (P - 1/2) / beta)^2, P = 1",
    when="Noisy or deterministic votes that DPO would overfit: it stops at z = 1/2.",
    homogeneous=True,
)
def ipo(win: Tensor, lose: Tensor, *, beta: Number, preference: Number = 1.0) -> Tensor:
    """Identity preference optimization: regress the gap on (P - 1/2) / beta; P = 1 is the paper's 1 / (2 beta)."""
    return (difference(win, lose) - (preference - 0.5) / beta).square()


@loss(
    "h",
    paper="2402.00856 eq. 16",
    formula="KL(s(z) || 1 - epsilon)",
    when="Mode-seeking: a reverse KL to a confident vote. Its pull at z = 0 is 3.5 times DPO's.",
    saturates="no gradient for pairs that are badly wrong (z < -10)",
)
def exo_pair(win: Tensor, lose: Tensor, *, beta: Number, epsilon: float = 1e-3) -> Tensor:
    """Exact optimization for pairs: KL(Bernoulli(s(z)) || Bernoulli(1 - epsilon)), 0 < epsilon < 1.

    With q = s(-z), the two terms fold into log s(z) + q (logit(1 - epsilon) - z) - log(1 - epsilon).
    """
    if not 0 < epsilon < 1:
        raise ValueError(f"exo_pair needs 0 < epsilon < 1, such as 1e-3; {epsilon} was given")
    z = beta * difference(win, lose)
    keep = math.log1p(-epsilon)
    return torch.sigmoid(-z) * (keep - math.log(epsilon) - z) - log1pexp(-z) - keep


@loss(
    "h",
    paper="2406.08414 eq. 5",
    formula="s(-z/t) (-log s(z)) + s(z/t) e^-z",
    when="Experimental. Its gradient points the wrong way for z in (-0.119, 0.072), so it starts by unlearning.",
    beta=0.05,
)
def discopop(win: Tensor, lose: Tensor, *, beta: Number, temperature: float = 0.05) -> Tensor:
    """Log-ratio modulated loss found by DiscoPOP, 0 < temperature <= 1/2.

    Below z = -88 the published product s(z/t) e^-z is 0 * inf. Here the exponent stops at 40, where the gate, below
    e^-80, has long been shut.
    """
    if not 0 < temperature <= 0.5:
        raise ValueError(f"discopop needs 0 < temperature <= 1/2, such as 0.05; {temperature} was given")
    z = beta * difference(win, lose)
    return torch.lerp(log1pexp(-z), bounded_exp(-z), torch.sigmoid(z / temperature))


@loss(
    "h",
    paper="2506.02698",
    formula="-log s(c (2P - 1) z)",
    when="Pairs with a probability P from a reward model; equal scores pull nothing.",
)
def smpo(win: Tensor, lose: Tensor, confidence: Number, *, beta: Number, sharpness: float = 10.0) -> Tensor:
    """Smoothed preference (SmPO): the geometric soft label, DPO with beta times c (2P - 1); `confidence` is P."""
    return dpo(win, lose, beta=beta * sharpness * (2 * confidence - 1))


@loss(
    "h",
    paper="2406.11704",
    formula="KL(s(g) || s(z)), g = scale (r_w - r_l)",
    when="Pairs with reward-model scores: match the size of the gap, not only its sign.",
)
def rpo_backward(
    win: Tensor, lose: Tensor, score_win: Tensor, score_lose: Tensor, *, beta: Number, scale: float = 1.0
) -> Tensor:
    """Reward-aware preference optimization, the divergence that NeMo calls backward: from the scores to the policy."""
    return _bernoulli_kl(scale * difference(score_win, score_lose), beta * difference(win, lose))


@loss(
    "h",
    paper="2406.11704",
    formula="KL(s(z) || s(g)), g = scale (r_w - r_l)",
    when="As rpo_backward, mode-seeking.",
    saturates="no gradient for pairs that are badly wrong, as exo_pair",
)
def rpo_forward(
    win: Tensor, lose: Tensor, score_win: Tensor, score_lose: Tensor, *, beta: Number, scale: float = 1.0
) -> Tensor:
    """Reward-aware preference optimization, the divergence that NeMo calls forward: from the policy to the scores."""
    return _bernoulli_kl(beta * difference(win, lose), scale * difference(score_win, score_lose))


@loss(
    "h",
    paper="2406.11704",
    formula="(z - g)^2, g = scale (r_w - r_l)",
    when="As rpo_backward, by least squares.",
)
def rpo_square(
    win: Tensor, lose: Tensor, score_win: Tensor, score_lose: Tensor, *, beta: Number, scale: float = 1.0
) -> Tensor:
    """Reward-aware preference optimization by least squares; with beta = 1 on log-ratios to the sampler it is REBEL."""
    return (beta * difference(win, lose) - scale * difference(score_win, score_lose)).square()


def _bernoulli_kl(of: Tensor, to: Tensor) -> Tensor:
    """KL(Bernoulli(s(of)) || Bernoulli(s(to))) from logits; log s(-x) = log s(x) - x folds the two terms."""
    down = -of
    return torch.addcmul(log1pexp(-to) - log1pexp(down), torch.sigmoid(down), to + down)


@loss(
    "h",
    paper="2310.03708",
    formula="-log s((z - v.(m_w - m_l)) / w0), v = w[1:]",
    when="Several objectives: margin rewards m of the others, weights w summing to one.",
)
def modpo(
    win: Tensor, lose: Tensor, reward_win: Tensor, reward_lose: Tensor, *, beta: Number, weights: tuple[float, ...]
) -> Tensor:
    """Multi-objective DPO; `reward_*` are (b, m) rewards of the m other objectives, `weights` has m + 1 numbers."""
    own, *others = weights
    lead = difference(reward_win, reward_lose) @ wide(reward_win).new_tensor(others)
    return dpo(win, lose, beta=beta / own, margin=lead / own)


@loss(
    "h",
    paper="2407.00617",
    formula="(h - (1 - ratio) h_t - 1 / (2 beta))^2",
    when="Self-play against the previous policy pi_t; beta is the paper's eta, ratio its tau / eta.",
    homogeneous=True,
)
def inpo(
    win: Tensor, lose: Tensor, previous_win: Tensor, previous_lose: Tensor, *, beta: Number, ratio: float = 1 / 3
) -> Tensor:
    """Iterative Nash policy optimization: IPO about a mixture of reference and previous policy.

    `previous_*` are the previous policy's log-ratios to the same reference.
    """
    share = 1 - ratio
    return ipo(win - share * wide(previous_win), lose - share * wide(previous_lose), beta=beta)
