"""TARS: Zhang et al., "TARS: MinMax Token-Adaptive Preference Strategy for MLLM Hallucination Reduction",
arXiv 2507.21584."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch

from visalign.batches import AnswerPairs, Dialogues, halves, stacked
from visalign.contract import LanguageModel, Loss, Passes, Reference
from visalign.losses import LossSpec, dpo, resolve
from visalign.strict import check_choices
from visalign.text import Log, answer_states, perturbation, text_metrics, token_log_probs
from visalign.text.corruption import noised
from visalign.text.perturbation import By
from visalign.text.spectral import hinges, log_power_ratio


@dataclass
class TARS:
    """DPO on questions whose words without a counterpart in the picture are changed, and a term on frequencies.

    variant="paper": of the question's words the N least like the picture (eq. 9, `omega`) are masked or replaced by
    random ones, for policy and reference alike. The loss is DPO at `beta` (the paper's alpha = 1) + `spectral` times
    -log sigmoid(spectral_beta (f_win - f_lose)), f = log F(policy's states) - log F(reference's states on the question
    as it was asked) (eq. 10, 11). Which states the paper does not say: here `layer`'s at the answer's tokens. Its "max"
    is the choice of words; there is no inner maximisation.

    variant="release" (KejiaZhang-Robust/TARS, llava_trainer.py): 5 % of all words, the answer's too, are drawn almost
    uniformly; what is drawn in an answer leaves its log-probability. To DPO at beta 0.1 comes the same with the
    preferred answer on a noisy picture as the loser, which the paper does not have. The spectral term is a hinge on
    magnitudes of the input embeddings, and reaches nothing but embeddings and projector: under LoRA nothing. Words are
    drawn in each answer by itself, which is the release at its own batch of one; its mask takes tokens out. Words of
    the template are never drawn here.

    Both want data.relevance, a scorer that gives cosines (the paper: CLIP's). Ties and unsure labels mix DPO's terms.
    """

    beta: float | None = None  # 1 for the paper, 0.1 for the release
    omega: float = 0.1
    by: By = "mask"
    spectral: float = 0.1
    spectral_beta: float = 1.0
    layer: int = -1  # of the paper's states
    share: float = 0.05  # of the release's words
    noise: int = 500  # step of the release's noisy picture
    preference: LossSpec = "dpo"
    variant: Literal["paper", "release"] = "paper"
    batch_type = AnswerPairs
    reference = Reference.FROZEN
    looks: ClassVar[Literal[True]] = True

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.omega > 0 or not 0 < self.share <= 1 or self.spectral < 0 or not self.spectral_beta > 0:
            given = f"omega {self.omega}, share {self.share}, spectral {self.spectral}, its beta {self.spectral_beta}"
            raise ValueError(f"needs omega and spectral_beta above 0, share in 0 … 1, spectral from 0 on, got {given}")
        self._beta = self.beta if self.beta is not None else 1.0 if self.variant == "paper" else 0.1
        if not self._beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._loss = resolve(self.preference, nats=True)

    @property
    def passes(self) -> Passes:
        """The changed pair by both models, the pair as it was by the reference; the release's noisy winner by both."""
        changed = 2 if self.variant == "paper" else 3
        return Passes(policy=changed, free=changed + 2 * (self.spectral > 0))

    def loss(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """(b,) losses of b pairs."""
        return self.as_written(batch, model) if self.variant == "paper" else self.as_released(batch, model)

    def as_written(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """Section 3 of the paper."""
        given = batch.answers
        chosen = perturbation.least_relevant(*perturbation.question(given), self.omega)
        words = perturbation.twice(batch.draw, "words", given.ids.shape[1])
        asked = perturbation.other_words(given, chosen, self.by, words)
        layer = self.layer if self.spectral else None
        with torch.no_grad():
            before = token_log_probs(model.reference(asked))
            clean = None if layer is None else answer_states(model.reference(given, hidden=layer).hidden, given)
        spoken = model.policy(asked, hidden=layer)
        log = Log(token_log_probs(spoken), spoken.mask, before)
        win, lose = (each.ratio for each in log.chunk(2))
        each = self._loss(win, lose, beta=self._beta, confidence=batch.confidence)
        if clean is not None:
            found = log_power_ratio(answer_states(spoken.hidden, asked), clean, spoken.mask)
            each = each + self.spectral * dpo(*found.chunk(2), beta=self.spectral_beta)
        return Loss(each, text_metrics(log, self._beta * (win - lose)))

    def as_released(self, batch: AnswerPairs, model: LanguageModel) -> Loss:
        """The released code's loss."""
        asked = self.drawn(batch)
        rows = stacked(asked, noised(halves(asked)[0], batch.draw, step=self.noise))
        layer = 0 if self.spectral else None
        with torch.no_grad():
            before = token_log_probs(model.reference(rows))
            clean = None if layer is None else model.reference(batch.answers, hidden=layer).hidden
        spoken = model.policy(rows, hidden=layer)
        found = self.adversarial(Log(token_log_probs(spoken), spoken.mask, before), batch)
        if clean is None or spoken.hidden is None:
            return found
        hinge = hinges(spoken.hidden, rows.attention, clean, batch.answers.attention)
        return replace(found, each=found.each + self.spectral * hinge)

    def adversarial(self, log: Log, batch: AnswerPairs) -> Loss:
        """The release's DPO terms from what was said (3b, A): winners, losers, winners about noisy pictures."""
        win, lose, noisy = (each.ratio for each in log.chunk(3))
        each = self._loss(win, lose, beta=self._beta, confidence=batch.confidence) + dpo(win, noisy, beta=self._beta)
        shown = {"image_margin": self._beta * (win - noisy).detach()}
        return Loss(each, text_metrics(log[: 2 * len(batch)], self._beta * (win - lose)) | shown)

    def drawn(self, batch: AnswerPairs) -> Dialogues:
        """The 2b answers with 5 % of their words changed, or taken out; what is changed is not counted."""
        given = batch.answers
        keys, words = (perturbation.each_way(batch.draw, what, given.ids) for what in ("drawn", "words"))
        similarity = perturbation.attention_to_words(perturbation.known_relevance(given))
        chosen = perturbation.drawn_words(similarity, given.attention, self.share, keys)
        if self.by == "mask":
            return perturbation.without(given, chosen)
        return replace(perturbation.other_words(given, chosen, self.by, words), answer=given.answer & ~chosen)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("tars")
