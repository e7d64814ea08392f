"""Drawing pictures: walk a process down from noise, under classifier-free guidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .batches import Condition
from .contract import Denoiser
from .draws import Draws

Predict = Callable[[Tensor, Tensor, Condition], Tensor]  # (x_t (n, ...), t (n,), condition (n, ...)) -> (n, ...)


class Painter(Protocol):
    """What `pictures` needs of a model folder: prompts in, pixels out."""

    def conditions(self, prompts: Sequence[str], size: tuple[int, int]) -> Condition:
        """The conditions of n prompts for pictures of (height, width) pixels; "" is the unconditional one."""

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """The shape of one picture's latent."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1]."""


def initial_noise(seeds: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
    """(n, *shape) starting noise. A pure function of each picture's seed alone, so that models are paired on it."""
    return torch.cat([Draws(int(seed), ("picture",), (0,)).normal("start", shape, like) for seed in seeds])


def guided(
    predict: Predict, condition: Condition, empty: Condition, guidance: float
) -> Callable[[Tensor, Tensor], Tensor]:
    """Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): empty + guidance (told - empty), one call of 2n.

    A guidance of 1 asks the conditional model alone.
    """
    if guidance == 1.0:
        return lambda x, t: predict(x, t, condition)
    together = stacked(empty, condition)

    def answer(x: Tensor, t: Tensor) -> Tensor:
        untold, told = predict(torch.cat([x, x]), torch.cat([t, t]), together).chunk(2)
        return untold + guidance * (told - untold)

    return answer


def stacked(first: Condition, second: Condition) -> Condition:
    """Two conditions, one behind the other on the batch axis."""

    def join(left: Tensor | None, right: Tensor | None) -> Tensor | None:
        if (left is None) != (right is None):
            raise ValueError("one of the two conditions lacks a part that the other has")
        return None if left is None or right is None else torch.cat([left, right])

    return Condition(
        torch.cat([first.text, second.text]),
        join(first.pooled, second.pooled),
        join(first.time_ids, second.time_ids),
        join(first.user, second.user),
    )


@torch.no_grad()
def generate(
    model: Denoiser,
    condition: Condition,
    empty: Condition,
    noise: Tensor,
    *,
    steps: int,
    guidance: float = 1.0,
    predict: Predict | None = None,
) -> Tensor:
    """Latents (n, ...) drawn from `noise` (n, ...) in `steps` steps; `predict` defaults to the model's policy.

    For a DDPM path this is DDIM with eta = 0, for a flow path Euler.
    """
    answer = guided(predict or model.policy, condition, empty, guidance)
    grid = model.process.grid(steps).flip(0)
    x = noise
    for t, to in itertools.pairwise(grid):
        now = t.expand(len(x))
        x = model.process.step(answer(x, now), x, now, to.expand(len(x))).to(noise.dtype)
    return x


def pictures(
    painter: Painter,
    model: Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    size: tuple[int, int],
    steps: int,
    guidance: float,
    predict: Predict | None = None,
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[np.ndarray]:
    """Yield uint8 pictures (m, height, width, 3) for prompt i with seed i, at most `batch` at a time, in order."""
    if len(prompts) != len(seeds):
        raise ValueError(f"each prompt needs its seed: got {len(prompts)} prompts and {len(seeds)} seeds")
    for start in range(0, len(prompts), batch):
        words, numbers = prompts[start : start + batch], seeds[start : start + batch]
        told, untold = painter.conditions(words, size), painter.conditions([""] * len(words), size)
        like = torch.zeros((), device=device, dtype=dtype)
        noise = initial_noise(numbers, painter.latent_shape(size), like)
        latents = generate(model, told, untold, noise, steps=steps, guidance=guidance, predict=predict)
        yield to_uint8(painter.decode(latents))


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(n, 3, h, w) in [0, 1] to (n, h, w, 3) uint8, rounded to nearest."""
    array: np.ndarray = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return array
