"""The answer of a record that counts as true: what others are made from, or measured by."""

from __future__ import annotations

from ..records import Preference
from .faults import wording
from .pairing import paired


class Unusable(ValueError):
    """A record of which nothing can be made; says why in a few words."""


def true_answer(record: Preference) -> str:
    """The only answer of a record, or the preferred one; raises Unusable for a record without one."""
    if not record.answers or not record.items:
        raise Unusable("no answer")
    if (wrong := wording(record)) is not None:
        raise Unusable(wrong.reason)
    if len(record.items) == 1:
        return record.items[0]
    pair = paired(record)
    if isinstance(pair, str) or pair.confidence == 0.5:
        raise Unusable(pair if isinstance(pair, str) else "tie")
    return record.items[pair.win]
