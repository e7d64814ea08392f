"""Steps along a path that leave something to chance: down to less noise, up to more, and the candidates of one step.

Methods that draw with the policy and learn from what it drew (policy gradients, step-wise preferences) need of a step
its mean, its deviation and the density of what came of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..contract import Loss
from ..process import Process
from .inversion import deviation


def walk(process: Process, steps: int) -> list[tuple[Tensor, Tensor]]:
    """The (from, to) times of a drawing, noisiest first, as far as a step leaves anything to chance.

    The last one ends at time 0 of a DDPM path, not at its clean end, as in SPO's released code; a flow's last step is
    certain and left out.
    """
    times = process.grid(steps).clamp(min=0).flip(0)
    like = torch.zeros(1, dtype=torch.float64)
    return [(t, to) for t, to in pairwise(times) if float(deviation(process, like, to[None], t[None])) > 0]


def transition(process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, ...) and deviation (n, 1, …) of x at the times `to`, given x at t: DDIM with eta = 1 (arXiv 2010.02502,
    eq. 12 and 16), written for any Gaussian path."""
    a_to, s_to = process.coefficients(to, x)
    x0, noise = process.split(prediction, x, t)
    spread = deviation(process, x, to, t)
    return a_to * x0 + (s_to.square() - spread.square()).clamp(min=0).sqrt() * noise, spread


def log_prob(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """(n,) log-density of x (n, ...) under independent normals: their mean, not their sum, over the latent.

    So do the released codes (RockeyCoss/SPO, ddim_with_logprob.py), and clip ranges are on that scale.
    """
    each = -((x - mean) / spread).square() / 2 - spread.log() - math.log(2 * math.pi) / 2
    return each.flatten(1).mean(1)


def renoised(process: Process, x: Tensor, t: Tensor, to: Tensor, noise: Tensor) -> Tensor:
    """x (n, ...) at the times t taken to the noisier times `to` by the path's own transition, a Markov step."""
    (a, s), (a_to, s_to) = process.coefficients(t, x), process.coefficients(to, x)
    kept = a_to / a
    return kept * x + (s_to.square() - (kept * s).square()).clamp(min=0).sqrt() * noise


def chosen(drawn: Tensor, row: Tensor) -> Tensor:
    """Candidate number row[i] (n,) of record i: (n, ...) of (n, candidates, ...)."""
    return drawn[torch.arange(len(row), device=row.device), row]


def extremes(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which candidate scored best and worst, (n,) each, and by how much they differ, of scores (n, candidates).

    NaN is nobody's score. Where all are NaN the gap is -inf and the two numbers mean nothing.
    """
    unknown = scores.isnan()
    best, win = scores.masked_fill(unknown, -math.inf).max(1)
    worst, lose = scores.masked_fill(unknown, math.inf).min(1)
    return win, lose, best - worst


def over_steps(found: Sequence[Mapping[str, Tensor]], weight: Tensor) -> Loss:
    """One loss a record of what each step said, (n,) columns by name, `loss` and `kept` (1 or 0: it counts) among them.

    `loss` and `margin` are means over the steps that count, `score` over all whose score is known; the record's weight
    is multiplied by `kept`, the share of steps that count.
    """
    table = {name: torch.stack([step[name] for step in found]) for name in found[0]}
    kept = table["kept"]
    count = kept.sum(0)
    each, margin = ((table[name] * kept).sum(0) / count.clamp(min=1) for name in ("loss", "margin"))
    share = kept.mean(0)
    return Loss(each, {"margin": margin, "kept": share, "score": table["score"].nanmean(0)}, weight * share)
