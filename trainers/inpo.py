"""DDIM-InPO: Lu et al., "InPO: Inversion Preference Optimization with Reparametrized DDIM", arXiv 2503.18454."""

from __future__ import annotations

from dataclasses import dataclass

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, log_ratio, pair_metrics
from visalign.diffusion.inversion import Inversion, Inverts, Semantics, invert_pairs
from visalign.losses import LossSpec, resolve


@dataclass
class InPO:
    """-log sigmoid(beta (r_win - r_lose)), r Diffusion-DPO's log-ratio on pictures inverted to noise by the policy.

    x_t is the picture after a DDIM inversion on a grid of `steps`, with `eta` of DDPM's posterior noise after each
    hop; the noise that it is denoised to is the one that leads from the picture to it. Time, and what noise is added,
    are one for the two of a pair. JaydenLyh/InPO train.py:957-1052 inverts with the network in training (`inverts`),
    takes its eta of 0.1 from the code alone, adds noise to each picture apart, and gives a whole batch the time of its
    first pair; its x_t lies at a level of the grid instead of at t (`semantics`: see diffusion.inversion.Inversion).
    `preference` names any pairwise loss on log-ratios.
    """

    beta: float = 2000.0
    steps: int = 10
    eta: float = 0.1
    semantics: Semantics = "exact"
    inverts: Inverts = "policy"
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._inversion = Inversion(self.steps, self.semantics, eta=self.eta, inverts=self.inverts)
        self._loss = resolve(self.preference)

    @property
    def passes(self) -> Passes:
        """The inversion goes only as far as the drawn time: a mean."""
        return Passes(policy=2, free=2 + 2 * self._inversion.passes)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = invert_pairs(self._inversion, model, batch)
        found = errors(model, at, batch.condition)
        win, lose = log_ratio(found).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        return Loss(each, pair_metrics(found, self.beta * (win - lose)))


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("inpo")
