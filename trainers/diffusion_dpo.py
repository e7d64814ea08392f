"""Diffusion-DPO: Wallace et al., "Diffusion Model Alignment Using Direct Preference Optimization", arXiv 2311.12908."""

from __future__ import annotations

from dataclasses import dataclass

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, log_ratio, noise_pairs, pair_metrics
from visalign.losses import LossSpec, resolve


@dataclass
class DiffusionDPO:
    """-log sigmoid(beta (r_win - r_lose)), where r is how much better than the reference we denoise (eq. 14).

    r = -(policy error - reference error) / 2 with errors averaged over the latent, one time and one noise for the two
    of a pair: the scale of the released code (SalesforceAIResearch/DiffusionDPO train.py:1142), on which the paper's
    useful range is beta = 2000 … 5000. The diffusers SD1.5 script leaves the half out and calls this beta = 2500.
    `preference` names any pairwise loss on log-ratios: "ipo", or {name: robust, epsilon: 0.1}.
    """

    beta: float = 5000.0
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN
    passes = Passes(policy=2, free=2)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._loss = resolve(self.preference)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = noise_pairs(model.process, batch)
        found = errors(model, at, batch.condition)
        win, lose = log_ratio(found).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        return Loss(each, pair_metrics(found, self.beta * (win - lose)))


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("diffusion_dpo")
