"""The table of losses: what each is called, what it reads, what it may be fed, and where it comes from.

A loss is one function under one `@loss(...)` line. What follows from the function is read off its signature: its
positional parameters are columns of the batch, its named ones are settings with their defaults. A recipe is a name
for an existing function with some of its arguments decided; a blend is a name for a weighted sum.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Literal, TypeVar

from torch import Tensor

Function = TypeVar("Function", bound=Callable[..., Tensor])
Loss = str | Callable[..., Tensor]
Fields = Mapping[str, Any]
Scale = Literal["surrogate", "nats"]
Reduce = Literal["sum", "mean"]

KINDS = {
    "h": "reads only the gap between two log-ratios",
    "wl": "reads two log-ratios, each for itself",
    "reference_free": "reads the policy's own log-probabilities",
    "token": "reads sums over tokens that need the whole vocabulary, masks or a third model",
    "list": "reads K log-ratios and K scores",
    "unpaired": "reads single items, each marked desirable or not",
    "online": "reads samples of the policy being trained",
    "reward": "reads the scores of a reward model being trained",
    "batch": "couples the pairs of a batch",
}
GROUP = "visalign.losses"
"""Entry-point group by which other distributions add losses: name = "module:function"."""


@dataclass(frozen=True)
class Reads:
    """What a function reads, by its signature: columns of the batch, and settings with their defaults."""

    fields: tuple[str, ...]
    settings: Mapping[str, Any]

    @classmethod
    @cache  # losses are resolved anew at every step, and inspection is slow
    def of(cls, function: Callable[..., Any]) -> Reads:
        """Positional parameters are fields, keyword-only ones settings (`inspect.Parameter.empty`: must be given)."""
        parameters = inspect.signature(function).parameters.values()
        return cls(
            tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY),
            {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY},
        )


@dataclass(frozen=True)
class Entry:
    """One line of the table: a function, what it is fed, and what a reader needs to choose it."""

    name: str
    function: Callable[..., Tensor]
    kinds: frozenset[str]
    paper: str
    formula: str
    when: str
    scale: Scale = "surrogate"
    beta: float = 0.1
    saturates: str = ""
    homogeneous: bool = False
    """beta^2 L depends on beta through z alone, so that it can be normalised across modalities."""
    pair_form: str = ""
    """The loss that a list of two comes to; empty for list losses that weigh a pair in their own way."""
    ordered: bool = True
    """Element i of the loss belongs to pair i; False where a loss sorts its batch."""
    reads: Mapping[str, str] = field(default_factory=dict)
    """Field of the batch by parameter of the function, where the two names differ."""
    sets: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that a recipe decides: a value, or a function of fields and settings."""
    label: Callable[..., float] | None = None
    """The weight on the label as given, from settings; one minus it goes to the pair the other way round."""
    factor: float = 1.0
    of: str = ""
    """The loss that a recipe is made from."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Columns of the batch that must be fed, the function's own first."""
        own = [self.reads.get(name, name) for name in Reads.of(self.function).fields if name not in self.sets]
        return tuple(dict.fromkeys(own + [name for part in self._makers() for name in Reads.of(part).fields]))

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that a user may give, with their defaults; beta is the caller's."""
        found = {name: value for name, value in Reads.of(self.function).settings.items() if name not in self.sets}
        for part in self._makers():
            found |= Reads.of(part).settings
        return {name: value for name, value in found.items() if name != "beta"}

    def _makers(self) -> list[Callable[..., Any]]:
        made = [value for value in self.sets.values() if callable(value)]
        return [*made, self.label] if self.label else made

    def __call__(self, *inputs: Tensor, beta: float | Tensor | None = None, **settings: Any) -> Tensor:
        """The loss, (b,), of its columns in the order of `fields`; beta is the entry's own unless it is given."""
        from .bound import Part

        columns = dict(zip(self.fields, inputs, strict=True))
        return Part(self, settings)(columns, self.beta if beta is None else beta, None)


@dataclass(frozen=True)
class Blend:
    """A name for a weighted sum of losses, as some papers give one."""

    name: str
    parts: tuple[tuple[str, float], ...]
    paper: str
    when: str


