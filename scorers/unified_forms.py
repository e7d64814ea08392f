"""What UnifiedReward models are asked, and how their answers are read; github.com/CodeGoat24/UnifiedReward.

Each generation of the models writes its judgements in a form of its own. What is not exactly one judgement of the form
is `Unreadable`, with its reason, and never a number: released clients take any text that holds the right sentence, drop
the sign of a score, or count what cannot be read as 0. The words here are this project's own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from PIL import Image

from visalign import images
from visalign.images import ImageError
from visalign.scoring import Sample, picture

from . import answers
from .answers import Unreadable
from .chat import Answer
from .clips import frames

AXES = ("Alignment", "Coherence", "Style")  # of pictures
CLIP_AXES = ("Alignment", "Physics", "Style")
LOWEST, HIGHEST = 1, 5  # of a rating
POINTS, SHARED = 25, 10.0  # the most that a part of an edit gets; what two scores of Flex add up to
FRAMES = 8  # of a clip
HOLE = "{prompt}"

FILLING = r"[^\w\-−–—]*?"  # between a name and its number, never a sign
NUMBER = r"(-?\d+(?:\.\d+)?)(?![.\d]*\d|/)"
FINAL = re.compile(rf"Final Score\W*:{FILLING}{NUMBER}", re.IGNORECASE)
AXIS = re.compile(
    rf"^\W*({'|'.join(dict.fromkeys(AXES + CLIP_AXES))}) Score[^:\n]*:{FILLING}{NUMBER}", re.IGNORECASE | re.MULTILINE
)
SHARE = re.compile(
    rf"({'|'.join(AXES)}) Score\W*Image 1\W*:{FILLING}{NUMBER}\W*Image 2\W*:{FILLING}{NUMBER}", re.IGNORECASE
)
OF_IMAGE = re.compile(rf"\bImage ([12])(?: score)?[^\w\n:]*:{FILLING}{NUMBER}", re.IGNORECASE)
POINTED = re.compile(r'"score"\s*:\s*\[([^\[\]]*)\]')
SAID = re.compile(r"<answer>(.*?)</answer>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Form:
    """One question and how its answer is read."""

    wording: str
    read: Callable[[Answer], Sequence[float]]  # one value an aspect; raises Unreadable
    aspects: tuple[str, ...] = ("",)
    shows: tuple[str, ...] = ("image",)  # fields of a sample whose pictures stand before the words, in order
    ends: bool = False  # whether the last frame of a clip is one of those shown

    def pictures(self, shown: Sequence[Sample]) -> list[Image.Image]:
        """What is shown of the samples: the source that they share once, then what was made for each."""
        before = [source(shown[0])] if "source" in self.shows else []
        if "video" in self.shows:
            return before + [frame for each in shown for frame in spread(each, ends=self.ends)]
        return before + ([picture(each) for each in shown] if "image" in self.shows else [])


def source(sample: Sample) -> Image.Image:
    """The picture before an edit; raises ImageError."""
    if sample.source is None:
        raise ImageError("the sample has no source, the picture before the edit")
    return images.load(sample.source)


def spread(sample: Sample, *, ends: bool = False) -> list[Image.Image]:
    """FRAMES of a clip, evenly spread from the first on, as the released code's; all of a shorter one.

    With `ends`, as that of pairs, from the first to the last, those of a shorter one more than once: two clips have as
    many each.
    """
    whole = frames(sample)
    if not whole:
        raise ImageError("the sample has no video")
    if ends:
        return [whole[index * (len(whole) - 1) // (FRAMES - 1)] for index in range(FRAMES)]
    return [whole[place] for place in dict.fromkeys(index * len(whole) // FRAMES for index in range(FRAMES))]


def final(answer: Answer) -> list[float]:
    """The last "Final Score: X"."""
    found = FINAL.findall(told(answer))
    if not found:
        raise Unreadable(f"says no final score: {told(answer)[-answers.QUOTED :]!r}")
    return [answers.rating(found[-1], LOWEST, HIGHEST)]


def axes(answer: Answer, names: Sequence[str] = AXES) -> list[float]:
    """The last "AXIS Score (1-5): X" of each axis."""
    found = {axis.capitalize(): value for axis, value in AXIS.findall(told(answer))}
    _all_said(found, names, answer)
    return [answers.rating(found[axis], LOWEST, HIGHEST) for axis in names]


def clip_axes(answer: Answer) -> list[float]:
    """The same of a clip's axes."""
    return axes(answer, CLIP_AXES)


