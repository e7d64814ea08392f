"""A model's answers to a benchmark's questions: JSON lines, one an answer, written as they come and read by their ids.

Read are the forms in use: an id under `question_id`, `id`, `image_id` or `image`, the words under `answer`, `caption`,
`response`, `model_answer` or `text`; JSON lines, or one JSON list. Files of official scripts often have no ids and mean
the order of the questions; they are read so only where the number of rows is right.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..records import DataError

IDS = ("question_id", "id", "image_id", "image")
TEXTS = ("answer", "caption", "response", "model_answer", "text")  # "text" last: in POPE's files it is the question


@dataclass(frozen=True)
class Answers:
    """Answers in the order of their file."""

    path: Path
    ids: tuple[str, ...] | None  # None: the file has none
    texts: tuple[str, ...]

    def to(self, wanted: Sequence[str]) -> list[str]:
        """The answers to the wanted ids, in their order; answers to others are left out.

        Raises DataError naming ids without an answer, or for a file without ids that has not just as many rows.
        """
        if self.ids is None:
            if len(self.texts) != len(wanted):
                has = f"names no ids ({', '.join(IDS)}), so its rows answer in order: {len(self.texts)} rows"
                raise DataError(f"{self.path} {has} for {len(wanted)} questions")
            return list(self.texts)
        by_id = dict(zip(self.ids, self.texts, strict=True))
        if missing := [each for each in wanted if each not in by_id]:
            named = ", ".join(map(repr, missing[:3])) + (" …" if len(missing) > 3 else "")
            raise DataError(f"{self.path} has no answer for {len(missing)} of {len(wanted)} ids: {named}")
        return [by_id[each] for each in wanted]


def read(path: Path, keys: Sequence[str] = IDS, *, id_of: Callable[[str], str] = str) -> Answers:
    """The answers of a file; `keys` are the names of ids, the first that a row has counts, made one by `id_of`.

    Raises DataError for rows that are none, and for an id with two answers that differ.
    """
    rows = [(where, row, _text(row, where)) for where, row in _rows(path)]
    if not rows:
        raise DataError(f"{path} holds no answers")
    found = [next((id_of(str(row[key])) for key in keys if key in row), None) for _, row, _ in rows]
    if not any(each is not None for each in found):
        return Answers(path, None, tuple(text for _, _, text in rows))
    for (where, row, _), each in zip(rows, found, strict=True):
        if each is None:
            raise DataError(f"{where} has none of {', '.join(keys)} but {', '.join(row)}, while other rows do")
    made: dict[str, str] = {}
    for (where, _, text), key in zip(rows, found, strict=True):
        if made.setdefault(str(key), text) != text:
            raise DataError(f"{where} is a second, other answer for {key!r}")
    return Answers(path, tuple(made), tuple(made.values()))


def several(paths: Sequence[Path], keys: Sequence[str] = IDS) -> dict[str, list[str]]:
    """All answers to each id, in the order of the files and their rows; each row must name its question."""
    found: dict[str, list[str]] = {}
    for path in paths:
        for where, row in _rows(path):
            key = next((str(row[key]) for key in keys if key in row), None)
            if key is None:
                raise DataError(f"{where} has none of {', '.join(keys)} but {', '.join(row)}")
            found.setdefault(key, []).append(_text(row, where))
    return found


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of JSON lines or of one JSON list, each with where it stands."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"no answers can be read from {path}: {error}") from None
    listed = text.lstrip().startswith("[")
    lines = [text] if listed else text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = str(path) if listed else f"{path}:{number}"
        try:
            made = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where} is not JSON ({error})") from None
        for place, row in enumerate(made if listed else [made]):
            here = f"{where} row {place}" if listed else where
            if not isinstance(row, dict):
                raise DataError(f"{here} is no object with an answer")
            yield here, row


def _text(row: Mapping[str, Any], where: str) -> str:
    text = next((row[key] for key in TEXTS if key in row), None)
    if not isinstance(text, str):
        raise DataError(f"{where} has no answer as text under {', '.join(TEXTS)} but {', '.join(row)}")
    return text


class Writer:
    """Writes answers to a file as they come; opened again, it goes on where it was, whatever stopped it.

    A last line that a kill cut off is cut away: its question is answered again. `done` has the ids that are answered.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b")
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        self._file.truncate(whole)
        kept = read(path, ("question_id",)) if content[:whole].strip() else None
        if kept and kept.ids is None:
            self._file.close()
            raise DataError(f"{path} has answers without a question_id, to which none can be added: give another file")
        self.done: set[str] = set(kept.ids or ()) if kept else set()

    def add(self, id: str, answer: str, **more: Any) -> None:
        """Write an answer; on return it is in the file. Raises DataError if the question has one."""
        if id in self.done:
            raise DataError(f"{id!r} is answered already")
        row = {"question_id": id, "answer": answer, **more}
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n")
        self._file.flush()
        self.done.add(id)

    def close(self) -> None:
        """Bring everything to the disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
