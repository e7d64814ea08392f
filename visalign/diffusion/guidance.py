"""Guidance: a network's answer, pushed away from the answer for the empty prompt, its own or another network's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..batches import Condition, joined
from ..process import Process

Predict = Callable[[Tensor, Tensor, Condition], Tensor]  # (x_t (n, ...), t (n,), condition (n, ...)) -> (n, ...)
Answer = Callable[[Tensor, Tensor], Tensor]  # (x_t (n, ...), t (n,)) -> (n, ...): a predict that was told everything


def pushed(told: Tensor, untold: Tensor, guidance: float) -> Tensor:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): untold + guidance (told - untold).

    The same line for noise, v and velocity: each is affine in the others at a given x_t, and the weights sum to 1. In
    float32 at least: in bfloat16 it would round as much once more as the networks did.
    """
    dtype = torch.promote_types(told.dtype, torch.float32)
    return untold.to(dtype) + guidance * (told.to(dtype) - untold.to(dtype))


def guided(
    predict: Predict, condition: Condition, empty: Condition, guidance: float, negative: Predict | None = None
) -> Answer:
    """What `predict` answers for a condition, pushed away from what `negative` answers for the empty one.

    No `negative`, or the same as `predict`, is plain guidance, asked in one call of 2n. Another network there is
    Diffusion-NPO's (arXiv 2505.11245): one that was trained to prefer the worse replaces the unconditional branch, at
    as many passes, in two calls of n. A guidance of 1 asks for the condition alone, 0 for the empty one alone.

    A network that is told its guidance (`Condition.guidance`) is asked once, and told this number, whatever it is.
    """
    if condition.guidance is not None:
        return embedded(predict, condition, guidance, negative)
    if guidance == 1.0:
        return lambda x, t: predict(x, t, condition)
    if guidance == 0.0:
        return lambda x, t: (negative or predict)(x, t, empty)
    if negative is not None and negative != predict:
        return lambda x, t: pushed(predict(x, t, condition), negative(x, t, empty), guidance)
    together = joined(empty, condition)

    def answer(x: Tensor, t: Tensor) -> Tensor:
        untold, told = predict(torch.cat([x, x]), torch.cat([t, t]), together).chunk(2)
        return pushed(told, untold, guidance)

    return answer


def embedded(predict: Predict, condition: Condition, guidance: float, negative: Predict | None = None) -> Answer:
    """What a network answers that was distilled from guided answers and is told how much they were guided."""
    if negative is not None and negative != predict:
        raise ValueError("nobody answers for the empty prompt where the network is told its guidance: draw without it")
    asked = replace(condition, guidance=torch.full((len(condition),), guidance, device=condition.text.device))
    return lambda x, t: predict(x, t, asked)


def walked(process: Process, answer: Answer, x: Tensor, t: Tensor, to: Tensor, told: Tensor | None = None) -> Tensor:
    """x (n, ...) moved from the time t () to the time `to` () by one answer, given at the time `told` (t if None)."""
    here, there, asked = (each.expand(len(x)) for each in (t, to, t if told is None else told))
    return process.step(answer(x, asked), x, here, there).to(x.dtype)