def points(answer: Answer) -> list[float]:
    """The two numbers of the one "score": [x, y], 0 … 25 each. The rest need not be JSON: what is asked for is not."""
    found = POINTED.findall(told(answer))
    numbers = found[0].split(",") if len(found) == 1 else []
    if len(numbers) != 2:
        raise Unreadable(f'says no "score" of two numbers, once: {told(answer)[-answers.QUOTED :]!r}')
    return [answers.rating(each, 0, POINTS) for each in numbers]


def winner(answer: Answer, thing: str = "image") -> list[float]:
    """P(the first is better) of the one verdict on two things."""
    verdicts = {f"{thing} 1 is better": 1.0, f"{thing} 2 is better": 0.0, f"{thing}s are equally good": 0.5}
    text = told(answer)
    marked = SAID.findall(text)
    said = (marked[-1] if marked else text).lower()
    found = {value for verdict, value in verdicts.items() if verdict in said}
    if len(found) != 1:
        raise Unreadable(f"gives {len(found) or 'no'} verdicts: {said[-answers.QUOTED :]!r}")
    return [found.pop()]


def shares(answer: Answer) -> list[float]:
    """P(the first is better): the mean of what it gets of each axis, where the two share 1."""
    found = {axis.capitalize(): both for axis, *both in SHARE.findall(told(answer))}
    _all_said(found, AXES, answer)
    for axis, both in found.items():
        _sum_to([answers.rating(each, 0, 1) for each in both], 1, axis, 0.01)
    return [sum(float(found[axis][0]) for axis in AXES) / len(AXES)]


def scores(answer: Answer) -> list[float]:
    """1, 0 or 1/2 by the last score of each, which may be below 0."""
    found = dict(OF_IMAGE.findall(told(answer)))
    if found.keys() != {"1", "2"}:
        raise Unreadable(f"says no score of both images: {told(answer)[-answers.QUOTED :]!r}")
    gap = float(found["1"]) - float(found["2"])
    return [0.5 if gap == 0 else float(gap > 0)]


def flex(answer: Answer, thing: str = "Image") -> list[float]:
    """P(the first is better) of the JSON's winner of two things, if its scores are what was asked for."""
    whole = answers.objects(answer)
    winners = {f"{thing} 1".lower(): 1.0, f"{thing} 2".lower(): 0.0}
    said = str(whole.get("winner", "")).strip().lower().rstrip(".")
    if said not in winners:
        raise Unreadable(f"the winner is {whole.get('winner')!r} and none of {thing} 1, {thing} 2")
    categories: Any = whole.get("categories")
    dims = [dim for each in categories for dim in each["dims"]] if _tabular(categories) else []
    if not dims:
        raise Unreadable("the JSON has no categories with dimensions")
    for dim in dims:
        both = [answers.rating(dim.get(name), 0, int(SHARED)) for name in ("score_1", "score_2")]
        _sum_to(both, SHARED, dim.get("name"), 1e-6)
    return [winners[said]]


def told(answer: Answer) -> str:
    """What was said after thinking."""
    return answers.THOUGHT.sub("", answer.text).strip()


def _all_said(found: Any, names: Sequence[str], answer: Answer) -> None:
    if missing := [axis for axis in names if axis not in found]:
        raise Unreadable(f"says no score of {', '.join(missing)}: {told(answer)[-answers.QUOTED :]!r}")


def _sum_to(both: Sequence[float], whole: float, name: Any, within: float) -> None:
    if not math.isclose(sum(both), whole, abs_tol=within):
        raise Unreadable(f"the scores of {name!r} are {list(both)} and not {whole:g} together")


def _tabular(categories: Any) -> bool:
    """Whether it is a list of objects with a list of objects, "dims", in each."""
    listed = isinstance(categories, list) and all(isinstance(each, dict) for each in categories)
    return listed and all(
        isinstance(each.get("dims"), list) and all(isinstance(dim, dict) for dim in each["dims"]) for each in categories
    )


def _of_axes(thing: str, names: Sequence[str], meant: str) -> str:
    lines = "\n".join(f"{name} Score (1-5): {letter}" for name, letter in zip(names, "XYZ", strict=True))
    return f"The {thing} for this caption: {HOLE}\nRate three things from 1 to 5, one line each:\n{lines}\n{meant}"


