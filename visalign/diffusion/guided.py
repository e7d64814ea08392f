"""Takes that share what they show: several drawings from one real picture or clip, each from noise of its own.

DenseDPO (Wu et al., arXiv 2506.03517, section 3.2) makes its pairs so, after SDEdit (arXiv 2108.01073): what is real is
noised to a level from which layout and motion can still be read, and drawn on from there. Two takes then differ in
detail alone, which can be compared piece by piece. Both of a pair start at one level: at two, the paper reports, a
model learns to tell them apart by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import Condition
from ..contract import Denoiser
from ..draws import Draws
from ..process import Ddpm, Process
from ..strict import ConfigError
from .guidance import Answer, Predict, guided

LOW, HIGH = 0.65, 0.80  # levels as the paper draws them; slow motion stands 0.85


@dataclass(frozen=True)
class Takes:
    """What was drawn from n real latents."""

    x: Tensor  # (n, takes, ...)
    level: Tensor  # (n,) float64, the share of noise that the takes of each began with


def noise_share(process: Process, t: Tensor) -> Tensor:
    """(n,) s / (a + s) at the times t (n,), in float64: the noise's share of a mixture of picture and noise.

    A flow's time is this share. Any path is a flow that is scaled, x_t = (a + s) ((1 - share) x0 + share noise), so the
    share, like the signal-to-noise ratio (1 - share) / share, says how much of a picture is left whatever the path's
    times are called: a shifted schedule, whose times crowd at the noisy end, does not change it.
    """
    a, s = process.coefficients(t, torch.zeros(len(t), dtype=torch.float64))
    return s / (a + s)


def time_at(process: Process, share: Tensor) -> Tensor:
    """(n,) times with these shares of noise: of a flow exactly, of a DDPM path the whole time that comes nearest.

    Raises ConfigError for a share that the path does not reach.
    """
    shares = noise_share(process, torch.arange(process.length)) if isinstance(process, Ddpm) else torch.tensor([0, 1])
    if bool((share < shares[0]).any()) or bool((share > shares[-1]).any()):
        given, ends = share.tolist(), (float(shares[0]), float(shares[-1]))
        raise ConfigError(f"levels are shares of noise, on this path in {ends[0]:.3g} … {ends[1]:.3g}; got {given}")
    if isinstance(process, Ddpm):
        return (shares[None] - share.double()[:, None]).abs().argmin(1)
    return share.double()


@torch.no_grad()
def walked_down(process: Process, answer: Answer, x: Tensor, t: Tensor, steps: int) -> Tensor:
    """x (n, ...) at the times t (n,) drawn to the clean end: each its own t, then the levels below it of the grid of
    `steps` by which the model draws from pure noise."""
    for to in process.grid(steps).flip(0):
        moves = t > to
        if bool(moves.any()):
            there = torch.where(moves, to, t)
            stepped = process.step(answer(x, t), x, t, there).to(x.dtype)
            x = torch.where(moves.to(x.device).reshape(-1, *[1] * (x.ndim - 1)), stepped, x)
            t = there
    return x


@torch.no_grad()
def guided_takes(
    model: Denoiser,
    x: Tensor,
    condition: Condition,
    empty: Condition,
    draw: Draws,
    *,
    steps: int,
    guidance: float = 1.0,
    count: int = 2,
    levels: tuple[float, float] = (LOW, HIGH),
    predict: Predict | None = None,
    negative: Predict | None = None,
) -> Takes:
    """`count` drawings from each of n clean latents x (n, ...) of pictures or clips, by the model's own sampler.

    The level is uniform in `levels`, from each record's stream "level", one for all its takes; take k starts from the
    noise of the stream "take/k", so that more takes begin with the same ones. `steps` are those of a drawing from pure
    noise, of which a take goes those below its level. `predict`, the policy by default, is asked for a take of each
    record at a time.
    """
    t = _start(model.process, draw, levels)
    answer = guided(predict or model.policy, condition, empty, guidance, negative)
    drawn = [walked_down(model.process, answer, each, t, steps) for each in _started(model.process, x, t, draw, count)]
    return Takes(torch.stack(drawn, dim=1), noise_share(model.process, t))


def level_of(process: Process, draw: Draws, levels: tuple[float, float] = (LOW, HIGH)) -> Tensor:
    """(n,) the level of each record's takes, none of which is drawn; ConfigError if the path has no such `levels`."""
    return noise_share(process, _start(process, draw, levels))


def _start(process: Process, draw: Draws, levels: tuple[float, float]) -> Tensor:
    low, high = levels
    time_at(process, torch.tensor(levels))  # refused whichever levels between are drawn
    return time_at(process, low + (high - low) * draw.uniform("level"))


def _started(process: Process, x: Tensor, t: Tensor, draw: Draws, count: int) -> Iterator[Tensor]:
    """x (n, ...) at the times t (n,), `count` times with new noise."""
    for take in range(count):
        noise = draw.normal(f"take/{take}", x.shape[1:], like=x)
        yield process.noised(x, noise, t).x.to(x.dtype)
