"""Which of a table's objects a text names: CHAIR's reading of captions (arXiv 1809.02156; LisaAnne/Hallucination).

Lower case, words, singulars, double words merged, "seat" dropped beside "toilet", and what is in the table of synonyms
becomes its class. The official table is a file (`data/synonyms.txt`) that `synonyms` reads; `OURS` is a shorter one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..records import DataError

Variant = Literal["right", "release"]
Place = tuple[str, int, int]  # what is named, where it starts, and where it ends

# COCO's 80 classes, each with what they are obviously called too. Not the official table, which is longer.
OURS = """
person, people, man, woman, boy, girl, child, kid, baby, adult, lady, guy, gentleman, player, rider, skier, surfer/
bicycle, bike/car, automobile, van, suv, taxi, cab/motorcycle, motorbike, motor bike, motor cycle, scooter, moped/
airplane, plane, air plane, jet, aircraft/bus, minibus/train, locomotive/truck, lorry, pickup/
boat, ship, canoe, kayak, sailboat, yacht, ferry/bench/parking meter/stop sign/fire hydrant, hydrant/
traffic light, traffic signal, stop light, stoplight, street light, streetlight/
bird, duck, goose, seagull, pigeon, owl, parrot, swan/cat, kitten/dog, puppy/horse, pony, foal/sheep, lamb, goat/
cow, cattle, bull, calf/elephant/bear/zebra/giraffe/backpack, knapsack/umbrella/handbag, purse/tie, necktie, bow tie/
suitcase, suit case, luggage/frisbee/skis, ski/snowboard/sports ball, ball/kite/baseball bat/baseball glove/
skateboard/surfboard/tennis racket, racket/bottle/wine glass/cup/fork/knife/spoon/bowl/banana/apple/
sandwich, burger, hamburger/orange/broccoli/carrot/hot dog/pizza/donut, doughnut/cake, cupcake/chair, seat, stool/
couch, sofa/potted plant, houseplant/bed/dining table, table, desk/toilet/tv, television, monitor/
laptop, laptop computer, computer/mouse/remote/keyboard/microwave/oven, stove/toaster/sink/
cell phone, mobile phone, phone, cellphone, telephone, smartphone/refrigerator, fridge, freezer/book/clock/vase/
scissors/teddy bear/hair drier, hairdryer, hair dryer/toothbrush
"""

DOUBLES = (
    "motor bike", "motor cycle", "air plane", "traffic light", "street light", "traffic signal", "stop light",
    "fire hydrant", "stop sign", "parking meter", "suit case", "sports ball", "baseball bat", "baseball glove",
    "tennis racket", "wine glass", "hot dog", "cell phone", "mobile phone", "teddy bear", "hair drier", "potted plant",
    "bow tie", "laptop computer", "stove top oven", "home plate", "train track",
)  # fmt: skip
ANIMALS = ("bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub")
TOKEN = re.compile(r"[^\W_]+(?:-[^\W_]+)*|[^\w\s]")  # a sign between two words keeps them from being a double word
IRREGULAR = {"children": "child", "mice": "mouse", "geese": "goose", "oxen": "ox", "people": "person"}
LOST = {"canoes", "collies", "doggies", "magpies", "thieves", "ties"}  # pattern.en makes "ty" of ties, "cano" of canoes
ENDINGS = (("s", ""), ("es", ""), ("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"))


@dataclass(frozen=True)
class Objects:
    """Reads the objects of a table out of texts."""

    classes: Mapping[str, str]  # word or double word -> class
    doubles: Mapping[str, str]  # two words -> the one that they count as
    singular: Callable[[str], str]
    tokens: Callable[[str], list[str]]

    @classmethod
    def chair(
        cls,
        classes: Mapping[str, str],
        *,
        variant: Variant = "right",
        singular: Callable[[str], str] | None = None,
        tokens: Callable[[str], list[str]] | None = None,
    ) -> Objects:
        """As CHAIR reads. `singular` and `tokens` may be the official `pattern.en.singularize`, `nltk.word_tokenize`.

        variant "release": pattern.en 2.6 and 3.6 take the s from words that are singular already, so that "a bus" is
        none, and make no word of some plurals ("ties"). With the official table, every word and plural agrees.
        """
        doubles = {each: each for each in DOUBLES} | _qualified()
        return cls(classes, doubles, singular or _Singular.of(classes, doubles, variant), tokens or tokenised)

    @classmethod
    def halbench(cls, classes: Mapping[str, str]) -> Objects:
        """As Object HalBench reads (RLHF-V, eval_gpt_obj_halbench.py): every name of two words is a double word."""
        own = [each for each in classes if " " in each]
        doubles = {each: each for each in (*own, "home plate", "train track")} | _qualified()
        return cls(classes, doubles, _Singular.of(classes, doubles, "right"), tokenised)

    def words(self, text: str) -> list[str]:
        """The words of the table that a text names, double words as one, in their order, each as often as it stands."""
        return self.kept(self.merged([self.singular(each) for each in self.tokens(text.lower())]))

    def mentioned(self, text: str) -> list[str]:
        """The classes that a text names, each as often as it does."""
        return [self.classes[each] for each in self.words(text)]

    def merged(self, words: Sequence[str]) -> list[str]:
        """With double words as what they count as; pairs are sought from the left and never overlap."""
        return [word for word, _, _ in self._joined(words)]

    def _joined(self, words: Sequence[str]) -> list[Place]:
        found: list[Place] = []
        place = 0
        while place < len(words):
            both = self.doubles.get(" ".join(words[place : place + 2]))
            found.append((both or words[place], place, behind := place + (2 if both else 1)))
            place = behind
        return found

    def kept(self, words: Sequence[str]) -> list[str]:
        """Those in the table; a seat beside a toilet is no chair."""
        return [each for each in words if self._counts(each, words)]

    def _counts(self, word: str, words: Sequence[str]) -> bool:
        return word in self.classes and not (word == "seat" and "toilet" in words)

    def places(self, text: str) -> list[Place]:
        """`mentioned`, each with its place in `text.lower()`; 0, 0 for a token that does not stand there as it is."""
        lower = text.lower()
        tokens = self.tokens(lower)
        spans, joined = _spans(tokens, lower), self._joined([self.singular(each) for each in tokens])
        words = [word for word, _, _ in joined]
        return [
            (self.classes[word], spans[first][0], spans[behind - 1][1])
            for word, first, behind in joined
            if self._counts(word, words)
        ]


def _spans(tokens: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Where each token starts and ends, sought one behind the other."""
    found, start = [], 0
    for token in tokens:
        place = text.find(token, start)
        start = start if place < 0 else place + len(token)
        found.append((0, 0) if place < 0 else (place, start))
    return found


