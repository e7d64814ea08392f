"""A text for each of a pair, as Dual Caption Preference Optimization wants it (arXiv 2502.06023, section 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .. import images
from ..records import DataError, Preference
from ..scoring import Sample
from ..writers import Captioner, Rewriter
from . import media
from .pairing import Pair, paired

Done = Callable[[int, int], None]  # so many pairs of so many
MODES = {
    "caption": "what the winner shows, and what the loser shows (DCPO-c)",
    "perturb": "the prompt, and the prompt rewritten (DCPO-p)",
    "hybrid": "what the winner shows, and what the loser shows rewritten (DCPO-h)",
}


@dataclass(frozen=True)
class Captioned:
    """Records with a caption an item, and how many were left out for which reason."""

    records: list[Preference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Dual:
    """How the two texts are made; `mode` is one of MODES. DataError if it lacks a writer."""

    mode: str
    captioner: Captioner | None = None
    rewriter: Rewriter | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise DataError(f"captions: {self.mode!r} is not one of {', '.join(MODES)}")
        if self.mode != "perturb" and self.captioner is None:
            raise DataError(f"captions of mode {self.mode!r} need a captioner")
        if self.mode != "caption" and self.rewriter is None:
            raise DataError(f"captions of mode {self.mode!r} need a rewriter")

    def of(self, records: Sequence[Preference], root: Path, *, batch: int = 16, done: Done | None = None) -> Captioned:
        """The records that have a winner, each with captions; items are relative to `root`."""
        done = done or (lambda count, total: None)
        made = Captioned()
        found = [paired(record) for record in records]
        made.left_out.update(why for why in map(reason, found) if why)
        pairs = [each for each in found if isinstance(each, Pair) and each.confidence != 0.5]
        for start in range(0, len(pairs), batch):
            self._add(made, pairs[start : start + batch], root)
            done(min(start + batch, len(pairs)), len(pairs))
        return made

    def _add(self, made: Captioned, pairs: list[Pair], root: Path) -> None:
        for pair, win, lose in zip(pairs, self._winners(pairs, root), self._losers(pairs, root), strict=True):
            if win and lose:
                made.records.append(captioned(pair, win, lose))
            else:
                made.left_out[f"no words for the {'loser' if win else 'winner'}"] += 1

    def _winners(self, pairs: list[Pair], root: Path) -> list[str | None]:
        return self._told(pairs, [pair.win for pair in pairs], root)

    def _losers(self, pairs: list[Pair], root: Path) -> list[str | None]:
        told = self._told(pairs, [pair.lose for pair in pairs], root)
        if self.rewriter is None or self.mode == "caption":
            return told
        rows = [row for row, text in enumerate(told) if text]
        again = self.rewriter.rewrite([told[row] or "" for row in rows], [pairs[row].record.key for row in rows])
        for row, text in zip(rows, again, strict=True):
            told[row] = text
        return told

    def _told(self, pairs: list[Pair], items: list[int], root: Path) -> list[str | None]:
        """The prompts, or what a captioner says of these items."""
        if self.captioner is None or self.mode == "perturb":
            return [pair.record.prompt for pair in pairs]
        return self.captioner.caption(list(_samples(pairs, items, root)))


def reason(found: Pair | str) -> str:
    """Why a record has no winner to caption; "" if it has one."""
    if isinstance(found, str):
        return found
    return "tie" if found.confidence == 0.5 else ""


def _samples(pairs: list[Pair], items: list[int], root: Path) -> Iterator[Sample]:
    for pair, item in zip(pairs, items, strict=True):
        yield Sample(pair.record.prompt, image=images.load(media.fetch(pair.record.items[item], root)))


def captioned(pair: Pair, win: str, lose: str) -> Preference:
    """The pair's record with these captions; items beside the two keep the prompt."""
    texts = [pair.record.prompt] * len(pair.record.items)
    texts[pair.win], texts[pair.lose] = win, lose
    return replace(pair.record, captions=tuple(texts))
