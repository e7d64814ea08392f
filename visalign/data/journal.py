"""Votes as they are cast: one journal of JSON lines a writer, each line on the disk before the voter is thanked.

A line is `{"at": TIME, "record": {…}}`, a vote, or `{"at": TIME, "undo": KEY}`, a vote taken back; what else stands in
it are notes. The later line wins, across all journals of a folder. A last line without its end was cut off by a kill:
nobody was told that it counts, and it does not.
"""

from __future__ import annotations

import json
import os
import re
import sys
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import IO, Any

from ..records import DataError, Preference

ENDING = ".journal.jsonl"
COMPACTED = "compacted"  # the folder that holds journals whose votes are in parquet


@dataclass(frozen=True)
class Event:
    """One line: a vote, or the key of a vote taken back."""

    at: str  # ISO 8601, UTC, microseconds: their order as texts is their order in time
    where: str  # file and line
    record: Preference | None = None
    undo: str | None = None


class Journal:
    """The journal of one writer: a new file, which no other writer appends to. Threads may share it."""

    def __init__(self, folder: Path, writer: str = "votes") -> None:
        name = re.sub(r"[^\w-]", "-", writer)[:40]
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{stamp}-{name}-{uuid.uuid4().hex[:8]}{ENDING}"
        self._lock, self._file = Lock(), self.path.open("xb")
        held(self._file)

    def append(self, *records: Preference, **notes: Any) -> None:
        """Write votes that belong together; on return they are on the disk."""
        self._write([{"record": record.to_json(), **notes} for record in records])

    def undo(self, *keys: str, **notes: Any) -> None:
        """Take votes back, by their records' keys."""
        self._write([{"undo": key, **notes} for key in keys])

    def _write(self, events: Sequence[dict[str, Any]]) -> None:
        with self._lock:
            at = datetime.now(UTC).isoformat(timespec="microseconds")
            text = "".join(_line({"at": at, **event}) for event in events)
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of the file; an empty one is removed."""
        with self._lock:
            self._file.close()
            if self.path.is_file() and not self.path.stat().st_size:
                self.path.unlink()


def _line(event: dict[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"


def is_journal(path: Path) -> bool:
    """Whether a file is a journal, by its name."""
    return path.name.endswith(ENDING)


def events(path: Path) -> Iterator[Event]:
    """The lines of a journal in order; raises DataError for one that is damaged, unless a kill cut off the last."""
    *whole, _ = path.read_bytes().split(b"\n")
    for number, text in enumerate(whole, start=1):
        yield _event(text, f"{path}:{number}")


def _event(text: bytes, where: str) -> Event:
    try:
        found = json.loads(text)
        at, undo, record = found["at"], found.get("undo"), found.get("record")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where} is no line of a journal ({error!r}): mend or delete it") from None
    if not isinstance(at, str) or (undo is None) == (record is None):
        raise DataError(f"{where} should have a time, and either a record or the key of one to undo")
    try:
        return Event(at, where, None if record is None else Preference.from_json(record), undo)
    except DataError as error:
        raise DataError(f"{where}: {error}") from None


def applied(records: Iterable[Preference], journals: Iterable[Path]) -> list[Preference]:
    """Records with the journals' votes added, replaced and taken back, in order of their times."""
    kept = {record.key: record for record in records}
    for event in sorted((each for path in journals for each in events(path)), key=lambda event: event.at):
        kept.pop(event.record.key if event.record else str(event.undo), None)
        if event.record:
            kept[event.record.key] = event.record
    return list(kept.values())


def found(folder: Path) -> list[Path]:
    """The journals of a folder, by name: in order of when they were begun."""
    return sorted(folder.glob(f"*{ENDING}"))


def finished(folder: Path) -> list[Path]:
    """Those of them that no writer has open."""
    return [path for path in found(folder) if _free(path)]


def _free(path: Path) -> bool:
    with path.open("rb") as file:
        return held(file)


def held(file: IO[bytes]) -> bool:
    """Take an open file's lock, which falls when it is closed or the process ends; False if another holds it."""
    if sys.platform == "win32":  # where a file that is open cannot be moved away
        return True
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def begun(rest: bytes, opening: bytes) -> bool:
    """Whether what stands behind the last line end can be the beginning of a line that a kill cut off."""
    return rest.startswith(opening) or opening.startswith(rest)