def _qualified() -> dict[str, str]:
    """A baby bird is no person, and neither is a passenger train."""
    animals = {f"{age} {each}": each for each in ANIMALS for age in ("baby", "adult")}
    vehicles = {f"passenger {each}": each for each in ("jet", "train")}
    return animals | vehicles | {"bow tie": "tie", "toilet seat": "toilet", "wine glas": "wine glass"}


@dataclass(frozen=True)
class _Singular:
    """The singular of words that somebody asks about: a word that is known stays, another loses what makes it known."""

    known: frozenset[str]
    variant: Variant

    @classmethod
    def of(cls, classes: Iterable[str], doubles: Iterable[str], variant: Variant) -> _Singular:
        if variant not in ("right", "release"):
            raise ValueError(f"variant is right or release, got {variant!r}")
        parts = {part for each in (*classes, *doubles) for part in each.split()}
        return cls(frozenset(parts), variant)

    def __call__(self, word: str) -> str:
        release = self.variant == "release"
        if word in self.known:
            return word[:-1] if release and word.endswith("s") and word != "scissors" else word
        if release and word in LOST:
            return word
        made = [word[: -len(old)] + new for old, new in ENDINGS if word.endswith(old)]
        return next((each for each in (IRREGULAR.get(word, word), *made) if each in self.known), word)


def tokenised(text: str) -> list[str]:
    """Words (those with hyphens are one) and signs. Unlike nltk's, it parts "sofa/couch" and bares "**dog**"."""
    return TOKEN.findall(text)


def table(lines: Iterable[str], variant: Variant = "right") -> dict[str, str]:
    """Word -> class of lines "class, synonym, synonym"; a word of two lines belongs to the later one.

    variant "release": blanks that stand before a synonym are part of it, as the public code reads its own file.
    """
    rows = [each.strip().split(", ") for each in lines if each.strip()]
    clean = [[part if variant == "release" else part.strip() for part in row] for row in rows]
    return {word: row[0] for row in clean for word in row if word}


def ours() -> dict[str, str]:
    """Word -> class of our own, shorter table."""
    return table(OURS.split("/"))


def synonyms(path: Path, variant: Variant = "right") -> dict[str, str]:
    """Word -> class of a file such as the official `data/synonyms.txt` or Object HalBench's `synonyms_refine.txt`."""
    try:
        found = table(path.read_text(encoding="utf-8").splitlines(), variant)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"no synonyms can be read from {path}: {error}") from None
    if not found:
        raise DataError(f"{path} has no line such as 'dog, puppy, hound': is it a table of synonyms?")
    return found
