"""Flow-DPO: Liu et al., "Improving Video Generation with Human Feedback", arXiv 2501.13918."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, log_ratio, noise_pairs, pair_metrics
from visalign.losses import LossSpec, resolve
from visalign.needs import check_path
from visalign.strict import check_choices


@dataclass
class FlowDPO:
    """-log sigmoid(beta_t (r_win - r_lose)), r = -(policy error - reference error) / 2 of the velocity (eq. 6).

    `schedule` is beta_t: "constant", with which the paper gains most and sees no reward hacking, or "(1-t)^2", beta
    (1 - t)^2, as the derivation has it (the error of the noise is (1 - t)^2 times that of the velocity), which all but
    stops learning where t is near 1.

    `anchor` adds that much of the winner's own flow-matching error, so that a margin cannot be won by unlearning both:
    TangoFlux's CRPO (arXiv 2412.21037) at 1, and MotionFlux's TAPO (arXiv 2508.19527), which has no half: its beta is
    half of the one here. Ties and confidence concern the preference alone.

    Errors are averaged over the latent as in released code (yifan123/flow_grpo train_sd3_dpo.py:926, beta 100 there),
    on which scale is the paper's beta = 500. variant="paper" sums them as equation 6 is written: its beta acts as
    D times as large on a latent of D numbers, and 500 saturates the sigmoid. The norm of appendix C, over a whole batch
    at once, would mix pairs.

    It is Diffusion-DPO on flow paths, and refuses others (`elsewhere`).
    """

    beta: float = 500.0
    schedule: Literal["constant", "(1-t)^2"] = "constant"
    anchor: float = 0.0
    variant: Literal["release", "paper"] = "release"
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN
    passes = Passes(policy=2, free=2)
    elsewhere = "diffusion_dpo"

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or not self.anchor >= 0:
            raise ValueError(f"beta must be positive and anchor not negative, got {self.beta} and {self.anchor}")
        self._loss = resolve(self.preference)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs; ConfigError for a model whose path is no flow."""
        check_path("flow_dpo", self, model.process)
        at = noise_pairs(model.process, batch)
        found = errors(model, at, batch.condition)
        win, lose = log_ratio(found).chunk(2)
        beta = self.beta_at(at.t.chunk(2)[0], win) * (batch.win[0].numel() if self.variant == "paper" else 1)
        each = self._loss(win, lose, beta=beta, confidence=batch.confidence)
        metrics = pair_metrics(found, beta * (win - lose))
        return Loss(each + self.anchor * found.policy.chunk(2)[0] if self.anchor else each, metrics)

    def beta_at(self, t: Tensor, like: Tensor) -> Tensor:
        """(b,) beta_t at the times t (b,)."""
        constant = self.schedule == "constant"
        return like.new_full((len(t),), self.beta) if constant else self.beta * (1 - t.to(like)).square()


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("flow_dpo")
