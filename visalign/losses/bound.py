"""A loss with its settings decided, called with the columns of a batch: labels mixed, parts weighted and summed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from .arithmetic import wide
from .registry import Entry, Fields, Reads


class Inputs(Protocol):
    """Anything that can say its columns by name (see `inputs`)."""

    def fields(self) -> Mapping[str, Tensor]: ...


def evaluate(entry: Entry, fields: Fields, settings: Mapping[str, Any]) -> Tensor:
    """The loss of an entry on named fields, (b,), its label taken as given; `settings` may hold beta."""
    arguments = {name: _made(maker, fields, settings) for name, maker in entry.sets.items()}
    reads = Reads.of(entry.function)
    for name in reads.fields:
        if name not in arguments:
            arguments[name] = _column(entry.name, fields, entry.reads.get(name, name))
    arguments |= {name: settings[name] for name in reads.settings if name in settings and name not in arguments}
    each = entry.function(**arguments)
    return each if entry.factor == 1 else entry.factor * each


def _made(maker: Any, fields: Fields, settings: Mapping[str, Any]) -> Any:
    """An argument that a recipe decides: a constant, or a function of the fields and settings that it names."""
    if not callable(maker):
        return maker
    reads = Reads.of(maker)
    columns = {name: _column(maker.__name__, fields, name) for name in reads.fields}
    return maker(**columns, **{name: settings[name] for name in reads.settings if name in settings})


def _column(wanted_by: str, fields: Fields, name: str) -> Any:
    value = fields.get(name)
    if value is None:
        raise ValueError(f"{wanted_by} reads {name!r}, which it was not given; it was given {', '.join(fields)}")
    return value


@dataclass(frozen=True)
class Part:
    """One entry with its settings, its weight in the sum, and the score transform that stands before it."""

    entry: Entry
    settings: Mapping[str, Any] = field(default_factory=dict)
    weight: float = 1.0
    transform: Callable[[Tensor], Tensor] | None = None
    beta_power: int = 0

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns that must be fed: the entry's, and the lengths of answers whose log-ratios are transformed."""
        means = [name for name in self.entry.fields[:2] if self.transform and name.startswith("mean_")]
        return (*self.entry.fields, *(name.replace("mean", "length") for name in means))

    def __call__(self, fields: Fields, beta: float | Tensor, confidence: Tensor | float | None) -> Tensor:
        """(b,) losses with the label mixed: c L(w, l) + (1 - c) L(l, w)."""
        if self.transform is not None:
            fields = {**fields, **{name: self._scored(name, fields) for name in self.entry.fields[:2]}}
        settings = {**self.settings, "beta": beta}
        certainty = self._certainty(fields, confidence)
        each = evaluate(self.entry, fields, settings)
        if certainty is not None:
            each = mixed(each, evaluate(self.entry, exchanged(fields), settings), certainty)
        scale = self.weight * beta**self.beta_power if self.beta_power else self.weight
        return each if isinstance(scale, (int, float)) and scale == 1 else scale * each

    def _scored(self, name: str, fields: Fields) -> Tensor:
        """A log-ratio through the score transform; a mean is transformed as the sum that it came from, as TRL does."""
        assert self.transform is not None
        value = wide(_column(self.entry.name, fields, name))
        if not name.startswith("mean_"):
            return self.transform(value)
        length = wide(_column(self.entry.name, fields, name.replace("mean", "length"))).clamp(min=1)
        return self.transform(value * length) / length

    def _certainty(self, fields: Fields, confidence: Tensor | float | None) -> Tensor | float | None:
        """The weight on the pair as given; None where the whole weight is on it, or the loss has no pair to turn."""
        own = None if self.entry.label is None else float(_made(self.entry.label, fields, self.settings))
        if confidence is None or "confidence" in self.entry.fields or not turns(self.entry):
            return own
        if not self.entry.ordered and isinstance(confidence, Tensor) and confidence.ndim:
            raise ValueError(
                f"{self.entry.name} sorts its batch, so a confidence per pair means nothing; give one number"
            )
        return confidence if own is None else own * confidence + (1 - own) * (1 - confidence)


def mixed(given: Tensor, turned: Tensor, certainty: Tensor | float) -> Tensor:
    """certainty * given + (1 - certainty) * turned in one pass; the certainty of a robust loss exceeds one."""
    weight = certainty.to(given) if isinstance(certainty, Tensor) else certainty
    return torch.lerp(turned, given, weight)


def exchanged(fields: Fields) -> dict[str, Any]:
    """The same batch with winner and loser exchanged in every field that names one."""
    return {name: fields.get(_partner(name), value) for name, value in fields.items()}


def turns(entry: Entry) -> bool:
    """Whether a loss reads both a winner and a loser, so that its label can be mixed."""
    return any(name.endswith("win") and _partner(name) in entry.fields for name in entry.fields)


def _partner(name: str) -> str:
    if name.endswith("win"):
        return name.removesuffix("win") + "lose"
    return name.removesuffix("lose") + "win" if name.endswith("lose") else name


@dataclass(frozen=True)
class BoundLoss:
    """A loss with its settings decided: a weighted sum of parts, called with the columns of a batch."""

    parts: tuple[Part, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """Every column that some part reads, those of the first part first."""
        return tuple(dict.fromkeys(name for part in self.parts for name in part.fields))

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of all parts together."""
        return frozenset().union(*(part.entry.kinds for part in self.parts))

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the positional arguments of a call are: "win", "lose" (log-ratios) unless every part reads others."""
        firsts = {part.entry.fields[:2] for part in self.parts}
        return firsts.pop() if len(firsts) == 1 else ("win", "lose")

    def __call__(
        self,
        win: Tensor,
        lose: Tensor,
        *,
        beta: float | Tensor,
        confidence: Tensor | float | None = None,
        **fields: Tensor | float | None,
    ) -> Tensor:
        """(b,) losses in float32 at least. `win` and `lose` are what `inputs` says; other columns go by name.

        `confidence` is P(win is better) of each pair, None for 1: the label is mixed, c L(w, l) + (1 - c) L(l, w),
        except by losses that take it themselves (smpo, online_ipo).
        """
        columns = dict(zip(self.inputs, (win, lose), strict=False)) | fields
        each = self._sum(columns, beta, confidence)
        if each.shape != win.shape[:1] or win.shape != lose.shape:
            shapes = f"{tuple(win.shape)} and {tuple(lose.shape)} gave losses of shape {tuple(each.shape)}"
            raise ValueError(f"{shapes}; give two columns of one shape, beta and confidence as numbers or (b,)")
        return each

    def on(self, inputs: Inputs, *, beta: float | Tensor, confidence: Tensor | float | None = None) -> Tensor:
        """The same for typed inputs (see `inputs`), of which every part picks the columns that it reads."""
        return self._sum(inputs.fields(), beta, confidence)

    def _sum(self, columns: Fields, beta: float | Tensor, confidence: Tensor | float | None) -> Tensor:
        sure = 1.0 if confidence is None else confidence
        columns = {**columns, "confidence": sure}
        first, *others = (part(columns, beta, confidence) for part in self.parts)
        return sum(others, start=first)
