"""Answers on disk: each is written as it comes and found by what was asked, so that nothing is asked twice.

A book is a file of JSON lines, `{"key": FINGERPRINT, "answer": {…}}`. What failed is not in it: it is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from visalign.data.journal import begun, held

from .chat import Answer, Chat, Question, Sampling, fingerprint

OPENING = b'{"key": "'  # of every line


class Book:
    """The answers of one file, which one process has open at a time; without a path they live in memory.

    A last line that a kill cut off is cut away. Raises ValueError for a file that is damaged, or no book, which is left
    as it is; for one that cannot be written; and for one that is being written to.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.answers: dict[str, Answer] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            self._file = _opened(Path(path).expanduser())
            self.answers = _read(self._file, Path(path))

    def add(self, key: str, answer: Answer) -> None:
        """Keep an answer that came; on return it is in the file."""
        self.answers[key] = answer
        if self._file is not None:
            self._file.write(json.dumps({"key": key, "answer": answer.to_json()}).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Write everything to the disk and let go of the file."""
        if self._file is not None and not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()

    def ask(self, chat: Chat, questions: Sequence[Question], sampling: Sampling) -> list[Answer]:
        """The answer of every question in order: from the book, or asked now, the same question once."""
        keys = [fingerprint(chat.identity, each, sampling) for each in questions]
        missing = {key: each for key, each in zip(keys, questions, strict=True) if key not in self.answers}
        wanted, failed = list(missing), {}
        for place, answer in chat.chat(list(missing.values()), sampling) if missing else ():
            if answer.failure is None:
                self.add(wanted[place], answer)
            else:
                failed[wanted[place]] = answer
        return [self.answers.get(key) or failed[key] for key in keys]


def _opened(path: Path) -> IO[bytes]:
    """The file, locked, at its end."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise ValueError(f"answers cannot be kept in {path} ({error.strerror}): give another book") from None
    if not held(file):
        file.close()
        raise ValueError(f"{path} is being written to by another judge: wait for it, or give another book")
    return file


def _read(file: IO[bytes], path: Path) -> dict[str, Answer]:
    """The whole lines of an open book, which is left at its end."""
    file.seek(0)
    content = file.read()
    whole = content.rfind(b"\n") + 1
    found: dict[str, Answer] = {}
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            values = json.loads(line)
            found[values["key"]] = Answer.from_json(values["answer"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}:{number} is no answer ({error!r}): give another file") from None
    if not begun(content[whole:], OPENING):
        raise ValueError(f"{path} ends in what is no answer ({content[whole:][:40]!r}): give another file")
    file.truncate(whole)
    return found
