"""Clips of mixed quality with a truth for every frame: what the moving base is trained on.

Flaws of a passing kind strike a run of frames, so that one part of a clip is better than another; two kinds (standing
still, going the other way) spoil a clip as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..draws import generator
from . import moving, world
from .corpus import cluttered, wrong_colour, wrong_shape
from .moving import FRAMES, LANE, WAYS, Moving
from .world import Scene

PASSING = ("melts", "recoloured", "vanishes", "clutter", "jumps")  # in a run of frames
WHOLE = ("still", "backwards")
FLAWS = {
    "melts": 0.12, "recoloured": 0.12, "vanishes": 0.08, "clutter": 0.15, "jumps": 0.06, "still": 0.05,
    "backwards": 0.04,
}  # fmt: skip
LONGEST = 5  # frames of a run; the shortest are 2


@dataclass(frozen=True, eq=False)
class Clip:
    """A clip, its caption, what is wrong with it, and which of its frames are as they should be."""

    frames: NDArray[np.uint8]  # (8, 32, 32, 3)
    caption: str
    flaws: tuple[str, ...]
    right: NDArray[np.bool_]  # (8,)


def example(seed: int, index: int, flaws: Mapping[str, float] | None = None, split: str = "train") -> Clip:
    """The corpus's clip number `index`: a pure function of its arguments; `flaws` gives each flaw's share."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1_000_000 + index]))
    wanted = moving.scene(random)
    while moving.split_of(wanted) != split:
        wanted = moving.scene(random)
    shares = FLAWS if flaws is None else flaws
    return spoiled(wanted, tuple(name for name, share in shares.items() if random.random() < share), random)


def rendered(prompt: str, seed: int = 0) -> Clip:
    """A true clip of a prompt: a pure function of both."""
    return spoiled(moving.parse(prompt), (), generator(seed, prompt, 0, "rendered clip"))


def spoiled(wanted: Moving, flaws: tuple[str, ...], random: np.random.Generator) -> Clip:
    """A clip of a scene, placed anew, with these flaws."""
    placed = moving.place(wanted, random)
    if "still" in flaws:
        placed = replace(placed, motion=replace(placed.motion, speed=0.0))
    right = np.full(FRAMES, not any(name in flaws for name in WHOLE))
    order = range(FRAMES)[::-1] if "backwards" in flaws else range(FRAMES)
    shown = [placed.frame(number) for number in order]
    cluttering: dict[int, int] = {}
    for name in (each for each in flaws if each in PASSING):
        struck, chance = _run(random), int(random.integers(2**31))
        right[_torn(placed, order, struck) if name == "jumps" else struck] = False
        for number in struck:
            if name == "clutter":
                cluttering[number] = chance
            else:
                shown[number] = _changed(name, shown[number], placed, np.random.default_rng(chance))
    frames = [_drawn(each, cluttering.get(number)) for number, each in enumerate(shown)]
    return Clip(np.stack(frames), moving.caption(wanted), flaws, right)


def _run(random: np.random.Generator) -> list[int]:
    """Two to five frames in a row."""
    length = int(random.integers(2, LONGEST + 1))
    first = int(random.integers(0, FRAMES - length + 1))
    return list(range(first, first + length))


def _torn(placed: Moving, order: Sequence[int], run: list[int]) -> list[int]:
    """The frames beside every step that a jump makes: there it is seen, whichever side was meant."""
    steady = np.array([_along(placed.frame(number), placed) for number in order])
    shown = np.array([_away(at) if number in run else at for number, at in enumerate(steady)])
    torn = np.flatnonzero(np.abs(np.diff(shown) - np.diff(steady)) > 1)
    return sorted({*torn.tolist(), *(torn + 1).tolist()})


def _along(shown: Scene, placed: Moving) -> float:
    """Where the moving thing is on its lane."""
    at = shown.things[placed.motion.mover].at
    assert at is not None
    return at[0 if WAYS[placed.motion.way][0] else 1]


def _away(at: float) -> float:
    """Half a lane from a place on it."""
    low, high = LANE
    return low + (at - low + (high - low) / 2) % (high - low)


def _changed(name: str, shown: Scene, placed: Moving, random: np.random.Generator) -> Scene:
    """One frame's scene with a flaw; the same `random` gives every frame of a run the same one."""
    if name == "jumps":
        return _jumped(shown, placed)
    if name == "vanishes":
        gone = int(random.integers(len(shown.things)))
        return replace(shown, things=shown.things[:gone] + shown.things[gone + 1 :])
    return {"melts": wrong_shape, "recoloured": wrong_colour}[name](shown, random)


def _jumped(shown: Scene, placed: Moving) -> Scene:
    """The moving thing half a lane away from where it should be, on its lane."""
    mover = placed.motion.mover
    if mover >= len(shown.things):  # it has vanished
        return shown
    at, things = _away(_along(shown, placed)), list(shown.things)
    x, y = things[mover].at or (at, at)
    things[mover] = replace(things[mover], at=(at, y) if WAYS[placed.motion.way][0] else (x, at))
    return replace(shown, things=tuple(things))


def _drawn(shown: Scene, clutter: int | None) -> NDArray[np.uint8]:
    """A frame; the seed of its clutter is that of the whole run, so that the clutter stands still."""
    return world.draw(shown) if clutter is None else cluttered(shown, np.random.default_rng(clutter))
