"""MaPO: Hong et al., "Margin-aware Preference Optimization for Aligning Diffusion Models without Reference"."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import noise_pairs, policy_metrics, squared_error
from visalign.losses import resolve
from visalign.losses.reference_free import mapo_gap
from visalign.strict import check_choices


@dataclass
class MaPO:
    """m_w - weight log sigmoid(T (g(m_w) - g(m_l))), g(m) = s m / (e^(s m) - 1), where m is a denoising error.

    The winner is denoised better, and better than the loser by a margin; no reference is asked (arXiv 2406.06424).
    g falls from 1 at m = 0 with slope -s / 2. Paper and released code agree in this form but not in its numbers:
    - release (mapo-t2i/mapo utils.py:286; the published weights are its): weight = `beta` = 0.1, T = 1000, s = 1/2. At
      a tie the margin pulls about 12 times as hard as the first term. The default, for its numbers belong to errors
      that are averaged over the latent, which the paper does not say of its own.
    - paper: weight = 1 / `beta`, T = `beta`, s = 1, with `beta` 8 for general preference (32, 64, 1024 for special
      sets). At a tie the margin pulls a quarter as hard as the first term, whatever `beta` is.

    Two pictures of one error still have a gradient. e^x - 1 is taken by expm1, since the release's exp(x) - 1 in
    float32 is off by up to 1e-4 in the loss; at an error of 0 it divides by 0, and this does not. A label that is
    not sure mixes the loss with that of the swapped pair. `timesteps` sets T where errors of a pair differ by more than
    the release's 0.01: at 1000 x 0.1 / 4 the sigmoid is flat.
    """

    beta: float | None = None  # None: the variant's own
    variant: Literal["release", "paper"] = "release"
    timesteps: float | None = None  # T; None: the variant's own
    batch_type = Pairs
    reference = Reference.NONE
    passes = Passes(policy=2)

    def __post_init__(self) -> None:
        check_choices(self)
        beta = self.beta if self.beta is not None else {"release": 0.1, "paper": 8.0}[self.variant]
        if not beta > 0:
            raise ValueError(f"beta must be positive, got {beta}")
        self._weight, own, sharpness = (beta, 1000.0, 0.5) if self.variant == "release" else (1 / beta, beta, 1.0)
        self._shape = {"timesteps": own if self.timesteps is None else self.timesteps, "sharpness": sharpness}
        feeds = frozenset({"error_win", "error_lose"})
        self._loss = resolve({"name": "mapo", **self._shape}, kinds=frozenset({"reference_free"}), feeds=feeds)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = noise_pairs(model.process, batch)
        errors = squared_error(model.policy(at.x, at.t, batch.condition), at.target)
        win, lose = errors.chunk(2)
        each = self._loss(win, lose, beta=self._weight, confidence=batch.confidence)
        return Loss(each, policy_metrics(errors, mapo_gap(win, lose, **self._shape)))


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("mapo")
