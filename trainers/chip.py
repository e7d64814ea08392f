"""CHiP: Fu et al., "CHiP: Cross-modal Hierarchical Direct Preference Optimization", arXiv 2501.16629."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visalign.batches import AnswerPairs, halves, stacked
from visalign.contract import LanguageModel, Loss, Passes, Reference, Spoken
from visalign.losses import resolve
from visalign.losses.tokens import vocabulary_kl
from visalign.strict import check_choices
from visalign.text import Log, text_metrics, token_log_probs, token_weights
from visalign.text.corruption import corruption


@dataclass
class CHiP:
    """-log s(beta [(r_win - r_lose) + (r_win - r_worse) - alpha (K_lose - sg K_win)]): one sigmoid on three levels.

    - response and segment: r is log policy - log reference, the tokens in which the two answers differ weighing
      `emphasis` = 1 + lambda (4 for LLaVA, 2 for Muffin; 1 leaves segments out).
    - token: K is the sum over an answer's tokens of KL(reference || policy) over the vocabulary (TDPO); no gradient
      goes through the preferred answer's.
    - image: r_worse is the preferred answer's about a worse picture, 500 steps of noise (`picture`).

    A label that is not sure mixes the loss with that of the pair turned round, all terms with it. The reference is
    asked for whole distributions, which no cache holds.

    variant="release" (LVUGAI/CHiP llava_trainer.py:543, 613) multiplies the reference's log-probability of the whole
    answer about the worse picture by the sum of the segment weights, where each token's should have its own: -100 at
    weights 1, 4, 4, 1, 0 becomes -1000, and the sigmoid saturates. Without segment weights it is the paper.
    """

    beta: float = 0.1
    alpha: float = 0.1
    emphasis: float = 4.0
    picture: str = "noise"
    variant: Literal["paper", "release"] = "paper"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    passes = Passes(policy=3, free=3)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or not self.emphasis > 0 or self.alpha < 0:
            given = f"beta {self.beta}, emphasis {self.emphasis}, alpha {self.alpha}"
            raise ValueError(f"needs beta and emphasis above 0 and alpha from 0 on, got {given}")
        self._corrupt = corruption(self.picture)
        feeds = frozenset({"kl_win", "kl_lose"})
        tdpo = {"name": "tdpo2", "alpha": self.alpha}
        self._loss = resolve(tdpo, kinds=frozenset({"token"}), nats=True, feeds=feeds)

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        rows = stacked(batch.answers, self._corrupt(halves(batch.answers)[0], batch.draw, stream="picture"))
        with torch.no_grad():
            reference = model.reference(rows)
        policy = model.policy(rows)
        log = Log(token_log_probs(policy), policy.mask, token_log_probs(reference))
        return self.of(log, divergence(reference, policy), token_weights(batch.answers, self.emphasis), batch)

    def of(self, log: Log, kl: Tensor, weight: Tensor | None, batch: AnswerPairs) -> Loss:
        """The loss from what was said (3b, A), its divergences (3b,) and the weights (2b, A) of the pairs' tokens."""
        pairs, (win, lose, worse) = len(batch), self.ratios(log, weight)
        image = win - worse
        found = {"kl_win": kl[:pairs], "kl_lose": kl[pairs : 2 * pairs]}
        each = self._loss(win + image, lose, beta=self.beta, confidence=batch.confidence, **found)
        metrics = text_metrics(log[: 2 * pairs], self.beta * (win - lose)) | {
            "image_margin": self.beta * image.detach()
        }
        return Loss(each, metrics | {name: value.detach() for name, value in found.items()})

    def ratios(self, log: Log, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """(b,) weighed log-ratios of winner, loser, and winner about the worse picture."""
        win, lose, worse = log.chunk(3)
        first, second = (None, None) if weight is None else weight.chunk(2)
        ratios = win.weighed(first).ratio, lose.weighed(second).ratio
        if self.variant == "release" and first is not None and worse.reference is not None:
            return *ratios, (worse.policy * first).sum(-1) - worse.reference.sum(-1) * first.sum(-1)
        return *ratios, worse.weighed(first).ratio


def divergence(reference: Spoken, policy: Spoken) -> Tensor:
    """(n,) KL(reference || policy) summed over the tokens of each answer."""
    return vocabulary_kl(reference.logits, policy.logits).where(policy.mask, 0.0).sum(-1)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("chip")
