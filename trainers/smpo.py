"""SmPO-Diffusion: Lu et al., "Smoothed Preference Optimization via ReNoise Inversion", arXiv 2506.02698."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, log_ratio, pair_metrics
from visalign.diffusion.inversion import Inversion, Inverts, Semantics, invert_pairs
from visalign.losses import resolve
from visalign.needs import known_scores

PICKSCORE_SPAN = 0.28201571106910706 - 0.11543526500463486
"""Greatest less smallest PickScore cosine of Pick-a-Pic v2, as the release writes them down: a `span`. A hundred times
as much for PickScore on its usual scale."""


@dataclass
class SmPO:
    """-log sigmoid(beta M (r_win - r_lose)), M = sharpness (2 P - 1), on pictures inverted to noise by the policy.

    P is how much better a reward model finds the winner: the share of e^(s_w / span) in e^(s_w / span) +
    e^(s_l / span), so that M = sharpness tanh((s_w - s_l) / (2 span)). `span` is greatest less smallest score over the
    data: 1 for scores in 0 … 1, 0.1666 (PICKSCORE_SPAN) for PickScore cosines; then |M| is at most 4.62, and a usual
    PickScore pair trains at 0.15 to 1.2 times beta. Equal scores pull nothing: loss log 2, margin 0, no gradient. A
    pair whose loser scored higher is trained the other way round, as the release goes by the scores alone.

    r is Diffusion-DPO's log-ratio, but x_t is the picture inverted with `renoise` refinements on a grid of `steps`,
    and the noise that it is denoised to is the one that leads there. JaydenLyh/SmPO train.py:999-1061 inverts with the
    network in training (`inverts`; the reference inverts once and for all), at 5 steps for SD1.5 and 10 for SDXL; it
    takes time and multiplier of a batch from its first pair, where here each pair has its own, and x_t lies at a level
    of the grid where here it lies at t (`semantics`: visalign.diffusion.inversion.Inversion).
    """

    beta: float = 2000.0
    sharpness: float = 10.0
    span: float = 1.0
    steps: int = 5
    renoise: int = 1
    semantics: Semantics = "exact"
    inverts: Inverts = "policy"
    batch_type = Pairs
    needs = ("scores",)
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        if not min(self.beta, self.sharpness, self.span) > 0:
            given = f"beta {self.beta}, sharpness {self.sharpness}, span {self.span}"
            raise ValueError(f"beta, sharpness and span must be positive, got {given}")
        self._inversion = Inversion(self.steps, self.semantics, self.renoise, inverts=self.inverts)
        self._loss = resolve({"name": "smpo", "sharpness": self.sharpness})

    @property
    def passes(self) -> Passes:
        """The inversion goes only as far as the drawn time: a mean."""
        return Passes(policy=2, free=2 + 2 * self._inversion.passes)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        preference = self.preference(batch)
        at = invert_pairs(self._inversion, model, batch)
        found = errors(model, at, batch.condition)
        win, lose = log_ratio(found).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=preference)
        multiplier = self.sharpness * (2 * preference - 1)
        metrics = pair_metrics(found, self.beta * multiplier.abs() * (win - lose))
        return Loss(each, metrics | {"multiplier": multiplier})

    def preference(self, batch: Pairs) -> Tensor:
        """(b,) P of b pairs; ValueError names the pairs that no scorer has scored."""
        scores = known_scores(batch, "smpo")
        gap = (scores[:, 0] - scores[:, 1]) / self.span
        return torch.sigmoid(gap).to(batch.win.device)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("smpo")
