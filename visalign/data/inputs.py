"""Pictures to be scored, whatever they lie in: files, folders, records, tables of pictures, WebDataset tar shards.

Shards are read with the standard library: what a reader needs of the format is that files of one sample stand together
and share a name up to the first dot of its last part. Everything is read as it is asked for, a picture at a time.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ..images import Misuse, Picture
from ..records import DataError
from . import media, sources, store
from .sources import PICTURES

PROMPTS = ("prompt", "caption", "text")  # names of a column or a key that hold it, in order of preference
IMAGES = ("image", "jpg", "png", "webp")  # names of a column
PACKED = (".tar", ".parquet", ".jsonl")  # endings of files that hold many
TEXT_ENDINGS = (".txt", ".caption")


@dataclass(frozen=True)
class Input:
    """One picture by name, not yet read."""

    name: str  # where it is, for the row of its score
    read: Callable[[], Picture]
    prompt: str | None  # None: nothing beside it says


def inputs(path: Path, but: Collection[Path] = (), endings: Sequence[str] = PICTURES) -> Iterator[Input]:
    """Every picture at a path, in order of name; files in `but` are not looked at. Raises DataError, or Misuse.

    `endings` are those of files that are looked at by themselves: of pictures, or of clips too.
    """
    if not path.exists():
        raise Misuse(f"no such file or folder: {path}")
    if path.is_dir():
        return _folder(path, {each.resolve() for each in but}, endings)
    if path.suffix.lower() in endings:
        return iter([_file(path)])
    if path.suffix == ".tar":
        return _tar(path)
    if path.suffix == ".parquet" and not _holds_records(path):
        return _table(path)
    if path.suffix in (".parquet", ".jsonl"):
        return _records(path)
    raise DataError(f"{path} is no picture, .tar, .parquet or .jsonl file")


def _folder(path: Path, but: Collection[Path], endings: Sequence[str]) -> Iterator[Input]:
    """Pictures in it and below; or its shards, tables and records, if it has any. Hidden files are a run's at work."""
    if (path / "win").is_dir() and (path / "lose").is_dir():
        yield from _records(path)
        return
    listed = [file for file in sorted(path.iterdir()) if file.suffix in PACKED and file.name[0] != "."]
    packed = [file for file in listed if file.resolve() not in but]
    found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in endings and file.is_file()]
    if packed and found:
        raise DataError(f"{path} holds pictures and {packed[0].name}: name the files that are meant")
    if not packed and not found:
        raise DataError(f"{path} holds no pictures ({', '.join(endings)}), .tar, .parquet or .jsonl file")
    for file in packed:
        yield from inputs(file)
    yield from map(_file, found)


def _file(path: Path) -> Input:
    told = (sources.beside(path.with_suffix(each)) for each in TEXT_ENDINGS)
    return Input(str(path), lambda: path, next((text for text in told if text is not None), None))


def _holds_records(path: Path) -> bool:
    names = set(store.opened(path).schema_arrow.names)
    return set(store.NEEDED) <= names or "jpg_0" in names


def _records(path: Path) -> Iterator[Input]:
    """Every item of every record, with the record's prompt."""
    root = sources.root(path)
    for record in sources.open_source(path):
        for item in record.items:
            yield Input(str(root / item), lambda item=item: media.fetch(item, root), record.prompt)  # type: ignore[misc]


def _table(path: Path) -> Iterator[Input]:
    """The rows of a parquet file with a column of encoded pictures, bare or as {"bytes": …}."""
    file = store.opened(path)
    names = file.schema_arrow.names
    image = next((name for name in IMAGES if name in names), None)
    if image is None:
        raise DataError(f"{path} has no column of pictures ({', '.join(IMAGES)}) but {', '.join(names)}")
    prompt = next((name for name in PROMPTS if name in names), None)
    for number, row in enumerate(store.rows(file, [image, *([prompt] if prompt else [])])):
        cell = row[image].get("bytes") if isinstance(row[image], dict) else row[image]
        yield Input(f"{path}#{number}#{image}", _given(cell or b""), _told(row[prompt]) if prompt else None)


def _given(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _told(value: Any) -> str | None:
    return None if value is None else str(value)


def _tar(path: Path) -> Iterator[Input]:
    """The samples of a WebDataset shard: one picture each, the prompt in .txt or in .json."""
    try:
        with tarfile.open(path) as shard:
            members = (each for each in shard if each.isfile() and not Path(each.name).name.startswith("."))
            for key, parts in groupby(members, lambda each: _key(each.name)):
                yield from _sample(path, key, {each.name: _bytes(shard, each) for each in parts})
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a whole tar file ({error})") from error


def _key(name: str) -> str:
    """The path up to the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.split('.')[0]}" if folder else last.split(".")[0]


def _bytes(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > media.MAX_BYTES:
        raise DataError(f"{member.name} has {member.size} bytes, at most {media.MAX_BYTES}")
    content = shard.extractfile(member)
    return content.read() if content else b""


def _sample(path: Path, key: str, files: Mapping[str, bytes]) -> Iterator[Input]:
    pictures = [name for name in files if name.lower().endswith(PICTURES)]
    for name in pictures:
        label = key if len(pictures) == 1 else name
        yield Input(f"{path}#{label}", _given(files[name]), _prompt(files, f"{path}#{key}"))


def _prompt(files: Mapping[str, bytes], where: str) -> str | None:
    """From the text beside a picture, or the JSON's prompt, caption or text."""
    try:
        for name, content in files.items():
            if name.endswith(TEXT_ENDINGS):
                return content.decode().strip()
        for name, content in files.items():
            if name.endswith(".json"):
                told = json.loads(content)
                return next((str(told[key]) for key in PROMPTS if key in told), None)
    except (ValueError, TypeError) as error:
        raise DataError(f"{where}: its text cannot be read ({error})") from error
    return None
