"""AMBER: descriptions and yes/no answers held against annotated pictures, without a judge (arXiv 2311.07397).

Followed is the public code (junyangwang0410/AMBER, inference.py), to the place where it rounds. Its Cog is not the
paper's; both are here, under their names. Nouns and likeness of words are given as functions (`language` has those of
the public code): without likeness, numbers are another measure and have another name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from .shares import Share

Nouns = Callable[[str], list[str]]
Similarity = Callable[[str, str], float]
LIKE = 0.8  # of en_core_web_lg's vectors, above which two words are one thing
NOTHING = 0.001  # what the public code's counters begin with
DIMENSIONS = ("existence", "attribute", "relation")
EXISTENCE, ATTRIBUTE = "discriminative-hallucination", "discriminative-attribute"  # as the files call them
ATTRIBUTES = ("state", "number", "action")
PARTS = ("all", "existence", "attribute", *ATTRIBUTES, "relation")


@dataclass(frozen=True)
class Scene:
    """A picture to be described: what is there, and what a model may be tempted to see."""

    id: str
    truth: tuple[str, ...]
    hallu: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """A question that is to be answered "Yes" or "No"."""

    id: str
    kind: str  # discriminative-hallucination, discriminative-attribute-state … , relation
    truth: str  # yes or no


@dataclass(frozen=True)
class Lexicon:
    """Which words stand for which, and which are never a hallucination."""

    association: Mapping[str, Sequence[str]]  # relation.json
    safe: Collection[str]  # safe_words.txt

    @property
    def known(self) -> frozenset[str]:
        """Words that count as objects at all."""
        return frozenset(self.association).union(*self.association.values())


@dataclass(frozen=True)
class Marked:
    """What one description says."""

    nouns: int  # objects mentioned, each as often as it is
    hallucinated: tuple[str, ...]
    covered: frozenset[int]  # places in `truth`
    tempted: frozenset[int]  # places in `hallu`
    cognitive: int  # mentions that hit one of these


@dataclass(frozen=True)
class Described:
    """The generative numbers, in per cent, rounded to a tenth as they are published."""

    name: str  # says what was left out of the measure
    chair: float
    cover: float
    hal: float
    cog: float  # the code's: annotated temptations that were named, of all that are annotated
    cog_paper: float  # the paper's: of each answer's mentions those that are temptations; the mean over answers
    answers_hallucinating: Share
    mentions_hallucinated: Share
    marked: tuple[Marked, ...]


@dataclass(frozen=True)
class Answered:
    """The numbers of yes/no questions, in per cent and rounded; "No" is positive."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    questions: int
    unread: int  # answers that are neither "Yes" nor "No", which are wrong


def described(
    answers: Sequence[str],
    scenes: Sequence[Scene],
    lexicon: Lexicon,
    *,
    nouns: Nouns,
    similarity: Similarity | None,
    name: str = "AMBER",
) -> Described:
    """CHAIR, Cover, Hal and Cog of n descriptions; all pool counts over answers.

    Safe words stay among the mentions of CHAIR. Truth that is annotated twice can be covered once.
    """
    if not scenes:
        raise ValueError("no descriptions to evaluate")
    known = lexicon.known
    objects = [[each for each in nouns(answer) if each in known] for answer in answers]
    found = [mark(said, scene, lexicon, similarity) for said, scene in zip(objects, scenes, strict=True)]
    wrong, mentions = sum(len(each.hallucinated) for each in found), sum(each.nouns for each in found)
    clean = sum(not each.hallucinated for each in found)
    shares = [each.cognitive / each.nouns if each.nouns else 0.0 for each in found]
    return Described(
        name=name if similarity else f"{name} without embedding similarity",
        chair=_percent(wrong, mentions),
        cover=_percent(sum(len(each.covered) for each in found), sum(len(each.truth) for each in scenes)),
        hal=round(100 - clean / (len(found) + NOTHING) * 100, 1),
        cog=_percent(sum(len(each.tempted) for each in found), sum(len(each.hallu) for each in scenes)),
        cog_paper=round(100 * sum(shares) / len(shares), 1),
        answers_hallucinating=Share.over([(int(bool(each.hallucinated)), 1) for each in found]),
        mentions_hallucinated=Share.over([(len(each.hallucinated), each.nouns) for each in found]),
        marked=tuple(found),
    )


