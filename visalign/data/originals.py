"""Real pictures or clips with what they show: the items of records, or a folder with a text beside each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..records import DataError, Preference
from . import clips, media, sources
from .clips import Clip
from .media import Still
from .sources import PICTURES

ENDINGS = (*PICTURES, *clips.ENDINGS)


@dataclass(frozen=True)
class Original:
    """A real picture or clip by its reference."""

    item: str  # relative to the folder that `found` gives
    prompt: str


@dataclass(frozen=True)
class Opened:
    """Its bytes, of which nothing is decoded yet."""

    original: Original
    content: Still | Clip
    frames: int | None  # how many of a clip; None: it is a picture

    @property
    def name(self) -> str:
        """16 hex digits of what it holds and is called, wherever it lies."""
        told = f"{self.content.digest} {self.frames} {self.original.prompt}"
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def pixels(self, height: int, width: int) -> Tensor:
        """(3, height, width) in [-1, 1], or (3, frames, height, width), as for training. Raises ImageError."""
        cut = [media.framed(each, height, width) for each in self.content.decoded(self.frames)[0]]
        return cut[0].pixels if self.frames is None else media.in_a_row(cut).pixels


def found(path: Path) -> tuple[list[Original], Path]:
    """What is at a path, each once, and the folder that items are relative to; DataError if there is nothing."""
    shown = [each for each in sorted(path.iterdir()) if _shows(each)] if path.is_dir() else []
    if shown and (any(_beside(each).is_file() for each in shown) or not _holds_records(path)):
        return [Original(each.name, _told(each)) for each in shown], path
    records = sources.open_source(path)
    listed = dict.fromkeys(each for record in records for each in _of(record))
    if not listed:
        raise DataError(f"{path} names no pictures or clips")
    return list(listed), sources.root(path)


def opened(original: Original, root: Path, frames: int | None) -> Opened:
    """Its bytes; of a clip that is a folder those of its first `frames` frames. Raises ImageError."""
    if frames is None:
        return Opened(original, Still(media.fetch(original.item, root)), None)
    return Opened(original, clips.fetched(original.item, root, frames), frames)


def _of(record: Preference) -> Sequence[Original]:
    texts = record.captions or (record.prompt,) * len(record.items)
    return [] if record.answers else [Original(*each) for each in zip(record.items, texts, strict=True)]


def _holds_records(folder: Path) -> bool:
    return any(file.suffix in (".jsonl", ".parquet") for file in folder.iterdir())


def _shows(file: Path) -> bool:
    """Whether it is a picture, or a clip; a folder is one if a text lies beside it."""
    return file.suffix.lower() in ENDINGS if file.is_file() else _beside(file).is_file()


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name if file.is_dir() else file.stem}.txt")


def _told(file: Path) -> str:
    prompt = sources.beside(_beside(file))
    if prompt is None:
        raise DataError(f"{file} has no prompt: write it to {_beside(file)}")
    return prompt
