"""Drawing pictures: walk a process down from noise, under guidance, and reflected on the way where that is asked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..batches import Condition
from ..contract import Denoiser
from ..draws import Draws
from .guidance import Predict, guided, walked
from .reflection import Reflection

LATENTS = 2**19  # elements that are drawn together where nothing else is said: 32 pictures of 4 x 64 x 64
MOST = 32  # pictures drawn together where nothing else is said


class Painter(Protocol):
    """What `pictures` needs of a model folder: prompts in, pixels out."""

    def conditions(self, prompts: Sequence[str], size: tuple[int, ...]) -> Condition:
        """The conditions of n prompts for pictures of (height, width) pixels; "" is the unconditional one."""

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the latent of one picture (height, width), or of one clip (frames, height, width)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, h, w), or (n, 3, frames, h, w), in [0, 1]."""


def initial_noise(seeds: Sequence[int], shape: Sequence[int], like: Tensor) -> Tensor:
    """(n, *shape) starting noise. A pure function of each picture's seed alone, so that models are paired on it."""
    return torch.cat([Draws(int(seed), ("picture",), (0,)).normal("start", shape, like) for seed in seeds])


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
    negative: Predict | None = None,
    reflection: Reflection | None = None,
) -> Tensor:
    """Latents (n, ...) drawn from `noise` (n, ...) in `steps` steps; `predict` defaults to the model's policy.

    For a DDPM path this is DDIM with eta = 0, for a flow path Euler. `negative` answers for the empty condition in
    `predict`'s place; `reflection` moves x before each step.
    """
    answer = guided(predict or model.policy, condition, empty, guidance, negative)
    grid = model.process.grid(steps).flip(0)
    mirror = reflection.mirror(model.process, condition, empty, grid) if reflection else None
    x = noise
    for place in range(steps):
        x = mirror(x, place) if mirror else x
        x = walked(model.process, answer, x, grid[place], grid[place + 1])
    return x


def at_once(shape: Sequence[int]) -> int:
    """How many latents of this shape are drawn together where nothing else is said: LATENTS elements, at most MOST.

    One at least: a clip of Wan (16 x 21 x 60 x 104) is more by itself.
    """
    return max(1, min(MOST, LATENTS // math.prod(shape)))


def pictures(
    painter: Painter,
    model: Denoiser,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    size: tuple[int, ...],
    steps: int,
    guidance: float,
    predict: Predict | None = None,
    negative: Predict | None = None,
    reflection: Reflection | None = None,
    weak_prompts: Sequence[str] | None = None,
    batch: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Iterator[np.ndarray]:
    """Yield uint8 pictures (m, height, width, 3), or clips (m, frames, height, width, 3), for prompt i with seed i, at
    most `batch` at a time (None: `at_once`), in order.

    `weak_prompts` (n) are what the weak side of the reflection is told, where that is not the prompts themselves.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"each prompt needs its seed: got {len(prompts)} prompts and {len(seeds)} seeds")
    if weak_prompts is not None and (reflection is None or len(weak_prompts) != len(prompts)):
        raise ValueError(f"weak prompts are a reflection's, one for each of {len(prompts)}; got {len(weak_prompts)}")
    if weak_prompts is not None and reflection is not None and reflection.weak.guidance == 0.0:
        raise ValueError("a weak side under a guidance of 0 is told no prompt; give weak_guidance=1")
    shape = painter.latent_shape(size)
    batch = at_once(shape) if batch is None else batch
    for start in range(0, len(prompts), batch):
        words, numbers = prompts[start : start + batch], seeds[start : start + batch]
        told, untold = painter.conditions(words, size), painter.conditions([""] * len(words), size)
        like = torch.zeros((), device=device, dtype=dtype)
        noise = initial_noise(numbers, shape, like)
        if reflection is not None and weak_prompts is not None:
            weaker = painter.conditions(weak_prompts[start : start + batch], size)
            reflection = replace(reflection, weak=replace(reflection.weak, condition=weaker))
        latents = generate(
            model, told, untold, noise, steps=steps, guidance=guidance, predict=predict, negative=negative,
            reflection=reflection,
        )  # fmt: skip
        yield to_uint8(painter.decode(latents))


def to_uint8(pixels: Tensor) -> np.ndarray:
    """(n, 3, ..., h, w) in [0, 1] to (n, ..., h, w, 3) uint8, rounded to nearest."""
    array: np.ndarray = (pixels.clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    return array
