"""What the benchmarks of answers have in common: what they tell, tables of synonyms, what is there, and pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from ..data.hallucination import Coco
    from ..evaluation.beside import Measure
    from ..evaluation.exchanges import Exchange
    from ..evaluation.objects import Objects

OURS = "Objects by our own table of synonyms: not comparable with published numbers, which need --synonyms FILE."


@dataclass(frozen=True)
class Told:
    """What a benchmark says: a name, rows of a table, a sentence on them, numbers, and each answer by itself."""

    name: str
    rows: Sequence[Measure]
    note: str
    numbers: Any
    each: Sequence[dict[str, Any]]
    exchanges: Sequence[Exchange] = ()  # the answers to be looked at, where the benchmark knows what is there


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
    from ..evaluation import chair
    from ..records import DataError

    coco = _coco(tuple(paths))
    for kind, held in (("instances", coco.present), ("captions", coco.captions)):
        if not held:
            raise words.UsageError(f"--annotations needs COCO's {kind}_*.json too: what is there is told by both files")
    if missing := [each for each in ids if each not in coco.present and each not in coco.captions]:
        raise DataError(f"{len(missing)} of {len(ids)} pictures are not in the annotations: {missing[0]!r} …")
    wanted = set(ids)
    parts = [{key: each for key, each in part.items() if key in wanted} for part in (coco.present, coco.captions)]
    found = chair.there(objects, *parts)
    return [found[each] for each in ids]


@lru_cache(maxsize=1)
def _coco(paths: tuple[Path, ...]) -> Coco:
    """Hundreds of MB, read once for all models."""
    from ..data import hallucination

    return hallucination.coco(paths)


def opening(given: Any) -> Callable[[str], Callable[[], Image.Image] | None]:
    """What opens the picture of an id or file name, from --images DIR; None for all where that is not given."""
    from ..data import hallucination
    from ..images import ImageError, load

    if not given.images:
        return lambda name: None
    folder = file(given.images)
    if not folder.is_dir():
        raise words.UsageError(f"--images {folder} is no folder")
    found = {hallucination.image_id(each.name): each for each in folder.iterdir()}

    def opened(name: str) -> Image.Image:
        if (path := found.get(hallucination.image_id(name))) is None:
            raise ImageError(f"{folder} has no picture of the name or number {name}")
        return load(path)

    return lambda name: lambda: opened(name)


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
