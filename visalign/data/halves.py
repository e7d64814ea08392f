"""Two drawings of each prompt, put into a good and a bad set: records that DRAGON learns from (arXiv 2504.15217)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ..evaluation.sets import SetReward, Split, greedy
from ..records import DataError, Preference


def twos(records: Sequence[Preference]) -> list[Preference]:
    """Each record's items two by two, a record each; an odd one out is left."""
    return [_two(record, place) for record in records for place in range(0, len(record.items) - 1, 2)]


def _two(record: Preference, place: int) -> Preference:
    own = slice(place, place + 2)
    parts = {name: getattr(record, name)[own] for name in ("items", "scores", "seeds", "models", "captions")}
    return replace(record, **parts, verdict=None, shown_first=None, key="")


def divided(
    pairs: Sequence[Preference], features: NDArray[np.float64], reward: SetReward, judge: str
) -> tuple[list[Preference], Split]:
    """Records of two items with 1 for the one in the good set and 0 for the other, and how the sets came out.

    `features` are (2 n, d), of each record's first and second item in turn; records with a NaN row are left out.
    """
    table = features.reshape(len(pairs), 2, -1)
    kept = np.flatnonzero(~np.isnan(table).any(axis=(1, 2)))
    if len(kept) < 2:
        raise DataError(f"{len(kept)} prompts have two pictures that can be read; a set needs two")
    split = greedy(table[kept, 0], table[kept, 1], reward)
    marks = [(0.0, 1.0) if second else (1.0, 0.0) for second in split.second]
    judged = [pairs[int(row)].judged(mark, scale="utility", judge=judge) for row, mark in zip(kept, marks, strict=True)]
    return judged, split
