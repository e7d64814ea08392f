"""How much alike two texts say the same, and the likeness that needs no model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Similarity(Protocol):
    """Anything that says how alike texts are."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def alike(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """A cosine in [-1, 1] of each two texts, 1 where they are the same."""


class WordOverlap:
    """The cosine of how often each word occurs: enough for the playground's few words, too little for real answers.

    Case and punctuation do not count, nor does the order of words. A text without words is like no other.
    """

    name = "words"

    def alike(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosines, in [0, 1]."""
        return [overlap(left, right) for left, right in zip(first, second, strict=True)]


def overlap(first: str, second: str) -> float:
    """The cosine of two texts' counts of words, 0 … 1."""
    left, right = (Counter(word.strip(".,;:!?\"'()") for word in text.lower().split()) for text in (first, second))
    del left[""], right[""]
    lengths = math.sqrt(sum(n * n for n in left.values()) * sum(n * n for n in right.values()))
    return sum(count * right[word] for word, count in left.items()) / lengths if lengths else 0.0
