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
from ..process import Flow, Process
from .inversion import deviation


def walk(process: Process, steps: int) -> list[tuple[Tensor, Tensor]]:
    """The (from, to) times of a drawing, noisiest first, as far as a step leaves anything to chance.

    The last one ends at time 0 of a DDPM path, not at its clean end, as in SPO's released code; a flow's last step is
    certain and left out.
    """
    times = process.grid(steps).clamp(min=0).flip(0)
    like = torch.zeros(1, dtype=torch.float64)
    return [(t, to) for t, to in pairwise(times) if float(deviation(process, like, to[None], t[None])) > 0]


def transition(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, level: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Mean (n, ...) and deviation (n, 1, …) of x at the times `to`, given x at t: DDIM with eta = `level`
    (arXiv 2010.02502, eq. 12 and 16), written for any Gaussian path."""
    return _landing(process, prediction, x, t, to, level * deviation(process, x, to, t))


def preserving(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, level: float = 0.8
) -> tuple[Tensor, Tensor]:
    """Likewise with the deviation s(to) sin(level pi / 2), a share of the noise that is left at `to` (Flow-CPS, arXiv
    2509.05952; yifan123/flow_grpo, sde_type "cps"): x there has as much noise as the path wants, for any step length.
    """
    _, s_to = process.coefficients(to, x)
    return _landing(process, prediction, x, t, to, s_to * math.sin(level * math.pi / 2))


def _landing(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, spread: Tensor
) -> tuple[Tensor, Tensor]:
    """x at `to` where `spread` of its noise is fresh and the rest is what the network names."""
    a_to, s_to = process.coefficients(to, x)
    x0, noise = process.split(prediction, x, t)
    return a_to * x0 + (s_to.square() - spread.square()).clamp(min=0).sqrt() * noise, spread


def diffused(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, level: float = 0.7
) -> tuple[Tensor, Tensor]:
    """An Euler-Maruyama step of a flow's SDE with diffusion level sqrt(t / (1 - t)) (Flow-GRPO, arXiv 2505.05470, eq.
    9), which grows without bound towards pure noise: there the 1 - t of the step's end is taken, as in released code.
    """
    (a, s), (a_to, _) = process.coefficients(t, x), process.coefficients(to, x)
    return _euler(process, prediction, x, t, to, level * (s / torch.where(a == 0, a_to, a)).sqrt())


def steadily(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, level: float = 0.3
) -> tuple[Tensor, Tensor]:
    """Likewise with one diffusion, `level`, at all times (DanceGRPO, arXiv 2505.07818)."""
    _, s = process.coefficients(t, x)
    return _euler(process, prediction, x, t, to, torch.full_like(s, level))


def _euler(
    process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor, diffusion: Tensor
) -> tuple[Tensor, Tensor]:
    """x + (v + diffusion^2 / (2 t) noise) dt, deviation diffusion sqrt(-dt); the score of a flow is -noise / t."""
    if not isinstance(process, Flow):
        raise ValueError("this noise is that of a flow's SDE, and the model's path is none: noise=ddim or noise=cps")
    (_, s), (_, s_to) = process.coefficients(t, x), process.coefficients(to, x)
    x0, noise = process.split(prediction, x, t)
    step = s_to - s
    return x + (noise - x0 + diffusion.square() / (2 * s) * noise) * step, diffusion * (-step).sqrt()


def log_prob(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """(n,) log-density of x (n, ...) under independent normals: their mean, not their sum, over the latent.

    So do the released codes (RockeyCoss/SPO, ddim_with_logprob.py), and clip ranges are on that scale.
    """
    each = -((x - mean) / spread).square() / 2 - spread.log() - math.log(2 * math.pi) / 2
    return each.flatten(1).mean(1)


def divergence(mean: Tensor, other: Tensor, spread: Tensor) -> Tensor:
    """(n,) KL of two normals (n, ...) of one deviation (n, 1, …), a mean over the latent (arXiv 2505.05470, eq. 10)."""
    each: Tensor = ((mean - other) / spread).square() / 2
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
