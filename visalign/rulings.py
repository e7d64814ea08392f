"""What a judge ruled on pairs, order by order: the raw material of preferences and of reports on the judge itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .records import DataError, Preference
from .scoring import Sample


@dataclass(frozen=True)
class Ruling:
    """A judge's word on one pair, one aspect, shown in one order once. Raises DataError for parts that cannot be."""

    prompt: str
    items: tuple[str, str]
    chance: float  # P(items[0] is better), in whichever order they were shown; NaN: it could not say
    shown_first: int = 0  # which of the items
    aspect: str = "overall"
    repeat: int = 0  # the same question again has another number
    reason: str | None = None  # why it could not say
    mass: float | None = None  # probability that the answer's token was one of those asked for; None: not known
    sizes: tuple[float, float] | None = None  # of the items: bytes, pixels or words, one of them throughout
    models: tuple[str, str] | None = None  # what made the items

    def __post_init__(self) -> None:
        for name in ("items", "sizes", "models"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        if len(self.items) != 2 or self.shown_first not in (0, 1):
            raise DataError(f"a ruling is about 2 items, 0 or 1 shown first; got {self.items}, {self.shown_first!r}")
        if not (math.isnan(self.chance) or 0 <= self.chance <= 1):
            raise DataError(f"a chance lies in [0, 1] or is NaN, got {self.chance}")

    @property
    def valid(self) -> bool:
        """Whether the judge could say."""
        return not math.isnan(self.chance)

    @property
    def first_shown(self) -> float:
        """P(the item that was shown first is better)."""
        return 1 - self.chance if self.shown_first else self.chance

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back; NaN becomes null."""
        return asdict(self) | {"chance": self.chance if self.valid else None}

    @classmethod
    def from_json(cls, values: Any) -> Ruling:
        """A ruling from a mapping."""
        known = [each.name for each in fields(cls)]
        unknown = [name for name in values if name not in known] if isinstance(values, dict) else [values]
        if unknown:
            raise DataError(f"a ruling is an object of {', '.join(known)}; got {unknown[0]!r}")
        try:
            return cls(**values | {"chance": math.nan if values["chance"] is None else float(values["chance"])})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"no ruling: {error}") from None


@runtime_checkable
class PairJudge(Protocol):
    """A judge that says for every order and aspect what it ruled."""

    @property
    def name(self) -> str:
        """What records and reports call it."""

    def rulings(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[list[Ruling]]:
        """For each pair what was ruled, items named "first" and "second"; a failure is a ruling with its reason."""

    def settled(self, ruled: Iterable[Ruling]) -> dict[str, float]:
        """Aspect -> P(first is better) from the rulings on one pair; NaN where it could not say."""

    def close(self) -> None:
        """Let go of files."""


@runtime_checkable
class ClipJudge(Protocol):
    """A judge that compares clips segment by segment."""

    @property
    def name(self) -> str:
        """What records and reports call it."""

    def labels(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[Tensor]:
        """For each pair of clips (S,): P(first is better) in each segment, NaN where it could not say."""

    def judged(self, record: Preference, label: Tensor) -> Preference:
        """The record of two clips with the label of each segment."""

    def close(self) -> None:
        """Let go of files."""


def write(rulings: Iterable[Ruling], path: Path) -> None:
    """JSON lines, in place of what was there."""
    text = "".join(json.dumps(each.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for each in rulings)
    path.write_text(text, encoding="utf-8")


def read(path: Path) -> Iterator[Ruling]:
    """The rulings of a file; DataError says which line is none."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield Ruling.from_json(json.loads(line))
            except ValueError as error:
                raise DataError(f"{path}:{number}: {error}") from None
