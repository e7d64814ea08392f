"""Questions about pictures, from whatever holds them: records, a benchmark's file of questions, the playground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from .. import images
from ..records import DataError
from . import media, sources
from .answers import IDS
from .dialogue_rows import Row, columns_of, rows

if TYPE_CHECKING:
    from ..playground.seeing import Turn

TEXTS = ("question", "query", "prompt", "text")
PLAYGROUND = "playground"


@dataclass(frozen=True)
class Question:
    """One question; its answer is written under `id`."""

    id: str
    text: str
    pictures: Callable[[], list[Image.Image]]  # opens them; raises ImageError


def questions(given: str, *, pictures: Path | None = None, format: str | None = None) -> list[Question]:
    """The questions that a user names; raises DataError.

    `given` is a source of records, whose prompts are asked under their keys; a .json, .jsonl or .parquet file whose
    rows have a question (or query, text), an image and an id, as POPE's and AMBER's have; or
    "playground:heldout:N", random, popular or adversarial for probes, and all for both. `pictures` is the folder that
    paths are relative to, that of the file if not given.
    """
    if given.startswith(f"{PLAYGROUND}:"):
        return [
            Question(key, each.question, lambda look=each.look: [Image.fromarray(look.picture)])  # type: ignore[misc]
            for key, each in playground(given).items()
        ]
    path = Path(given).expanduser()
    if not path.exists():
        raise DataError(f"no questions at {path}: give records, or a file with a question and an image a row")
    folder = pictures or sources.root(path)
    if format or not path.is_file() or _is_records(columns_of(path)):
        records = sources.open_source(path, format)
        found = [Question(each.key, each.prompt, _opening(each.media, folder)) for each in records]
    else:
        found = [_question(values, Row(values, place), number, f"{path} {name}", folder)
                 for number, (name, values, place) in enumerate(rows(path, (*TEXTS, *IDS, "image_file"), folder))
                 ]  # fmt: skip
    if not found:
        raise DataError(f"{path} holds no questions")
    return _once(found, str(path))


def _is_records(columns: set[str]) -> bool:
    return {"prompt", "items"} <= columns or any(needed <= columns for _, needed in sources.SIGNS)


def _question(values: Any, row: Row, number: int, where: str, folder: Path) -> Question:
    if not isinstance(values, dict):
        raise DataError(f"{where} is no object with a question")
    text = next((str(values[name]) for name in TEXTS if values.get(name)), None)
    shown = row.pictures()
    if text is None or not shown:
        raise DataError(f"{where} needs a question ({', '.join(TEXTS)}) and an image; it has {', '.join(values)}")
    key = next((str(values[name]) for name in IDS[:2] if values.get(name) is not None), str(number))
    return Question(key, text, _opening(shown, folder))


def _opening(references: Sequence[str], folder: Path) -> Callable[[], list[Image.Image]]:
    return lambda: [images.load(media.fetch(each, folder)) for each in references]


def _once(found: list[Question], where: str) -> list[Question]:
    """The questions, whose ids must differ: an answer is found by them."""
    seen: set[str] = set()
    for each in found:
        if each.id in seen:
            raise DataError(f"{where} has two questions of the id {each.id!r}: their answers could not be told apart")
        seen.add(each.id)
    return found


def playground(given: str) -> dict[str, Turn]:
    """The playground's questions by their ids: "playground:KIND:COUNT", the first COUNT held-out pictures (200)."""
    from ..playground import seeing

    _, kind, count = [*given.split(":"), "", ""][:3]
    kinds = ("heldout", *seeing.PROBES, "all")
    if kind not in kinds or not (count or "1").isdigit() or count == "0":
        raise DataError(f"{given!r} is not playground:KIND:COUNT; kinds are {', '.join(kinds)}")
    return seeing.asked(kind, int(count or 200))
