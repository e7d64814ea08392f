"""Typed inputs of the losses, and how to make them from token log-probabilities or from denoising errors.

Each has `fields()`: its columns by the names that losses read (`BoundLoss.on` takes it from there). "ratio" always
means log policy - log reference; winner and loser columns end in `win` and `lose`, and plain "win" and "lose" are
the two log-ratios themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from .arithmetic import difference, wide
from .tokens import on_policy_weight

Columns = dict[str, Tensor]


def _given(value: object, *without: str) -> Columns:
    """The tensors of a dataclass that are there, by field name."""
    named = {spot.name: getattr(value, spot.name) for spot in fields(value) if spot.name not in without}  # type: ignore[arg-type]
    return {name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}


def _means(columns: Columns) -> Columns:
    """Per-token means of the sums whose answer's length is known; an answer cut to nothing counts one token."""
    found: Columns = {}
    for side in ("win", "lose"):
        if (length := columns.get(f"length_{side}")) is not None:
            sums = {f"mean_{side}": columns.get(side), f"mean_logp_{side}": columns.get(f"logp_{side}")}
            found |= {name: wide(total) / length.clamp(min=1) for name, total in sums.items() if total is not None}
    return found


@dataclass(frozen=True)
class LogRatioPairs:
    """b pairs of log-ratios, and what else is known of the pairs."""

    win: Tensor  # (b,) log policy - log reference of the winner
    lose: Tensor  # (b,)
    logp_win: Tensor | None = None  # (b,) the policy's own log-probability, or minus its scaled denoising error
    logp_lose: Tensor | None = None
    length_win: Tensor | None = None  # (b,) tokens
    length_lose: Tensor | None = None
    score_win: Tensor | None = None  # (b,) a reward model's opinion
    score_lose: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)  # further columns by name: previous_win, p_win, ...

    def fields(self) -> Columns:
        """Every column that is there, with the per-token means where lengths are known."""
        columns = _given(self)
        return {**columns, **_means(columns), **self.extra}


@dataclass(frozen=True)
class LogProbPairs:
    """b pairs of the policy's own sequence log-probabilities: all that a reference-free loss needs."""

    logp_win: Tensor  # (b,) summed over tokens, nats
    logp_lose: Tensor
    length_win: Tensor  # (b,) tokens
    length_lose: Tensor

    def fields(self) -> Columns:
        """Sums, lengths and means; no log-ratios, so that losses with a reference are refused."""
        columns = _given(self)
        return {**columns, **_means(columns)}


@dataclass(frozen=True)
class RankedLists:
    """b lists of K answers; a NaN score marks an item that is absent."""

    ratio: Tensor  # (b, K) log-ratios
    score: Tensor  # (b, K) higher is better
    logp: Tensor | None = None  # (b, K) summed log-probabilities
    mean_logp: Tensor | None = None  # (b, K) per token
    rank: Tensor | None = None  # (b, K) the place at which each was shown, from 1

    def fields(self) -> Columns:
        """Every column that is there."""
        return _given(self)


@dataclass(frozen=True)
class Unpaired:
    """b single answers, each desirable or not."""

    ratio: Tensor  # (b,) log-ratios
    desirable: Tensor  # (b,) booleans, or +1 / -1

    def fields(self) -> Columns:
        """Both columns."""
        return _given(self)


@dataclass(frozen=True)
class Tokens:
    """The answers of one side, token by token; what lies outside the mask is never read."""

    logp: Tensor  # (b, T) the policy's log-probabilities, nats
    mask: Tensor  # (b, T) 1 for tokens that count: no prompt, no padding, no shared prefix, no tool output
    reference: Tensor | None = None  # (b, T) the reference's log-probabilities
    kl: Tensor | None = None  # (b, T) KL(reference || policy) over the vocabulary
    collision: Tensor | None = None  # (b, T) log sum_v p_v^2 of the policy
    guide: Tensor | None = None  # (b, T) log-ratios of a guide model
    weight: Tensor | None = None  # (b, T) importance of each token

    @property
    def ratio(self) -> Tensor:
        """(b, T) log-ratios; the log-probabilities themselves without a reference."""
        return wide(self.logp) if self.reference is None else difference(self.logp, self.reference)

    @property
    def length(self) -> Tensor:
        """(b,) tokens that count, at least one."""
        return self.mask.sum(-1).clamp(min=1)

    def kept(self, values: Tensor) -> Tensor:
        """(b, T) values, zero outside the mask; selected, not multiplied, so that a NaN in the padding stays there."""
        return wide(values).where(self.mask.bool(), 0.0)


