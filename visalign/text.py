"""Moves that methods for language models share: log-probabilities of policy and reference, token by token.

Every method gets them from `log_probs`, so that this one function decides whether the reference is asked or was cached,
and in which order: the reference first and without gradient, its activations gone before the policy's graph is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batches import AnswerPairs, Dialogues
from .contract import LanguageModel, Spoken
from .losses.inputs import TokenPairs, Tokens


@dataclass(frozen=True)
class Log:
    """Log-probabilities of n answers, token by token, float32 at least; what the mask leaves out is 0."""

    policy: Tensor  # (n, A) nats, with gradient
    mask: Tensor  # (n, A) bool
    reference: Tensor | None = None  # (n, A) without gradient

    @property
    def ratio(self) -> Tensor:
        """(n,) log policy - log reference of whole answers, summed over their tokens."""
        if self.reference is None:
            raise ValueError("there is no reference to compare with")
        return (self.policy - self.reference).sum(-1)

    def half(self, second: bool) -> Log:
        """The first or the second half of the rows: the preferred answers, or the others."""
        policy, mask = self.policy.chunk(2)[second], self.mask.chunk(2)[second]
        return Log(policy, mask, None if self.reference is None else self.reference.chunk(2)[second])


def token_log_probs(spoken: Spoken) -> Tensor:
    """(n, A) log-probability of each token of the answers, in float32 at least, 0 outside the mask.

    Selected, not multiplied: a vocabulary that a model masks with -inf must not make NaN of padding.
    """
    logits = spoken.logits.to(torch.promote_types(spoken.logits.dtype, torch.float32))
    picked = logits.gather(-1, spoken.ids[..., None]).squeeze(-1)
    return (picked - logits.logsumexp(-1)).where(spoken.mask, 0.0)


def log_probs(model: LanguageModel, dialogues: Dialogues, cached: Tensor | None = None) -> Log:
    """What policy and reference say of the same answers; `cached` (n, A) stands for the reference's own answer."""
    if cached is None:
        with torch.no_grad():
            cached = token_log_probs(model.reference(dialogues))
    spoken = model.policy(dialogues)
    if cached.shape != spoken.mask.shape:
        shapes = f"{tuple(cached.shape)}, the answers {tuple(spoken.mask.shape)}"
        raise ValueError(f"the cached log-probabilities are not of these answers: they have shape {shapes}")
    return Log(token_log_probs(spoken), spoken.mask, cached.where(spoken.mask, 0.0))


def policy_log_probs(model: LanguageModel, dialogues: Dialogues) -> Log:
    """The same without a reference."""
    spoken = model.policy(dialogues)
    return Log(token_log_probs(spoken), spoken.mask)


def of_pairs(model: LanguageModel, batch: AnswerPairs) -> Log:
    """`log_probs` of a batch's 2b answers, the reference's from its cache where there is one."""
    return log_probs(model, batch.answers, batch.cached)


def token_pairs(log: Log, importance: Tensor | None = None, tail: float = 0.5) -> TokenPairs:
    """The 2b answers as what losses read: `losses.resolve(...).on(token_pairs(log), beta=…)`.

    `importance` (2b, A) weighs tokens, alike for policy and reference; `tail` is LD-DPO's weight of the tokens beyond
    the shorter answer's length.
    """
    weights: tuple[Tensor | None, Tensor | None] = (None, None)
    if importance is not None:
        first, second = importance.chunk(2)
        weights = (first, second)
    win, lose = (
        Tokens(each.policy, each.mask, each.reference, weight=weight)
        for each, weight in zip((log.half(False), log.half(True)), weights, strict=True)
    )
    return TokenPairs(win, lose, tail)


def answer_places(answer: Tensor) -> tuple[Tensor, Tensor]:
    """Where the counted tokens of each row stand: places (n, A), in order, and which of them are real, (n, A) bool.

    A is the most of a row, and at least 1. `answer` (n, L) may have gaps, and must not count a row's first token.
    """
    count = int(answer.sum(1).max().clamp(min=1))
    places = torch.argsort((~answer).to(torch.int8), dim=1, stable=True)[:, :count]
    return places, answer.gather(1, places)


def answer_states(hidden: Tensor | None, dialogues: Dialogues) -> Tensor:
    """(n, A, width) states at the answers' counted tokens."""
    if hidden is None:
        raise ValueError("the model gave no states")
    places, _ = answer_places(dialogues.answer)
    return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[-1]))


def importance_of(dialogues: Dialogues) -> Tensor | None:
    """(n, A) weights of the counted tokens, as `token_pairs` wants them."""
    if dialogues.importance is None:
        return None
    places, mask = answer_places(dialogues.answer)
    return dialogues.importance.gather(1, places).where(mask, 0.0)


def changed(dialogues: Dialogues, media: Mapping[str, Tensor]) -> Dialogues:
    """The same dialogues about other pictures."""
    return replace(dialogues, media={**dialogues.media, **media})


def text_metrics(log: Log, margin: Tensor) -> dict[str, Tensor]:
    """What a flat loss curve hides, (b,) each: how likely the answers are, against the reference, and the margin."""
    win, lose = log.half(False), log.half(True)
    found = {"win_logp": win.policy.detach().sum(-1), "lose_logp": lose.policy.detach().sum(-1)}
    found["win_tokens"] = win.mask.sum(-1).to(win.policy.dtype)
    if log.reference is not None:
        found |= {"win_ratio": win.ratio.detach(), "lose_ratio": lose.ratio.detach()}
    return {**found, "margin": margin.detach()}
