"""Sentences of an answer, where one is broken off, and a "yes" that becomes a "no"."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

# A full stop counts where a blank or the end follows; one behind a digit ("3.5") only once a blank does.
CLOSED = r"""["'”’)\]]*"""
END = re.compile(rf"(?:(?:[!?]|(?<!\d)\.)(?={CLOSED}(?:\s|$))|(?<=\d)\.(?=\s)|[。！？]){CLOSED}")
YES_OR_NO = re.compile(r"^\s*(Yes|yes|No|no)\b")
OTHER = {"Yes": "No", "yes": "no", "No": "Yes", "no": "yes"}


@dataclass(frozen=True)
class Sentence:
    """A sentence where it stands."""

    start: int  # of its first character in the text
    text: str

    @property
    def end(self) -> int:
        """Behind its last character."""
        return self.start + len(self.text)


def sentences(text: str) -> list[Sentence]:
    """The sentences of a text, in order, without the blanks between them; what has no end is a sentence too."""
    ends = [each.end() for each in END.finditer(text)]
    pieces = zip([0, *ends], [*ends, len(text)], strict=True)
    return [
        Sentence(first + len(piece) - len(piece.lstrip()), piece.strip())
        for first, last in pieces
        if (piece := text[first:last]).strip()
    ]


def up_to_end(text: str) -> str | None:
    """A text up to the end of its first sentence; None if no sentence ends in it."""
    found = END.search(text)
    return text[: found.end()] if found else None


def swapped(sentence: str) -> str | None:
    """The sentence with its first word "yes" turned to "no", or the other way; None if it begins with neither."""
    found = YES_OR_NO.match(sentence)
    return sentence[: found.start(1)] + OTHER[found[1]] + sentence[found.end(1) :] if found else None


def broken_off(sentence: str, random: np.random.Generator, least: int = 0) -> str:
    """The first words of a sentence: from `least` of them to all but one, each number as likely.

    The sentence itself if it has no more words than `least`.
    """
    words = re.findall(r"\S+\s*", sentence)
    kept = int(random.integers(least, len(words))) if least < len(words) else len(words)
    return "".join(words[:kept]).rstrip()
