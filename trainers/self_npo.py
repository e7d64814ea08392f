"""Self-NPO: Wang et al., "Self-NPO: Data-Free Diffusion Model Enhancement via Truncated Diffusion Fine-Tuning",
arXiv 2505.11777."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visalign.batches import Prompts, Singles
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion.guidance import guided
from visalign.diffusion.levels import approached, between, evenly, truncated
from visalign.diffusion.stochastic import renoised
from visalign.strict import check_choices


@dataclass
class SelfNPO:
    """Makes a model a little worse at its own expense: the network that guidance then pushes away from.

    A teacher, the average of the student's own past (`decay`), walks `truncated` steps from a level of its grid, guided
    by 1 + `negative_scale`: -1 asks for the empty prompt alone, lower pushes away from the prompt. What it believes the
    picture to be after so few steps is the target that the student must see, told the prompt, from a noisier time.

    variant="paper" needs no picture: the level is reached from pure noise in `approach` plain steps of the teacher.
    variant="release" (G-U-N/Diffusion-NPO, Self-NPO/train.py) starts from noised real pictures, and its target is one
    step stale where all of the batch has arrived at the clean end, so that it hangs on the batch (its line 1071).
    """

    grid: int = 25  # levels
    truncated: int = 5
    approach: int = 4
    negative_scale: float = -1.0  # the released script's for SD1.5; -5 for SDXL
    decay: float = 0.999
    distance: Literal["huber", "l2"] = "huber"
    width: float = 1e-3  # of the pseudo-Huber loss's round bottom, the paper's c
    variant: Literal["paper", "release"] = "paper"
    reference = Reference.EMA
    negative_branch = True

    def __post_init__(self) -> None:
        check_choices(self)
        if not 1 <= self.truncated < self.grid or self.approach < 1:
            raise ValueError(f"1 <= truncated < grid and 1 <= approach: {self.truncated}, {self.grid}, {self.approach}")
        if not self.width > 0:
            raise ValueError(f"width must be positive, got {self.width}")

    @property
    def batch_type(self) -> type:
        """Prompts alone, or pictures for the release."""
        return Prompts if self.variant == "paper" else Singles

    @property
    def passes(self) -> Passes:
        """The teacher's steps, one more for the target, and the way to the level; a guided one asks twice."""
        asked = 1 if self.negative_scale in (-1.0, 0.0) else 2
        return Passes(policy=1, free=asked * (self.truncated + 1) + self.approach * (self.variant == "paper"))

    def loss(self, batch: Prompts | Singles, model: Denoiser) -> Loss:
        """(n,) losses of n prompts or pictures."""
        process, draw = model.process, batch.draw
        levels = evenly(process, self.grid)
        place = draw.integers("level", 1, self.grid + 1)
        with torch.no_grad():
            start = self.started(batch, model, levels[place], levels[-1])
            x, t, target = self.taught(batch, model, start, place, levels)
        later = between(t, levels[-1], draw.uniform("later"))
        x_later = renoised(process, x, t, later, draw.normal("noise", x.shape[1:], x))
        mean, _ = process.split(model.policy(x_later, later, batch.condition), x_later, later)
        return Loss(self.gap(mean, target))

    def started(self, batch: Prompts | Singles, model: Denoiser, t: Tensor, top: Tensor) -> Tensor:
        """x (n, ...) at the times t: a picture of the data, noised; or drawn from pure noise, in a few steps."""
        if isinstance(batch, Singles):
            noise = batch.draw.normal("start", batch.x.shape[1:], batch.x)
            return model.process.noised(batch.x, noise, t).x
        x = batch.draw.normal("start", batch.shape, batch.weight)
        plain = guided(model.reference, batch.condition, batch.empty, 1.0)
        return approached(model.process, plain, x, top, t, self.approach)

    def taught(
        self, batch: Prompts | Singles, model: Denoiser, x: Tensor, place: Tensor, levels: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Where the teacher's truncated steps end: x, its time (n,), and the picture that the teacher sees there."""
        if batch.empty is None:
            raise ValueError("Self-NPO needs the empty conditions, and this batch has none")
        teacher = guided(model.reference, batch.condition, batch.empty, 1.0 + self.negative_scale)
        stale = self.variant == "release"
        return truncated(model.process, teacher, x, place, levels, self.truncated, stale=stale)

    def gap(self, mean: Tensor, target: Tensor) -> Tensor:
        """(n,) distances in the space of pictures, in float32 at least."""
        square = (mean - target).square()
        each = square if self.distance == "l2" else (square + self.width**2).sqrt() - self.width
        return each.flatten(1).mean(1)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("self_npo")
