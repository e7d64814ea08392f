"""What is wrong with a record by itself: pictures that do not open, answers that say nothing."""

from __future__ import annotations

from pathlib import Path

from .. import images
from ..records import Preference
from .clips import opened
from .dialogue_sources import TAG
from .quarantine import Bad


def fault(record: Preference, root: Path, frames: int | None = None) -> Bad | None:
    """Why nothing can be trained on a record, or None: every picture that it names is opened.

    Of a record of answers that is what its question shows, of others the items too. With `frames` items are clips, and
    the first so many frames of each are opened.
    """
    if record.answers and (said := wording(record)):
        return said
    shown = [] if record.answers else [(item, frames) for item in record.items]
    for item, count in [*((each, None) for each in record.media), *shown]:
        try:
            opened(item, root, count).decoded(count)
        except images.ImageError as error:
            return Bad(record.key, str(error), item)
    return None


def wording(record: Preference) -> Bad | None:
    """What is wrong with the texts of a record of answers, its pictures unseen, or None."""
    if not record.media:
        return Bad(record.key, "shows no picture", "media")
    if TAG in record.prompt:
        return Bad(record.key, f"an {TAG} tag, which the chat template writes", "question")
    for number, text in enumerate(record.items, start=1):
        if not text.strip():
            return Bad(record.key, "empty", f"answer {number}")
        if TAG in text:
            return Bad(record.key, f"an {TAG} tag, which would be taken for a picture", f"answer {number}")
    return None
