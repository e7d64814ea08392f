"""What a method's records must say beyond what its batches hold: asked of them before a picture is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .data.pairing import Pair, paired
from .draws import Draws
from .records import DataError, Preference

MEND = "score the records with `visalign label` and train on what it writes"


@runtime_checkable
class Needing(Protocol):
    """A method whose records must say more than who won."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names in NEEDS."""


class Scored(Protocol):
    """A batch of b records with a scorer's values of two items each."""

    @property
    def draw(self) -> Draws:
        """Of the b records."""

    @property
    def scores(self) -> Tensor | None:
        """(b, 2), NaN where there is none."""

    def __len__(self) -> int:
        """b."""


def unscored(record: Preference) -> str:
    """Why a record that somebody judged is not judged by a scorer's values: what it holds instead; "" if it is."""
    if np.count_nonzero(~np.isnan(record.utilities)) < 2:
        return f"only the verdict {record.verdict!r}"
    return "" if record.scale == "utility" else f"its numbers are of scale {record.scale!r}"


NEEDS: Mapping[str, tuple[str, Callable[[Preference], str], str]] = {
    "scores": ("a scorer's values of a record's items", unscored, MEND),
}


def check(name: str, method: Any, records: Sequence[Preference], *, ties: Literal["skip", "half"] = "half") -> None:
    """DataError that names the first record which lacks what the method `name` needs, and the mend.

    Records that are judged by nobody, or as both bad, take no part in a training and are passed over, and so are ties
    that it will `skip`; it is an error if nobody judged any record.
    """
    for need in method.needs if isinstance(method, Needing) else ():
        what, lacks, mend = NEEDS[need]
        found = [(record, pair) for record in records if isinstance(pair := paired(record), Pair)]
        if records and not found:
            raise DataError(f"{name} needs {what}; nobody judged record {records[0].key!r} or any other; {mend}")
        for record, pair in found:
            skipped = ties == "skip" and pair.confidence == 0.5
            if not skipped and (instead := lacks(record)):
                raise DataError(f"{name} needs {what}; record {record.key!r} has none, {instead}; {mend}")


def known_scores(batch: Scored, name: str) -> Tensor:
    """(b, 2) scores of b records; ValueError names those that no scorer has scored, and the method that needs them."""
    scores = torch.full((len(batch), 2), torch.nan) if batch.scores is None else batch.scores
    if missing := [key for key, row in zip(batch.draw.keys, scores, strict=True) if bool(row.isnan().any())]:
        raise ValueError(
            f"{name} needs a scorer's values of both items, and {len(missing)} of {len(batch)} records have none, "
            f"{missing[0]!r} the first; {MEND}"
        )
    return scores
