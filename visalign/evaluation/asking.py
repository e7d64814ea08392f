"""What measures that need a judge's words ask of one: texts in, replies out, and a failure is no reply."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from ..records import DataError


@dataclass(frozen=True)
class Reply:
    """What came back for one text."""

    text: str = ""
    failure: str | None = None  # why nothing did


@runtime_checkable
class Asker(Protocol):
    """Anything that replies to texts; the registry's kind "asker" makes one from a chat."""

    @property
    def name(self) -> str:
        """The model that replies, for reports: numbers of two judges cannot be compared."""

    def ask(self, texts: Sequence[str]) -> list[Reply]:
        """One reply a text, in order."""

    def close(self) -> None:
        """Let go of files."""


def template(path: Path, names: Sequence[str]) -> str:
    """A judge's words from a file, with a place for each name; `{}` in their order serve as well.

    Raises DataError for a file that has neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"no words for the judge can be read from {path}: {error}") from None
    if text.count("{}") == len(names):
        for name in names:
            text = text.replace("{}", "{" + name + "}", 1)
    if missing := [name for name in names if "{" + name + "}" not in text]:
        raise DataError(f"{path} has no place for {{{missing[0]}}}; it needs {', '.join(f'{{{n}}}' for n in names)}")
    return text


def filled(text: str, **values: str) -> str:
    """The words with their places filled; other braces, and those inside values, are left as they are."""
    return re.sub(r"\{(\w+)\}", lambda hole: values.get(hole[1], hole[0]), text)
