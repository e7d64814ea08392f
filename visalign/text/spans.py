"""Which tokens two answers do not share: where a correction, or an error, sits."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

SHORTEST = 3
"""Runs of fewer equal tokens are chance (RLHF-V/RLHF-V, min_match_size)."""


def changed(first: Sequence[int], second: Sequence[int], shortest: int = SHORTEST) -> tuple[list[bool], list[bool]]:
    """For each token of both answers whether it lies outside every run of `shortest` or more that the two share.

    Runs are difflib's matching blocks (Ratcliff and Obershelp: the longest first, then to its left and right), with no
    token taken for junk however often it comes. Two equal answers are unchanged, however short.
    """
    marks = [True] * len(first), [True] * len(second)
    blocks = SequenceMatcher(None, list(first), list(second), autojunk=False).get_matching_blocks()
    for start, other, size in blocks:
        if size >= min(shortest, max(len(first), len(second))):
            marks[0][start : start + size] = marks[1][other : other + size] = [False] * size
    return marks
