"""Questions about pictures with their answers, as batches: pairs of answers, or answers alone.

Every record is read once before training, pictures opened and texts tokenised, so that what a model cannot be shown is
set aside and named. What was read stays in memory up to KEPT bytes, the most recently used of it, and is read again
beyond that. A view holds no random state: a batch is a function of the records and the indices.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image

from .. import images
from ..batches import AnswerPairs, Answers, Dialogues
from ..draws import Draws
from ..images import ImageError
from ..models.reading import Read, Reader, Unreadable
from ..records import DataError, Preference
from . import media, quarantine
from .faults import wording
from .pairing import Pair, paired
from .quarantine import Bad
from .recalled import digest

READERS = 4  # threads that open pictures
AHEAD = 32  # records whose pictures are opened ahead
KEPT = 2 * 2**30  # bytes of what was read that stay in memory
TWICE = "the key occurs twice: the first stays"
Enriched = Callable[[Read, Sequence[Image.Image]], Mapping[str, Any]]


@dataclass(frozen=True)
class Chosen:
    """What a record is trained on: the preferred answer, and the other where there is one."""

    record: Preference
    items: tuple[int, ...]  # of the record's answers
    confidence: float = 1.0  # P(the first is really better)
    digest: str = ""  # of all tokens and pixels
    tokens: tuple[int, ...] = ()  # of each whole dialogue

    @property
    def answers(self) -> list[str]:
        """The answers, the preferred one first."""
        return [self.record.items[item] for item in self.items]

    @property
    def pair(self) -> Pair:
        """The two answers that are compared."""
        win, lose = self.items
        return Pair(self.record, win, lose, self.confidence)


@dataclass(frozen=True)
class Settings:
    """How records of answers become batches."""

    ties: Literal["skip", "half"] = "skip"
    temperature: float = 0.0  # from differences of utilities to confidence; 0: the higher one is surely better
    max_bad: float = 0.01  # share of records that may be set aside; ten always may
    kept: int = KEPT


class RecordsView:
    """What both views share: records that were looked at once, and what was read of them.

    `left_out` counts records that say nothing to learn from, `quarantine` names those that cannot be read (besides the
    `bad` ones that are given), and `cut` counts answers that lost their end to the reader's `max_length`.
    """

    def __init__(
        self,
        records: Iterable[Preference],
        root: Path,
        reader: Reader,
        settings: Settings | None = None,
        *,
        bad: Iterable[Bad] = (),
        listed: Path | None = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        self.root, self.reader, self.settings = root, reader, settings or Settings()
        self.left_out: Counter[str] = Counter()
        self.quarantine: list[Bad] = list(bad)
        self.cut = 0
        self._kept = Kept(self.settings.kept)
        self.chosen: list[Chosen] = []
        self._look(list(records), listed or root / "quarantine.jsonl", progress or _silent)
        if not self.chosen:
            why = quarantine.named(self.quarantine) or dict(self.left_out)
            raise DataError(f"no record is left to train on; left out were {why}")

    @staticmethod
    def choice(record: Preference, settings: Settings) -> Chosen | str:
        """What of a record is trained on, or why nothing is."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.chosen)

    def key(self, index: int) -> str:
        """The record's key."""
        return self.chosen[index].record.key

    def weight(self, index: int) -> float:
        """1: what has no weight is left out of the view."""
        return 1.0

    def digest(self, index: int) -> str:
        """A hash of the tokens and pixels of the record's answers."""
        return self.chosen[index].digest

    def collated(self, indices: Sequence[int]) -> Dialogues:
        """The first answers of these records, then their second ones."""
        rows = [self._reads(self.chosen[index]) for index in indices]
        return self.reader.collated([read for side in zip(*rows, strict=True) for read in side])

    def _reads(self, chosen: Chosen) -> tuple[Read, ...]:
        key = chosen.record.key
        found = self._kept.get(key)
        if found is None:
            found = self._read(chosen, self._opened(chosen.record))
            self._kept.put(key, found)
        return found

    def _read(self, chosen: Chosen, pictures: Sequence[Image.Image]) -> tuple[Read, ...]:
        """The dialogues of a record, which share their question; raises Unreadable."""
        asked = self.reader.ask(chosen.record.prompt, pictures)
        return tuple(self.reader.answered(asked, answer) for answer in chosen.answers)

    def _opened(self, record: Preference) -> list[Image.Image]:
        return [images.load(media.fetch(each, self.root)) for each in record.media]

    # Before training ---------------------------------------------------------------------------------------------

    def _look(self, records: list[Preference], listed: Path, progress: Callable[[str, int, int], None]) -> None:
        """Fill `chosen`, `left_out` and `quarantine`."""
        seen: set[str] = set()
        for done, (record, opened) in enumerate(ahead(self._opened, records), start=1):
            wrong = Bad(record.key, TWICE, "") if record.key in seen else self._take(record, opened)
            seen.add(record.key)
            if wrong is not None:
                self.quarantine.append(wrong)
                quarantine.check(self.quarantine, len(records), self.settings.max_bad, listed)
            progress("records", done, len(records))
        media.forget()
        quarantine.write(self.quarantine, listed)

    def _take(self, record: Preference, opened: Future[list[Image.Image]]) -> Bad | None:
        """Choose from one record and read it; what is the matter with it, if something is."""
        if not record.answers:
            return Bad(record.key, 'its items are pictures; where they are texts, say so: "answers": true', "items")
        if wrong := wording(record):
            return wrong
        chosen = self.choice(record, self.settings)
        if isinstance(chosen, str):
            self.left_out[chosen] += 1
            return None
        try:
            reads = self._read(chosen, opened.result())
        except ImageError as error:
            return Bad(record.key, str(error), record.media[0])
        except Unreadable as error:
            return Bad(record.key, str(error), "answer")
        if len(reads) == 2 and torch.equal(reads[0].ids, reads[1].ids):
            self.left_out["the same answer twice"] += 1
            return None
        self.cut += sum(each.cut > 0 for each in reads)
        self._kept.put(record.key, reads)
        lengths = tuple(len(each.ids) for each in reads)
        self.chosen.append(replace(chosen, digest=digest(self.reader.collated(reads)), tokens=lengths))
        return None


