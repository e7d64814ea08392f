"""Readers of the official files of hallucination benchmarks: COCO, POPE, AMBER, Object HalBench, MMHal-Bench."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ..evaluation import amber, mmhal, objhal, pope
from ..records import DataError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Coco:
    """What COCO's annotations say of pictures, by their number as text."""

    present: Mapping[str, tuple[str, ...]]  # categories of the instances, each once, as first annotated
    captions: Mapping[str, tuple[str, ...]]

    def scenes(self) -> list[pope.Scene]:
        """Pictures with their objects, as POPE is built from."""
        return [pope.Scene(image, names) for image, names in self.present.items()]


def image_id(name: str) -> str:
    """COCO's number in a name of a picture: "COCO_val2014_000000000042.jpg" and "42" are both "42"."""
    found = re.fullmatch(r"(?:.*[_/])?(\d+)(?:\.\w+)?", name)
    return str(int(found[1])) if found else name


def coco(paths: Iterable[Path]) -> Coco:
    """Of any of instances_*.json and captions_*.json, which are told apart by what they hold."""
    present: dict[str, dict[str, None]] = {}
    captions: dict[str, list[str]] = {}
    for path in paths:
        made = _json(path)
        rows = made.get("annotations") if isinstance(made, dict) else None
        if not isinstance(rows, list) or not rows:
            raise DataError(f"{path} has no `annotations`: is it instances_*.json or captions_*.json of COCO?")
        names = {each["id"]: str(each["name"]) for each in made.get("categories", ())}
        for place, row in enumerate(rows):
            where = f"{path} annotation {place}"
            key = str(_of(row, "image_id", where))
            if "caption" in row:
                captions.setdefault(key, []).append(str(row["caption"]))
            elif (category := _of(row, "category_id", where)) in names:
                present.setdefault(key, {})[names[category]] = None
            else:
                raise DataError(f"{where} is of category {category!r}, which the file's `categories` do not name")
    return Coco({key: tuple(each) for key, each in present.items()},
                {key: tuple(each) for key, each in captions.items()})  # fmt: skip


def questions(path: Path) -> list[pope.Question]:
    """POPE's JSON lines {question_id, image, text, label}; a file without a question_id counts from 0."""
    made = []
    for number, (where, row) in enumerate(_rows(path)):
        label = str(_of(row, "label", where)).lower()
        if label not in ("yes", "no"):
            raise DataError(f"{where}: a label is yes or no, got {row['label']!r}")
        id = str(row.get("question_id", number))
        image, text = (str(_of(row, name, where)) for name in ("image", "text"))
        made.append(pope.Question(id, image, text, cast(pope.Said, label)))
    return _once(made, path)


def write_questions(questions: Iterable[pope.Question], path: Path) -> None:
    """POPE's questions as `questions` reads them, in place of what was there."""
    rows = ({"question_id": int(one.id), "image": one.image, "text": one.text, "label": one.label} for one in questions)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@dataclass(frozen=True)
class Amber:
    """AMBER's annotations."""

    scenes: tuple[amber.Scene, ...]
    asked: tuple[amber.Asked, ...]
    lexicon: amber.Lexicon


def amber_files(path: Path) -> Amber:
    """The repository's folder `data`, or its annotations.json: relation.json and safe_words.txt lie beside it."""
    file = path / "annotations.json" if path.is_dir() else path
    relation = _json(file.parent / "relation.json")
    if not isinstance(relation, dict) or not all(isinstance(each, list) for each in relation.values()):
        raise DataError(f"{file.parent / 'relation.json'} must have a list of words for each word")
    safe = _text(file.parent / "safe_words.txt").split("\n")
    lexicon = amber.Lexicon({key: tuple(each) for key, each in relation.items()}, frozenset(safe) - {""})
    scenes: list[amber.Scene] = []
    asked: list[amber.Asked] = []
    for where, row in _rows(file):
        id, kind, truth = (_of(row, name, where) for name in ("id", "type", "truth"))
        if kind != "generative":
            if truth not in ("yes", "no"):
                raise DataError(f"{where}: the truth of a question is yes or no, got {truth!r}")
            asked.append(amber.Asked(str(id), str(kind), str(truth)))
            continue
        words, tempting = tuple(truth), tuple(_of(row, "hallu", where))
        if strange := [each for each in (*words, *tempting) if each not in relation]:
            raise DataError(f"{where}: {strange[0]!r} has no associations in relation.json")
        scenes.append(amber.Scene(str(id), words, tempting))
    return Amber(tuple(_once(scenes, file)), tuple(_once(asked, file)), lexicon)


def queries(path: Path) -> list[dict[str, str]]:
    """AMBER's query_*.json: id, image and query, for a model to answer."""
    return [{name: str(_of(row, name, where)) for name in ("id", "image", "query")} for where, row in _rows(path)]


def halbench(path: Path) -> list[objhal.Item]:
    """Object HalBench's JSON lines {image_id, question}; ids are the pictures, or places where one stands twice."""
    rows = [(str(_of(row, "image_id", where)), str(_of(row, "question", where))) for where, row in _rows(path)]
    images = [image_id(image) for image, _ in rows]
    twice = len(set(images)) < len(images)
    return [
        objhal.Item(str(place) if twice else image, image, question)
        for place, (image, (_, question)) in enumerate(zip(images, rows, strict=True))
    ]


def mmhal_items(path: Path) -> list[mmhal.Item]:
    """MMHal-Bench's response template: a JSON list; ids are the image_ids, or places where one stands twice."""
    rows = list(_rows(path))
    images = [str(_of(row, "image_id", where)) for where, row in rows]
    ids = images if len(set(images)) == len(images) else [str(place) for place in range(len(rows))]
    return [
        mmhal.Item(
            id,
            str(_of(row, "question_type", where)),
            tuple(_of(row, "image_content", where)),
            str(_of(row, "question", where)),
            str(_of(row, "gt_answer", where)),
            str(row.get("model_answer") or ""),
        )
        for id, (where, row) in zip(ids, rows, strict=True)
    ]


def _once(made: list[Any], path: Path) -> list[Any]:
    seen: set[str] = set()
    for each in made:
        if each.id in seen:
            raise DataError(f"{path}: the id {each.id!r} stands twice")
        seen.add(each.id)
    return made


def _of(row: Row, name: str, where: str) -> Any:
    if not isinstance(row, Mapping) or name not in row:
        raise DataError(f"{where} has no {name!r} but {', '.join(row) if isinstance(row, Mapping) else repr(row)[:80]}")
    return row[name]


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """The rows of a JSON list or of JSON lines, each with where it stands."""
    text = _text(path)
    if text.lstrip().startswith("["):
        yield from ((f"{path} row {number}", row) for number, row in enumerate(_parsed(text, path)))
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}:{number}", _parsed(line, f"{path}:{number}")


def _json(path: Path) -> Any:
    return _parsed(_text(path), path)


def _parsed(text: str, where: object) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where} is not JSON ({error})") from None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
