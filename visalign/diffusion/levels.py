"""Levels of a path from clean to noisy, and short walks over them in which each record starts at a level of its own."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..process import Ddpm, Process
from .guidance import Answer


def evenly(process: Process, steps: int) -> Tensor:
    """(steps + 1,) times up to the noisiest, with equal gaps, from the cleanest at which a network can be asked."""
    if isinstance(process, Ddpm):
        process = replace(process, spacing="trailing")
    return process.grid(steps).clamp(min=0)


def between(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """(n,) times that lie at the uniform `share` (n,) of the way from `low` (n,) up to `high` (): low excluded, where
    times are whole numbers."""
    if low.is_floating_point():
        return low + share * (high - low)
    return low + 1 + (share * (high - low)).long()


def approached(process: Process, answer: Answer, x: Tensor, top: Tensor, t: Tensor, steps: int) -> Tensor:
    """x (n, ...) at the time `top` () walked to the times t (n,), each in `steps` steps of equal length."""
    way = [torch.lerp(top.double().expand(len(t)), t.double(), i / steps) for i in range(steps + 1)]
    times = [each if t.is_floating_point() else each.round().long() for each in way]
    for here, there in pairwise(times):
        x = process.step(answer(x, here), x, here, there)
    return x


def truncated(
    process: Process, answer: Answer, x: Tensor, place: Tensor, levels: Tensor, steps: int, *, stale: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """`steps` levels down from levels[place]: x (n, ...), its time (n,) and the picture implied there.

    What has come to levels[0] stays, whatever else is in the batch; with `stale` the picture is then not asked for anew
    if nothing of the batch still moves.
    """
    for left in reversed(range(steps + 1)):
        t = levels[place]
        prediction = answer(x, t)
        target, _ = process.split(prediction, x, t)
        below = (place - 1).clamp(min=0)
        arrives = stale and not bool(below.any())
        if left:
            moves = (place > 0).to(x.device).reshape(-1, *[1] * (x.ndim - 1))
            x = torch.where(moves, process.step(prediction, x, t, levels[below]), x)
            place = below
        if left == 0 or arrives:
            break
    return x, levels[place], target