def mark(objects: Sequence[str], scene: Scene, lexicon: Lexicon, similarity: Similarity | None) -> Marked:
    """Each mentioned object in turn: safe, there, or hallucinated; and which annotated words it hits.

    Words are sought among the associations of every annotated word first, in order, then among the annotated words: a
    "man" may cover the "person" that it is associated with, rather than himself.
    """
    there, tempting = _entries(scene.truth, lexicon), _entries(scene.hallu, lexicon)
    covered, tempted, cognitive, wrong = set[int](), set[int](), 0, list[str]()
    for noun in objects:
        if noun in lexicon.safe:
            continue
        if (place := _same(noun, there)) is not None:
            covered.add(place)
            continue
        hits = {_same(noun, tempting), _alike(noun, tempting, similarity)} - {None}
        tempted |= {place for place in hits if place is not None}
        cognitive += bool(hits)
        # A word like a safe one is tempting all the same: it counts in Cog and not in CHAIR.
        if (place := _alike(noun, there, similarity)) is not None:
            covered.add(place)
        else:
            wrong.append(noun)
    return Marked(len(objects), tuple(wrong), frozenset(covered), frozenset(tempted), cognitive)


def _entries(annotated: Sequence[str], lexicon: Lexicon) -> list[tuple[str, int]]:
    """(word, place of the annotated word that it stands for), associated words first."""
    associated = [(word, place) for place, each in enumerate(annotated) for word in lexicon.association[each]]
    return associated + [(word, place) for place, word in enumerate(annotated)]


def _same(noun: str, entries: Sequence[tuple[str, int]]) -> int | None:
    return next((place for word, place in entries if word == noun), None)


def _alike(noun: str, entries: Sequence[tuple[str, int]], similarity: Similarity | None) -> int | None:
    if similarity is None:
        return None
    return next((place for word, place in entries if similarity(noun, word) > LIKE), None)


def answered(answers: Sequence[str], asked: Sequence[Asked]) -> dict[str, Answered]:
    """Numbers by dimension: all, existence, attribute, state, number, action, relation; those that were asked about.

    An answer must be "Yes" or "No" to the letter. F1 is of precision and recall as they are rounded, with 1e-4 in its
    denominator, existence 1e-3.
    """
    rows = [(each.kind, answer, each.truth) for answer, each in zip(answers, asked, strict=True)]
    parts: dict[str, list[tuple[str, str]]] = {name: [] for name in PARTS}
    for kind, answer, truth in rows:
        for name in ("all", dimension(kind), *(part for part in ATTRIBUTES if kind == f"{ATTRIBUTE}-{part}")):
            parts[name].append((answer, truth))
    return {name: _answered(part, 1e-3 if name == "existence" else 1e-4) for name, part in parts.items() if part}


def dimension(kind: str) -> str:
    """Existence, attribute or relation, of what the files call a question; whatever is neither is a relation."""
    return "existence" if kind == EXISTENCE else "attribute" if kind.startswith(ATTRIBUTE) else "relation"


def _answered(rows: Sequence[tuple[str, str]], little: float) -> Answered:
    counts = Counter(rows)
    caught, right = counts["No", "no"], counts["No", "no"] + counts["Yes", "yes"]
    precision = _percent(caught, sum(answer == "No" for answer, _ in rows))
    recall = _percent(caught, sum(truth == "no" for _, truth in rows))
    p, r = precision / 100, recall / 100
    unread = sum(answer not in ("Yes", "No") for answer, _ in rows)
    f1 = round(2 * p * r / (p + r + little) * 100, 1)
    return Answered(_percent(right, len(rows)), precision, recall, f1, len(rows), unread)


def _percent(part: int, whole: int) -> float:
    return round(part / (whole + NOTHING) * 100, 1)


def score(chair: float, f1: float) -> float:
    """The AMBER score, (100 - CHAIR + F1) / 2, of numbers in per cent."""
    return (100 - chair + f1) / 2
