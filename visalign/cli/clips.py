"""The half of `visalign label --judge` that is about clips: a label for each segment of every two of a prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from .judge import Chosen, taken

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..records import Preference
    from ..rulings import ClipJudge
    from ..scoring import Sample
    from .screen import Screen


def label(judge: ClipJudge, pairs: Sequence[Chosen], root: Path, out: Path, screen: Screen) -> int:
    """Write a record for every two clips, with scores (2, segments): P(each is the better one) in each segment.

    Clips are opened two at a time. What cannot be compared gets empty scores; the exit code is 1 if that is all.
    """
    from ..data import store

    made: list[Preference] = []
    said: list[Tensor] = []
    faults: Counter[str] = Counter()
    with closing(judge), screen.stage(f"compare with {judge.name}", total=len(pairs)) as stage:
        for record, i, j in pairs:
            found = opened(record, i, j, root)
            pair = taken(record, i, j, root, out.parent, paths=True)
            if isinstance(found, str):
                faults[found] += 1
                made.append(pair.judged([[float("nan")]] * 2, scale="probability", judge=judge.name))
            else:
                said += judge.labels([found[0]], [found[1]])
                made.append(judge.judged(pair, said[-1]))
            stage(len(made))
    store.write(made, out)
    for line in told(said):
        screen.say(line)
    for reason, count in faults.most_common(1):
        screen.warn(f"{faults.total()} of {len(pairs)} pairs could not be compared, {count} of them: {reason}")
    screen.say(f"{len(made)} records in {out}")
    return int(all(bool(each.isnan().all()) for each in said))


def opened(record: Preference, i: int, j: int, root: Path) -> tuple[Sample, Sample] | str:
    """Two clips with as many frames each, or why they cannot be compared."""
    from ..data import clips
    from ..images import ImageError
    from ..scoring import Sample

    try:
        one, other = (clips.frames(record.items[place], root) for place in (i, j))
    except ImageError as error:
        return str(error)
    if len(one) != len(other):
        return f"{record.items[i]} has {len(one)} frames and {record.items[j]} {len(other)}: segments need as many"
    return Sample(record.prompt, video=one, user=record.user), Sample(record.prompt, video=other, user=record.user)


def told(said: Sequence[Tensor]) -> Iterator[str]:
    """How the segments were judged, in words."""
    chances = [chance for each in said for chance in each.tolist()]
    first, second = (sum(sign * (chance - 0.5) > 0 for chance in chances) for sign in (1, -1))
    unsaid = sum(chance != chance for chance in chances)
    ties = len(chances) - first - second - unsaid
    if chances:
        yield f"{len(chances)} segments: {first} to the first, {second} to the second, {ties} ties, {unsaid} not judged"
