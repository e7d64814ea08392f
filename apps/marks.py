"""What scorers say of pictures: asked once a picture, kept on disk, errors told in place of a number."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from visalign import images
from visalign.data import clips
from visalign.scoring import Sample, Scorer

FOLDER = "scores"
LOG = logging.getLogger(__name__)
Look = tuple[str, str, Path]  # the picture's key, its prompt, its file


@dataclass(frozen=True)
class Mark:
    """One scorer's word on one picture."""

    value: float | None = None  # None: it could not judge
    right: bool | None = None  # where the scorer draws such a line
    aspects: Mapping[str, float] = field(default_factory=dict)
    why: str = ""  # it could not judge

    def json(self) -> dict[str, Any]:
        """For a page."""
        return asdict(self)


class Marks:
    """The marks of every scorer, by picture. Scorers whose weights change should change their name."""

    def __init__(self, folder: Path, scorers: Sequence[Scorer]) -> None:
        self.scorers = list(scorers)
        self._lock = Lock()
        self._files = {each.name: folder / FOLDER / f"{_plain(each.name)}.jsonl" for each in scorers}
        self._marks = {name: _read(path) for name, path in self._files.items()}

    @property
    def names(self) -> list[str]:
        """The scorers, in the order given."""
        return [each.name for each in self.scorers]

    def of(self, key: str) -> dict[str, Mark]:
        """Every mark of a picture that there is."""
        return {name: marks[key] for name, marks in self._marks.items() if key in marks}

    def values(self, name: str) -> dict[str, float]:
        """The numbers of one scorer by picture."""
        return {key: mark.value for key, mark in list(self._marks[name].items()) if mark.value is not None}

    def judge(self, looks: Sequence[Look]) -> None:
        """Ask each scorer for what it has not judged yet."""
        for scorer in self.scorers:
            new = [look for look in looks if look[0] not in self._marks[scorer.name]]
            if new:
                self._keep(scorer.name, _asked(scorer, new))

    def _keep(self, name: str, found: Mapping[str, Mark]) -> None:
        """In memory all of them; on disk those that are not an error, which may pass."""
        lines = [json.dumps({"key": key, **mark.json()}) + "\n" for key, mark in found.items() if not mark.why]
        with self._lock:
            self._marks[name].update(found)
            self._files[name].parent.mkdir(parents=True, exist_ok=True)
            with self._files[name].open("a", encoding="utf-8") as file:
                file.writelines(lines)


def _sample(prompt: str, path: Path) -> Sample:
    """A picture, or the clip in an animated file, as scorers take it."""
    if path.suffix == ".webp":
        return Sample(prompt, video=clips.frames(path.name, path.parent))
    return Sample(prompt, image=images.load(path))


def _asked(scorer: Scorer, looks: Sequence[Look]) -> dict[str, Mark]:
    """The scorer's answer; what it raises becomes the mark of each picture."""
    try:
        found = scorer.score([_sample(prompt, path) for _, prompt, path in looks])
    except Exception as error:  # a scorer may raise anything; the page tells it beside the picture
        LOG.exception("scoring with %s", scorer.name)
        return {key: Mark(why=f"{type(error).__name__}: {error}"[:300]) for key, _, _ in looks}
    rows = zip(looks, found.values.tolist(), found.judged.tolist(), strict=True)
    return {
        key: Mark(
            float(value) if judged else None,
            None if found.right is None or not judged else bool(found.right[place]),
            {name: float(each[place]) for name, each in found.aspects.items() if math.isfinite(float(each[place]))},
        )
        for place, ((key, _, _), value, judged) in enumerate(rows)
    }


def _plain(name: str) -> str:
    """A file name for a scorer's."""
    return re.sub(r"[^\w.-]", "-", name).strip(".") or "scorer"


def _read(path: Path) -> dict[str, Mark]:
    """The marks in a file; a last line that a kill cut off is left out, and cut off for good."""
    if not path.is_file():
        return {}
    text = path.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        os.truncate(path, len(whole))
    rows = [json.loads(line) for line in whole.splitlines()]
    return {row.pop("key"): Mark(**row) for row in rows}
