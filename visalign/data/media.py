"""From an item's reference to the pixels that a model is shown: fetch, one resize and crop."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .. import images
from ..images import ImageError

MAX_BYTES = 256 * 2**20  # of one file, before it is read
READING = Lock()  # so that two threads do not unpack the same column twice
BLOW_UP = 4  # how many times a picture may be enlarged


def fetch(reference: str, root: Path) -> bytes:
    """The bytes behind an item: a path relative to `root`, an absolute path, or FILE.parquet#ROW#COLUMN.

    One picture of a column of lists is FILE.parquet#ROW#COLUMN#NUMBER, from 0. A relative reference may not lead out of
    `root`, be it by dots or by a link. Raises ImageError.
    """
    name, *cell = reference.split("#") if ".parquet#" in reference else [reference]
    path = located(name, root)
    return _cell(path, reference, cell) if cell else _whole(path)


def _whole(path: Path) -> bytes:
    if path.stat().st_size > MAX_BYTES:
        raise ImageError(f"too large: {path} has {path.stat().st_size} bytes, at most {MAX_BYTES}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"cannot be read: {path} ({error.strerror})") from error


def located(name: str, root: Path) -> Path:
    """The file of a reference; raises ImageError if it is none, or lies outside `root` without being absolute."""
    path = Path(name) if Path(name).is_absolute() else root / name
    try:
        outside = not Path(name).is_absolute() and not path.resolve().is_relative_to(root.resolve())
        if outside:
            raise ImageError(f"{name} leads out of {root}; give an absolute path if that is meant")
        if not path.is_file():
            raise ImageError(f"no such file: {path}")
    except (OSError, ValueError) as error:  # a name too long, or with a null in it; ImageError passes as itself
        raise error if isinstance(error, ImageError) else ImageError(f"no usable path: {name[:80]!r}") from error
    return path


def seen_from(items: Sequence[str], root: Path, folder: Path) -> tuple[str, ...]:
    """References relative to `root` as records in another folder give them: absolute, or as they are in the same."""
    same = folder.resolve() == root.resolve()
    return tuple(items) if same else tuple(str((root / item).resolve()) for item in items)


def _cell(path: Path, reference: str, cell: list[str]) -> bytes:
    """The bytes in a row and column of a parquet file; {"bytes", "path"} structs, as `datasets` writes, are opened."""
    row, column, number = [*cell, "0", "0"][:3]
    if not 2 <= len(cell) <= 3 or not row.isdecimal() or not number.isdecimal():
        raise ImageError(f"{reference} should read FILE.parquet#ROW#COLUMN, or …#COLUMN#NUMBER for one of a list")
    try:
        value = _at(path, int(row), column)
    except (OSError, ValueError) as error:  # pyarrow's errors are these or their children
        raise ImageError(f"cannot be read: {reference} ({error})") from error
    if len(cell) == 3:
        value = _one(value, int(number), reference)
    if isinstance(value, dict) and value.get("bytes") is None and isinstance(value.get("path"), str):
        return _whole(located(value["path"], path.parent))  # a picture that was left outside
    value = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(value, bytes):
        raise ImageError(f"{reference} holds no bytes but {type(value).__name__}")
    return value


def _one(value: Any, number: int, reference: str) -> Any:
    """One of a list's pictures."""
    if not isinstance(value, list) or number >= len(value):
        there = f"{len(value)} pictures" if isinstance(value, list) else type(value).__name__
        raise ImageError(f"{reference} asks for number {number}, counted from 0, of {there}")
    return value[number]


def _at(path: Path, row: int, column: str) -> Any:
    with READING:
        for group, (start, count) in enumerate(_groups(path)):
            if start <= row < start + count:
                return _column(path, group, column)[row - start].as_py()
    raise ImageError(f"{path} has no row {row}")


@lru_cache(maxsize=64)
def _groups(path: Path) -> tuple[tuple[int, int], ...]:
    """(first row, number of rows) of each row group."""
    from pyarrow import parquet

    about = parquet.ParquetFile(path).metadata
    counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
    return tuple(zip(np.cumsum([0, *counts[:-1]]).tolist(), counts, strict=True))


@lru_cache(maxsize=2)  # the two pictures of a pair; rows are read in order
def _column(path: Path, group: int, column: str) -> Any:
    from pyarrow import parquet

    file = parquet.ParquetFile(path)
    if column not in file.schema_arrow.names:
        raise ImageError(f"{path} has no column {column!r} but {', '.join(file.schema_arrow.names)}")
    return file.read_row_group(group, columns=[column]).column(column)


def forget() -> None:
    """Let go of the parquet columns that are held for the next row."""
    _groups.cache_clear()
    _column.cache_clear()


@dataclass(frozen=True)
class Still:
    """A picture's bytes, of which nothing is decoded yet: a clip of one frame."""

    data: bytes

    @property
    def digest(self) -> str:
        """A hash of the bytes."""
        return hashlib.sha256(self.data).hexdigest()

    def decoded(self, count: int | None = None) -> tuple[tuple[Image.Image], int]:
        """The picture, and that it is one. Raises ImageError."""
        return (images.load(self.data),), 1


@dataclass(frozen=True)
class Framed:
    """A picture or a clip as the encoder takes it, and where it was cut out."""

    pixels: Tensor  # (3, height, width) float32 in [-1, 1]; of a clip (3, frames, height, width)
    original: tuple[int, int]  # height, width of the picture as given
    corner: tuple[int, int]  # top, left of the crop, in pixels of the resized picture


def framed(image: Image.Image, resolution: int, width: int | None = None) -> Framed:
    """Brought to cover `resolution` x `width` (None: a square) by Lanczos, the centre cut out.

    Resizing and cutting is one call, so a ribbon of a picture never becomes a giant one. Raises ImageError for a
    picture that would be enlarged more than BLOW_UP times.
    """
    sides = width or resolution, resolution
    wanted, tightest = max(zip(sides, image.size, strict=True), key=lambda pair: pair[0] / pair[1])
    if tightest * BLOW_UP < wanted:
        raise ImageError(f"too small: {image.width} x {image.height} for {sides[0]} x {sides[1]}")
    wide, high = (max(own, round(side * wanted / tightest)) for own, side in zip(sides, image.size, strict=True))
    left, top = (wide - sides[0]) // 2, (high - sides[1]) // 2
    across, down = image.width / wide, image.height / high
    box = (left * across, top * down, (left + sides[0]) * across, (top + sides[1]) * down)
    cut = image.resize(sides, Image.Resampling.LANCZOS, box=box)
    pixels = torch.from_numpy(np.array(cut)).permute(2, 0, 1).float().div(127.5).sub(1.0)
    return Framed(pixels.contiguous(), (image.height, image.width), (top, left))


def in_a_row(frames: Sequence[Framed]) -> Framed:
    """The frames of a clip, all cut out in one place; ImageError if they were of different sizes."""
    if odd := [each.original for each in frames if each.original != frames[0].original]:
        (height, width), (one, other) = frames[0].original, odd[0]
        raise ImageError(f"its frames differ in size: {width} x {height} and {other} x {one}")
    return replace(frames[0], pixels=torch.stack([each.pixels for each in frames], dim=1))
