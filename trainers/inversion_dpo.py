"""Inversion-DPO: Li et al., "Inversion-DPO: Precise and Efficient Post-Training for Diffusion Models", 2507.11554."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visalign.batches import Pairs
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import Errors, pair_metrics, policy_metrics, squared_error
from visalign.diffusion.guidance import guided
from visalign.diffusion.trajectories import Kept, Told, Trajectories, compared_at, unprompted, walk_pairs
from visalign.losses import LossSpec, resolve
from visalign.strict import check_choices


@dataclass
class InversionDPO:
    """-log sigmoid(beta (r_win - r_lose)), r the mean over a whole inverted trajectory of -(w_k / 2) (m_k - m_ref_k).

    Each picture is inverted by the reference on a grid of `steps` levels, under `guidance`; at each latent on the way
    policy and reference name the noise, both under the same guidance, and w_k = 1 / (2 abar_k). What they are compared
    with is `target`:
    - implied (the default): the noise that leads from the picture to the latent, so that m is a denoising error as in
      Diffusion-DPO, on inverted noise. The clean end, where no noise is, is left out.
    - reference: the reference's own answer, as in the paper's L, so that m_ref = 0. The loss is then quadratic in what
      the policy has changed: while policy and reference are equal it is log 2 with a gradient of exactly zero, and no
      training starts. The released code starts by rounding alone (float32 policy against bfloat16 reference).

    `variant` is the sign: paper draws the policy to the target on winners and away on losers; release
    (MIGHTYEZ/Inversion-DPO train_ddim.py:1272) does the opposite, against the paper's derivation. `told` is the level
    that networks are told at a latent: its own, as in the paper's figure (source), or the next, as in the release
    (destination). The release is {variant: release, target: reference, told: destination} at beta 2000 and 80 steps.

    Every step of the policy is recomputed in the backward pass (non-reentrant checkpointing), one at a time: the
    gradient is exact, and memory grows with `steps` by two latents a picture only, the stored trajectory. `points`
    takes that many of the levels at random, other ones at each visit: their mean is unbiased for r; through the
    sigmoid the loss is not. `cache` keeps so many records' trajectories in memory (diffusion.trajectories.Kept: only
    where latents stay the same from visit to visit, which posterior samples of a VAE do not).
    """

    beta: float = 500.0
    steps: int = 40
    guidance: float = 2.0
    target: Literal["implied", "reference"] = "implied"
    variant: Literal["paper", "release"] = "paper"
    told: Told = "source"
    points: int | None = None
    cache: int = 0
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or not 1 <= self._count <= self._levels or self.cache < 0:
            raise ValueError(
                f"needs beta > 0, points of 1 … {self._levels} ({self.steps} steps, target {self.target}) and cache "
                f">= 0; got beta {self.beta}, points {self.points}, cache {self.cache}"
            )
        self._loss = resolve(self.preference)
        self._kept = Kept(self.cache)

    @property
    def _levels(self) -> int:
        """How many latents of a trajectory can be compared at; an implied noise there is not at the clean end."""
        return self.steps - (self.target == "implied")

    @property
    def _count(self) -> int:
        return self._levels if self.points is None else self.points

    @property
    def passes(self) -> Passes:
        """Of two pictures, guided; the backward pass holds one step at a time."""
        each = 2 * (1 if self.guidance in (0.0, 1.0) else 2)
        return Passes(policy=each * self._count, free=each * self.steps, held=each)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        walked = self._kept.walked(batch, lambda some: walk_pairs(model, some, self.steps, self.guidance, self.told))
        compared = partial(checkpoint, self._compared, batch, model, walked, use_reentrant=False)
        places = compared_at(batch.draw, self.steps - self._levels, self.steps, self.points)
        found = [compared(place) for place in places.repeat(1, 2)]  # the same for the two of a pair
        gap, policy, reference = torch.stack(found).mean(0)
        sign = 1.0 if self.variant == "paper" else -1.0
        win, lose = (-0.5 * sign * gap).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        margin = self.beta * (win - lose)
        if self.target == "reference":  # the errors are the policy's distance from a reference that has none
            return Loss(each, policy_metrics(policy, margin))
        return Loss(each, pair_metrics(Errors(policy, reference.detach()), margin))

    def _compared(self, batch: Pairs, model: Denoiser, walked: Trajectories, place: Tensor) -> Tensor:
        """(3, 2b): weighted gap, policy's error and reference's, each picture at the latent of its place (2b,)."""
        at = walked.at(place)
        answer = guided(model.policy, batch.condition, unprompted(batch), self.guidance)
        noise = model.process.split(answer(at.x, at.told), at.x, at.level)[1]
        target = at.noise if self.target == "reference" else at.implied(model.process, batch.items)
        policy, reference = squared_error(noise, target), squared_error(at.noise, target)
        return torch.stack([at.weight(model.process) * (policy - reference), policy, reference])


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("inversion_dpo")
