"""Rows of published dialogue data, whatever file they lie in: parquet, JSON lines, a JSON list."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..records import DataError, Preference
from . import store
from .quarantine import Bad

PICTURES = ("images", "image", "img_path")  # names of a column, in order of preference


@dataclass(frozen=True)
class Row:
    """One row, its pictures' bytes left where they are."""

    values: Mapping[str, Any]
    place: str = ""  # FILE.parquet#ROW, relative to the source's folder; "": pictures are files of their own

    def text(self, name: str) -> str:
        """A column that must hold a text."""
        value = self.value(name)
        if not isinstance(value, str):
            raise DataError(f"{name} must be a text, got {value!r}")
        return value

    def value(self, name: str) -> Any:
        """A column that must be there."""
        if name not in self.values:
            raise DataError(f"no column {name!r} but {', '.join(self.values)}")
        return self.values[name]

    def refuse(self, *names: str) -> None:
        """Raise DataError if one of these columns holds anything: what a record cannot say is not dropped."""
        for name in names:
            if self.values.get(name):
                raise DataError(f"{name} cannot be used: a record shows pictures, all answers the same ones")

    def pictures(self) -> tuple[str, ...]:
        """References to the row's pictures, in order; none where the column is absent, null or empty."""
        name = next((name for name in PICTURES if self.values.get(name) is not None), None)
        if name is None:
            return ()
        value = self.values[name]
        if isinstance(value, list):
            return tuple(self._picture(each, f"{name}#{number}") for number, each in enumerate(value))
        return (self._picture(value, name),)

    def _picture(self, value: Any, column: str) -> str:
        if isinstance(value, str):
            return value
        if self.place:
            return f"{self.place}#{column}"
        if isinstance(value, dict) and isinstance(value.get("path"), str):
            return str(value["path"])
        raise DataError(f"{column} must be the path of a picture, got {value!r}")


Parse = Callable[[Row], Mapping[str, Any]]


def read(path: Path, columns: Sequence[str], parse: Parse) -> list[Preference | Bad]:
    """Each row of a file, or a folder of files, as a record of answers; a row that makes none as `Bad`, with why.

    `parse` gives a record's fields, or raises DataError; of parquet files no column but `columns` is read.
    """
    folder = path if path.is_dir() else path.parent
    return [
        _record(name, values, place, file, parse)
        for file in store.files(path)
        for name, values, place in rows(file, columns, folder)
    ]


def _record(name: str, values: Any, place: str, file: Path, parse: Parse) -> Preference | Bad:
    try:
        if not isinstance(values, dict):
            raise DataError(f"a row is an object with columns, got {values!r:.80}")
        return Preference(answers=True, **parse(Row(values, place)))
    except DataError as error:
        return Bad(name, str(error), str(file))


def rows(file: Path, columns: Sequence[str], folder: Path) -> Iterator[tuple[str, Any, str]]:
    """(its name in the file, its columns or what stands in their place, its `Row.place`) of each row.

    Raises DataError for a file that is not whole.
    """
    if file.suffix == ".parquet":
        place = file.relative_to(folder).as_posix()
        return ((f"row {i}", row, f"{place}#{i}") for i, row in enumerate(_parquet(file, columns)))
    return ((name, values, "") for name, values in (_lines(file) if file.suffix == ".jsonl" else _listed(file)))


def _lines(file: Path) -> Iterator[tuple[str, Any]]:
    with file.open("rb") as lines:
        for number, text in enumerate(lines, start=1):
            if text.strip():
                yield f"line {number}", _json(text)


def _json(text: bytes) -> Any:
    """What a line says; one that is no JSON stands for itself."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _listed(file: Path) -> Iterator[tuple[str, Any]]:
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise DataError(f"{file} is not JSON ({error})") from None
    if not isinstance(found, list):
        raise DataError(f"{file} must be a JSON list of objects, got {type(found).__name__}")
    return ((f"row {number}", values) for number, values in enumerate(found))


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows without the bytes of pictures: of {"bytes", "path"} the path is read, of a plain picture nothing."""
    file = store.opened(path)
    names = [name for name in columns if name in file.schema_arrow.names]
    plain = [name for name in names if _is_bytes(file.schema_arrow.field(name).type)]
    leaves = [file.schema.column(i).path for i in range(len(file.schema))]
    wanted = [leaf for leaf in leaves if leaf.split(".")[0] in names and leaf not in plain]
    light = [leaf for leaf in wanted if not (leaf.endswith(".bytes") and f"{leaf[:-5]}path" in wanted)]
    for row in store.rows(file, light):
        yield row | dict.fromkeys(plain, b"")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def columns_of(file: Path) -> set[str]:
    """The columns of a file, by its first row; none for what is no table of rows."""
    if file.suffix == ".parquet":
        return set(store.opened(file).schema_arrow.names)
    if file.suffix not in (".jsonl", ".json"):
        return set()
    first = next(rows(file, (), file.parent), None)
    return set(first[1]) if first and isinstance(first[1], dict) else set()
