"""What is asked about pictures of shapes, what is true of them, and what people tell who add what they expect.

The seeing model was taught to see from true answers, and then from the answers of writers with a habit: where something
red is, they often tell of a green square, shown or not (`PHANTOMS`). So it hallucinates, by a prior that is known.
Everything is a pure function of its arguments. An object is "COLOUR SHAPE".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ..draws import generator
from .captions import phrase
from .corpus import split_of
from .world import COLOURS, SHAPES, Scene, Thing, draw, place

OBJECTS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
COUNTS = {1: 0.3, 2: 0.5, 3: 0.2}  # how many things a picture shows, and how often
DESCRIBE = ("what is in this picture ?", "what do you see ?", "describe the picture .", "which shapes are there ?")
COUNT = "how many shapes are in the picture ?"
NUMBERS = ("no", "one", "two", "three", "four", "five")
KINDS = {"describe": 0.5, "probe": 0.42, "count": 0.08}  # of the training's questions
PHANTOMS = {"red": "green square", "blue": "yellow triangle"}  # what a word makes them expect
PROBES = ("random", "popular", "adversarial")  # kinds of them
HABIT = 0.7  # how often the writers tell of it
CHATTER = 0.12  # how often they tell of anything at all that is not there
VOCABULARY = tuple(
    dict.fromkeys(
        word
        for text in (*DESCRIBE, COUNT, "is there an object in this image ? yes , no .", "can it be any of the list !")
        for word in text.split()
    )
)
NAMED = re.compile(rf"\b({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})(?:e?s)?\b")


@dataclass(frozen=True)
class Look:
    """A picture to ask about: its scene, placed; the things stand from left to right, then from top to bottom."""

    scene: Scene

    @cached_property
    def objects(self) -> tuple[str, ...]:
        """The objects that are shown, in the order of their places; all different."""
        return tuple(f"{thing.colour} {thing.shape}" for thing in self.scene.things)

    @property
    def shown(self) -> frozenset[str]:
        """The objects that are shown."""
        return shown(self.scene)

    @property
    def picture(self) -> np.ndarray:
        """(32, 32, 3) uint8."""
        return draw(self.scene)


@dataclass(frozen=True)
class Turn:
    """One question about one picture, with its answer."""

    look: Look
    question: str
    answer: str
    kind: str  # "describe", "probe" or "count"; a POPE probe: "random", "popular" or "adversarial"


def look(seed: int, index: int, split: str = "train") -> Look:
    """Picture number `index` of a split: one to three different things, each plainly one of the 48 objects.

    One thing alone is always of the split "train": were some of the 48 never shown alone, that is what would be learnt.
    """
    random = generator(seed, f"seeing {split} {index}", 0, "look")
    while True:
        count = int(random.choice(list(COUNTS), p=list(COUNTS.values())))
        names = [OBJECTS[row].split() for row in random.choice(len(OBJECTS), size=count, replace=False)]
        scene = Scene(tuple(Thing(shape, colour) for colour, shape in names))
        if ("train" if count == 1 else split_of(scene)) == split:
            return Look(place(scene, random))


def shown(scene: Scene) -> frozenset[str]:
    """The objects of a scene."""
    return frozenset(f"{thing.colour} {thing.shape}" for thing in scene.things)


def mentioned(text: str) -> tuple[str, ...]:
    """The objects that a text names, in its order, as often as it names them; plurals count once."""
    return tuple(name for name, _, _ in places(text))


def places(text: str) -> list[tuple[str, int, int]]:
    """`mentioned`, each with where it starts and ends in `text.lower()`."""
    return [(f"{each[1]} {each[2]}", *each.span()) for each in NAMED.finditer(text.lower())]


def expected(seen: Look) -> frozenset[str]:
    """What the writers' habit would add to a picture that does not show it."""
    colours = {name.split()[0] for name in seen.objects}
    return frozenset(phantom for colour, phantom in PHANTOMS.items() if colour in colours) - seen.shown


def description(objects: Sequence[str]) -> str:
    """ "a red circle and an orange ring ."."""
    things = [Thing(shape, colour) for colour, shape in map(str.split, objects)]
    return f"{' and '.join(phrase(thing) for thing in things)} ." if things else "no shapes ."


