"""RPO: Miao et al., "Subject-driven Text-to-Image Generation via Preference-based RL", arXiv 2407.12164."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.batches import Anchored
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import errors, pair_metrics
from visalign.losses import resolve
from visalign.needs import known_scores
from visalign.process import Noised, Process


@dataclass
class RPO:
    """Denoise the subject's pictures, and prefer them to the model's own as far as a reward does (eq. 8 and 9).

    A pair is a picture of the subject (its record's first item) and one that the base model drew, each under a prompt,
    at a time and with a noise of its own. What is preferred is drawn anew at each visit: the subject's picture with
    probability sigmoid((its reward - the other's) / temperature), by the scores of the record: the lambda-harmonic
    reward (`visalign.transforms.harmonic`), written by a scorer. Its values lie close together, so that at
    temperature 1, the paper's, labels are near to coin flips and the first term does most of the work.

    L = similarity x (policy error of the subject's picture) - y log s(beta k) - (1 - y) log s(-beta k), with
    k = (reference error - policy error) of the subject's picture - that of the other, mean-reduced, without
    Diffusion-DPO's half. The released SD script reads a beta and does not use it; 1, the default, is what it computes.
    """

    beta: float = 1.0
    similarity: float = 1.0
    temperature: float = 1.0
    batch_type = Anchored
    needs = ("scores",)
    reference = Reference.FROZEN
    passes = Passes(policy=2, free=2)

    def __post_init__(self) -> None:
        for name, value in (("beta", self.beta), ("temperature", self.temperature)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.similarity < 0:
            raise ValueError(f"similarity is a weight of 0 or more, got {self.similarity}")
        self._preference = resolve("dpo")

    def loss(self, batch: Anchored, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        at = noise_apart(model.process, batch)
        found = errors(model, at, batch.condition)
        subject, other = (found.reference - found.policy).chunk(2)
        label = self.labels(batch).to(subject)
        preference = self._preference(subject, other, beta=self.beta, confidence=label)
        each = self.similarity * found.policy.chunk(2)[0] + preference
        margin = self.beta * (subject - other)
        return Loss(each, {**pair_metrics(found, margin), "subject_preferred": label})

    def labels(self, batch: Anchored) -> Tensor:
        """(b,) whether the subject's picture is preferred at this visit; ValueError names records without rewards."""
        first, second = known_scores(batch, "rpo").double().cpu().unbind(1)
        return batch.draw.uniform("label") < torch.sigmoid((first - second) / self.temperature)


def noise_apart(process: Process, pairs: Anchored) -> Noised:
    """First items, then second ones, each at a time and with a noise of its own."""
    t = torch.cat([process.times(pairs.draw, f"t/{side}") for side in ("first", "second")])
    shape = pairs.win.shape[1:]
    noise = [pairs.draw.normal(f"noise/{side}", shape, like=pairs.win) for side in ("first", "second")]
    return process.noised(pairs.items, torch.cat(noise), t)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("rpo")
