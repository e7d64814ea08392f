"""Diffusion-KTO: Li et al., "Aligning Diffusion Models by Optimizing Human Utility", arXiv 2404.04465."""

from __future__ import annotations

from dataclasses import dataclass

from visalign.batches import Labelled
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, noise_singles
from visalign.losses import LossSpec, resolve
from visalign.losses.state import ReferencePoint
from visalign.losses.unpaired import side


@dataclass
class DiffusionKTO:
    """1 - U(y beta (r - z0)) of single pictures that somebody liked (y = 1) or disliked (y = -1) (eq. 9).

    r = reference error - policy error, averaged over the latent, at a time and a noise of each picture's own. There is
    no half as in Diffusion-DPO: a picture is pulled at beta = 5000 here as in a pair at 10000 there. z0 is the mean of
    r, not below 0 and without gradient, over all that is in flight at one forward: micro_batch x processes pictures,
    by their weights. `momentum` averages it over forwards, for where those are few (0: the paper and its code).

    `utility` is U: "kto", the sigmoid; "kto_loss_averse", its logarithm; "kto_risk_seeking", the mirror of that; or any
    loss of labelled log-ratios, as in {name: kto, undesirable_weight: 0.5}. The paper's share of liked pictures,
    gamma = 0.8, is `data.liked` of a run: a weight on each record.
    """

    beta: float = 5000.0
    utility: LossSpec = "kto"
    momentum: float = 0.0
    batch_type = Labelled
    reference = Reference.FROZEN
    passes = Passes(policy=1, free=1)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._loss = resolve(self.utility, kinds=frozenset({"unpaired"}), feeds=frozenset({"z0"}))
        self.point = ReferencePoint(self.momentum)

    def loss(self, batch: Labelled, model: Denoiser) -> Loss:
        """(n,) losses of n pictures; they depend on one another through z0."""
        at = noise_singles(model.process, batch)
        found = errors(model, at, batch.condition)
        ratio = found.reference - found.policy
        z0 = self.point.update(ratio, batch.weight)
        each = self._loss(ratio, batch.label, beta=self.beta, z0=z0)
        right = side(batch.label, ratio) * self.beta * (ratio - z0)  # above 0: on the side of its label
        return Loss(each, {"margin": right.detach(), "log_ratio": ratio.detach(), "z0": z0.expand_as(ratio)})


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("diffusion_kto")
