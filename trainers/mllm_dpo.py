"""DPO for language models that see: Rafailov et al., arXiv 2305.18290, on answers to questions about pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from visalign.batches import AnswerPairs
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, resolve
from visalign.losses.inputs import TEXT_PAIRS, LogRatioPairs, TokenPairs, from_token_logps, from_token_probs
from visalign.needs import known_scores
from visalign.strict import check_choices
from visalign.text import averaged, of_pairs, policy_log_probs, text_metrics, token_pairs, token_weights

KINDS = frozenset({"h", "wl", "reference_free"})
SCORES = frozenset({"score_win", "score_lose"})


@dataclass
class MLLMDPO:
    """-log sigmoid(beta (r_win - r_lose)), r = log policy(answer) - log reference(answer) with its end mark (eq. 7).

    `preference` names any loss on log-ratios or log-probabilities in its place: "ipo_mean", "orpo", {name: cdpo,
    epsilon: 0.1}; for one that reads no reference ("simpo", "orpo") none is held. `reduce` says how tokens make an
    answer's r, alike for policy and reference:
    - sum: a log-probability.
    - mean: over the tokens.
    - ld: a sum in which tokens beyond the shorter answer's length weigh `tail` (LD-DPO, arXiv 2409.06411; TRL since
      0.29 as here; before, and ms-swift and LLaMA-Factory, for the policy alone).
    Tokens have their importance, where a view brings one (`Dialogues.importance`), or `emphasis` where the two answers
    differ: RLHF-V's dense DPO (arXiv 2312.00849) is {emphasis: 5, reduce: mean, beta: 0.5}, a weighted mean.

    `sft` adds that many times the preferred answer's negative log-probability per token, a mean of each answer's own,
    as LLaMA-Factory's pref_ftx; TRL, ms-swift and MM-RLHF take it over all tokens of a batch, so that what an answer
    counts depends on the length of its neighbours.
    """

    beta: float = 0.1
    preference: LossSpec = "dpo"
    reduce: Literal["sum", "mean", "ld"] = "sum"
    tail: float = 0.5
    emphasis: float = 1.0
    sft: float = 0.0
    batch_type = AnswerPairs
    recalls: ClassVar[Literal["all"]] = "all"

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0 or not self.emphasis > 0 or not 0 <= self.tail <= 1 or self.sft < 0:
            given = f"beta {self.beta}, emphasis {self.emphasis}, tail {self.tail}, sft {self.sft}"
            raise ValueError(f"needs beta and emphasis above 0, tail in 0 … 1 and sft from 0 on, got {given}")
        self._loss = resolve(self.preference, kinds=KINDS, nats=True, feeds=TEXT_PAIRS | SCORES)

    @property
    def reference(self) -> Reference:
        """None for losses that read the policy's own log-probabilities alone (simpo, orpo, …)."""
        return Reference.NONE if self._loss.kinds <= {"reference_free"} else Reference.FROZEN

    @property
    def passes(self) -> Passes:
        """Both answers through both models, or through the one that there is."""
        return Passes(policy=2, free=0 if self.reference is Reference.NONE else 2)

    @property
    def needs(self) -> tuple[str, ...]:
        """What records must say, see visalign.needs: some losses read scores."""
        return ("scores",) if SCORES & set(self._loss.fields) else ()

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        held = self.reference is not Reference.NONE
        log = of_pairs(model, batch) if held else policy_log_probs(model, batch.answers)
        weight = token_weights(batch.answers, self.emphasis)
        if weight is not None and self.reduce == "mean":
            weight = averaged(weight)
        tokens = token_pairs(log.weighed(weight), tail=self.tail)
        pairs = self.reduced(tokens, told=weight is not None) if held else from_token_probs(tokens)
        if self.needs and isinstance(pairs, LogRatioPairs):
            first, second = known_scores(batch, "mllm_dpo").to(log.policy).unbind(1)
            pairs = replace(pairs, score_win=first, score_lose=second)
        each = self._loss.on(pairs, beta=self.beta, confidence=batch.confidence)
        if self.sft:
            each = each - self.sft * log.half(False).mean
        gap = pairs.win - pairs.lose if isinstance(pairs, LogRatioPairs) else log.half(False).mean - log.half(True).mean
        return Loss(each, text_metrics(log, self.beta * gap))

    def reduced(self, pairs: TokenPairs, told: bool) -> LogRatioPairs:
        """What the loss reads; the weights of a mean that are `told` are over their sum already."""
        found = from_token_logps(pairs, "sum" if told and self.reduce == "mean" else self.reduce)
        return replace(found, extra={name: each for name, each in pairs.fields().items() if name.startswith("ld_")})


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("mllm_dpo")
