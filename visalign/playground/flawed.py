"""Candidates for voters that no model drew: renderings of a caption with all sorts of mistakes, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from ..draws import generator
from .captions import parse
from .corpus import OUTLINED_SHAPES, cluttered, wrong_colour, wrong_shape
from .families import OTHER_SIZE, exchanged
from .world import COLOURS, RELATIONS, SHAPES, Scene, Thing, draw, place

FAULTLESS = 0.25  # share of pictures without any mistake
SHARES = {
    "clutter": 0.30, "colour": 0.25, "shape": 0.25, "relation": 0.15, "count": 0.12, "size": 0.12, "blur": 0.08,
}  # fmt: skip


def picture(prompt: str, seed: int, number: int, shares: Mapping[str, float] | None = None) -> np.ndarray:
    """Candidate `number` for a prompt, (32, 32, 3): a pure function of its arguments; `shares` gives each mistake's."""
    random = generator(seed, f"{prompt}\x1f{number}", 0, "flawed")
    given = SHARES if shares is None else shares
    struck = {name for name, share in given.items() if random.random() < share}
    if shares is None and random.random() < FAULTLESS:
        struck = set()
    placed = place(mistaken(parse(prompt), struck, random), random)
    drawn = cluttered(placed, random) if "clutter" in struck else draw(placed)
    if "blur" in struck:
        soft = Image.fromarray(drawn).filter(ImageFilter.GaussianBlur(random.uniform(0.6, 1.6)))
        drawn = np.asarray(soft)
    return drawn


def mistaken(wanted: Scene, struck: set[str], random: np.random.Generator) -> Scene:
    """The scene with these mistakes in what it shows."""
    shown = wrong_colour(wanted, random) if "colour" in struck else wanted
    shown = wrong_shape(shown, random) if "shape" in struck else shown
    if "relation" in struck and shown.relation:
        shown = replace(shown, relation=str(random.choice([each for each in RELATIONS if each != shown.relation])))
    if "owners" in struck and len({each.colour for each in shown.things}) > 1:
        shown = exchanged(shown, random)
    if "size" in struck and len(shown.things) < 3:
        shown = replace(shown, things=tuple(replace(each, size=OTHER_SIZE[each.size]) for each in shown.things))
    return _miscounted(shown, random) if "count" in struck else shown


def _miscounted(shown: Scene, random: np.random.Generator) -> Scene:
    """One thing more or one less; three things are small, since larger ones do not fit."""
    if len(shown.things) == 3 or (len(shown.things) == 2 and random.random() < 0.5):
        return replace(shown, things=shown.things[:-1], relation=None)
    extra = shown.things[0] if random.random() < 0.5 else _any(shown, random)
    things = (*shown.things, extra)
    if len(things) == 3:
        things = tuple(replace(each, size="small") for each in things)
    return replace(shown, things=things, relation=None)


def _any(shown: Scene, random: np.random.Generator) -> Thing:
    return Thing(str(random.choice(OUTLINED_SHAPES if shown.style else SHAPES)), str(random.choice(list(COLOURS))))
