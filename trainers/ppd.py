"""PPD: Dang et al., "Personalized Preference Fine-tuning of Diffusion Models", arXiv 2501.06655."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from visalign.batches import Condition, Pairs
from visalign.config import ConfigError
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, log_ratio, noise_pairs, pair_metrics
from visalign.losses import LossSpec, resolve


@dataclass
class PPD:
    """Diffusion-DPO on users' own votes, the policy told whose taste it is and the reference not (section 4).

    -log sigmoid(beta (r_win - r_lose)), r = -(error(x | c, u) - reference's error(x | c)) / 2, one time and one noise
    for the two of a pair. In a share `dropout` of the visits both are told of nobody (zeros): nobody's taste becomes
    everybody's, and a user can be guided away from it. Neither that share nor beta is published; beta is
    Diffusion-DPO's. It needs records that name their user, data.users=FILE and model.train=user.
    """

    beta: float = 5000.0
    dropout: float = 0.1
    preference: LossSpec = "dpo"
    batch_type = Pairs
    reference = Reference.FROZEN
    passes = Passes(policy=2, free=2)

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout must lie in 0 … 1, got {self.dropout}")
        self._loss = resolve(self.preference)

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = noise_pairs(model.process, batch)
        found = errors(model, at, self.told(batch))
        win, lose = log_ratio(found).chunk(2)
        each = self._loss(win, lose, beta=self.beta, confidence=batch.confidence)
        return Loss(each, pair_metrics(found, self.beta * (win - lose)))

    def told(self, batch: Pairs) -> Condition:
        """The conditions (2b, ...) with nobody in place of the users that the record's draw drops."""
        user = batch.condition.user
        if user is None:
            raise ConfigError("ppd trains on users' tastes: set data.users=FILE and model.train=user")
        kept = (batch.draw.uniform("user") >= self.dropout).to(user)
        return replace(batch.condition, user=user * torch.cat([kept, kept])[:, None, None])


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("ppd")
