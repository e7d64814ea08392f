"""Records as what a reward model reads: a prompt, K prepared pictures, and which is better than which."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .. import images
from ..batches import Comparisons
from ..draws import Draws
from ..images import ImageError
from ..records import DataError, Preference
from ..scoring import from_utilities
from . import media, quarantine
from .quarantine import Bad

READERS = 4  # threads
KEPT = 2**30  # bytes of prepared pictures that stay in memory


def compared(record: Preference, *, ties: str = "skip", temperature: float = 0.0) -> NDArray[np.float64] | str:
    """P(row is better than column), (K, K), NaN where the two are not compared; or why there is nothing to compare.

    A verdict decides where there is one, else the scores: shares of probabilities and votes, and for utilities
    Bradley-Terry at `temperature` (0: the higher one is surely better). Ties: 1/2, or with "skip" not compared.
    """
    if record.verdict == "both_bad":
        return "both bad"
    if record.verdict is not None:
        first = {"first": 1.0, "second": 0.0, "tie": 0.5}[record.verdict]
        table = np.array([[0.5, first], [1 - first, 0.5]])
    else:
        table = _chances(record, temperature)
    if ties == "skip":
        table = np.where(table == 0.5, np.nan, table)
    apart = table[np.triu_indices(len(table), 1)]
    if np.isnan(apart).all():
        return "tie" if record.verdict == "tie" or len(_seen(record)) > 1 else "not judged"
    return np.where(np.eye(len(table), dtype=bool), np.nan, table)


def _seen(record: Preference) -> NDArray[np.float64]:
    """What was thought of the items that somebody looked at; nobody's votes are no look."""
    values = record.utilities
    seen: NDArray[np.float64] = values[~np.isnan(values)]
    return seen[:0] if record.scale == "votes" and not seen.any() else seen


def _chances(record: Preference, temperature: float) -> NDArray[np.float64]:
    values = record.utilities if len(_seen(record)) else np.full(len(record.items), np.nan)
    row, column = values[:, None], values[None, :]
    if record.scale != "utility":
        total = row + column
        return np.where(row == column, 0.5, np.divide(row, total, out=np.full(total.shape, np.nan), where=total > 0))
    return from_utilities(torch.from_numpy(values), temperature).numpy()


@dataclass(frozen=True)
class Reading:
    """How a model wants its inputs."""

    picture: Callable[[Image.Image], Tensor]  # an RGB picture as the image tower reads it
    texts: Callable[[list[str]], Tensor]  # prompts as the text tower reads them, (n, L)


class ComparisonsView:
    """Records of two pictures or more; those of fewer than the most are filled up with nothing.

    Every picture is opened once before training, so that what cannot be read is set aside and named; prepared pictures
    stay in memory up to KEPT bytes, and are read again beyond that. Left out and counted: "both bad", "not judged",
    and with `ties="skip"` records of nothing but ties.
    """

    def __init__(
        self,
        records: Iterable[Preference],
        root: Path,
        reading: Reading,
        *,
        ties: str = "skip",
        temperature: float = 0.0,
        max_bad: float = 0.01,
        listed: Path | None = None,
        users: Mapping[str, int] | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.root, self.reading, self.users = root, reading, users
        self.left_out: Counter[str] = Counter()
        self.quarantine: list[Bad] = []
        self.records: list[tuple[Preference, NDArray[np.float64]]] = []
        self._pictures: dict[str, Tensor] = {}
        self._sort(list(records), ties, temperature, max_bad, listed, progress)
        if not self.records:
            raise DataError(f"no record is left to train on; left out were {dict(self.left_out)}")
        self.repeats = Counter(record.prompt for record, _ in self.records)
        texts = list(self.repeats)
        self.tokens = dict(zip(texts, reading.texts(texts), strict=True))
        self.most = max(len(record.items) for record, _ in self.records)

    def __len__(self) -> int:
        return len(self.records)

    def key(self, index: int) -> str:
        """The record's key."""
        return self.records[index][0].key

    def weight(self, index: int) -> float:
        """1 for every record."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Comparisons:
        """The records at these indices."""
        chosen = [self.records[index] for index in indices]
        records = [record for record, _ in chosen]
        return Comparisons(
            pictures=torch.stack([self._filled([self._picture(item) for item in record.items]) for record in records]),
            texts=torch.stack([self.tokens[record.prompt] for record in records]),
            scores=torch.stack([_padded(_scores(record), self.most) for record in records]),
            confidence=torch.stack([_padded(table, self.most) for _, table in chosen]),
            repeats=torch.tensor([float(self.repeats[record.prompt]) for record in records]),
            draw=Draws(seed, tuple(record.key for record in records), tuple(visits)),
            weight=torch.ones(len(records)),
            user=self._users(records),
        )

    def _users(self, records: Sequence[Preference]) -> Tensor | None:
        if self.users is None:
            return None
        unknown = [record for record in records if record.user not in self.users]
        if unknown:
            raise DataError(f"record {unknown[0].key} is of user {unknown[0].user!r}, whom the model does not know")
        return torch.tensor([self.users[str(record.user)] for record in records])

    def _filled(self, pictures: list[Tensor]) -> Tensor:
        empty = [torch.zeros_like(pictures[0])] * (self.most - len(pictures))
        return torch.stack([*pictures, *empty])

    def _picture(self, item: str) -> Tensor:
        """An item as the image tower reads it."""
        kept = self._pictures.get(item)
        return self._opened(item) if kept is None else kept

    def _opened(self, item: str) -> Tensor:
        return self.reading.picture(images.load(media.fetch(item, self.root)))

    def _sort(
        self, records: list[Preference], ties: str, temperature: float, max_bad: float, listed: Path | None,
        progress: Callable[[str, int, int], None] | None,
    ) -> None:  # fmt: skip
        """Fill `records`, `left_out` and `quarantine`."""
        with ThreadPoolExecutor(READERS) as pool:
            for done, (record, wrong) in enumerate(zip(records, pool.map(self._wrong, records), strict=True), start=1):
                if wrong is not None:
                    self.quarantine.append(wrong)
                    quarantine.check(self.quarantine, len(records), max_bad, listed or self.root / "quarantine.jsonl")
                elif isinstance(table := compared(record, ties=ties, temperature=temperature), str):
                    self.left_out[table] += 1
                else:
                    self.records.append((record, table))
                if progress is not None:
                    progress("pictures", done, len(records))
        media.forget()
        if listed is not None:
            quarantine.write(self.quarantine, listed)

    def _wrong(self, record: Preference) -> Bad | None:
        """What is the matter with a record's pictures, each opened once; the first are kept in memory."""
        for item in record.items:
            try:
                prepared = self._opened(item) if item not in self._pictures else None
            except ImageError as error:
                return Bad(record.key, str(error), item)
            if prepared is not None and (len(self._pictures) + 1) * prepared.nbytes <= KEPT:
                self._pictures[item] = prepared
        return None


def _scores(record: Preference) -> NDArray[np.float64]:
    """(K,) what was thought of each item; of a bare verdict 1 and 0, or 1/2 twice."""
    values = record.utilities
    if not np.isnan(values).all() or record.verdict is None:
        return values
    first = {"first": 1.0, "second": 0.0, "tie": 0.5, "both_bad": 0.0}[record.verdict]
    return np.array([first, 1 - first])


def _padded(values: NDArray[Any], size: int) -> Tensor:
    """Float32 of (size,) or (size, size), NaN where there was nothing."""
    whole = np.full((size,) * values.ndim, np.nan, dtype=np.float32)
    whole[tuple(slice(0, length) for length in values.shape)] = values
    return torch.from_numpy(whole)
