"""Preference records on disk: parquet files, folders of them, and JSON lines. What is written is there whole or not."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from ..records import DataError, Preference, repeated
from . import journal
from .shards import replace_file

VERSION = b"1"
TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("items", TEXTS, nullable=False),
        pa.field("scores", pa.list_(pa.list_(pa.float64())), nullable=False),  # null: nobody looked
        pa.field("scale", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("verdict", pa.string()),
        pa.field("shown_first", pa.int32()),
        pa.field("user", pa.string()),
        pa.field("aspect", pa.string(), nullable=False),
        pa.field("media", TEXTS, nullable=False),
        pa.field("seeds", pa.list_(pa.int64()), nullable=False),
        pa.field("models", TEXTS, nullable=False),
        pa.field("captions", TEXTS, nullable=False),
        pa.field("answers", pa.bool_(), nullable=False),
        pa.field("segment", pa.float64()),
    ],
    metadata={b"visalign.records": VERSION},
)
NEEDED = ("prompt", "items")
DEFAULTS: dict[str, Any] = {
    "judge": "",
    "aspect": "overall",
    "media": [],
    "seeds": [],
    "models": [],
    "captions": [],
    "answers": False,
}


def write(records: Sequence[Preference], path: Path | str, *, shard: int = 100_000) -> None:
    """One parquet or JSON-lines file (by its ending), else a new folder of parquet shards of `shard` records each.

    A file is replaced, a folder that holds something is not. Raises DataError for keys that occur twice.
    """
    path = Path(path)
    if again := repeated(records):
        raise DataError(f"{len(again)} keys occur twice, {again[0]} first: write each record once, or give keys")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        replace_file(path, _parquet(records))
    elif path.suffix == ".jsonl":
        replace_file(path, "".join(line(record) for record in records).encode())
    else:
        _write_folder(records, path, shard)


def line(record: Preference) -> str:
    """One record as a line of JSON, with its line end."""
    return json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) + "\n"


def _write_folder(records: Sequence[Preference], path: Path, shard: int) -> None:
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise DataError(f"{path} is there already: write to a new folder, or delete that one first")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.mkdir()
    try:
        count = max(1, -(-len(records) // shard))
        for i in range(count):
            replace_file(
                temporary / f"part-{i:05d}-of-{count:05d}.parquet", _parquet(records[i * shard : (i + 1) * shard])
            )
        os.replace(temporary, path)  # an empty folder of that name gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _parquet(records: Sequence[Preference]) -> bytes:
    """The bytes of a parquet file that holds these records."""
    table = pa.Table.from_pylist([DEFAULTS | record.to_json() for record in records], schema=SCHEMA)
    buffer = BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read(path: Path | str) -> list[Preference]:
    """The records of a parquet file, a .jsonl file, or a folder of either. Raises DataError naming file and row.

    Votes in journals are added to the rest of their folder, or replace what has their key, or take it away.
    """
    found = files(Path(path))
    journals = [file for file in found if journal.is_journal(file)]
    records = [record for file in found if file not in journals for record in _read_file(file)]
    return journal.applied(records, journals) if journals else records


def compact(folder: Path, name: str = "votes.parquet") -> Path:
    """Put the folder's records and journals into one parquet file, and the journals away once nobody writes to any.

    A kill between the two does no harm: journals that are applied twice say the same, if all of them are.
    """
    done = journal.finished(folder)
    write(read(folder), folder / name)
    if done == journal.found(folder):
        (folder / journal.COMPACTED).mkdir(exist_ok=True)
        for file in done:
            os.replace(file, folder / journal.COMPACTED / file.name)
    return folder / name


def files(path: Path) -> list[Path]:
    """The record files behind a path, in order of name."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"no such file or folder of records: {path}")
    found = sorted(file for file in path.iterdir() if file.suffix in (".parquet", ".jsonl") and file.name[0] != ".")
    if not found:
        raise DataError(f"{path} holds no .parquet or .jsonl file")
    return found


def _read_file(path: Path) -> Iterator[Preference]:
    rows = _parquet_rows(path) if path.suffix == ".parquet" else _json_rows(path)
    return (record_of(values, where) for where, values in rows)


def record_of(values: Mapping[str, Any], where: str) -> Preference:
    """A record from a mapping; what is wrong with it is a DataError that says where it stands."""
    try:
        return Preference.from_json(values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file:line, object) of each line that is not blank."""
    with path.open("rb") as file:
        for number, text in enumerate(file, start=1):
            if text.strip():
                yield f"{path}:{number}", _json(text, f"{path}:{number}")


def _json(text: bytes, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # of the JSON or of its UTF-8
        raise DataError(f"{where} is not JSON ({error}): mend or delete the line") from None


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file row n, mapping) of each row, without the fields that are null."""
    file = opened(path)
    names = file.schema_arrow.names
    if missing := [name for name in NEEDED if name not in names]:
        mend = "our records have prompt and items (docs/data.md); other layouts are named by data.format"
        raise DataError(f"{path} has no column {missing[0]!r} but {', '.join(names)}: {mend}")
    for number, row in enumerate(rows(file, names)):
        yield f"{path} row {number}", {name: value for name, value in row.items() if value is not None}


def opened(path: Path) -> parquet.ParquetFile:
    """A parquet file, its footer read; raises DataError if it is none."""
    try:
        return parquet.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a whole parquet file ({error})") from None


def rows(file: parquet.ParquetFile, columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rows of a parquet file, of these columns alone, a batch in memory at a time."""
    for batch in file.iter_batches(columns=list(columns), batch_size=4096):
        yield from batch.to_pylist()
