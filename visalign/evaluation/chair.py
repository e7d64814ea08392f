"""CHAIR: how much of what captions mention is not there (Rohrbach et al., arXiv 1809.02156).

The core takes sets and sequences of any objects, so that COCO's classes (`objects`), a simulator's, or what a judge
extracted are counted alike. Short captions hallucinate little: read CHAIR beside `recall`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from ..records import DataError
from .objects import Objects
from .shares import Share


@dataclass(frozen=True)
class Chair:
    """CHAIR's numbers over n captions, in [0, 1]; intervals are over captions."""

    instance: Share  # CHAIR_i: mentions that are not there / mentions, pooled, repetitions counted
    sentence: Share  # CHAIR_s: captions with such a mention / all captions
    refined: Share  # the same / captions that mention an object at all, which Object HalBench reports
    recall: Share  # classes rightly mentioned / classes there, pooled
    unique: Share  # CHAIR_i with each class counted once a caption
    hallucinated: tuple[tuple[str, ...], ...]  # of each caption, as often as it says so
    cog: Share | None = (
        None  # temptations that are named / temptations, where those are known: AMBER's Cog, by its code
    )


def chair(
    mentioned: Sequence[Sequence[str]], truth: Sequence[Set[str]], tempting: Sequence[Set[str]] | None = None
) -> Chair:
    """From what each of n captions mentions, with repetitions, what is there, and what one is tempted to see.

    CHAIR_i and CHAIR_s are those of LisaAnne/Hallucination (utils/chair.py, compute_chair); recall is that of
    Maxlinn/CHAIR-metric-standalone. Raises ValueError if there is no caption or the two differ in number.
    """
    if not mentioned or len(mentioned) != len(truth):
        raise ValueError(f"each caption needs its truth: got {len(mentioned)} captions and {len(truth)} truths")
    pairs = list(zip(mentioned, truth, strict=True))
    wrong = [tuple(each for each in said if each not in there) for said, there in pairs]
    some = [(int(bool(false)), int(bool(said))) for false, said in zip(wrong, mentioned, strict=True)]
    return Chair(
        instance=Share.over([(len(false), len(said)) for false, said in zip(wrong, mentioned, strict=True)]),
        sentence=Share.over([(false, 1) for false, _ in some]),
        refined=Share.over(some),
        recall=Share.over([(len(set(said) & there), len(there)) for said, there in pairs]),
        unique=Share.over([(len(set(said) - there), len(set(said))) for said, there in pairs]),
        hallucinated=tuple(wrong),
        cog=None
        if tempting is None
        else Share.over(
            [(len(set(said) & tempted), len(tempted)) for said, tempted in zip(mentioned, tempting, strict=True)]
        ),
    )


def there(
    objects: Objects, present: Mapping[str, Iterable[str]], references: Mapping[str, Iterable[str]]
) -> dict[str, frozenset[str]]:
    """Picture -> what is there: the classes of its annotated instances and those that its reference captions name.

    `present` has names of categories. Raises DataError for one that the table of synonyms does not know.
    """
    known = objects.classes
    strange = {name for names in present.values() for name in names if name not in known}
    if strange:
        raise DataError(f"the table of synonyms has no line for the category {min(strange)!r}")
    said = {key: {each for text in texts for each in objects.mentioned(text)} for key, texts in references.items()}
    keys = [*present, *(key for key in references if key not in present)]
    return {key: frozenset({known[name] for name in present.get(key, ())} | said.get(key, set())) for key in keys}
