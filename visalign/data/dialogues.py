"""Questions about pictures with their answers, as batches: pairs of answers, or answers alone.

Every record is read once before training, pictures opened and texts tokenised, so that what a model cannot be shown is
set aside and named. What was read stays in memory up to KEPT bytes, the most recently used of it, and is read again
beyond that. A view holds no random state: a batch is a function of the records and the indices.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .. import images
from ..batches import AnswerPairs, Answers, Critiques, Dialogues, Vocabulary
from ..draws import Draws
from ..images import ImageError
from ..models.reading import Read, Reader, Unreadable
from ..records import DataError, Preference
from . import media, quarantine
from .faults import wording
from .kept import Kept, ahead
from .pairing import Chosen, paired
from .quarantine import Bad
from .recalled import digest

KEPT = 2 * 2**30  # bytes of what was read that stay in memory
TWICE = "the key occurs twice: the first stays"
Likeness = Callable[[Sequence[str], Sequence[Image.Image]], Sequence[float]]  # cosine of each word with the pictures


@dataclass(frozen=True)
class Settings:
    """How records of answers become batches."""

    ties: Literal["skip", "half"] = "skip"
    temperature: float = 0.0  # from differences of utilities to confidence; 0: the higher one is surely better
    max_bad: float = 0.01  # share of records that may be set aside; ten always may
    critique: str = "{question}\n{answer}"  # how a critic is asked about an answer
    likeness: Likeness | None = None  # says which words of question and answer the pictures show
    kept: int = KEPT

    def __post_init__(self) -> None:
        if missing := [hole for hole in ("{question}", "{answer}") if hole not in self.critique]:
            raise DataError(f"data.critique has no place for {missing[0]}: {self.critique!r}")


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

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Any:
        """The batch of these records."""
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
        chosen = [self.chosen[index] for index in indices]
        rows = [self._reads(each) for each in chosen]
        made = self.reader.collated([read for side in zip(*rows, strict=True) for read in side])
        tables = [each for side in zip(*(each.relevance for each in chosen), strict=True) for each in side]
        length = made.ids.shape[1]
        rows_of = [functional.pad(each, (0, length - len(each)), value=torch.nan) for each in tables]
        relevance = torch.stack(rows_of) if rows_of else None
        return replace(made, relevance=relevance, vocabulary=self.vocabulary)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """What a word may be replaced by: the tokens of plain text; what stands for a hidden one."""
        tokenizer = self.reader.tokenizer
        marks = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
        hidden = (getattr(tokenizer, f"{name}_token_id", None) for name in ("mask", "unk", "pad", "eos"))
        words = [number for number in range(len(tokenizer)) if number not in marks]
        return Vocabulary(torch.tensor(words), torch.tensor(next(each for each in hidden if each is not None)))

    def _reads(self, chosen: Chosen) -> tuple[Read, ...]:
        key = chosen.record.key
        found = self._kept.get(key)
        if found is None:
            found = self._read(chosen, self._opened(chosen.record))
            self._kept.put(key, found)
        return found

    def _read(self, chosen: Chosen, pictures: Sequence[Image.Image]) -> tuple[Read, ...]:
        """The dialogues of a record, which share their question; raises Unreadable."""
        turns = chosen.turns
        asked = {question: self.reader.ask(question, pictures) for question, _ in turns}
        return tuple(self.reader.answered(asked[question], answer) for question, answer in turns)

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
            pictures = opened.result()
            reads = self._read(chosen, pictures)
        except ImageError as error:
            return Bad(record.key, str(error), record.media[0])
        except Unreadable as error:
            return Bad(record.key, str(error), "answer")
        if len(reads) == 2 and torch.equal(reads[0].ids, reads[1].ids):
            self.left_out["the same answer twice"] += 1
            return None
        self.cut += sum(each.cut > 0 for each in reads)
        self._kept.put(record.key, reads)
        relevance = self._relevance(reads, pictures, self.settings.likeness) if self.settings.likeness else ()
        self.chosen.append(replace(chosen, digest=digest(self.reader.collated(reads)), relevance=relevance))
        return None

    def _relevance(
        self, reads: Sequence[Read], pictures: Sequence[Image.Image], likeness: Likeness
    ) -> tuple[Tensor, ...]:
        """(L,) of each dialogue: the cosine of each word with the pictures, NaN for what is no word."""
        places = [(read.prompt | read.answer) & torch.isin(read.ids, self.vocabulary.words) for read in reads]
        unique = torch.cat([read.ids[at] for read, at in zip(reads, places, strict=True)]).unique()
        words = [str(self.reader.tokenizer.decode([each])) for each in unique.tolist()]
        said = torch.tensor(list(likeness(words, pictures)))
        tables = [torch.full(read.ids.shape, torch.nan) for read in reads]
        for table, read, at in zip(tables, reads, places, strict=True):
            table[at] = said[torch.searchsorted(unique, read.ids[at])]
        return tuple(tables)


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


class CritiquesView(PairsOfAnswersView):
    """Pairs of critiques: of the best and the worst answer of each record, from its captions; ties by the settings."""

    @staticmethod
    def choice(record: Preference, settings: Settings) -> Chosen | str:
        """The two answers that are compared, with how a critic is asked about them."""
        found = PairsOfAnswersView.choice(record, settings)
        if isinstance(found, str):
            return found
        written = bool(record.captions) and all(record.captions[item].strip() for item in found.items)
        return replace(found, critique=settings.critique) if written else "no critiques"

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Critiques:
        """The critiques at these indices."""
        made = super().batch(indices, visits, seed)
        return Critiques(**{each.name: getattr(made, each.name) for each in fields(made)})


VIEWS: Mapping[type, type[PairsOfAnswersView] | type[AnswersView]] = {
    AnswerPairs: PairsOfAnswersView,
    Answers: AnswersView,
    Critiques: CritiquesView,
}


def _silent(stage: str, done: int, total: int) -> None:
    pass
