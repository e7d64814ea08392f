"""Answers of multimodal models side by side: a JSON-lines file read, pictures opened safely, hallucinations marked.

A line is {"image": PATH, "question": TEXT, "answers": {MODEL: TEXT, …}}, or has one "model" and "answer". It may say
which objects the image shows, "objects": [NAME, …]; then an object that the file knows from any image, that an answer
names and this image does not show, is marked. "hallucinated": {MODEL: [WORDS, …]} says so outright.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from visalign import images
from visalign.data import media
from visalign.records import DataError

SIDE = 1024  # pixels: larger pictures are shown smaller


@dataclass
class Question:
    """One question about one image, and what each model answered."""

    image: str
    text: str
    answers: dict[str, str] = field(default_factory=dict)
    objects: list[str] | None = None  # what the image shows; None: nobody said
    hallucinated: dict[str, list[str]] = field(default_factory=dict)  # by model


class Answers:
    """The questions of one file, in order."""

    def __init__(self, path: Path) -> None:
        self.root, self.questions = path.parent, list(_read(path))
        if not self.questions:
            raise DataError(f"{path} holds no answers")
        self.vocabulary = sorted({name for each in self.questions for name in each.objects or ()})

    def picture(self, number: int) -> bytes:
        """A question's image as a PNG made anew; raises ImageError with the reason."""
        image = images.load(media.fetch(self.questions[number].image, self.root))
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        file = BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def shown(self, number: int) -> dict[str, Any]:
        """A question for a page: its answers in pieces, each marked or not."""
        asked = self.questions[number]
        return {
            "number": number,
            "of": len(self.questions),
            "question": asked.text,
            "objects": asked.objects,
            "answers": [self._answer(asked, model, text) for model, text in asked.answers.items()],
        }

    def _answer(self, asked: Question, model: str, text: str) -> dict[str, Any]:
        wrong = self.wrong(asked, model)
        pieces = marked(text, wrong or ())
        named = dict.fromkeys(singular(piece["text"]) for piece in pieces if piece["marked"])
        return {"model": model, "pieces": pieces, "judged": wrong is not None, "hallucinated": list(named)}

    def wrong(self, asked: Question, model: str) -> list[str] | None:
        """The names that would be hallucinations in this answer; None where nobody annotated."""
        if model in asked.hallucinated:
            return asked.hallucinated[model]
        if asked.objects is None:
            return None
        shown = {singular(name) for name in asked.objects}
        return [name for name in self.vocabulary if singular(name) not in shown]


def singular(name: str) -> str:
    """Lower case, without the ending of a regular plural: boxes, berries, dogs."""
    name = name.lower()
    for ending, other in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if name.endswith(ending):
            return name.removesuffix(ending) + other
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


def marked(text: str, names: Iterable[str]) -> list[dict[str, Any]]:
    """The text in pieces; those that name one of `names`, alone or as a plural, are marked."""
    forms = sorted({form for name in names for form in _forms(name)}, key=len, reverse=True)
    if not forms:
        return [{"text": text, "marked": False}]
    pieces = re.split(rf"(?<!\w)({'|'.join(map(re.escape, forms))})(?!\w)", text, flags=re.IGNORECASE)
    return [{"text": piece, "marked": place % 2 == 1} for place, piece in enumerate(pieces) if piece]


def _forms(name: str) -> list[str]:
    one = singular(name)
    return [name.lower(), one, plural(one)]


def plural(one: str) -> str:
    """The regular plural of a word in the singular."""
    if re.search(r"[^aeiou]y$", one):
        return f"{one[:-1]}ies"
    return f"{one}es" if re.search(r"(s|x|ch|sh)$", one) else f"{one}s"


def _read(path: Path) -> Iterable[Question]:
    """Questions in order of appearance; lines on the same image and question are one."""
    found: dict[tuple[str, str], Question] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"no answers at {path} ({error.strerror})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            _add(found, _object(line, f"{path}:{number}"), f"{path}:{number}")
    return found.values()


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("image", "question")):
        raise DataError(f'{where} needs an "image" and a "question", both texts')
    return row


def _add(found: dict[tuple[str, str], Question], row: Mapping[str, Any], where: str) -> None:
    given = row.get("answers", {row["model"]: row.get("answer")} if "model" in row else None)
    if not isinstance(given, dict) or not all(isinstance(each, str) for each in given.values()):
        raise DataError(f'{where} needs "answers", texts by model, or a "model" and an "answer"')
    question = found.setdefault((row["image"], row["question"]), Question(row["image"], row["question"]))
    question.answers.update(given)
    if row.get("objects") is not None:
        question.objects = _texts(row["objects"], f"{where}: objects")
    said = row.get("hallucinated", {})
    by_model = said if isinstance(said, dict) else {row.get("model", ""): said}
    question.hallucinated.update(
        {str(model): _texts(each, f"{where}: hallucinated") for model, each in by_model.items()}
    )


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise DataError(f"{where} should be a list of texts, got {value!r}")
    return list(value)