class PairsOfAnswersView(RecordsView):
    """Pairs of answers: the best and the worst of each record, ties by the settings."""

    @staticmethod
    def choice(record: Preference, settings: Settings) -> Chosen | str:
        """The two that are compared."""
        found = paired(record, settings.temperature)
        if isinstance(found, str):
            return found
        if settings.ties == "skip" and found.confidence == 0.5:
            return "tie"
        return Chosen(record, (found.win, found.lose), found.confidence)

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> AnswerPairs:
        """The pairs at these indices."""
        chosen = [self.chosen[index] for index in indices]
        return AnswerPairs(
            answers=self.collated(indices),
            draw=Draws(seed, tuple(each.record.key for each in chosen), tuple(visits)),
            confidence=torch.tensor([each.confidence for each in chosen], dtype=torch.float32),
            weight=torch.ones(len(chosen)),
            scores=torch.tensor([each.pair.scores for each in chosen], dtype=torch.float64),
        )


class AnswersView(RecordsView):
    """Answers alone: the preferred one of each record, and that of a record of one which nobody disliked."""

    @staticmethod
    def choice(record: Preference, settings: Settings) -> Chosen | str:
        """The answer that is learnt."""
        if len(record.items) == 1:
            liked = record.utilities[0]
            return "disliked" if record.scale == "probability" and liked < 0.5 else Chosen(record, (0,))
        found = paired(record)
        if isinstance(found, str):
            return found
        return "tie" if found.confidence == 0.5 else Chosen(record, (found.win,))

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Answers:
        """The answers at these indices."""
        draw = Draws(seed, tuple(self.key(index) for index in indices), tuple(visits))
        return Answers(self.collated(indices), draw, torch.ones(len(indices)))


VIEWS: Mapping[type, type[PairsOfAnswersView] | type[AnswersView]] = {
    AnswerPairs: PairsOfAnswersView,
    Answers: AnswersView,
}


class Kept:
    """What was read of the records most recently used, as long as it comes to no more than some bytes."""

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self._rows: OrderedDict[str, tuple[Read, ...]] = OrderedDict()

    def get(self, key: str) -> tuple[Read, ...] | None:
        """What was read of a record, if it is still here."""
        if key in self._rows:
            self._rows.move_to_end(key)
        return self._rows.get(key)

    def put(self, key: str, reads: tuple[Read, ...]) -> None:
        """Hold it, and let go of the longest unused."""
        self._rows[key] = reads
        self.held += size(reads)
        while self.held > self.most:
            _, gone = self._rows.popitem(last=False)
            self.held -= size(gone)


def size(reads: Sequence[Read]) -> int:
    """Bytes of a record's dialogues, whose pictures are the same."""
    tables = [each for read in reads for each in (read.ids, read.answer, read.prompt, *read.kinds.values())]
    return sum(each.nbytes for each in (*tables, *reads[0].media.values()))


def ahead(
    make: Callable[[Preference], list[Image.Image]], records: Iterable[Preference]
) -> Iterator[tuple[Preference, Future[list[Image.Image]]]]:
    """Each record with its pictures, which are opened by threads a few records ahead."""
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[tuple[Preference, Future[list[Image.Image]]]] = deque()
        for record in records:
            waiting.append((record, pool.submit(make, record)))
            if len(waiting) > AHEAD:
                yield waiting.popleft()
        yield from waiting


def _silent(stage: str, done: int, total: int) -> None:
    pass
