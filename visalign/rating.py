"""Moves that methods of reward models share: every two pictures of a record, the better one first, and means of those
that somebody compared."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from .batches import Comparisons
from .contract import Rated


@dataclass(frozen=True)
class Paired:
    """Every two pictures of each record, the better one first; P = K (K - 1) / 2."""

    win: Tensor  # (b, P) int64
    lose: Tensor  # (b, P)
    confidence: Tensor  # (b, P) in [1/2, 1]; 1/2 also where nothing is known
    known: Tensor  # (b, P) bool: the two are compared

    @classmethod
    def of(cls, batch: Comparisons) -> Paired:
        """The pairs of a batch."""
        many = batch.confidence.shape[1]
        first, second = torch.triu_indices(many, many, offset=1, device=batch.confidence.device)
        chance = batch.confidence[:, first, second]
        known, turned = ~chance.isnan(), chance < 0.5
        confidence = torch.where(known, torch.maximum(chance, 1 - chance), 0.5)
        return cls(torch.where(turned, second, first), torch.where(turned, first, second), confidence, known)

    def columns(self, batch: Comparisons, rated: Rated) -> dict[str, Tensor]:
        """Every column of the b P pairs, flat, by the names that losses read."""
        items = {"score": rated.score, **rated.items}
        found = {
            f"{name}_{side}": self.taken(value, at).flatten(0, 1)
            for name, value in items.items()
            for side, at in (("win", self.win), ("lose", self.lose))
        }
        many = self.win.shape[1]
        found |= {name: value.repeat_interleave(many, 0) for name, value in rated.shared.items()}
        gap = (self.taken(batch.scores, self.win) - self.taken(batch.scores, self.lose)).flatten()
        sure = self.confidence.flatten()
        return found | {"confidence": sure, "tie": sure == 0.5, "strength": gap, "margin": gap}

    def taken(self, values: Tensor, at: Tensor) -> Tensor:
        """(b, P, ...) of (b, K, ...)."""
        rows = torch.arange(len(values), device=values.device)[:, None]
        return values[rows, at]

    @torch.no_grad()
    def metrics(self, rated: Rated) -> dict[str, Tensor]:
        """(b,) means over a record's pairs; of accuracy, margin and probability over those that are no tie."""
        gap = (self.taken(rated.score, self.win) - self.taken(rated.score, self.lose)).detach()
        nll = -self.confidence * logsigmoid(gap) - (1 - self.confidence) * logsigmoid(-gap)
        told = self.known & (self.confidence > 0.5)
        right = (torch.sign(gap) + 1) / 2
        return {
            "accuracy": torch.where(told.any(-1), mean_over(right, told), 0.5),
            "certainty": torch.where(told.any(-1), mean_over(gap.abs().sigmoid(), told), 0.5),
            "vote_nll": mean_over(nll, self.known),
            "score_gap": mean_over(gap, told),
        }


def mean_over(values: Tensor, mask: Tensor) -> Tensor:
    """(b,) means of (b, n) over the places that count; 0 where none does."""
    return values.where(mask, 0.0).sum(-1) / mask.sum(-1).clamp(min=1)
