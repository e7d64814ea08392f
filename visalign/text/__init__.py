"""Moves that methods for language models share: log-probabilities of policy and reference, token by token.

Every method gets them from `log_probs`, so that this one function decides whether the reference is asked or was cached,
and in which order: the reference first and without gradient, its activations gone before the policy's graph is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad

from ..batches import AnswerPairs, Dialogues, stacked
from ..contract import LanguageModel, Spoken
from ..losses.inputs import TokenPairs, Tokens
from . import spans


@dataclass(frozen=True)
class Log:
    """Log-probabilities of n answers, token by token, float32 at least; what the mask leaves out is 0."""

    policy: Tensor  # (n, A) nats, with gradient
    mask: Tensor  # (n, A) bool
    reference: Tensor | None = None  # (n, A) without gradient

    @property
    def ratios(self) -> Tensor:
        """(n, A) log policy - log reference of each token."""
        if self.reference is None:
            raise ValueError("there is no reference to compare with")
        return self.policy - self.reference

    @property
    def ratio(self) -> Tensor:
        """(n,) the same of whole answers, summed over their tokens."""
        return self.ratios.sum(-1)

    @property
    def mean(self) -> Tensor:
        """(n,) the policy's log-probability per token."""
        return self.policy.sum(-1) / self.mask.sum(-1).clamp(min=1)

    def __getitem__(self, rows: slice) -> Log:
        """Some of the rows."""
        return Log(self.policy[rows], self.mask[rows], None if self.reference is None else self.reference[rows])

    def chunk(self, count: int) -> tuple[Log, ...]:
        """The rows in `count` equal parts: of pairs with the preferred answers once more, three."""
        size = len(self.mask) // count
        return tuple(self[size * part : size * (part + 1)] for part in range(count))

    def half(self, second: bool) -> Log:
        """The first or the second half of the rows: the preferred answers, or the others."""
        return self.chunk(2)[second]

    def weighed(self, weight: Tensor | None) -> Log:
        """The same with a weight (n, A) on each token, alike for policy and reference; None for 1."""
        if weight is None:
            return self
        before = None if self.reference is None else self.reference * weight
        return Log(self.policy * weight, self.mask, before)


def token_log_probs(spoken: Spoken) -> Tensor:
    """(n, A) log-probability of each token of the answers, in float32 at least, 0 outside the mask.

    Selected, not multiplied: a vocabulary that a model masks with -inf must not make NaN of padding.
    """
    found: Tensor = _Picked.apply(spoken.logits, spoken.ids)
    return found.where(spoken.mask, 0.0)


class _Picked(torch.autograd.Function):
    """The log-softmax of logits (n, A, V) at one id each, (n, A), in float32 at least.

    Keeps the logits as they came and one number a token, and its backward makes one table of their size, where plain
    operations hold three: the softmax, the one-hot of the ids, and their sum.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = wide.logsumexp(-1)
        ctx.save_for_backward(logits, ids, total)
        return wide.gather(-1, ids[..., None]).squeeze(-1) - total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        logits, ids, total = ctx.saved_tensors
        below = total.where(total.isfinite(), 0.0)  # places where nothing can be said have no slope, and no NaN
        softmax = (logits - below[..., None]).exp_()
        found = softmax.mul_(-slope[..., None]).scatter_add_(-1, ids[..., None], slope[..., None])
        return found.to(logits.dtype), None


def log_probs(
    model: LanguageModel,
    dialogues: Dialogues,
    cached: Tensor | None = None,
    *,
    also: Dialogues | None = None,
    against: Dialogues | None = None,
) -> Log:
    """What policy and reference say of the same answers; `cached` (n, A) stands for the reference's own answer.

    `also` are further rows, no longer ones, that go through the networks in the same pass and come last; the reference
    is asked of them in any case, or of `against` in their place: the same answers about other pictures.
    """
    beside = also if against is None else against
    asked = _together(dialogues if cached is None else None, beside)
    with torch.no_grad():
        before = None if asked is None else token_log_probs(model.reference(asked))
    spoken = model.policy(dialogues if also is None else stacked(dialogues, also))
    width = spoken.mask.shape[1]
    if cached is not None and cached.shape != (len(dialogues), width):
        shapes = f"{tuple(cached.shape)}, the answers {(len(dialogues), width)}"
        raise ValueError(f"the cached log-probabilities are not of these answers: they have shape {shapes}")
    found = [pad(each, (0, width - each.shape[1])) for each in (cached, before) if each is not None]
    return Log(token_log_probs(spoken), spoken.mask, torch.cat(found).where(spoken.mask, 0.0))


def _together(first: Dialogues | None, second: Dialogues | None) -> Dialogues | None:
    """Both, or the one that there is."""
    return stacked(first, second) if first is not None and second is not None else second if first is None else first


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


def token_weights(dialogues: Dialogues, emphasis: float = 1.0) -> Tensor | None:
    """(2b, A) weights of the tokens of b pairs: the records' own importance or, without, `emphasis` on changed tokens.

    Changed is what the two of a pair do not share (see `visalign.text.spans`). None where every token weighs 1.
    """
    if dialogues.importance is not None or emphasis == 1:
        return importance_of(dialogues)
    places, mask = answer_places(dialogues.answer)
    ids, counts = dialogues.ids.gather(1, places).tolist(), mask.sum(1).tolist()
    words = [row[:count] for row, count in zip(ids, counts, strict=True)]
    half = len(words) // 2
    marks = [spans.changed(*pair) for pair in zip(words[:half], words[half:], strict=True)]
    rows = [each for side in (0, 1) for each in (pair[side] for pair in marks)]
    hit = torch.tensor([row + [False] * (mask.shape[1] - len(row)) for row in rows], device=mask.device)
    return torch.where(hit, emphasis, 1.0).where(mask, 0.0)


def averaged(weight: Tensor) -> Tensor:
    """The weights (n, A) over their sum of each row: what is weighed by them is a mean."""
    return weight / weight.sum(-1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny)


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
