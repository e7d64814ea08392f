"""POPE: yes/no questions about objects, half of them about objects that are not there (arXiv 2305.10355).

Answers are read as AoiDragon/POPE does (evaluate.py), or as lmms-eval does; questions are built as its utils.py does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, cast, get_args

import numpy as np

from ..records import DataError
from .shares import Share

Said = Literal["yes", "no"]
Reader = Literal["pope", "lmms_eval"]
Strategy = Literal["random", "popular", "adversarial"]


@dataclass(frozen=True)
class Question:
    """One question, and what is right."""

    id: str
    image: str
    text: str
    label: Said


@dataclass(frozen=True)
class Scene:
    """A picture and the objects in it, in the order in which they are annotated."""

    image: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Pope:
    """POPE's numbers, "yes" being positive; intervals are over pictures."""

    accuracy: Share
    precision: Share  # right among answers "yes"
    recall: Share  # found among questions that are to be answered "yes"
    f1: float
    balance: Share  # the same as a share, which has an interval: 2 x hits of 2 x hits and errors
    yes_ratio: Share  # of answers; of labels as lmms_eval has it
    unread: int  # answers that are neither; official reading makes each of them one of both
    reader: Reader


def said(answer: str) -> Said:
    """The official reading: "no" if No, no or not is a word of the first sentence, anything else is "yes".

    Up to the first full stop, commas dropped, split at single blanks: "NO", "None" and "yes<newline>no" are yes.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"} & set(words) else "yes"


def exactly(answer: str) -> Said | None:
    """lmms-eval's reading: the whole answer, whatever its case, or None."""
    word = answer.lower().strip()
    return cast(Said, word) if word in get_args(Said) else None


def pope(questions: Sequence[Question], answers: Sequence[str], reader: Reader = "pope") -> Pope:
    """Numbers of n answers. What lmms_eval cannot read is wrong for accuracy and absent from precision and recall.

    Its yes_ratio is that of the labels, whatever the model says. F1 is 0 where nothing is rightly answered "yes".
    """
    if reader not in get_args(Reader):
        raise ValueError(f"reader is one of {', '.join(get_args(Reader))}, got {reader!r}")
    read = [said(each) if reader == "pope" else exactly(each) for each in answers]
    rows = [(each.image, given, each.label) for each, given in zip(questions, read, strict=True)]
    if not rows:
        raise ValueError("no questions to evaluate")
    by_image = partial(_by_image, tuple(dict.fromkeys(image for image, _, _ in rows)))
    precision = by_image([(image, label == "yes") for image, given, label in rows if given == "yes"])
    recall = by_image([(image, given == "yes") for image, given, label in rows if label == "yes" and given])
    balance = _balance(precision, recall)
    return Pope(
        accuracy=by_image([(image, given == label) for image, given, label in rows]),
        precision=precision,
        recall=recall,
        f1=balance.value if balance.part else 0.0,
        balance=balance,
        yes_ratio=by_image([(image, (given if reader == "pope" else label) == "yes") for image, given, label in rows]),
        unread=sum(exactly(each) is None for each in answers),
        reader=reader,
    )


def _by_image(images: Sequence[str], rows: Sequence[tuple[str, bool]]) -> Share:
    """The share of true ones, with an interval over pictures; those without a row are groups too, and empty."""
    whole, part = Counter(image for image, _ in rows), Counter(image for image, true in rows if true)
    return Share.over([(part[image], whole[image]) for image in images])


def _balance(precision: Share, recall: Share) -> Share:
    """F1 by picture: hits count twice, and every wrong yes and every missed one once."""
    pairs = zip(precision.groups, recall.groups, strict=True)
    return Share.over([(2 * hit, yes + there) for (hit, yes), (_, there) in pairs])


def build(scenes: Sequence[Scene], strategy: Strategy, seed: int, *, count: int = 500, each: int = 3) -> list[Question]:
    """POPE's questions about `count` of the pictures that have at least `each` objects: 2 x each of them a picture.

    A picture's first objects are asked about, each followed by one that is not there: uniform over all objects
    (random), the most frequent one (popular), or the one that is most often beside it (adversarial); none twice in a
    picture. The pictures are the same for all strategies of a seed. The public code asks about vowels "in the imange"
    (its published files do not). Raises DataError where pictures or objects are too few.
    """
    if strategy not in get_args(Strategy):
        raise ValueError(f"strategy is one of {', '.join(get_args(Strategy))}, got {strategy!r}")
    rich = [scene for scene in scenes if len(scene.objects) >= each]
    if len(rich) < count:
        raise DataError(f"{len(rich)} of {len(scenes)} pictures have {each} objects or more, and {count} are wanted")
    taken = [rich[place] for place in np.random.default_rng(seed).choice(len(rich), count, replace=False)]
    absent = _Absent.of(taken, strategy, np.random.default_rng([seed, 1]))
    made: list[tuple[str, str, Said]] = []
    for scene in taken:
        used = set(scene.objects)
        for name in scene.objects[:each]:
            used.add(other := absent.beside(name, used, scene.image))
            made += [(scene.image, name, "yes"), (scene.image, other, "no")]
    return [Question(str(number), image, asked(name), label) for number, (image, name, label) in enumerate(made)]


def asked(name: str) -> str:
    """POPE's words."""
    return f"Is there {'an' if name[0] in 'aeiou' else 'a'} {name} in the image?"


@dataclass(frozen=True)
class _Absent:
    """Objects to ask about that are not there, the preferred ones first."""

    names: tuple[str, ...]  # every object, as first met
    preferred: Mapping[str, Sequence[str]]  # beside an object, in order
    rng: np.random.Generator

    @classmethod
    def of(cls, scenes: Sequence[Scene], strategy: Strategy, rng: np.random.Generator) -> _Absent:
        """Counts over the scenes; equally frequent objects stand as they were first met."""
        often = Counter(name for scene in scenes for name in scene.objects)
        names = tuple(often)
        if strategy == "random":
            return cls(names, {}, rng)
        if strategy == "popular":
            ranked = tuple(name for name, _ in often.most_common())
            return cls(names, dict.fromkeys(names, ranked), rng)
        beside: dict[str, Counter[str]] = {name: Counter() for name in names}
        for scene in scenes:
            for name in scene.objects:
                beside[name].update(other for other in scene.objects if other != name)
        return cls(names, {name: [other for other, _ in each.most_common()] for name, each in beside.items()}, rng)

    def beside(self, name: str, used: set[str], image: str) -> str:
        """One that is not used: by preference, or else any."""
        found = next((other for other in self.preferred.get(name, ()) if other not in used), None)
        free = [other for other in self.names if other not in used] if found is None else []
        if found is None and not free:
            raise DataError(f"no object is left that is not in {image!r}: there are {len(self.names)} in all")
        return found or free[int(self.rng.integers(len(free)))]
