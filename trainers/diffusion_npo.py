"""Diffusion-NPO: Wang et al., "Diffusion-NPO: Negative Preference Optimization for Better Preference Aligned Generation
of Diffusion Models", arXiv 2505.11245."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from visalign.batches import Pairs, joined
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import Errors, errors, log_ratio, noise_pairs, pair_metrics, squared_error
from visalign.diffusion.guidance import pushed
from visalign.losses import LossSpec, resolve
from visalign.process import Noised
from visalign.strict import check_choices


@dataclass
class DiffusionNPO:
    """Trains what guidance pushes away from: the network that answers in the place of the unconditional one.

    by="flip": Diffusion-DPO on pairs whose labels were exchanged, the paper's recipe for any offline method (its code,
    G-U-N/Diffusion-NPO, train_sd15.py:688). There is no further term: web notes that subtract a loss are not the code.
    by="guidance": the labels stay, and the guided answer r(c) + (guidance - 1) (r(c) - policy("")) is what is made to
    prefer the winner, where r is the frozen reference. The trained branch enters with the factor 1 - guidance, which is
    negative: that alone makes it prefer the worse (the code's recipe for online methods, there for SPO on SDXL).

    `beta` is on Diffusion-DPO's scale (half the difference of mean-reduced errors). The released SD1.5 script leaves
    the half out: its 500 is 1000 here; its SDXL script has the half: 2000. `guidance` is that of later drawing.
    In the metrics "win" is the side that training prefers: under "flip" the one that people liked less.
    """

    beta: float = 1000.0
    by: Literal["flip", "guidance"] = "flip"
    guidance: float = 5.0  # of the answer that is trained through, by="guidance" alone
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN
    negative_branch = True

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if not self.guidance > 1:
            raise ValueError(f"guidance pushes away from the negative branch only above 1, got {self.guidance}")
        self._loss = resolve(self.preference)

    @property
    def passes(self) -> Passes:
        """Flipped pairs cost what Diffusion-DPO's do; a guided answer asks the reference for the prompt besides."""
        return Passes(policy=2, free=2 if self.by == "flip" else 4)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = noise_pairs(model.process, batch)
        if self.by == "flip":
            found = exchanged(errors(model, at, batch.condition))
        else:
            found = self.guided_errors(model, at, batch)
        win, lose = log_ratio(found).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        return Loss(each, pair_metrics(found, self.beta * (win - lose)))

    def guided_errors(self, model: Denoiser, at: Noised, batch: Pairs) -> Errors:
        """Errors of the guided answer, (2b,): with the policy as its negative branch, and with the reference there."""
        if batch.empty is None:
            raise ValueError('by="guidance" needs the pairs\' empty conditions, and this batch has none')
        both = joined(batch.condition, batch.empty)
        with torch.no_grad():
            asked = model.reference(torch.cat([at.x, at.x]), torch.cat([at.t, at.t]), both)
            told, untold = asked.chunk(2)
            reference = squared_error(pushed(told, untold, self.guidance), at.target)
        negative = model.policy(at.x, at.t, batch.empty)
        return Errors(squared_error(pushed(told, negative, self.guidance), at.target), reference)


def exchanged(found: Errors) -> Errors:
    """The same errors (2b,) with losers first."""
    policy, reference = (each.roll(len(each) // 2) for each in (found.policy, found.reference))
    return Errors(policy, reference)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("diffusion_npo")
