"""One record for every kind of preference: a prompt, K items, and who thought what of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .strict import suggestion

SCALES = {
    "probability": "P(this item is the best one); the K of a segment sum to 1",
    "votes": "how many preferred this item, not negative",
    "utility": "a scorer's value, higher is better, unit its own",
}
VERDICTS = ("first", "second", "tie", "both_bad")
UNIT = 1e-6  # how far probabilities may sum from 1


class DataError(ValueError):
    """Records that cannot be used; one message that says which, why and the mend."""


@dataclass(frozen=True, eq=False)
class Preference:
    """What was shown, and what somebody thought of it. One record a judge and an aspect.

    A pair, a ranking, a segmented answer, an unpaired label (K = 1), unjudged candidates (scores all NaN) and a prompt
    that nothing was drawn for yet (K = 0) are all this. Items are pictures, or with `answers` texts that answer the
    prompt about the pictures in `media`. Raises DataError where the parts contradict one another.
    """

    prompt: str
    items: tuple[str, ...] = ()  # K references: paths relative to the records, FILE.parquet#ROW#COLUMN; or answers
    scores: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))  # (K, S), NaN: nobody looked
    user: str | None = None  # whose taste
    media: tuple[str, ...] = ()  # what the prompt shows: the image of a question, the source of an edit
    aspect: str = "overall"
    scale: str = "utility"  # one of SCALES
    judge: str = ""  # who or what judged
    verdict: str | None = None  # a person's word on a pair, one of VERDICTS; "first" is items[0], wherever it was shown
    shown_first: int | None = None  # index of the item shown on the left or first
    seeds: tuple[int, ...] = ()  # (K,) or none: what the items were drawn from
    models: tuple[str, ...] = ()  # (K,) or none: what drew them
    captions: tuple[str, ...] = ()  # (K,) or none: a text for each item, in place of the prompt; of an answer, critique
    answers: bool = False  # whether items are texts; media alone do not tell, for an edit's items are pictures
    segment: float | None = None  # frames in each of S segments of clips, the last has the rest; None: equal parts
    key: str = ""  # names the record everywhere; "": a short hash of what identifies it

    def __post_init__(self) -> None:
        for name in ("items", "media", "seeds", "models", "captions"):
            object.__setattr__(self, name, _listed(name, getattr(self, name)))
        object.__setattr__(self, "scores", _table(self.scores, len(self.items)))
        _check(self)
        if not self.key:
            object.__setattr__(self, "key", _key(self))

    @property
    def utilities(self) -> NDArray[np.float64]:
        """(K,) each item's mean over the segments that somebody looked at; NaN where nobody did."""
        seen = ~np.isnan(self.scores)
        total = np.where(seen, self.scores, 0.0).sum(axis=1)
        mean = np.full(len(total), np.nan)
        np.divide(total, seen.sum(axis=1), out=mean, where=seen.any(axis=1))
        return mean

    def judged(self, scores: ArrayLike, *, scale: str, judge: str, segment: float | None = None) -> Preference:
        """The same items under another judge: a new record with a key of its own and nobody's verdict."""
        table = np.asarray(scores, dtype=np.float64)
        return replace(self, scores=table, scale=scale, judge=judge, segment=segment, verdict=None, key="")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back as an equal record; NaN becomes null, what is as by default is left out."""
        table = [[None if np.isnan(x) else float(x) for x in row] for row in self.scores]
        found: dict[str, Any] = {"key": self.key, "prompt": self.prompt, "items": list(self.items), "scores": table}
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name not in found and (each.name == "scale" or value != each.default):
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preference:
        """A record from a mapping; `scores` may be K numbers or K lists of S, null for NaN."""
        if not isinstance(values, Mapping):
            raise DataError(f"a record is an object with prompt and items, got {values!r}")
        known = [each.name for each in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise DataError(f"a record has no field {unknown[0]!r}{suggestion(unknown[0], known)}")
        if missing := [name for name in ("prompt", "items") if name not in values]:
            raise DataError(f"a record needs {' and '.join(missing)}")
        return cls(**values)

    def __eq__(self, other: object) -> bool:
        """Equal parts; unseen scores are equal to unseen scores."""
        return isinstance(other, Preference) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.key)


def repeated(records: Iterable[Preference]) -> list[str]:
    """Keys that occur more than once, in order of their second occurrence."""
    seen: set[str] = set()
    again: dict[str, None] = {}
    for record in records:
        if record.key in seen:
            again[record.key] = None
        seen.add(record.key)
    return list(again)


def _key(record: Preference) -> str:
    """64 bits of sha256: a chance of 2e-8 that two of a million records meet."""
    parts = [record.prompt, record.items, record.media, record.user, record.aspect, record.judge]
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _listed(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise DataError(f"{name} must be a list, got {value!r}")
    kind = int if name == "seeds" else str
    values = tuple(int(each) if isinstance(each, np.integer) else each for each in value)
    if wrong := [each for each in values if not isinstance(each, kind) or isinstance(each, bool)]:
        raise DataError(f"{name} must hold {'whole numbers' if kind is int else 'texts'}, got {wrong[0]!r}")
    return values


def _table(scores: Any, count: int) -> NDArray[np.float64]:
    """Scores as a (K, S) table that nobody can write to; none given: (K, 1) of NaN."""
    try:
        table = np.array(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"scores must be K numbers or K lists of S numbers, got {scores!r}") from None
    table = np.full((count, 1), np.nan) if table.size == 0 else table
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or len(table) != count:
        raise DataError(f"{count} items need scores of shape ({count}, S), got {np.shape(scores)}")
    table.setflags(write=False)
    return table


def _check(record: Preference) -> None:
    """Every rule that one record must keep by itself."""
    _check_texts(record)
    count = len(record.items)
    for name in ("seeds", "models", "captions"):
        if len(getattr(record, name)) not in (0, count):
            raise DataError(f"{count} items need {count} {name} or none, got {len(getattr(record, name))}")
    if any(not 0 <= seed < 2**63 for seed in record.seeds):
        raise DataError(f"seeds must lie in 0 … 2^63 - 1, got {record.seeds}")
    shown = record.shown_first
    if shown is not None and not (type(shown) is int and 0 <= shown < count):
        raise DataError(f"shown_first is an index below {count}, got {shown!r}")
    segment = record.segment
    if segment is not None and not (type(segment) in (int, float) and 0 < segment < np.inf):
        raise DataError(f"segment is a number of frames above 0, got {segment!r}")
    _check_scores(record)
    _check_verdict(record)


def _check_texts(record: Preference) -> None:
    for name in ("prompt", "aspect", "judge", "key", "scale"):
        _check_text(name, getattr(record, name))
    for name in ("items", "media", "models", "captions"):
        for each in getattr(record, name):
            _check_text(name, each)
    if not isinstance(record.answers, bool):
        raise DataError(f"answers must be true or false, got {record.answers!r}")
    if not record.answers and not all(record.items):
        raise DataError(f"an item's name is empty: {record.items}")
    if record.user is not None and not (isinstance(record.user, str) and record.user):
        raise DataError(f"user must be a name or null, got {record.user!r}")


def _check_text(name: str, value: Any) -> None:
    """A text that every file format can hold: half of a surrogate pair is none."""
    if not isinstance(value, str):
        raise DataError(f"{name} must be a text, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name} is not valid Unicode: {value!r}") from None


def _check_scores(record: Preference) -> None:
    scores = record.scores
    if record.scale not in SCALES:
        raise DataError(f"scale {record.scale!r} is not one of {', '.join(SCALES)}")
    if np.isinf(scores).any():
        raise DataError(f"a score is infinite; write null where nobody looked: {scores.tolist()}")
    if record.scale != "utility" and (scores < 0).any():
        raise DataError(f"{record.scale} cannot be negative: {scores.tolist()}")
    if record.scale == "probability" and len(scores) > 1:
        whole = scores[:, ~np.isnan(scores).any(axis=0)].sum(axis=0)
        if (abs(whole - 1) > UNIT).any():
            raise DataError(f"probabilities of the items must sum to 1, got {whole.tolist()}")
    if record.scale == "probability" and (scores > 1 + UNIT).any():
        raise DataError(f"a probability is at most 1, got {scores.tolist()}")


def _check_verdict(record: Preference) -> None:
    if record.verdict is None:
        return
    if record.verdict not in VERDICTS:
        raise DataError(f"verdict {record.verdict!r} is not one of {', '.join(VERDICTS)}")
    if len(record.items) != 2:
        raise DataError(f"a verdict is about two items, got {len(record.items)}; give scores instead")
    first, second = record.utilities
    said = {"first": 1.0, "second": -1.0, "tie": 0.0}.get(record.verdict, np.nan)
    if not np.isnan(said) and not np.isnan(first - second) and np.sign(first - second) != said:
        raise DataError(f"the verdict is {record.verdict!r} but the scores are {first} and {second}")
