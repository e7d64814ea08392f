"""A reward model that criticises first: MM-RLHF's, arXiv 2502.10391, section 4; github.com/Kwai-YuanQi/MM-RLHF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign.batches import Critiques
from visalign.contract import Critic, Loss, Passes, Reference
from visalign.losses.rewards import bradley_terry, centering
from visalign.needs import known_scores
from visalign.text import Log, token_log_probs

CENTRED = 0.01  # the weight of the released code


@dataclass
class CritiqueReward:
    """score [-log sigmoid(s_w - s_l)] + critique [CE_w + CE_l]: two answers' scores, and critiques of both.

    A critic reads a question and an answer, learns to say what people said of it (CE, nats a token, a mean of each
    critique's own), and is scored at the end of that. It learns on people's critiques, and judges by its own.

    Votes that are not sure (`data.temperature`) count with their confidence. A tie (`data.ties: half`) has
    `ties` (s_w - s_l)^2 in place of the vote's term; in the released code, whose weight for it is not defined, it is
    added over the ties of a batch. Every record counts once.

    Args:
        variant: "paper", or "release", which adds `centering` (s_w + s_l)^2: votes leave the zero of a score free.
        centering: its weight; None is 0, and 0.01 in the release.
        margin: ask for a lead of the records' own difference of scores.
    """

    variant: Literal["paper", "release"] = "paper"
    score: float = 1.0
    critique: float = 1.0
    ties: float = 1.0
    centering: float | None = None
    margin: bool = False
    batch_type = Critiques
    reference = Reference.NONE
    passes = Passes(policy=2)

    def __post_init__(self) -> None:
        if self.variant not in ("paper", "release"):
            raise ValueError(f"variant {self.variant!r} is not one of paper, release")
        if min(self.score, self.critique, self.ties, self.centering or 0.0) < 0:
            raise ValueError("score, critique, ties and centering are weights, which must not be negative")

    @property
    def needs(self) -> tuple[str, ...]:
        """What records must say, see visalign.needs: a lead is a difference of scores."""
        return ("scores",) if self.margin else ()

    @property
    def centred(self) -> float:
        """The weight of the squared sum of two scores."""
        return (CENTRED if self.variant == "release" else 0.0) if self.centering is None else self.centering

    def loss(self, batch: Critiques, model: Critic) -> Loss:
        """(b,) losses of b pairs of critiques."""
        said = model.criticise(batch.answers)
        win, lose = said.score.chunk(2)
        written = -Log(token_log_probs(said.spoken), said.spoken.mask).mean
        critique = torch.stack(written.chunk(2)).sum(0)
        each = self.score * self.preferred(batch, win, lose) + self.critique * critique
        if self.centred:
            each = each + self.centred * centering(win, lose)
        return Loss(each, {**judged(batch, win - lose), "critique_nll": critique.detach() / 2})

    def preferred(self, batch: Critiques, win: Tensor, lose: Tensor) -> Tensor:
        """(b,) of the scores alone."""
        sure = batch.confidence.to(win)
        lead: Tensor | float = 0.0
        if self.margin:
            lead = -known_scores(batch, "critique_reward with a margin").to(win).diff(dim=1)[:, 0]
        vote = sure * bradley_terry(win, lose, margin=lead) + (1 - sure) * bradley_terry(lose, win, margin=-lead)
        return torch.where(sure == 0.5, self.ties * (win - lose).square(), vote)


def judged(batch: Critiques, gap: Tensor) -> dict[str, Tensor]:
    """(b,) each: whether the critic agrees with the votes, and how sure it is; ties count as 1/2."""
    gap, sure = gap.detach(), batch.confidence.to(gap)
    told = sure > 0.5
    return {
        "accuracy": ((torch.sign(gap) + 1) / 2).where(told, 0.5),
        "certainty": gap.abs().sigmoid().where(told, 0.5),
        "vote_nll": -sure * logsigmoid(gap) - (1 - sure) * logsigmoid(-gap),
        "score_gap": gap.where(told, 0.0),
    }


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("critique_reward")
