"""What a judge is asked, word for word: the pictures under their labels, the rubric, and the form of the answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from visalign import images
from visalign.images import ImageError
from visalign.scoring import Sample

from .chat import Question, png
from .clips import frames
from .rubrics import Aspect, Rubric

FIRST, SECOND, TIE = "A", "B", "C"
AGAIN = "Give the answer in the form asked for, and nothing else."  # added where an answer could not be read

Parts = tuple[str | bytes, ...]


def labels(rubric: Rubric) -> dict[str, float]:
    """What a comparison may be answered, and P(the first shown is better) that it stands for."""
    return {FIRST: 1.0, SECOND: 0.0} | ({TIE: 0.5} if rubric.ties else {})


def ratings(rubric: Rubric) -> dict[str, float]:
    """What a rating may be answered, and its value."""
    return {str(each): float(each) for each in range(rubric.lowest, rubric.highest + 1)}


def subject(sample: Sample, longest: int) -> Parts:
    """What is judged, without its label: a picture, the frames of a clip in order, or a text. Raises ImageError."""
    if sample.image is not None:
        return (png(images.load(sample.image), longest),)
    if shown := frames(sample):
        return (f"{len(shown)} frames in order.", *(png(each, longest) for each in shown))
    if sample.answer is not None:
        return (sample.answer,)
    raise ImageError("the sample has no image, video or answer")


def opening(sample: Sample, rubric: Rubric, longest: int) -> Parts:
    """The task, the prompt, and the picture that the prompt is about."""
    given: Parts = ()
    if sample.source is not None:
        given = ("The prompt is about this picture:", png(images.load(sample.source), longest))
    return (rubric.about, f"The prompt: {sample.prompt}", *given)


def comparison(head: Parts, first: Parts, second: Parts, rubric: Rubric, aspect: Aspect | None) -> Question:
    """Which of two is better in one aspect, as a letter; aspect None: in all of them, as JSON."""
    shown = (*head, f"Candidate {FIRST}:", *first, f"Candidate {SECOND}:", *second)
    tie = f", {TIE} if they are equally good" if rubric.ties else ""
    form = f"{FIRST} if candidate {FIRST} is better, {SECOND} if candidate {SECOND} is better{tie}"
    if aspect is not None:
        return Question((*shown, f"{aspect.question}\nWhich candidate is better in this? Answer one letter: {form}."))
    return Question((*shown, _together(rubric.aspects, f"Which candidate is better in each? {form}.", FIRST)))


def question(head: Parts, shown: Parts, rubric: Rubric, aspect: Aspect | None) -> Question:
    """How good one is in one aspect, as a number; aspect None: in all of them, as JSON."""
    scale = f"a whole number from {rubric.lowest} to {rubric.highest}"
    if aspect is not None:
        ends = f"{rubric.lowest}: {aspect.worst}; {rubric.highest}: {aspect.best}"
        return Question((*head, "Candidate:", *shown, f"{aspect.question}\nAnswer {scale} ({ends})."))
    ends = "; ".join(
        f"{each.name} {rubric.lowest}: {each.worst}, {rubric.highest}: {each.best}" for each in rubric.aspects
    )
    asked = f"Rate each with {scale} ({ends})."
    return Question((*head, "Candidate:", *shown, _together(rubric.aspects, asked, rubric.lowest)))


def once_more(asked: Question) -> Question:
    """The same question with a word on the form of the answer."""
    return Question((*asked.parts, AGAIN))


def _together(aspects: Sequence[Aspect], asked: str, example: str | int) -> str:
    listed = "\n".join(f"- {each.name}: {each.question}" for each in aspects)
    form: Mapping[str, object] = {each.name: {"reason": "in a few words", "answer": example} for each in aspects}
    told = f"Judge these aspects, each by itself:\n{listed}\n{asked}"
    return f"{told}\nAnswer with JSON of this form:\n{json.dumps(form)}"
