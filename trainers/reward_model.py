"""Reward modelling: a scorer learns from votes; which paper's objective is a setting, `visalign.losses` has them.

InstructGPT's Bradley-Terry (arXiv 2203.02155, eq. 1), HPS v2 (2306.09341), PickScore (2305.01569), ties, margins,
Gaussian scores (HPSv3, 2508.03789), rankings (Plackett-Luce, RankList), general preferences (2410.02197), mixtures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from visalign.batches import Comparisons
from visalign.contract import Loss, Passes, Rated, Reference, RewardModel
from visalign.losses import LossSpec, resolve
from visalign.rating import Paired, mean_over

KINDS = frozenset({"reward", "list"})
FEEDS = frozenset({
    "score", "rating", "confidence", "tie", "strength", "margin", "route",
    *(f"{name}_{side}" for name in ("log_sigma", "vector", "heads") for side in ("win", "lose")),
})  # fmt: skip


@dataclass
class RewardModelling:
    """The objective on every two compared pictures of a prompt, and its mean over them: one loss a record.

    Objectives of pairs read the better picture's score first; objectives of lists read all K of a prompt with what was
    thought of them; objectives of single pictures (`squared_rating`) read each score with its rating.

    Args:
        objective: any loss of kind "reward" or "list"; `visalign.losses.names("reward")` lists them.
        negatives: weight of choosing the liked picture's prompt among those of the micro-batch, which PickScore's code
            offers; it keeps the model reading the prompt, and couples the records of a micro-batch.
        per_prompt: weigh a record by one over the records with its prompt, as PickScore does.
    """

    objective: LossSpec = "bradley_terry"
    negatives: float = 0.0
    per_prompt: bool = False
    batch_type = Comparisons
    reference = Reference.NONE
    passes = Passes(policy=2)

    def __post_init__(self) -> None:
        if self.negatives < 0:
            raise ValueError(f"negatives must not be negative, got {self.negatives}")
        self._loss = resolve(self.objective, kinds=KINDS, feeds=FEEDS)

    def loss(self, batch: Comparisons, model: RewardModel) -> Loss:
        """(b,) losses of b records."""
        rated, pairs = model.rewards(batch), Paired.of(batch)
        each = self._objective(batch, rated, pairs)
        if self.negatives:
            each = each + self.negatives * own_prompt(batch, rated)
        weight = batch.weight / batch.repeats if self.per_prompt else batch.weight
        return Loss(each, pairs.metrics(rated), weight)

    def _objective(self, batch: Comparisons, rated: Rated, pairs: Paired) -> Tensor:
        """(b,) of the three ways to read a record."""
        if self._loss.fields[0] == "score":
            seen = ~batch.scores.isnan()
            errors = self._loss(rated.score.flatten(), batch.scores.where(seen, 0.0).flatten(), beta=1.0)
            return mean_over(errors.view_as(seen), seen)
        if "list" in self._loss.kinds:
            return self._loss(rated.score, batch.scores, beta=1.0)
        columns = pairs.columns(batch, rated)
        win, lose = (columns.pop(name) for name in self._loss.inputs)
        found = self._loss(win, lose, beta=1.0, **columns)
        return mean_over(found.view_as(pairs.known), pairs.known)


def own_prompt(batch: Comparisons, rated: Rated) -> Tensor:
    """(b,) cross-entropy of the liked picture's own prompt among the prompts of the batch."""
    if rated.crossed is None:
        raise ValueError("negatives need a model that scores every picture for every prompt of the batch")
    liked = batch.scores.masked_fill(batch.scores.isnan(), -torch.inf).argmax(-1)
    rows = torch.arange(len(batch), device=liked.device)
    return cross_entropy(rated.crossed[rows, liked], rows, reduction="none")


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("reward_model")
