"""Answers that point at what they rest on: D2VLM's factorised preference (arXiv 2512.24097; nusnlp/d2vlm).

An answer is its text and K pieces of evidence, each a stretch [start, end] of the T frames of a video. An evidence
token is matched with every frame; the probability that it points at its stretch is a product over frames.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import wide
from .pairwise import Number, dpo
from .registry import loss

FLOOR = 1e-10  # the released code's, inside the logarithm of soft evidence


@loss(
    "reference_free",
    paper="2512.24097",
    formula="-log s(beta (a_text + a_evidence - b_text - b_evidence))",
    when="Answers with evidence in a video: what was said and where it was seen count alike. There is no reference.",
    scale="nats",
)
def fpo(
    logp_win: Tensor, logp_lose: Tensor, evidence_win: Tensor, evidence_lose: Tensor, *, beta: Number = 0.1
) -> Tensor:
    """Factorised preference optimisation: `evidence_*` (b,) are sums of `log_evidence` over an answer's evidence."""
    return dpo(wide(logp_win) + wide(evidence_win), wide(logp_lose) + wide(evidence_lose), beta=beta)


def matches(evidence: Tensor, frames: Tensor) -> Tensor:
    """(..., K, T) logits e f / sqrt(d) of K evidence tokens' states (..., K, d) against T frames' (..., T, d)."""
    found: Tensor = wide(evidence) @ wide(frames).transpose(-1, -2) / evidence.shape[-1] ** 0.5
    return found


def soft_stretch(start: Tensor, end: Tensor, frames: int, alpha: float = 2.0) -> Tensor:
    """(..., frames) alpha^(-distance of each frame to [start, end]): 1 within it. The released code's target.

    `start` and `end` are frame numbers, both within the stretch.
    """
    place = torch.arange(frames, device=start.device)
    before, behind = (start[..., None] - place).clamp(min=0), (place - end[..., None]).clamp(min=0)
    return alpha ** -(before + behind).double()


def log_evidence(match: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """(..., K) log-probability of each piece of evidence, from logits and targets (..., K, T) in [0, 1].

    Targets of 0 and 1 give the paper's product, log s(m) within the stretch and log(1 - s(m)) outside. Soft ones give
    the released code's log(t s(m) + (1 - t)(1 - s(m)) + 1e-10) (d2vlm_fpo_arch.py:893-936), its floor included.
    `mask` (..., T) leaves out frames that are not there.
    """
    match, target = wide(match), target.to(wide(match))
    if bool(((target == 0) | (target == 1)).all()):
        each = torch.where(target == 1, logsigmoid(match), logsigmoid(-match))
    else:
        chance = match.sigmoid()
        each = (target * chance + (1 - target) * (1 - chance) + FLOOR).log()
    return each.sum(-1) if mask is None else each.where(mask, 0.0).sum(-1)
