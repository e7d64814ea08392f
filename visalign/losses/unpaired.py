"""Losses of single items marked desirable or not: `ratio` is (b,) log-ratios, `desirable` (b,) booleans or +1 / -1."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import wide
from .pairwise import Number
from .registry import loss


def side(desirable: Tensor, like: Tensor) -> Tensor:
    """+1 where desirable, -1 elsewhere, in the dtype of `like`; True, 1 and +1 all mean desirable."""
    return torch.where(desirable > 0, 1.0, -1.0).to(like.dtype)


def _share(desirable: Tensor, up: float, down: float) -> Tensor | float:
    return 1.0 if up == down == 1.0 else torch.where(desirable > 0, up, down)


@loss(
    "unpaired",
    paper="2402.01306",
    formula="u s(-beta (ratio - z0)) if desirable, v s(beta (ratio - z0)) if not",
    when="Thumbs up and down without pairs. Keep u n_up / (v n_down) between 1 and 4/3.",
    saturates="no gradient far from z0, on either side",
)
def kto(
    ratio: Tensor,
    desirable: Tensor,
    z0: Number,
    *,
    beta: Number,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Kahneman-Tversky optimization; `z0` is the reference point in units of log-ratio (see `state.ReferencePoint`)."""
    sign = side(desirable, wide(ratio))
    share = _share(desirable, desirable_weight, undesirable_weight)
    return share * torch.sigmoid(-sign * beta * (wide(ratio) - z0))


@loss(
    "unpaired",
    paper="2404.04465",
    formula="u (1 - log s(v)) if desirable, v (1 - log s(v)) if not, v = +-beta (ratio - z0)",
    when="As kto, without its saturation: what is still far on the wrong side pulls most.",
)
def kto_loss_averse(
    ratio: Tensor,
    desirable: Tensor,
    z0: Number,
    *,
    beta: Number,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Diffusion-KTO's loss-averse utility log s(v), concave: 1 minus it (section 4.2)."""
    sign = side(desirable, wide(ratio))
    share = _share(desirable, desirable_weight, undesirable_weight)
    return share * (1 - logsigmoid(sign * beta * (wide(ratio) - z0)))


@loss(
    "unpaired",
    paper="2404.04465",
    formula="u (1 + log s(-v)) if desirable, v (1 + log s(-v)) if not, v = +-beta (ratio - z0)",
    when="For comparison: what is already far on the right side pulls most, so that nothing holds it.",
    saturates="no gradient far on the wrong side",
)
def kto_risk_seeking(
    ratio: Tensor,
    desirable: Tensor,
    z0: Number,
    *,
    beta: Number,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> Tensor:
    """Diffusion-KTO's risk-seeking utility -log s(-v), convex: 1 minus it, unbounded below (section 4.2)."""
    sign = side(desirable, wide(ratio))
    share = _share(desirable, desirable_weight, undesirable_weight)
    return share * (1 + logsigmoid(-sign * beta * (wide(ratio) - z0)))


@loss(
    "unpaired",
    paper="2404.04656",
    formula="-log s(r - d) if desirable, -v log s(d - r) if not, r = beta ratio",
    when="Thumbs up and down without pairs, as a classifier; d is the running mean of r (see `state.RewardShift`).",
)
def bco(
    ratio: Tensor, desirable: Tensor, *, beta: Number, shift: Number = 0.0, undesirable_weight: float = 1.0
) -> Tensor:
    """Binary classifier optimization; the paper's density ratio of an undesirable item multiplies its sample weight."""
    sign = side(desirable, wide(ratio))
    return _share(desirable, 1.0, undesirable_weight) * -logsigmoid(sign * (beta * wide(ratio) - shift))


@loss(
    "unpaired",
    paper="2404.05868",
    formula="-(2 / beta) log s(-beta ratio)",
    when="Unlearning: only bad answers, no good ones. Not Diffusion-NPO, which trains a negative model.",
)
def npo_unlearning(ratio: Tensor, *, beta: Number) -> Tensor:
    """Negative preference optimization of undesirable answers alone; beta -> 0 is gradient ascent on their NLL."""
    return -2 / beta * logsigmoid(-beta * wide(ratio))
