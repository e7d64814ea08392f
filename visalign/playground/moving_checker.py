"""The checker of clips: every frame by the checker of pictures, and the motion by where the moving thing is seen.

A frame's `motion` is about its steps to the frames beside it: the right way, straight on, no jump, and fast where the
caption says so. Where the thing is not seen, it is thought to have gone on between the frames that show it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit

from . import checker
from .checker import CLEAN_AND_RIGHT, NAMES, Found
from .moving import WAYS, Moving, parse
from .world import SHAPES, SIDE

ASPECTS = (*checker.ASPECTS, "motion")
SLOWEST, FASTER = 0.3, 1.7  # pixels per frame along the way: less is no motion, more is fast
ASTRAY, JUMP = 0.7, 3.5  # pixels per frame: of a clip across the way, and of a step off the clip's own pace
SURE = 0.5  # of 1: how much a thing must look like the one that moves, or stand where that should
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What the checker says of one clip: each aspect of each frame, and how much moves."""

    aspects: dict[str, Table]  # name of ASPECTS -> (f,) in [0, 1]
    dynamic: float  # mean displacement of the moving thing, in pixels per frame; 0 where it is never seen

    @property
    def frames(self) -> Table:
        """(f,) the product of a frame's aspects."""
        return np.asarray(np.prod([self.aspects[name] for name in ASPECTS], axis=0))

    @property
    def overall(self) -> float:
        """The mean of the frames."""
        return float(self.frames.mean())

    @property
    def right(self) -> bool:
        """Whether every frame is clean and right."""
        return bool((self.frames > CLEAN_AND_RIGHT).all())

    @property
    def utility(self) -> Table:
        """(f,) what voters see in a frame: half the product, half the mean of its aspects."""
        return np.asarray(0.5 * self.frames + 0.5 * np.mean([self.aspects[name] for name in ASPECTS], axis=0))


def check(clip: NDArray[np.uint8], caption: str) -> Seen:
    """Judge one (f, 32, 32, 3) uint8 clip of two frames or more; ValueError if it is none, or of the caption."""
    if clip.ndim != 4 or len(clip) < 2 or clip.shape[1:] != (SIDE, SIDE, 3) or clip.dtype != np.uint8:
        raise ValueError(
            f"the checker reads clips (f, {SIDE}, {SIDE}, 3) of uint8, f > 1; got {clip.shape} {clip.dtype}"
        )
    wanted = parse(caption)
    looks = [checker.look(frame, wanted.scene.style) for frame in clip]
    verdicts = [checker.judged(found, cleanliness, wanted.scene) for found, cleanliness in looks]
    aspects = {name: np.array([getattr(each, name) for each in verdicts]) for name in checker.ASPECTS}
    steps = steps_of(np.array([whereabouts(found, wanted) for found, _ in looks]))
    return Seen({**aspects, "motion": motion(steps, wanted)}, float(np.hypot(*steps.T).mean()))


def scores(clips: Sequence[NDArray[np.uint8]], captions: Sequence[str]) -> list[Seen]:
    """What is said of each of n clips."""
    return [check(clip, caption) for clip, caption in zip(clips, captions, strict=True)]


def whereabouts(found: list[Found], wanted: Moving) -> tuple[float, float]:
    """Where the thing that should move is seen in a frame, from the left and the top; NaN where nothing is like it."""
    if not found:
        return np.nan, np.nan
    likeness, place = (np.array(each) for each in zip(*(_like(each, wanted) for each in found), strict=True))
    best = int((likeness + place).argmax())
    return found[best].at if min(likeness[best], place[best]) >= SURE else (np.nan, np.nan)


def _like(found: Found, wanted: Moving) -> tuple[float, float]:
    """How much a thing has the colour or the shape of the one that moves (0 to 2), and stands on its side (0 to 1).

    What changes its colour or melts on its way is still followed; the thing that it stands beside is not.
    """
    thing, relation = wanted.scene.things[wanted.motion.mover], wanted.scene.relation
    likeness = float(found.colours[NAMES.index(thing.colour)] + found.shapes[SHAPES.index(thing.shape)])
    if relation is None:
        return likeness, 1.0
    off = found.at[0 if relation in ("left of", "right of") else 1] - SIDE / 2
    first = relation in ("left of", "above")
    return likeness, float(expit(-off if first == (wanted.motion.mover == 0) else off))


def steps_of(places: Table) -> Table:
    """Displacements (f - 1, 2) between frames from places (f, 2), NaN where unseen: straight on from what is seen."""
    known = np.flatnonzero(~np.isnan(places[:, 0]))
    if len(known) < 2:
        return np.zeros((len(places) - 1, 2))
    numbers = np.arange(len(places))
    filled = np.stack([np.interp(numbers, known, places[known, axis]) for axis in (0, 1)], axis=1)
    steps = np.diff(filled, axis=0)
    steps[: known[0]], steps[known[-1] :] = steps[known[0]], steps[known[-1] - 1]
    return np.asarray(steps)


def motion(steps: Table, wanted: Moving) -> Table:
    """How well each of f frames moves as it should, (f,) in [0, 1], from its steps (f - 1, 2): the worse of the two.

    A pace may be uneven: a step's way is that of three together.
    """
    way = np.array(WAYS[wanted.motion.way], dtype=np.float64)
    usual = np.median(steps, axis=0)
    off = np.hypot(*(steps - usual).T)
    steady = np.where(off[:, None] < JUMP, steps, usual)  # a jump is wrong by itself, not the steps beside it
    along = ndimage.uniform_filter1d(steady @ way, 3, mode="nearest")
    good = expit((along - SLOWEST) / 0.06) * expit((JUMP - off) / 0.15)
    whole = expit((ASTRAY - abs(usual @ way[::-1])) / 0.08)
    if wanted.motion.fast:
        whole *= expit((steady.mean(0) @ way - FASTER) / 0.04)
    return np.asarray(whole * np.minimum(np.append(good, 1.0), np.append(1.0, good)))
