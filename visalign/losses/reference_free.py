"""Losses that need no reference model: they read the policy's own log-probabilities (MaPO: its denoising errors).

`logp_*` are sums over an answer's tokens and `mean_logp_*` means, (b,), in nats. In formulas a and b are the means of
winner and loser, lo(x) = x - log(1 - e^x) the log-odds, s the logistic sigmoid.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import bounded_expm1, difference, log_odds, wide
from .pairwise import Number, dpo
from .registry import loss

SATURATES_AT_ONE = "log-odds are held at p = 1 - eps, with zero gradient beyond"


@loss(
    "reference_free",
    paper="supervised fine-tuning",
    formula="-a",
    when="Blended into another loss, to keep the winner likely. Weight by length for TRL's mean over a batch's tokens.",
)
def sft(mean_logp_win: Tensor) -> Tensor:
    """Negative mean log-probability of the winner: a mean a sample, whatever its length. It has no label to mix."""
    return -wide(mean_logp_win)


@loss("reference_free", paper="supervised fine-tuning", formula="-log pi(y_w)", when="As sft, summed over the tokens.")
def nll(logp_win: Tensor) -> Tensor:
    """Negative log-likelihood of the winner, summed over its tokens."""
    return -wide(logp_win)


@loss(
    "reference_free",
    paper="2405.16681",
    formula="-log pi(y_gold) / |y_gold|",
    when="The third response of TPO: the gold answer, apart from the pair.",
)
def sft_gold(mean_logp_gold: Tensor) -> Tensor:
    """Negative mean log-probability of a gold answer that is in neither place of the pair."""
    return -wide(mean_logp_gold)


@loss(
    "reference_free",
    paper="2501.03884",
    formula="-log s(beta (r(a) - r(b)) - gamma), r(x) = (1 - e^(-alpha x)) / alpha",
    when="SimPO with a reward that bends: alpha > 0 punishes unlikely answers more. alpha -> 0 is SimPO.",
    scale="nats",
    beta=2.5,
    saturates="exponents stop at 40 (alpha a < -40), with zero gradient beyond",
)
def alphapo(
    mean_logp_win: Tensor, mean_logp_lose: Tensor, *, beta: Number, gamma: float = 0.1, alpha: float = 0.25
) -> Tensor:
    """AlphaPO, by expm1: exponentiating first and taking a power then loses the digits of long answers."""
    win, lose = (-bounded_expm1(-alpha * wide(logp)) / alpha for logp in (mean_logp_win, mean_logp_lose))
    return dpo(win, lose, beta=beta, margin=gamma)


@loss(
    "reference_free",
    paper="2403.07691 eq. 7",
    formula="-log s(lo(a) - lo(b))",
    when="The odds-ratio term of ORPO, alone.",
    scale="nats",
    saturates=SATURATES_AT_ONE,
)
def odds_ratio(mean_logp_win: Tensor, mean_logp_lose: Tensor) -> Tensor:
    """Odds-ratio term of ORPO: the winner's odds over the loser's."""
    return -logsigmoid(log_odds(wide(mean_logp_win)) - log_odds(wide(mean_logp_lose)))


@loss(
    "reference_free",
    paper="2409.10571",
    formula="-log s(lo(a)) - log s(-lo(b)) = -a - log(1 - e^b)",
    when="The alignment term of ASFT, alone: each side against its own odds.",
    scale="nats",
    saturates=SATURATES_AT_ONE,
)
def asft_align(mean_logp_win: Tensor, mean_logp_lose: Tensor) -> Tensor:
    """Alignment term of ASFT; s(lo(x)) is e^x itself, so the first term is the winner's negative log-probability."""
    return -logsigmoid(log_odds(wide(mean_logp_win))) - logsigmoid(-log_odds(wide(mean_logp_lose)))


@loss(
    "reference_free",
    paper="2305.10425",
    formula="max(0, delta - log pi(y_w) + log pi(y_l))",
    when="The calibration term of SLiC-HF, alone. TRL's hinge is not this: that one is scaled and has a reference.",
    saturates="no gradient once the gap is above delta",
)
def slic_calibration(logp_win: Tensor, logp_lose: Tensor, *, delta: float = 1.0) -> Tensor:
    """Rank calibration of SLiC-HF on sequence log-probabilities."""
    return (delta - difference(logp_win, logp_lose)).relu()


@loss(
    "reference_free",
    paper="2406.06424",
    formula="m_w - beta log s(T (g(m_w) - g(m_l))), g(m) = x / (e^x - 1), x = sharpness m",
    when="Diffusion without a reference: half the memory, and a supervised term on the winner.",
)
def mapo(
    error_win: Tensor, error_lose: Tensor, *, beta: Number, sharpness: float = 0.5, timesteps: float = 1000.0
) -> Tensor:
    """Margin-aware preference optimization; `error_*` are mean squared denoising errors m, not log-ratios.

    A tie has a gradient: the margin term falls on both sides with opposite signs, the supervised one on the winner.
    """
    gap = mapo_gap(error_win, error_lose, sharpness=sharpness, timesteps=timesteps)
    return wide(error_win) - beta * logsigmoid(gap)


def mapo_gap(error_win: Tensor, error_lose: Tensor, *, sharpness: float, timesteps: float) -> Tensor:
    """What the sigmoid of `mapo` sees, (b,): T (g(m_w) - g(m_l)), above 0 where the winner's error is smaller."""
    return timesteps * (_bernoulli_root(sharpness * wide(error_win)) - _bernoulli_root(sharpness * wide(error_lose)))


def _bernoulli_root(x: Tensor) -> Tensor:
    """x / (e^x - 1), by its series -x/2 + x^2/12 about zero, where the quotient is 0 / 0."""
    near = x.abs() < 1e-4
    away = x.where(~near, 1.0)
    return (1 - x / 2 + x.square() / 12).where(near, away / bounded_expm1(away))
