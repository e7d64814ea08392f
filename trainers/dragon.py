"""DRAGON: Bai et al., "DRAGON: Distributional Rewards Optimize Diffusion Generative Models", arXiv 2504.15217."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visalign.batches import Labelled, Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import Errors, errors, log_ratio, noise_pairs, noise_singles, pair_metrics
from visalign.losses import kto, resolve
from visalign.losses.state import ReferencePoint
from visalign.losses.unpaired import side
from visalign.strict import check_choices


@dataclass
class DRAGON:
    """Draw nearer to a good set of the model's own pictures, and away from a bad one.

    What is good is decided for whole sets: `visalign sets` puts one of two drawings of each prompt into the good set,
    by a reward of the set (`visalign.evaluation.sets`). The paper minimises KL(good || model) and maximises KL(bad ||
    model) through a surrogate: "dpo", Diffusion-DPO on the two drawings of a prompt, or "kto", Diffusion-KTO on each,
    whose mean log-ratio couples a batch. `paired` keeps the two drawings in one record, at one time and noise; without
    it (only "kto") pictures come one by one.

    beta has Diffusion-DPO's half under "dpo" and none under "kto", as in those papers' code; the values that the paper
    fine-tuned with are not public.
    """

    beta: float = 5000.0
    surrogate: Literal["dpo", "kto"] = "dpo"
    paired: bool = True
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if not self.paired and self.surrogate == "dpo":
            raise ValueError("surrogate: dpo compares the two drawings of a prompt; without pairs it must be kto")
        self._pairwise, self.point = resolve("dpo"), ReferencePoint()

    @property
    def batch_type(self) -> type:
        """Pairs, or single labelled pictures."""
        return Pairs if self.paired else Labelled

    @property
    def passes(self) -> Passes:
        """Both pictures of a pair through both networks."""
        return Passes(policy=2, free=2) if self.paired else Passes(policy=1, free=1)

    def loss(self, batch: Pairs | Labelled, model: Denoiser) -> Loss:
        """(b,) losses of b pairs, or (n,) of n pictures."""
        if isinstance(batch, Labelled):
            found = errors(model, noise_singles(model.process, batch), batch.condition)
            each, margin = self._labelled(found, batch.label, batch.weight)
            return Loss(each, {"margin": margin})
        found = errors(model, noise_pairs(model.process, batch), batch.condition)
        win, lose = log_ratio(found).chunk(2)
        if self.surrogate == "dpo":
            each = self._pairwise(win, lose, beta=self.beta, confidence=batch.confidence)
            return Loss(each, pair_metrics(found, self.beta * (win - lose)))
        label = torch.cat([torch.ones_like(win), -torch.ones_like(lose)])
        both, _ = self._labelled(found, label, batch.weight.repeat(2))
        return Loss(both.reshape(2, -1).mean(0), pair_metrics(found, 2 * self.beta * (win - lose)))

    def _labelled(self, found: Errors, label: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """KTO's losses (n,), and how far each picture lies on the side of its label."""
        ratio = found.reference - found.policy
        z0 = self.point.update(ratio, weight)
        margin = side(label, ratio) * self.beta * (ratio - z0)
        return kto(ratio, label, z0, beta=self.beta), margin.detach()


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("dragon")
