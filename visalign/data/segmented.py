"""Which pairs of clips are trained on frame by frame, and their labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from torch import Tensor

from ..records import DataError, Preference
from . import segments
from .encode import Encoded


class Labels:
    """The records of two clips whose frames have labels, in order, and the labels (F,) of each.

    A label is 2 P - 1, P the chance that the first clip is better in the segment, as `pairing` makes one of scores: 1
    or -1 where that is certain, 0 for a tie and where nobody looked. A record with one score or a verdict for each clip
    says it of every frame. Records with labels in fewer than the share `least` of latent frames are left out
    (2506.03517 trains on clips with labels in more than a fifth), as are those without any, and counted in `left_out`.
    Raises DataError where items are pictures.
    """

    def __init__(self, records: Iterable[Preference], encoded: Encoded, temperature: float, least: float) -> None:
        if encoded.frames is None:
            raise DataError(
                "frames have labels where items are clips: set data.frames, how many of each are trained on"
            )
        self.records: list[Preference] = []
        self.labels: list[Tensor] = []
        self.left_out: Counter[str] = Counter()
        for record in encoded.usable(records):
            found = _labels(record, encoded, temperature)
            why = found if isinstance(found, str) else _too_few(found, least)
            if isinstance(found, str) or why:
                self.left_out[why] += 1
            else:
                self.records.append(record)
                self.labels.append(found)


def _labels(record: Preference, encoded: Encoded, temperature: float) -> Tensor | str:
    """(F,) labels of a record, or why it has none."""
    if len(record.items) != 2:
        return "not two clips"
    if record.verdict == "both_bad":
        return "both bad"
    said = segments.chances(record, temperature)
    if bool(said.isnan().all()):
        return "not judged"
    frames = encoded.frames or 0
    whole = {encoded.length(item) for item in record.items} if len(said) > 1 and record.segment is None else {frames}
    if len(whole) > 1:
        return "segments of clips of two lengths"
    return segments.labels(said, frames=frames, stride=encoded.stride, length=record.segment, whole=min(whole))


def _too_few(labels: Tensor, least: float) -> str:
    labelled = int(labels.count_nonzero())
    return "tie" if not labelled else "labels of few frames" if labelled < least * len(labels) else ""
