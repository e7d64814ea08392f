"""Scores on disk: a row for each picture, prompt and scorer, in JSON lines or parquet, added to as they are made.

A run that was interrupted goes on where it stopped, and another scorer adds its rows. Parquet files cannot grow, so
rows for one are kept beside it as JSON lines until the end. A note beside the file says what each scorer was, and a
scorer of other settings is refused: its numbers would not compare.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
from pyarrow import parquet

from ..records import DataError
from ..scoring import Sample, Scorer, Scores
from .journal import begun, held
from .shards import replace_file
from .store import opened

SCHEMA = pa.schema(
    [
        pa.field("image", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("value", pa.float64()),  # null: could not be judged
        pa.field("reason", pa.string()),
        pa.field("truncated", pa.bool_()),
        pa.field("sigma", pa.float64()),
        pa.field("aspects", pa.map_(pa.string(), pa.float64()), nullable=False),
    ]
)
ENDINGS = (".jsonl", ".parquet")
OPENING = b'{"image": "'  # of every line
Key = tuple[str, str, str]  # image, prompt, scorer


@dataclass(frozen=True)
class Row:
    """What one scorer says of one picture."""

    image: str
    prompt: str
    scorer: str
    value: float | None  # None: could not be judged
    reason: str | None = None
    truncated: bool | None = None  # whether the prompt was cut; None: not known
    sigma: float | None = None
    aspects: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What there is one row of."""
        return self.image, self.prompt, self.scorer


class ScoreFile:
    """The rows of one file, read when it is opened and added to by `add`; `close` makes the parquet file.

    One process has it open at a time. Raises DataError for a file that is being written to, or holds anything else,
    which is left as it is.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix not in ENDINGS:
            raise DataError(f"{path} should end in {' or '.join(ENDINGS)}")
        self.path = path
        self.growing = path if path.suffix == ".jsonl" else path.with_name(f".{path.name}.partial.jsonl")
        self.note = path.with_name(f"{path.name}.scorers.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = _locked(self.growing, path)
        try:
            before = list(_parquet_rows(path)) if path.suffix == ".parquet" and path.exists() else []
            self.rows = {row.key: row for row in [*before, *_json_rows(self._file, self.growing)]}
        except DataError:
            self.release()
            raise

    def __contains__(self, key: Key) -> bool:
        return key in self.rows

    def admit(self, scorers: Mapping[str, Any]) -> None:
        """Write down what each scorer is; DataError if one of that name was something else before."""
        known = _known(self.note)
        given = json.loads(json.dumps(dict(scorers), default=str))
        for name in known.keys() & given.keys():
            if known[name] != given[name]:
                raise DataError(
                    f"{self.path} holds scores of {name} with other settings: write to another file, or delete this one"
                )
        replace_file(self.note, json.dumps(known | given, indent=1, ensure_ascii=False).encode())

    def add(self, rows: Iterable[Row]) -> None:
        """Append rows; on return they are on the disk."""
        made = list(rows)
        self._file.write("".join(_line(row) for row in made).encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.rows |= {row.key: row for row in made}

    def close(self) -> None:
        """Make the parquet file of all rows, if that is what was asked for, and let go of it."""
        if self.path != self.growing:
            replace_file(self.path, _parquet(self.rows.values()))
            self._file.truncate(0)
        self.release()

    def discard(self) -> None:
        """Let go of the file and remove it and its note: its rows are in another."""
        self.note.unlink(missing_ok=True)
        self.growing.unlink(missing_ok=True)
        self._file.close()

    def release(self) -> None:
        """Let go of the file; rows that are not in parquet yet wait beside it for the next run."""
        if not self._file.closed and self.path != self.growing and not os.fstat(self._file.fileno()).st_size:
            self.growing.unlink(missing_ok=True)
        self._file.close()

    @property
    def own(self) -> tuple[Path, Path]:
        """What it writes rows to: no input, should it lie among them."""
        return self.path, self.growing


def _locked(path: Path, named: Path) -> IO[bytes]:
    """The file of that name, open and locked."""
    while True:
        file = path.open("a+b")
        if not held(file):
            file.close()
            raise DataError(f"{named} is being written to by another process: wait for it, or write to another file")
        if path.exists() and path.stat().st_ino == os.fstat(file.fileno()).st_ino:
            return file
        file.close()  # its owner put the rows into parquet and removed it meanwhile


def _known(note: Path) -> dict[str, Any]:
    """What the scorers of a file are said to be."""
    if not note.exists():
        return {}
    try:
        return dict(json.loads(note.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{note} is no note on scorers ({error}): delete it, or write to another file") from None


def _line(row: Row) -> str:
    return json.dumps(asdict(row), ensure_ascii=False, allow_nan=False) + "\n"


def _json_rows(file: IO[bytes], path: Path) -> list[Row]:
    """The whole lines of an open file; one without its end was cut off by a kill, and is cut away so that it can grow.

    The file is left at its end.
    """
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    found = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            found.append(Row(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise DataError(f"{path}:{number} is no row of scores ({error}): write to another file") from None
    if not begun(content[whole:], OPENING):
        raise DataError(f"{path} ends in what is no row of scores ({content[whole:][:40]!r}): write to another file")
    file.truncate(whole)
    return found


def _parquet(rows: Iterable[Row]) -> bytes:
    values = [asdict(row) | {"aspects": list(row.aspects.items())} for row in rows]
    content = BytesIO()
    parquet.write_table(pa.Table.from_pylist(values, schema=SCHEMA), content, compression="zstd")
    return content.getvalue()


def _parquet_rows(path: Path) -> Iterator[Row]:
    for row in opened(path).read().to_pylist():
        try:
            yield Row(**row | {"aspects": dict(row["aspects"])})
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} holds no scores ({error}): write to another file") from None


def rows(scorer: Scorer, found: Sequence[tuple[str, str, Sample | str]]) -> list[Row]:
    """What a scorer says of samples, each with its name and prompt; a text in a sample's place is why there is none."""
    good = [each for _, _, each in found if isinstance(each, Sample)]
    said = scorer.score(good) if good else None
    places = iter(range(len(good)))
    return [
        _row(scorer.name, name, prompt, said, next(places))
        if said is not None and isinstance(each, Sample)
        else Row(name, prompt, scorer.name, None, str(each))
        for name, prompt, each in found
    ]


def _row(scorer: str, name: str, prompt: str, said: Scores, row: int) -> Row:
    return Row(
        image=name,
        prompt=prompt,
        scorer=scorer,
        value=number(float(said.values[row])) if said.judged[row] else None,
        reason=said.reasons.get(row),
        truncated=None if said.truncated is None else bool(said.truncated[row]),
        sigma=None if said.sigma is None else number(float(said.sigma[row])),
        aspects={aspect: float(part[row]) for aspect, part in said.aspects.items() if bool(part[row].isfinite())},
    )


def number(value: float) -> float | None:
    """A number as JSON holds it: none for what is not finite."""
    return value if math.isfinite(value) else None
