"""OPA-DPO: Yang et al., "Mitigating Hallucinations in LVLMs via DPO: On-Policy Data Hold the Key", arXiv 2501.09695."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from visalign.batches import AnswerPairs, halves
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, resolve
from visalign.strict import check_choices
from visalign.text import Log, log_probs, text_metrics, token_weights
from visalign.text.corruption import speckled


@dataclass
class OPADPO:
    """L(r_win, r_lose) + image L(r_win, r_worse) + anchor L(sign r_win, 0), L(a, b) = -log sigmoid(beta (a - b)).

    The second step of the paper: the policy, fine-tuned before on true answers and on its own as revised (`mllm_sft`,
    whose weights this run's model and reference start from), prefers true and revised answers to its first ones. r is
    log policy - log reference of an answer, tokens weighed by their importance where a view brings one; r_worse the
    preferred answer's about a picture of which a `share` of the pixels is its mean colour. At the start the loss is
    (1 + image + anchor) log 2. A label that is not sure mixes the first term only.

    variant="release" (zhyang2226/OPA-DPO dpo_trainer.py) takes L token by token, the two answers' tokens paired by
    their place, and a mean over `positions` places: each at which neither has a token adds log 2, so that the gradient
    is far smaller and a token's pull does not know the rest of its answer. Its anchors of true answers have `sign` 1,
    of revised ones -1 (line 704), which pushes them down; here 1 unless it is said.
    """

    beta: float = 0.1
    image: float = 0.2
    anchor: float = 1.0
    sign: Literal[1, -1] = 1
    share: float = 0.3
    positions: int = 896
    preference: LossSpec = "dpo"
    variant: Literal["paper", "release"] = "paper"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    recalls: ClassVar[Literal["some"]] = "some"
    passes = Passes(policy=3, free=3)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or min(self.image, self.anchor) < 0 or not 0 <= self.share <= 1 or self.positions < 1:
            given = f"beta {self.beta}, image {self.image}, anchor {self.anchor}, share {self.share}"
            raise ValueError(f"needs beta above 0, image and anchor from 0 on, share in 0 … 1, positions: {given}")
        self._loss = resolve(self.preference, nats=True)

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        worse = speckled(halves(batch.answers)[0], batch.draw, share=self.share, stream="picture")
        log = log_probs(model, batch.answers, batch.cached, also=worse)
        return self.of(log, token_weights(batch.answers), batch)

    def of(self, log: Log, weight: Tensor | None, batch: AnswerPairs) -> Loss:
        """The loss from what was said (3b, A): winners, losers, winners about worse pictures."""
        pairs = log[: 2 * len(batch)]
        if weight is not None:
            log = log.weighed(torch.cat([weight, weight.chunk(2)[0]]))
        win, lose, worse = (each.ratios for each in log.chunk(3))
        each = self.term(win, lose, batch.confidence)
        each = each + self.image * self.term(win, worse)
        each = each + self.anchor * self.term(self.sign * win, torch.zeros_like(win))
        gap, image = self.beta * (win - lose).sum(-1), self.beta * (win - worse).sum(-1)
        return Loss(each, text_metrics(pairs, gap) | {"image_margin": image.detach()})

    def term(self, first: Tensor, second: Tensor, confidence: Tensor | None = None) -> Tensor:
        """L of (b, A) log-ratios of tokens, (b,)."""
        if self.variant == "paper":
            return self._loss(first.sum(-1), second.sum(-1), beta=self.beta, confidence=confidence)
        longest = first.shape[1]
        if longest > self.positions:
            raise ValueError(f"an answer of {longest} tokens does not fit into positions={self.positions}")
        sure = None if confidence is None else confidence.repeat_interleave(longest)
        each = self._loss(first.flatten(), second.flatten(), beta=self.beta, confidence=sure).reshape(first.shape)
        return (each.sum(-1) + (self.positions - longest) * math.log(2)) / self.positions


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("opa_dpo")
