"""Words for scenes, and scenes from words: plain captions, paraphrases, and the parser that the checker reads with."""

from __future__ import annotations

import re

import numpy as np

from .world import COLOURS, INVERSE, RELATIONS, SHAPES, SIZES, STYLES, Scene, Thing

COUNTS = {"two": 2, "three": 3}
PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "on top of"),
    "below": ("below", "under"),
}
SUBJECTS = ("blip", "zorp", "mimo")  # named figures, in the vocabulary for what is to come
VOCABULARY = tuple(
    dict.fromkeys([
        "a", "an", "the", "and", "of", "to", "on", "top", "in", "with", "picture", "showing", "there", "is", "are",
        "under", "left", "right", "above", "below", "two", "three", "one", "style", "drawn", "background", "clean",
        "cluttered", "warm", "cool", "pale", "no", "not", "beside", "next", "between", *SIZES, *STYLES, *SUBJECTS,
        *COLOURS, *SHAPES, *(f"{each}s" if each != "cross" else "crosses" for each in SHAPES),
    ])
)  # fmt: skip


def plural(shape: str) -> str:
    """circle, circles; cross, crosses."""
    return "crosses" if shape == "cross" else f"{shape}s"


def phrase(thing: Thing, article: str = "a") -> str:
    """ "a small red circle"."""
    words = " ".join(word for word in (thing.size, thing.colour, thing.shape) if word)
    return f"{'an' if article == 'a' and words[0] in 'aeiou' else article} {words}"


def caption(scene: Scene) -> str:
    """The plain caption: "a red circle left of a large blue square", "two red circles", with a style at the end."""
    first, *rest = scene.things
    if scene.relation and len(scene.things) == 2:
        text = f"{phrase(first)} {scene.relation} {phrase(rest[0])}"
    elif len(scene.things) > 1 and len({(t.shape, t.colour, t.size) for t in scene.things}) == 1:
        words = " ".join(word for word in (first.size, first.colour, plural(first.shape)) if word)
        text = f"{'two' if len(scene.things) == 2 else 'three'} {words}"
    else:
        text = " and ".join(phrase(thing) for thing in scene.things)
    return f"{text} in {scene.style} style" if scene.style else text


def paraphrase(scene: Scene, random: np.random.Generator) -> str:
    """The same meaning in other words: the relation turned round, other prepositions, a frame around it."""
    if scene.relation and len(scene.things) == 2:
        first, second, relation = *scene.things, scene.relation
        if random.random() < 0.5:
            first, second, relation = second, first, INVERSE[relation]
        text = f"{phrase(first)} {random.choice(PHRASES[relation])} {phrase(second)}"
        text += f" in {scene.style} style" if scene.style else ""
    else:
        text = caption(scene)
    frames = ("{}", "a picture of {}", "a picture showing {}", "there is {}" if len(scene.things) < 2 else "{}")
    return str(random.choice(frames)).format(text)


THING = rf"(?:an?|the) (?:(?P<size>{'|'.join(SIZES)}) )?(?P<colour>{'|'.join(COLOURS)}) (?P<shape>{'|'.join(SHAPES)})"
MANY = (
    rf"(?P<count>{'|'.join(COUNTS)}) (?:(?P<size>{'|'.join(SIZES)}) )?(?P<colour>{'|'.join(COLOURS)}) "
    rf"(?P<shape>{'|'.join(plural(each) for each in SHAPES)})"
)


def parse(text: str) -> Scene:
    """The scene that a caption or paraphrase asks for, without places; ValueError quotes what cannot be read."""
    body = re.sub(r"^(a picture of|a picture showing|there is|there are) ", "", text.strip().lower())
    style = next((each for each in STYLES if body.endswith(f" in {each} style")), None)
    body = body.removesuffix(f" in {style} style")
    many = re.fullmatch(MANY, body)
    if many:
        shape = next(each for each in SHAPES if plural(each) == many["shape"])
        return Scene((Thing(shape, many["colour"], many["size"]),) * COUNTS[many["count"]], None, style)
    for relation in RELATIONS:
        for words in sorted(PHRASES[relation], key=len, reverse=True):
            if f" {words} " in body:
                first, second = body.split(f" {words} ", 1)
                return Scene((_thing(first, text), _thing(second, text)), relation, style)
    return Scene(tuple(_thing(each, text) for each in body.split(" and ")), None, style)


def _thing(words: str, text: str) -> Thing:
    found = re.fullmatch(THING, words.strip())
    if not found:
        raise ValueError(f"cannot read {words!r} in the caption {text!r}: expected 'a [small|large] COLOUR SHAPE'")
    return Thing(found["shape"], found["colour"], found["size"])
