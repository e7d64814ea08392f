"""Losses of two log-ratios that look at each for itself: they say where the winner should go, not only the gap.

`win` and `lose` are (b,) log-ratios, w and l in the formulas; s is the logistic sigmoid. What they anchor to zero is
log(policy / reference) itself, so the constant beta log Z does not cancel and no f-divergence may stand before them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import wide
from .pairwise import Number, dpo
from .registry import loss


@loss(
    "wl",
    paper="2402.13228",
    formula="-log s(beta (h - penalty max(0, -w)))",
    when="The winner's likelihood falls with the loser's. Below w = 0 it pulls 1 + penalty times as hard.",
    beta=0.3,
)
def dpop(win: Tensor, lose: Tensor, *, beta: Number, penalty: float = 50.0) -> Tensor:
    """DPO-positive (Smaug): DPO on a winner that is punished for every nat lost to the reference."""
    return dpo(win - penalty * torch.relu(-wide(win)), lose, beta=beta)


@loss(
    "wl",
    paper="2406.07327",
    formula="-log s(beta (w - share l))",
    when="The loser runs away faster than the winner rises: push it with a smaller beta.",
)
def two_beta(win: Tensor, lose: Tensor, *, beta: Number, share: float = 0.5) -> Tensor:
    """DPO with a beta for each side, beta and beta * share (as 3D-Properties proposes; D2O has the same form)."""
    return dpo(win, share * wide(lose), beta=beta)


@loss(
    "wl",
    paper="2402.05369",
    formula="-log s(beta w) - 1/2 log s(-beta w) - 1/2 log s(-beta l)",
    when="Keep the winner's likelihood from falling; it rests at beta w = log 2.",
    beta=0.01,
)
def nca_pair(win: Tensor, lose: Tensor, *, beta: Number) -> Tensor:
    """Noise contrastive alignment of a pair (the K = 2 case of `nca`, all the weight on the winner)."""
    up, down = beta * wide(win), beta * wide(lose)
    return -logsigmoid(up) - 0.5 * logsigmoid(-up) - 0.5 * logsigmoid(-down)


@loss(
    "wl",
    paper="2404.04656",
    formula="-log s(beta w - d) - log s(-(beta l - d))",
    when="Each side classified on its own. d = 0 is TRL >= 0.29; the mean reward (state.RewardShift) TRL <= 0.28.",
)
def bco_pair(win: Tensor, lose: Tensor, *, beta: Number, shift: Number = 0.0) -> Tensor:
    """Binary classifier optimization on a pair; `shift` is d, the reward that tells good from bad."""
    return -logsigmoid(beta * wide(win) - shift) - logsigmoid(shift - beta * wide(lose))


@loss(
    "wl",
    paper="2405.00675 eq. 4.7",
    formula="1/2 ((w - (P_w - 1/2) / beta)^2 + (l - (P_l - 1/2) / beta)^2)",
    when="Self-play with win probabilities from a pairwise judge; the reference is the policy that drew the samples.",
    beta=1e-3,
    homogeneous=True,
)
def sppo(win: Tensor, lose: Tensor, p_win: Number, p_lose: Number, *, beta: Number) -> Tensor:
    """Self-play preference optimization; `p_*` are the probabilities that each beats the current policy."""
    high = wide(win) - (p_win - 0.5) / beta
    low = wide(lose) - (p_lose - 0.5) / beta
    return 0.5 * (high.square() + low.square())


@loss(
    "wl",
    paper="2412.14516",
    formula="-log s(h) + weight ((w - 1/(2 beta))^2 + (l + 1/(2 beta))^2)",
    when="The scale of the implicit reward matters. Its logistic term has unit beta, so it needs nats.",
    scale="nats",
)
def cal_dpo(win: Tensor, lose: Tensor, *, beta: Number, weight: float = 1.0) -> Tensor:
    """Calibrated DPO, the paper's pseudo-code; its repository has weight 1/2 and means of squares over the batch."""
    half = 0.5 / beta
    return dpo(win, lose, beta=1.0) + weight * ((wide(win) - half).square() + (wide(lose) + half).square())


@loss(
    "wl",
    paper="2408.06266 eq. 7",
    formula="s(-beta w) + s(beta l)",
    when="The winners are better than what the model writes: raise them, lower the losers.",
    saturates="no gradient far from zero, on either side",
)
def apo_zero(win: Tensor, lose: Tensor, *, beta: Number) -> Tensor:
    """Anchored preference optimization, zero: winner up, loser down."""
    return torch.sigmoid(-beta * wide(win)) + torch.sigmoid(beta * wide(lose))


@loss(
    "wl",
    paper="2408.06266 eq. 8",
    formula="s(beta w) + s(-z)",
    when="The winners are worse than what the model writes: lower both, the losers more.",
    saturates="no gradient far from zero, on either side",
)
def apo_down(win: Tensor, lose: Tensor, *, beta: Number) -> Tensor:
    """Anchored preference optimization, down: both down, the loser further."""
    return torch.sigmoid(beta * wide(win)) + torch.sigmoid(-beta * (wide(win) - wide(lose)))