@dataclass(frozen=True)
class TokenPairs:
    """b pairs of answers, token by token: every sequence column can be had from it."""

    win: Tokens
    lose: Tokens
    tail: float = 0.5
    """LD-DPO's alpha: the weight of tokens beyond the shorter answer's length."""

    def fields(self) -> Columns:
        """Sums, means, desensitised and weighted sums, and the token columns, of both sides."""
        return {
            (side if name == "ratio" else f"{name}_{side}"): value
            for side, own, other in (("win", self.win, self.lose), ("lose", self.lose, self.win))
            for name, value in self._side(own, other).items()
        }

    def _side(self, own: Tokens, other: Tokens) -> Columns:
        logp, length = own.kept(own.logp), own.length
        columns = {"logp": logp.sum(-1), "mean_logp": logp.sum(-1) / length, "length": length, "token_logp": logp}
        if own.reference is not None:
            columns |= {name: reduce(own, other, own.ratio, self.tail) for name, reduce in RATIOS.items()}
            columns["token"] = own.kept(own.ratio)
        if own.weight is not None and own.reference is not None:
            columns["weighted"] = weighted(own, other, own.ratio, self.tail)
        if own.kl is not None:
            columns |= {"kl": own.kept(own.kl).sum(-1), "token_kl": own.kept(own.kl)}
        if own.guide is not None:
            columns["guide"] = own.kept(own.guide)
        if own.collision is not None:
            columns["on_policy"] = on_policy_weight(own.logp, own.collision, own.mask)
        return columns


def total(own: Tokens, other: Tokens, values: Tensor, tail: float) -> Tensor:
    """Sum over the tokens: a log-probability."""
    return own.kept(values).sum(-1)


def mean(own: Tokens, other: Tokens, values: Tensor, tail: float) -> Tensor:
    """Mean over the tokens."""
    return own.kept(values).sum(-1) / own.length


def desensitized(own: Tokens, other: Tokens, values: Tensor, tail: float) -> Tensor:
    """Sum in which the tokens beyond the shorter answer's length weigh `tail` (LD-DPO, arXiv 2409.06411)."""
    place = own.mask.long().cumsum(-1)
    shared = torch.minimum(own.length, other.length)[..., None]
    return (own.kept(values) * torch.where(place <= shared, 1.0, tail)).sum(-1)


def weighted(own: Tokens, other: Tokens, values: Tensor, tail: float) -> Tensor:
    """Sum with the tokens' own weights."""
    if own.weight is None:
        raise ValueError("reduce='weighted' needs Tokens.weight on both sides")
    return (own.kept(values) * own.kept(own.weight)).sum(-1)


Reduction = Callable[[Tokens, Tokens, Tensor, float], Tensor]
RATIOS: Mapping[str, Reduction] = {"ratio": total, "mean": mean, "ld": desensitized}
REDUCTIONS: Mapping[str, Reduction] = {"sum": total, "mean": mean, "ld": desensitized, "weighted": weighted}
TEXT_PAIRS = frozenset(
    f"{name}_{side}" for name in ("mean", "ld", "logp", "mean_logp", "length") for side in ("win", "lose")
)
"""The columns that any TokenPairs with a reference has besides win and lose: `feeds` for a text method."""


def from_token_logps(pairs: TokenPairs, reduce: str = "sum") -> LogRatioPairs:
    """Sequence log-ratios and log-probabilities of a batch of answer pairs, reduced alike: sum, mean, ld or weighted.

    The reference is needed on both sides; policy and reference get the same weights (as TRL >= 0.29; older TRL and
    LLaMA-Factory desensitise the policy only).
    """
    if reduce not in REDUCTIONS:
        raise ValueError(f"unknown reduction {reduce!r}; there are {', '.join(REDUCTIONS)}")
    if pairs.win.reference is None or pairs.lose.reference is None:
        raise ValueError("log-ratios need Tokens.reference on both sides; without one, use from_token_probs")
    shrink = REDUCTIONS[reduce]
    win, lose, tail = pairs.win, pairs.lose, pairs.tail
    return LogRatioPairs(
        win=shrink(win, lose, win.ratio, tail),
        lose=shrink(lose, win, lose.ratio, tail),
        logp_win=shrink(win, lose, win.logp, tail),
        logp_lose=shrink(lose, win, lose.logp, tail),
        length_win=win.length,
        length_lose=lose.length,
    )


def from_token_probs(pairs: TokenPairs) -> LogProbPairs:
    """Summed log-probabilities and lengths for reference-free losses."""
    win, lose = (side.kept(side.logp).sum(-1) for side in (pairs.win, pairs.lose))
    return LogProbPairs(win, lose, pairs.win.length, pairs.lose.length)


def from_denoising(
    policy_win: Tensor,
    policy_lose: Tensor,
    reference_win: Tensor,
    reference_lose: Tensor,
    scale: float = 0.5,
    weight: Tensor | float = 1.0,
) -> LogRatioPairs:
    """Surrogate log-ratios from (b,) mean squared denoising errors: -scale * weight(t) * (policy - reference).

    Diffusion-DPO (arXiv 2311.12908, eq. 14; its code has scale 1/2 and beta 5000). They are no nats: losses of scale
    "nats" are not for them.
    """
    strength = -scale * weight
    return LogRatioPairs(
        win=strength * difference(policy_win, reference_win),
        lose=strength * difference(policy_lose, reference_lose),
        logp_win=strength * wide(policy_win),
        logp_lose=strength * wide(policy_lose),
        extra={  # an error is a mean already
            "mean_logp_win": strength * wide(policy_win),
            "mean_logp_lose": strength * wide(policy_lose),
        },
    )