EDITED = "The second picture was made of the first by this instruction: {prompt}\n"
TWO_EDITS = "Image 1 and Image 2, the second and third picture, were made of the first by this instruction: {prompt}\n"
TWO_POINTS = f'Answer with JSON: {{"reasoning": "in a few words", "score": [x, y]}}, each from 0 to {POINTS}. '
CLOSING = (
    'Give your reasons, and close with one of these sentences: "Image 1 is better." "Image 2 is better." "Both images '
    'are equally good."'
)
TWO_CLIPS = (
    "The pictures are frames, in order, of two clips that were generated for this caption: the first half are those of "
    "Video 1, the others those of Video 2.\nThe caption: {prompt}\n"
)
TABLE = (
    'Answer with JSON: {"categories": [{"name": "...", "dims": [{"name": "...", "score_1": 6, "score_2": 4}], '
    '"cat_winner": "Image 1"}], "winner": "Image 1"}'
)
FORMS = {
    "rating": Form(
        "The picture was generated for this caption: {prompt}\nHow well does it show what the caption says, and how "
        'good does it look? Weigh both, and close with a line "Final Score: X", with X from 1 to 5.',
        final,
    ),
    "axes": Form(
        _of_axes(
            "picture was generated",
            AXES,
            "Alignment is whether it shows what the caption says, coherence "
            "whether it makes sense as a picture, style how good it looks.",
        ),
        axes,
        AXES,
    ),
    "clip": Form(
        _of_axes(
            "pictures are frames, in order, of a clip that was generated",
            CLIP_AXES,
            "Alignment is whether it "
            "shows what the caption says, physics whether things move as they would, style how good it looks.",
        ),
        clip_axes,
        CLIP_AXES,
        ("video",),
    ),
    "following": Form(
        f"{EDITED}{TWO_POINTS}x is how well it does what the instruction says, y how much of the rest it leaves as it "
        "was.",
        points,
        ("success", "restraint"),
        ("source", "image"),
    ),
    "quality": Form(
        f"The picture was generated. {TWO_POINTS}x is how natural it looks, in its light, shadows and distances, y how "
        "free it is of faults: distortion, blur, seams, marks.",
        points,
        ("naturalness", "cleanness"),
    ),
    "winner": Form(
        f"Both pictures were generated for this caption: {{prompt}}\nWhich one shows the caption better and looks "
        f"better? {CLOSING}",
        winner,
    ),
    "shares": Form(
        "Both pictures were generated for this caption: {prompt}\nCompare them in three things. In each, the two share "
        "1 as they deserve it. Answer in this form:\n"
        + "\n".join(f"{name} Score:\n Image 1: X\n Image 2: Y" for name in AXES)
        + "\nAlignment is whether it shows what the caption says, coherence whether it makes sense as a picture, style "
        "how good it looks.",
        shares,
    ),
    "flex": Form(
        "Both pictures were generated for this caption: {prompt}\nCompare them in semantics, quality and aesthetics, "
        f"each in dimensions that matter here. In each dimension the two share {SHARED:g} points. {TABLE}",
        flex,
    ),
    "clip_winner": Form(
        f"{TWO_CLIPS}Which clip shows the caption better and looks better? "
        + CLOSING.replace("Image", "Video").replace("image", "video"),
        partial(winner, thing="video"),
        shows=("video",),
        ends=True,
    ),
    "clip_flex": Form(
        f"{TWO_CLIPS}Compare them in semantics, quality with motion, and aesthetics with the camera's work, each in "
        f"dimensions that matter here. In each dimension the two share {SHARED:g} points. "
        + TABLE.replace("Image", "Video"),
        partial(flex, thing="Video"),
        shows=("video",),
        ends=True,
    ),
    "edit_winner": Form(
        f"{TWO_EDITS}Which one follows it better, leaves the rest as it was, and looks better? {CLOSING}",
        winner,
        shows=("source", "image"),
    ),
    "edit_scores": Form(
        f"{TWO_EDITS}Score both, for following it, leaving the rest as it was, and looks; below 0 is worse than no "
        "edit. Answer in this form:\nImage 1: X\nImage 2: Y",
        scores,
        shows=("source", "image"),
    ),
}
