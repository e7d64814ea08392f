"""Scenes that differ in one thing each: what a CLIP must tell apart to read a caption.

In a batch of strangers almost any colour word tells which picture is meant. In a batch of families every word counts.
Half of the families differ in anything; a quarter only in how two things stand, a quarter only in whose colour and
place is whose: CLIPs learn neither unless nothing else tells pictures apart (Yuksekgonul et al., arXiv 2210.01936).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from ..draws import generator
from .captions import caption, paraphrase
from .corpus import cluttered, scene, split_of, wrong_colour, wrong_shape
from .world import INVERSE, RELATIONS, Scene, draw, place

MEMBERS = 4
SPLITS = ("train", "scorers")  # held-out combinations stay unseen
CLUTTERED, BLURRED, PLAIN = 0.15, 0.04, 0.7  # shares of pictures, pictures, captions
OTHER_SIZE = {"small": "large", "large": "small", None: None}
KINDS = ("any", "places", "any", "owners")  # in turn
CHANGES = ("colour", "colour", "shape", "shape", "relation", "size", "owners", "count")


def family(seed: int, index: int) -> tuple[np.ndarray, list[str]]:
    """Pictures (4, 32, 32, 3) and captions of family number `index`: a pure function of its arguments."""
    random = generator(seed, str(index), 0, "family")
    found = _relatives(random, KINDS[index % len(KINDS)])
    return np.stack([_shown(each, random) for each in found]), [_told(each, random) for each in found]


def _relatives(random: np.random.Generator, kind: str) -> list[Scene]:
    """Four scenes that mean different things, all of splits that may be seen."""
    made = {"any": various, "places": standing, "owners": owned}[kind]
    while True:
        found = {meaning(each): each for each in made(scene(random), random)}
        if len(found) == MEMBERS and all(split_of(each) in SPLITS for each in found.values()):
            return list(found.values())


def meaning(shown: Scene) -> tuple[object, ...]:
    """What a scene says, however it is put: "a left of b" is "b right of a", "a and b" is "b and a"."""
    things, relation = shown.things, shown.relation
    if relation in ("right of", "below"):
        things, relation = things[::-1], INVERSE[relation]
    return relation, shown.style, *(things if relation else sorted(things, key=str))


def various(first: Scene, random: np.random.Generator) -> list[Scene]:
    """The scene and up to three changed from it, no two of one meaning."""
    found = {meaning(first): first}
    for _ in range(40):
        other = changed(first, random)
        if split_of(other) in SPLITS and not (other.relation and other.things[0] == other.things[1]):
            found.setdefault(meaning(other), other)
        if len(found) == MEMBERS:
            break
    return list(found.values())


def standing(first: Scene, random: np.random.Generator) -> list[Scene]:
    """Two things in each of the four relations; nothing of a scene without one."""
    return [replace(first, relation=each) for each in RELATIONS] if first.relation else []


def owned(first: Scene, random: np.random.Generator) -> list[Scene]:
    """Two things, the same with each other's colour, and both with their places exchanged."""
    if not first.relation:
        return []
    both = [first, exchanged(first, random)]
    return [*both, *(replace(each, relation=INVERSE[first.relation]) for each in both)]


def changed(shown: Scene, random: np.random.Generator) -> Scene:
    """The scene with one thing changed: a colour, a shape, the relation, sizes, whose colour is whose, or how many."""
    kind, same = str(random.choice(CHANGES)), len(shown.things) > 1 and len(set(shown.things)) == 1
    if kind == "relation" and shown.relation:
        return replace(shown, relation=str(random.choice([each for each in RELATIONS if each != shown.relation])))
    if kind == "size" and len(shown.things) < 3 and any(thing.size for thing in shown.things):
        return replace(shown, things=tuple(replace(thing, size=OTHER_SIZE[thing.size]) for thing in shown.things))
    if kind == "owners" and len({thing.colour for thing in shown.things}) > 1:
        return exchanged(shown, random)
    if kind == "count" and same:
        small = "small" if shown.things[0].size else None  # three large things do not fit
        many = 5 - len(shown.things)
        return replace(shown, things=(replace(shown.things[0], size=small),) * many)
    wrong = wrong_colour if kind == "colour" or random.random() < 0.5 else wrong_shape
    if same:
        return replace(shown, things=wrong(replace(shown, things=shown.things[:1]), random).things * len(shown.things))
    return wrong(shown, random)


def exchanged(shown: Scene, random: np.random.Generator) -> Scene:
    """Two things with each other's colour."""
    things = list(shown.things)
    i, j = (int(each) for each in random.choice(len(things), 2, replace=False))
    mine, yours = things[i].colour, things[j].colour
    things[i], things[j] = replace(things[i], colour=yours), replace(things[j], colour=mine)
    return replace(shown, things=tuple(things))


def _shown(each: Scene, random: np.random.Generator) -> np.ndarray:
    placed = place(each, random)
    picture = cluttered(placed, random) if random.random() < CLUTTERED else draw(placed)
    if random.random() < BLURRED:
        picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(1.2)))
    return picture


def _told(each: Scene, random: np.random.Generator) -> str:
    return caption(each) if random.random() < PLAIN else paraphrase(each, random)