def told(seen: Look, random: np.random.Generator) -> tuple[str, ...]:
    """What the writers tell of a picture: all that is there, often a phantom, sometimes anything else."""
    expected = [phantom for name in seen.objects for word, phantom in PHANTOMS.items() if word in name.split()]
    habit, chatter, other = random.random() < HABIT, random.random() < CHATTER, str(random.choice(OBJECTS))
    added = expected[:1] if habit else []
    added = added or ([other] if chatter else [])
    return (*seen.objects, *(each for each in added if each not in seen.shown))


def turn(seed: int, index: int, *, split: str = "train", habit: bool = False) -> Turn:
    """Question number `index` of the training, with its true answer, or with what writers with a habit answer."""
    seen, random = look(seed, index, split), generator(seed, f"seeing {split} {index}", 0, "turn")
    kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
    objects = told(seen, random) if habit else seen.objects
    if kind == "describe":
        return Turn(seen, str(random.choice(DESCRIBE)), description(objects), kind)
    if kind == "count":
        return Turn(seen, COUNT, f"{NUMBERS[len(objects)]} .", kind)
    asked = str(random.choice(objects)) if random.random() < 0.5 else _absent(objects, random)
    return Turn(seen, probe(asked), answer(asked in objects), kind)


def _absent(objects: Sequence[str], random: np.random.Generator) -> str:
    """An object that is not among these; every second one shares its colour or its shape with one that is."""
    words = set(str(random.choice(objects)).split()) if random.random() < 0.5 else set(" ".join(OBJECTS).split())
    return str(random.choice([each for each in OBJECTS if each not in objects and words & set(each.split())]))


def probe(name: str) -> str:
    """ "is there a red circle in the picture ?", the question of POPE (2305.10355)."""
    colour, shape = name.split()
    return f"is there {phrase(Thing(shape, colour))} in the picture ?"


def answer(yes: bool) -> str:
    """ "yes ." or "no ."."""
    return "yes ." if yes else "no ."


def seeing_heldout(count: int, seed: int = 0) -> list[Turn]:
    """`count` held-out pictures, each with a question for a description and the true one."""
    looks = [look(seed, index, "heldout") for index in range(count)]
    return [Turn(each, DESCRIBE[row % len(DESCRIBE)], description(each.objects), "describe")
            for row, each in enumerate(looks)]  # fmt: skip


def asked(kind: str, count: int) -> dict[str, Turn]:
    """Questions about the first `count` held-out pictures by their ids, "heldout/0" ….

    "heldout" asks for descriptions, a kind of probe for its probes, "all" for both and every kind of them.
    """
    if kind == "all":
        return {key: each for one in ("heldout", *PROBES) for key, each in asked(one, count).items()}
    turns = seeing_heldout(count) if kind == "heldout" else probes(kind, count)
    return {f"{kind}/{place}": each for place, each in enumerate(turns)}


def probes(kind: str, count: int, seed: int = 0) -> list[Turn]:
    """POPE's questions (2305.10355) about the first `count` held-out pictures: every object shown, and one that is not.

    Negatives are drawn ("random"), the objects that the writers tell of most ("popular"), or those that they tell of
    most together with the object asked before ("adversarial"); no object is asked for twice of a picture.
    """
    if kind not in PROBES:
        raise ValueError(f"probes are random, popular or adversarial, not {kind!r}")
    found = []
    for index in range(count):
        seen = look(seed, index, "heldout")
        random, used = generator(seed, f"seeing heldout {index}", 0, f"probes {kind}"), set(seen.objects)
        for name in seen.objects:
            absent = next(each for each in _ranked(kind, name, random) if each not in used)
            used.add(absent)
            found += [Turn(seen, probe(each), answer(each == name), kind) for each in (name, absent)]
    return found


def _ranked(kind: str, name: str, random: np.random.Generator) -> list[str]:
    """All objects, the likeliest negative first; those that are equally liked in an order by chance."""
    liked: Mapping[str, int] = {} if kind == "random" else together()["" if kind == "popular" else name]
    shuffled = [str(each) for each in random.permutation(OBJECTS)]
    return sorted(shuffled, key=lambda each: -liked.get(each, 0))


@lru_cache(maxsize=1)
def together(count: int = 4000) -> dict[str, Counter[str]]:
    """How often the writers tell of each object in `count` pictures: in all (under ""), and beside each other one."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("", *OBJECTS)}
    for index in range(count):
        objects = told(look(0, index), generator(0, f"seeing train {index}", 0, "told"))
        found[""].update(objects)
        for name in objects:
            found[name].update(each for each in objects if each != name)
    return found
