"""What a prompt asks to be seen: GenEval's metadata (arXiv 2310.11513), and the playground's captions in its terms.

A line of github.com/djghosh13/geneval, prompts/evaluation_metadata.jsonl:
{"tag": "position", "include": [{"class": "bench", "count": 1}, {"class": "dog", "count": 1, "position": ["left of",
0]}], "prompt": "a photo of a dog left of a bench"}: the second clause stands left of what met clause 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visalign.playground.captions import parse
from visalign.playground.world import Scene
from visalign.records import DataError

RELATIONS = ("left of", "right of", "above", "below")
COUNTING = "counting"
KEYS = ("class", "count", "color", "position")


@dataclass(frozen=True)
class Clause:
    """Some things of one label."""

    label: str
    count: int = 1
    colour: str | None = None
    position: tuple[str, int] | None = None  # relation, and the index of the clause that it is a relation to

    @classmethod
    def from_json(cls, values: Any, place: int) -> Clause:
        """Of a mapping, the clause number `place` of its prompt; raises DataError."""
        if not isinstance(values, Mapping) or not isinstance(values.get("class"), str) or set(values) - set(KEYS):
            raise DataError(f"a clause is an object with class, and of {', '.join(KEYS)} alone; got {values!r}")
        count, given = values.get("count", 1), values.get("position")
        if not isinstance(count, int) or count < 1:
            raise DataError(f"count is a whole number from 1, got {count!r}")
        position = None if given is None else _position(given, place)
        return cls(values["class"], count, values.get("color"), position)


@dataclass(frozen=True)
class Demand:
    """All clauses of a prompt: each of `include` must be met, none of `exclude` may be."""

    include: tuple[Clause, ...]
    exclude: tuple[Clause, ...] = ()
    tag: str = ""  # GenEval's name of the task

    @property
    def counting(self) -> bool:
        """Whether it is about how many there are, for which only sure detections count."""
        return self.tag == COUNTING

    @property
    def labels(self) -> list[str]:
        """Everything that it speaks of, once."""
        return list(dict.fromkeys(each.label for each in (*self.include, *self.exclude)))

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Demand:
        """Of a line of GenEval's file; raises DataError."""
        clauses = {name: values.get(name) or [] for name in ("include", "exclude")}
        if not all(isinstance(each, list) for each in clauses.values()) or not any(clauses.values()):
            raise DataError(f"a prompt has lists of clauses, include or exclude or both; got {clauses}")
        made = {name: [Clause.from_json(each, row) for row, each in enumerate(rows)] for name, rows in clauses.items()}
        return cls(tuple(made["include"]), tuple(made["exclude"]), str(values.get("tag", "")))


def read(path: Path) -> dict[str, Demand]:
    """Prompt -> what it asks, of a file of JSON lines; DataError names the line."""
    if not path.is_file():
        raise DataError(f"no file of metadata at {path}: GenEval's is prompts/evaluation_metadata.jsonl")
    found: dict[str, Demand] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                values = json.loads(line)
                prompt, made = values["prompt"], Demand.from_json(values)
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{path}:{number}: {error if isinstance(error, DataError) else repr(error)}") from None
            if found.setdefault(prompt, made) != made:
                raise DataError(f"{path}:{number}: {prompt!r} asks for something else in an earlier line")
    return found


def of_caption(text: str) -> Demand:
    """What a caption of the playground asks in GenEval's terms, sizes and styles left out.

    Raises ValueError for what is no such caption, and where one shape is asked for in two clauses: the rules look at
    the surest things of a label, and could not tell the two apart.
    """
    scene = parse(text)
    things = list(dict.fromkeys((each.shape, each.colour) for each in scene.things))
    if len({shape for shape, _ in things}) < len(things):
        raise ValueError(f"{text!r} asks for one shape in two colours, which GenEval's rules cannot tell apart")
    if len(things) < len(scene.things):
        return _many(scene, [shape for shape, _ in things])
    clauses = [Clause(shape, 1, colour) for shape, colour in things]
    if scene.relation is None:
        return Demand(tuple(clauses), tag="colors" if len(clauses) == 1 else "color_attr")
    (shape, colour), target = things[0], clauses[1]
    return Demand((target, Clause(shape, 1, colour, (scene.relation, 0))), tag="position")


def _many(scene: Scene, shapes: list[str]) -> Demand:
    """So many things of one kind, and not one more."""
    count = len(scene.things)
    if len(shapes) > 1:
        raise ValueError("GenEval's rules count things of one kind; these are of several")
    wanted = Clause(shapes[0], count, scene.things[0].colour)
    return Demand((wanted,), (Clause(shapes[0], count + 1),), COUNTING)


def _position(value: Any, place: int) -> tuple[str, int]:
    try:
        relation, target = value
    except (TypeError, ValueError):
        raise DataError(f"a position is [relation, clause], got {value!r}") from None
    if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < place:
        raise DataError(f"a position is [one of {', '.join(RELATIONS)}, index of an earlier clause], got {value!r}")
    return relation, target
