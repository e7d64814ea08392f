"""Prompts of each split, and the mixed-quality corpus that the base model is trained on.

The corpus is what web data are: a stated share of its pictures does not show what the caption says, or shows it badly.
So the base can draw well but often does not, and there is something to align.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .captions import caption, paraphrase
from .world import COLOURS, FINE, INVERSE, RELATIONS, SHAPES, SIDE, SIZES, Scene, Thing, draw, place

SPLITS = {"train": range(14), "heldout": range(14, 17), "scorers": range(17, 20)}  # twentieths of all combinations
KINDS = {"relation": 0.70, "single": 0.10, "same": 0.10, "three": 0.10}
SIZED = 0.3  # share of things whose size the caption names
OUTLINED = 0.08
OUTLINED_SHAPES = ("square", "triangle", "diamond", "cross")  # an outlined circle cannot be told from a ring
FLAWS = {"clutter": 0.20, "colour": 0.18, "shape": 0.12, "blur": 0.04}


def split_of(scene: Scene) -> str:
    """The split of a combination: decided by its shapes, colours and relation, whatever the words or sizes."""
    things = [f"{thing.colour} {thing.shape}" for thing in scene.things]
    relation = scene.relation
    if relation in ("right of", "below"):
        things, relation = things[::-1], INVERSE[relation]
    words = f"{relation} | {' | '.join(things if relation else sorted(things))}"
    slot = hashlib.blake2b(words.encode(), digest_size=4).digest()[0] % 20
    return next(name for name, slots in SPLITS.items() if slot in slots)


def scene(random: np.random.Generator) -> Scene:
    """Any scene of the world, unplaced, in the styles that the base knows."""
    kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
    style = "outline" if random.random() < OUTLINED else None
    count = {"relation": 2, "single": 1, "same": 2, "three": 3}[kind]
    shapes = SHAPES if style is None else OUTLINED_SHAPES
    things = [_thing(random, shapes) for _ in range(count)]
    if kind == "same":
        things = [things[0]] * 2
    if kind == "three":  # three large things do not fit
        things = [replace(thing, size="small" if thing.size else None) for thing in things]
    if kind == "relation" and things[0] == things[1]:
        return scene(random)
    return Scene(tuple(things), str(random.choice(RELATIONS)) if kind == "relation" else None, style)


def _thing(random: np.random.Generator, shapes: tuple[str, ...]) -> Thing:
    size = str(random.choice(SIZES)) if random.random() < SIZED else None
    return Thing(str(random.choice(shapes)), str(random.choice(list(COLOURS))), size)


def scenes(split: str, count: int, seed: int = 0) -> list[Scene]:
    """`count` different scenes of a split, in a fixed order for a seed; unplaced."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLITS)}")
    random = np.random.Generator(np.random.Philox(key=[seed, sorted(SPLITS).index(split)]))
    found: dict[str, Scene] = {}
    while len(found) < count:
        candidate = scene(random)
        if split_of(candidate) == split:
            found.setdefault(caption(candidate), candidate)
    return list(found.values())


def prompts(split: str, count: int, seed: int = 0) -> list[str]:
    """`count` different plain captions of a split ("train", "heldout", "scorers")."""
    return [caption(each) for each in scenes(split, count, seed)]


@dataclass(frozen=True)
class Example:
    """One picture of the corpus, its caption, and what is wrong with it."""

    picture: np.ndarray  # (32, 32, 3) uint8
    caption: str
    flaws: tuple[str, ...]


def example(seed: int, index: int, flaws: dict[str, float] | None = None, split: str = "train") -> Example:
    """The corpus's picture number `index`: a pure function of its arguments; `flaws` gives each flaw's share."""
    random = np.random.Generator(np.random.Philox(key=[seed, 1000 + index]))
    wanted = scene(random)
    while split_of(wanted) != split:
        wanted = scene(random)
    shares = FLAWS if flaws is None else flaws
    struck = tuple(name for name, share in shares.items() if random.random() < share)
    shown = wanted
    for name in struck:
        shown = {"colour": wrong_colour, "shape": wrong_shape}.get(name, lambda each, _: each)(shown, random)
    placed = place(shown, random)
    picture = cluttered(placed, random) if "clutter" in struck else draw(placed)
    if "blur" in struck:
        picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.6)))
    words = caption(wanted) if random.random() < 0.7 else paraphrase(wanted, random)
    return Example(picture, words, struck)


def wrong_colour(shown: Scene, random: np.random.Generator) -> Scene:
    """One thing in another colour than the caption says."""
    return _changed(shown, random, "colour", tuple(COLOURS))


def wrong_shape(shown: Scene, random: np.random.Generator) -> Scene:
    """One thing of another shape than the caption says."""
    return _changed(shown, random, "shape", SHAPES if shown.style is None else OUTLINED_SHAPES)


def _changed(shown: Scene, random: np.random.Generator, what: str, choices: tuple[str, ...]) -> Scene:
    which = int(random.integers(len(shown.things)))
    things = list(shown.things)
    others = [each for each in choices if each != getattr(things[which], what)]
    other = str(random.choice(others))
    changed = replace(things[which], colour=other) if what == "colour" else replace(things[which], shape=other)
    things[which] = changed
    return replace(shown, things=tuple(things))


def cluttered(placed: Scene, random: np.random.Generator) -> np.ndarray:
    """The scene drawn over a background of grey strokes and specks."""
    blank = draw(replace(placed, things=()))
    canvas = Image.fromarray(blank).resize((SIDE * FINE, SIDE * FINE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(int(random.integers(9, 16))):
        x, y = random.uniform(0, SIDE * FINE, 2)
        angle, length = random.uniform(0, 2 * np.pi), random.uniform(3, 9) * FINE
        grey = int(random.uniform(120, 190))
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), end], fill=(grey, grey, grey), width=int(random.uniform(1.2, 2.6) * FINE))
    ground = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    return over(ground, placed)


def over(ground: np.ndarray, placed: Scene) -> np.ndarray:
    """The things of a scene drawn over a given background (32, 32, 3)."""
    from .world import coverage

    picture = ground.astype(np.float32)
    for thing in placed.things:
        assert thing.radius is not None and thing.at is not None
        mask = coverage(thing.shape, thing.radius, thing.at, placed.style)[..., None]
        picture = picture * (1 - mask) + np.array(COLOURS[thing.colour], dtype=np.float32) * mask
    return picture.round().clip(0, 255).astype(np.uint8)
