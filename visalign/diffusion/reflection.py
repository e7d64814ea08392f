"""Reflection: before a step down, one step down by a strong model and one back up by a weak one.

Bai et al., "Weak-to-Strong Diffusion with Reflection" (W2SD, arXiv 2502.00473), algorithm 1:

    x~_t = M_weak^inverse(M_strong(x_t, t), t)        for the first lambda steps
    x_{t-1} = M(x~_t, t)

The round trip moves x_t along the difference of the two answers: by sqrt(abar_t) (n_t - n_s) (e_weak - e_strong), n
being the ratio of noise to signal. That is, to first order, from the weak model's density towards the strong one's. The
gap between the two can be one of weights, of guidance (Z-sampling, arXiv 2412.10891), or of what they are told. It
costs two evaluations a reflected step: T + 2 lambda in all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ..batches import Condition
from ..process import Flow, Process
from .guidance import Answer, Predict, guided, walked

VARIANTS = ("paper", "release")
Mirror = Callable[[Tensor, int], Tensor]  # (x_t (n, ...), its place in the descending grid) -> x~_t (n, ...)


@dataclass(frozen=True)
class Side:
    """Who answers in a reflection, under how much guidance, and told what (None: what the drawing is told)."""

    predict: Predict
    guidance: float = 1.0
    condition: Condition | None = None  # (n, ...)
    negative: Predict | None = None  # who answers for the empty prompt; None: predict

    def answer(self, condition: Condition, empty: Condition) -> Answer:
        """This side's guided answer."""
        told = condition if self.condition is None else self.condition
        return guided(self.predict, told, empty, self.guidance, self.negative)


@dataclass(frozen=True)
class Reflection:
    """W2SD's reflection between two sides, before each of the first `count` steps (lambda; None: all but the last).

    Both sides are told the time t. On the way back a DDPM path holds the noise that the weak answer implies, as in the
    paper, so that a network of noise and the same one of v reflect alike; a flow holds the velocity.

    The official code (xie-lab-ml/Weak-to-Strong-Diffusion-with-Reflection, utils/pipeline_stable_diffusion_xl.py:1099)
    hands diffusers' DDIMInverseScheduler the time of the next step, which since diffusers 0.22 means the destination:
    it goes back one level too few, from a level one lower than x is at. `variant` "release" does that; of 50 steps the
    relative noise is then off by 4 to 62 % in the last three. An answer in v for the time t it takes, as that scheduler
    does, for one at the level where x is.
    """

    strong: Side
    weak: Side
    count: int | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ValueError(f"variant {self.variant!r} is not one of {', '.join(VARIANTS)}")

    def mirror(self, process: Process, condition: Condition, empty: Condition, grid: Tensor) -> Mirror:
        """x_t and its place in the descending grid (steps + 1,) to its reflection; to itself once `count` are done."""
        strong, weak = (side.answer(condition, empty) for side in (self.strong, self.weak))
        count = counted(self.count, len(grid) - 1)

        def reflected(x: Tensor, place: int) -> Tensor:
            if place >= count:
                return x
            t, to, after = grid[place], grid[place + 1], grid[place + 2]
            lower = walked(process, strong, x, t, to)
            if self.variant == "release":
                return walked(process, weak, lower, after, to, told=t)
            return returned(process, weak, lower, to, t)

        return reflected


def returned(process: Process, weak: Answer, x: Tensor, t: Tensor, to: Tensor) -> Tensor:
    """x (n, ...) at the time t () brought back up to `to` () by an answer that is given as if it already were there."""
    if isinstance(process, Flow):
        return walked(process, weak, x, t, to, told=to)
    here, there = t.expand(len(x)), to.expand(len(x))
    _, noise = process.split(weak(x, there), x, there)
    a, s = process.coefficients(here, x)
    return process.noised((x - s * noise) / a, noise, there).x.to(x.dtype)


def counted(count: int | None, steps: int) -> int:
    """How many of `steps` steps are reflected: never the last, whose destination is the clean end."""
    if count is None:
        return steps - 1
    if not 0 <= count <= steps - 1:
        raise ValueError(f"of {steps} steps 0 … {steps - 1} can be reflected, got {count}")
    return count