_TABLE: dict[str, Entry | Blend] = {}
_AMBIGUOUS: dict[str, tuple[str, ...]] = {}


def loss(kind: str, *more: str, paper: str, formula: str, when: str, **traits: Any) -> Callable[[Function], Function]:
    """Register the function below under its own name; returns it unchanged.

    `kind` and `more` are of KINDS; traits are fields of Entry (scale, beta, saturates, reads, ...).
    """

    def note(function: Function) -> Function:
        kinds = frozenset((kind, *more))
        _add(Entry(function.__name__, function, kinds, paper=paper, formula=formula, when=when, **traits))
        return function

    return note


def recipe(name: str, of: Loss, **changes: Any) -> None:
    """Register a name for a registered loss with other arguments; `sets`, `reads`, `kinds` and so on as in Entry."""
    base = _TABLE[of if isinstance(of, str) else of.__name__]
    if not isinstance(base, Entry):
        raise TypeError(f"a recipe is made from a function; {base.name} is a blend")
    changes["sets"] = {**base.sets, **changes.get("sets", {})}
    changes["reads"] = {**base.reads, **changes.get("reads", {})}
    _add(replace(base, name=name, of=base.name, **changes))


def blend(name: str, parts: Iterable[tuple[str, float]], *, paper: str, when: str) -> None:
    """Register a name for a weighted sum of registered losses."""
    _add(Blend(name, tuple(parts), paper, when))


def ambiguous(name: str, *candidates: str) -> None:
    """Make a name that several papers use an error that lists what it may mean."""
    _AMBIGUOUS[name] = candidates


def _add(entry: Entry | Blend) -> None:
    if entry.name in _TABLE:
        raise ValueError(f"a loss named {entry.name!r} exists already; give this one another name")
    if isinstance(entry, Entry) and (unknown := entry.kinds - KINDS.keys()):
        raise ValueError(f"{entry.name}: unknown kind {', '.join(sorted(unknown))}; there are {', '.join(KINDS)}")
    _TABLE[entry.name] = entry


def names(kind: str | None = None) -> list[str]:
    """Every plain name, built in or plugged in, sorted; with `kind`, the losses of that kind."""
    load_plugins()
    plain = sorted(name for name in _TABLE if ":" not in name)
    return [name for name in plain if kind is None or kind in kinds_of(_TABLE[name])]


def kinds_of(entry: Entry | Blend) -> frozenset[str]:
    """The kinds of a loss; those of all its parts for a blend."""
    if isinstance(entry, Entry):
        return entry.kinds
    return frozenset().union(*(kinds_of(by_name(name)) for name, _ in entry.parts))


def by_name(name: str) -> Entry | Blend:
    """The entry of a name, qualified or plain; ValueError says what it may have meant."""
    key = str(name).replace(" ", "")
    if key not in _TABLE and key not in _AMBIGUOUS:
        load_plugins()
    if key in _TABLE:
        return _TABLE[key]
    raise ValueError(_unknown(key))


def _unknown(name: str) -> str:
    if name in _AMBIGUOUS:
        return f"loss {name!r} means several things; say which: {', '.join(_AMBIGUOUS[name])}"
    if qualified := [known for known in _TABLE if known.split(":")[-1] == name]:
        return f"loss {name!r} is another project's name; say whose numbers you mean: {', '.join(qualified)}"
    near = get_close_matches(name, _TABLE, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(_TABLE))}"
    return f"unknown loss {name!r}; {hint}"


def qualified() -> dict[str, Entry]:
    """Other projects' names, "project:name", and what they stand for here."""
    return {name: entry for name, entry in _TABLE.items() if ":" in name and isinstance(entry, Entry)}


def ambiguities() -> dict[str, tuple[str, ...]]:
    """Names that mean several things, and what."""
    return dict(_AMBIGUOUS)


def load_plugins() -> None:
    """Import every loss that an installed distribution announces under the entry-point group `visalign.losses`."""
    for point in entry_points(group=GROUP):
        point.load()
        if point.name not in _TABLE:
            raise ValueError(
                f"entry point {point.name!r} of {GROUP} loads {point.value}, which registered no loss of that name; "
                "put @visalign.losses.loss(...) on a function of that name"
            )
