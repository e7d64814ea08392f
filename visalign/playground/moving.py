"""The moving world: captioned clips of one or two coloured shapes, of which one moves; drawn frame by frame.

A clip has 8 frames of 32 x 32 pixels. Its caption is one of the still world with a motion behind the thing that moves:
"a red circle moving left", "a red circle moving up fast left of a blue square". A thing that stands beside another
moves across the relation, so the relation holds in every frame. Speeds are in pixels per frame.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import captions, corpus, world
from .world import COLOURS, RELATIONS, SHAPES, SIZES, Scene, Thing

FRAMES = 8
WAYS: dict[str, tuple[int, int]] = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
ACROSS = {  # the ways that keep a relation
    "left of": ("up", "down"), "right of": ("up", "down"), "above": ("left", "right"), "below": ("left", "right"),
}  # fmt: skip
WORDS = ("moving", "up", "down", "fast")  # what the vocabulary of the still world lacks
VOCABULARY = (*captions.VOCABULARY, *WORDS)
SPEEDS = {False: (0.9, 1.5), True: (2.1, 2.5)}  # plain and fast
LANE = (7.2, 24.8)  # where a moving thing's centre stays, so that no shape leaves the picture
ALONE = 0.5  # share of clips that show one thing
FAST = 0.35
SIZED = 0.15


@dataclass(frozen=True)
class Motion:
    """How one thing moves: where to, whether fast, which of the scene's things, and its speed once it is placed."""

    way: str
    fast: bool = False
    mover: int = 0
    speed: float | None = None


@dataclass(frozen=True)
class Moving:
    """A scene as its first frame shows it, and the motion of one of its things."""

    scene: Scene
    motion: Motion

    def frame(self, number: int) -> Scene:
        """The placed scene in frame `number`; ValueError where nothing has been placed."""
        thing, speed = self.scene.things[self.motion.mover], self.motion.speed
        if thing.at is None or speed is None:
            raise ValueError(f"{thing} has no place or speed yet: call place() first")
        dx, dy = WAYS[self.motion.way]
        moved = replace(thing, at=(thing.at[0] + dx * speed * number, thing.at[1] + dy * speed * number))
        return self.with_mover(moved).scene

    def with_mover(self, thing: Thing) -> Moving:
        """The same with another thing in place of the one that moves."""
        things = list(self.scene.things)
        things[self.motion.mover] = thing
        return replace(self, scene=replace(self.scene, things=tuple(things)))


def caption(moving: Moving) -> str:
    """ "a red circle moving left fast above a blue square"."""
    told = [captions.phrase(thing) for thing in moving.scene.things]
    told[moving.motion.mover] += f" moving {moving.motion.way}{' fast' if moving.motion.fast else ''}"
    return f" {moving.scene.relation or 'and'} ".join(told)


def parse(text: str) -> Moving:
    """The scene and motion that a caption asks for, without places; ValueError quotes what cannot be read."""
    found = list(re.finditer(rf" moving ({'|'.join(WAYS)})( fast)?\b(?! of)", text.strip().lower()))
    if len(found) != 1:
        raise ValueError(f"cannot read a motion in the caption {text!r}: expected one 'moving {'|'.join(WAYS)} [fast]'")
    (told,) = found
    before, after = told.string[: told.start()], told.string[told.end() :]
    try:
        scene = captions.parse(before + after)
    except ValueError as error:
        raise ValueError(f"cannot read the caption {text!r}: {error}") from error
    mover = len(re.findall(rf"\b(?:{'|'.join(SHAPES)})\b", before)) - 1
    return Moving(scene, Motion(told[1], told[2] is not None, mover))


def scene(random: np.random.Generator) -> Moving:
    """Any scene of the moving world, unplaced."""
    count = 1 if random.random() < ALONE else 2
    things = tuple(_thing(random) for _ in range(count))
    if count == 2 and things[0] == things[1]:
        return scene(random)
    relation = str(random.choice(RELATIONS)) if count == 2 else None
    way = str(random.choice(ACROSS[relation] if relation else list(WAYS)))
    return Moving(Scene(things, relation), Motion(way, bool(random.random() < FAST), int(random.integers(count))))


def _thing(random: np.random.Generator) -> Thing:
    size = str(random.choice(SIZES)) if random.random() < SIZED else None
    return Thing(str(random.choice(SHAPES)), str(random.choice(list(COLOURS))), size)


def place(moving: Moving, random: np.random.Generator) -> Moving:
    """The scene with places, radii, a tint and a speed; ValueError where the motion would break the relation."""
    relation, way, fast = moving.scene.relation, moving.motion.way, moving.motion.fast
    if relation and way not in ACROSS[relation]:
        raise ValueError(f"what is {relation} another can move {' or '.join(ACROSS[relation])}, got {way!r}")
    scene, speed = world.place(moving.scene, random), float(random.uniform(*SPEEDS[fast]))
    low, high = LANE
    travel = speed * (FRAMES - 1)
    start = float(random.uniform(low, high - travel))
    along = start if sum(WAYS[way]) > 0 else low + high - start
    axis = 0 if WAYS[way][0] else 1
    things = [_put(each, axis, float(16 + random.uniform(-5, 5))) for each in scene.things]
    things[moving.motion.mover] = _put(things[moving.motion.mover], axis, along)
    return Moving(replace(scene, things=tuple(things)), replace(moving.motion, speed=speed))


def _put(thing: Thing, axis: int, at: float) -> Thing:
    """A placed thing with one of its coordinates changed."""
    assert thing.at is not None
    return replace(thing, at=(at, thing.at[1]) if axis == 0 else (thing.at[0], at))


def draw(moving: Moving) -> NDArray[np.uint8]:
    """The clip of a placed scene: (8, 32, 32, 3)."""
    return np.stack([world.draw(moving.frame(number)) for number in range(FRAMES)])


def split_of(moving: Moving) -> str:
    """The split of a clip is that of its things and relation in the still world, whatever moves where."""
    return corpus.split_of(moving.scene)


def scenes(split: str, count: int, seed: int = 0) -> list[Moving]:
    """`count` different scenes of a split, in a fixed order for a seed; unplaced."""
    if split not in corpus.SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(corpus.SPLITS)}")
    random = np.random.Generator(np.random.Philox(key=[seed, 100 + sorted(corpus.SPLITS).index(split)]))
    found: dict[str, Moving] = {}
    while len(found) < count:
        candidate = scene(random)
        if split_of(candidate) == split:
            found.setdefault(caption(candidate), candidate)
    return list(found.values())


def prompts(split: str, count: int, seed: int = 0) -> list[str]:
    """`count` different captions of a split ("train", "heldout", "scorers")."""
    return [caption(each) for each in scenes(split, count, seed)]
