"""What the benchmarks of answers have in common: what they tell, tables of synonyms, and what COCO says is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..evaluation.objects import Objects

OURS = "Objects by our own table of synonyms: not comparable with published numbers, which need --synonyms FILE."


@dataclass(frozen=True)
class Told:
    """What a benchmark says: a name, rows of a table, a sentence on them, numbers, and each answer by itself."""

    name: str
    rows: Sequence[Sequence[str]]
    note: str
    numbers: Any
    each: Sequence[dict[str, Any]]


def synonyms(given: Any) -> dict[str, str]:
    """Word -> class, of the file that is given, or ours."""
    from ..evaluation import objects

    return objects.synonyms(file(given.synonyms), given.variant) if given.synonyms else objects.ours()


def note(given: Any) -> str:
    """What to know of numbers by that table."""
    return "" if given.synonyms else OURS


def there(objects: Objects, paths: Sequence[Path], ids: Sequence[str]) -> list[frozenset[str]]:
    """What is in each picture, by COCO's instances and captions both: without either, too much would be made up.

    DataError names a picture that is not annotated.
    """
    from ..data import hallucination
    from ..evaluation import chair
    from ..records import DataError

    coco = hallucination.coco(paths)
    for kind, held in (("instances", coco.present), ("captions", coco.captions)):
        if not held:
            raise words.UsageError(f"--annotations needs COCO's {kind}_*.json too: what is there is told by both files")
    if missing := [each for each in ids if each not in coco.present and each not in coco.captions]:
        raise DataError(f"{len(missing)} of {len(ids)} pictures are not in the annotations: {missing[0]!r} …")
    wanted = set(ids)
    parts = [{key: each for key, each in part.items() if key in wanted} for part in (coco.present, coco.captions)]
    found = chair.there(objects, *parts)
    return [found[each] for each in ids]


def file(given: str) -> Path:
    """A path as it was given."""
    from pathlib import Path

    return Path(given).expanduser()


def without(numbers: Any, name: str) -> dict[str, Any]:
    """Numbers as plain values, but for one that is told answer by answer."""
    from ..evaluation.shares import plain

    made: dict[str, Any] = plain(numbers)
    made.pop(name)
    return made
