"""MM-DPO: Zhang et al., "MM-RLHF: The Next Step Forward in Multimodal LLM Alignment", arXiv 2502.10391."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from visalign.batches import AnswerPairs
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, resolve
from visalign.losses.state import Reduce, alone, dynamic_beta, global_mean, scored_beta
from visalign.needs import known_scores
from visalign.strict import check_choices
from visalign.text import of_pairs, text_metrics


@dataclass
class MMDPO:
    """-log sigmoid(beta(d) (r_win - r_lose)) + sft NLL(win), clearer pairs binding more (section 4, appendix F.2).

    beta(d) = beta (1 + strength (1 - e^(-rate d))) with d = s_win - s_lose of a reward model, at least 0: each pair has
    its own, between beta and (1 + strength) beta, without gradient. NLL is the preferred answer's per token, a mean of
    each answer's own. Pairs without scores are an error.

    variant="release" (Kwai-YuanQi/MM-RLHF trl/trainer/dpo_trainer.py:797) puts the model's own gaps A = r_win - r_lose
    in the scores' place, which the paper reports not to work: of all pairs in flight 80 % are drawn near the mean gap,
    and the one beta is beta (1 + strength (mean A of the drawn - mean A)), at least 0.001; its strength is 0.1. Each
    process draws from its own pairs here, by the records' own draws; the means are over all. It needs a micro_batch of
    2: at the release's own of 1, on one process, nothing is drawn and it ends in an error.
    """

    beta: float = 0.1
    strength: float | None = None  # 0.5 in the paper, 0.1 in the release
    rate: float = 0.5
    sft: float = 0.0
    preference: LossSpec = "dpo"
    variant: Literal["paper", "release"] = "paper"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    recalls: ClassVar[Literal["all"]] = "all"
    passes = Passes(policy=2, free=2)

    def __post_init__(self) -> None:
        check_choices(self)
        self._strength = self.strength if self.strength is not None else 0.5 if self.variant == "paper" else 0.1
        if not self.beta > 0 or not self.rate > 0 or min(self._strength, self.sft) < 0:
            given = f"beta {self.beta}, rate {self.rate}, strength {self._strength}, sft {self.sft}"
            raise ValueError(f"needs beta and rate above 0, strength and sft from 0 on, got {given}")
        self._loss = resolve(self.preference, nats=True)
        self.over = Window()

    @property
    def needs(self) -> tuple[str, ...]:
        """What records must say, see visalign.needs: the release goes by its own gaps."""
        return ("scores",) if self.variant == "paper" else ()

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs; the release's depend on one another through beta."""
        log = of_pairs(model, batch)
        win, lose = log.half(False), log.half(True)
        beta = self.beta_of(batch, win.ratio - lose.ratio)
        each = self._loss(win.ratio, lose.ratio, beta=beta, confidence=batch.confidence)
        each = each - self.sft * win.mean if self.sft else each
        return Loss(each, text_metrics(log, beta * (win.ratio - lose.ratio)) | {"beta": beta})

    def beta_of(self, batch: AnswerPairs, gap: Tensor) -> Tensor:
        """(b,) without gradient."""
        if self.variant == "release":
            if len(batch) < 2:
                raise ValueError(
                    "mm_dpo as released compares the pairs of a batch: it needs a micro_batch of 2 or more"
                )
            kept = drawn(self.over.weights(gap), batch.draw.uniform("kept"))
            usual, near = self.over.mean(gap), self.over.mean(gap[kept])
            return dynamic_beta(near, usual, beta=self.beta, strength=self._strength).expand_as(gap)
        win, lose = known_scores(batch, "mm_dpo").to(gap).unbind(1)
        return scored_beta(win - lose, beta=self.beta, strength=self._strength, rate=self.rate)


class Window(nn.Module):
    """Statistics over the pairs of all processes; what makes a variance unbiased is one process's number of pairs."""

    def __init__(self, reduce: Reduce = alone) -> None:
        super().__init__()
        self.reduce = reduce

    def mean(self, values: Tensor) -> Tensor:
        """Mean of (n,) values, one number."""
        return global_mean(values, self.reduce)

    def weights(self, gap: Tensor) -> Tensor:
        """(n,) e^(-z^2 / 2), z the gap against mean and unbiased deviation."""
        away = gap.detach() - self.mean(gap)
        count = self.reduce(away.new_tensor(float(len(away))))
        deviation = (self.mean(away.square()) * count / (count - 1)).sqrt()
        return (-0.5 * (away / (deviation + 1e-7)).square()).exp()


def drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """Places of 80 % of n pairs, drawn by weight (n,) and not twice: the greatest u^(1/w) (Efraimidis, Spirakis)."""
    keys = uniform.to(weights).clamp(min=torch.finfo(weights.dtype).tiny).log() / weights
    return keys.topk(int(0.8 * len(weights))).indices


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("mm_dpo")
