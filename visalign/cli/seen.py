"""CHAIR and POPE of `visalign evaluate --bench`: of COCO's pictures, of a file of questions, and of the playground."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import words
from .told import Told, note, opening, synonyms, there, without

if TYPE_CHECKING:
    from pathlib import Path

    from PIL import Image

    from ..evaluation import chair as chairs
    from ..evaluation import pope as popes
    from ..evaluation.beside import Measure
    from ..evaluation.exchanges import Exchange
    from ..evaluation.objects import Place
    from ..playground.seeing import Turn

IMAGES = ("image_id", "image", "id", "question_id")  # ids of captions, the likeliest first


@dataclass(frozen=True)
class Seen:
    """A picture and what was said of it."""

    id: str
    question: str
    text: str
    places: Sequence[Place]
    truth: frozenset[str]
    tempting: frozenset[str] | None = None  # None: nobody says
    picture: Callable[[], Image.Image] | None = None

    @property
    def mentioned(self) -> list[str]:
        """The objects that are named, as often as they are."""
        return [name for name, _, _ in self.places]


def chair(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """CHAIR of captions of COCO's pictures, or of descriptions of the playground's."""
    from ..evaluation import chair as measure

    turns = playground(annotations, "describe")
    seen = _shapes(turns, path) if turns else _captions(given, path, annotations)
    tempting = [each.tempting for each in seen if each.tempting is not None]
    numbers = measure.chair([each.mentioned for each in seen], [each.truth for each in seen], tempting or None)
    each = [{"id": one.id, "mentioned": one.mentioned, "hallucinated": list(false),
             "missing": sorted(one.truth.difference(one.mentioned))}
            for one, false in zip(seen, numbers.hallucinated, strict=True)]  # fmt: skip
    release = ", release" if given.variant == "release" and not turns else ""
    told = "" if turns else note(given)
    return Told(f"CHAIR{release}", _chair_rows(numbers), told, without(numbers, "hallucinated"), each, exchanges(seen))


def _chair_rows(numbers: chairs.Chair) -> list[Measure]:
    from ..evaluation.beside import Measure

    rows = [Measure("CHAIR_s, of descriptions", numbers.sentence, "lower"),
            Measure("CHAIR_i, of mentions", numbers.instance, "lower"),
            Measure("coverage: recall of what is there", numbers.recall, "higher")]  # fmt: skip
    if numbers.cog is not None:
        rows.append(Measure("Cog, of what the habit would add", numbers.cog, "lower"))
    return [*rows, Measure("CHAIR_s, of descriptions with objects", numbers.refined, "lower"),
            Measure("CHAIR_i, each class once a description", numbers.unique, "lower")]  # fmt: skip


def exchanges(seen: Sequence[Seen]) -> list[Exchange]:
    """Descriptions to be looked at, what is not there marked."""
    from ..evaluation.exchanges import Exchange, Reply, pieces

    found = []
    for one in seen:
        wrong = [name for name in one.mentioned if name not in one.truth]
        said = f"makes up: {', '.join(dict.fromkeys(wrong))}" if wrong else "nothing made up"
        missing = tuple(sorted(one.truth.difference(one.mentioned)))
        reply = Reply("", pieces(one.text, one.places, wrong), said, len(wrong), missing)
        truth = f"There: {', '.join(sorted(one.truth)) or 'nothing that is annotated'}"
        found.append(Exchange(one.id, one.question, truth, (reply,), one.picture))
    return found


def _captions(given: Any, path: Path, annotations: Sequence[Path]) -> list[Seen]:
    """Captions of COCO's pictures, by their numbers."""
    from ..data import answers, hallucination
    from ..evaluation.objects import Objects
    from ..records import DataError

    found = answers.read(path, IMAGES, id_of=hallucination.image_id)
    if found.ids is None:
        raise DataError(f"{path} does not name pictures: each caption needs one of {', '.join(IMAGES)}")
    objects, picture = Objects.chair(synonyms(given), variant=given.variant), opening(given)
    rows = sorted(zip(found.ids, found.texts, strict=True), key=lambda row: (len(row[0]), row[0]))
    truth = there(objects, annotations, [id for id, _ in rows])
    return [Seen(id, "", text, objects.places(text), shown, picture=picture(id))
            for (id, text), shown in zip(rows, truth, strict=True)]  # fmt: skip


def _shapes(turns: Mapping[str, Turn], path: Path) -> list[Seen]:
    """Descriptions of the playground's pictures."""
    from ..data import answers
    from ..playground import seeing

    texts = answers.read(path, ("question_id", "id")).to(list(turns))
    return [Seen(id, each.question, text, seeing.places(text), each.look.shown, seeing.expected(each.look), drawn(each))
            for (id, each), text in zip(turns.items(), texts, strict=True)]  # fmt: skip


def drawn(turn: Turn) -> Callable[[], Image.Image]:
    """What opens the picture of a question."""
    from PIL import Image

    return lambda: Image.fromarray(turn.look.picture)


def playground(annotations: Sequence[Path], *kinds: str) -> dict[str, Turn]:
    """Of "playground:KIND:COUNT" the questions of these kinds, by id; nothing where that is not what is given.

    UsageError where it has none of these kinds.
    """
    from ..data import questions

    given = str(annotations[0])
    if not given.startswith(f"{questions.PLAYGROUND}:"):
        return {}
    found = {key: each for key, each in questions.playground(given).items() if each.kind in kinds}
    if not found:
        raise words.UsageError(f"{given} has no questions of the kind {', '.join(kinds)}: playground:all:N has all")
    return found


def pope(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """POPE of yes/no answers to a file of questions, or to the playground's probes."""
    from ..data import answers, hallucination
    from ..playground import seeing

    if turns := playground(annotations, *seeing.PROBES):
        return _probes(given, path, turns)
    questions, picture = hallucination.questions(annotations[0]), opening(given)
    texts = answers.read(path, ("question_id", "id")).to([each.id for each in questions])
    return _pope(given, annotations[0].stem, questions, texts, [picture(each.image) for each in questions])


def _probes(given: Any, path: Path, turns: Mapping[str, Turn]) -> Told:
    """The playground's probes, each kind by itself; the full stop that its model ends with is no part of an answer."""
    from ..data import answers
    from ..evaluation.pope import Question

    looks = {each.look: str(place) for place, each in enumerate(turns.values())}
    by_kind: dict[str, list[str]] = {}
    for id, each in turns.items():
        by_kind.setdefault(each.kind, []).append(id)
    found = answers.read(path, ("question_id", "id"))
    found.to(list(turns))  # names what is missing of all kinds at once
    parts = {}
    for kind, ids in by_kind.items():
        asked = [Question(id, looks[turns[id].look], turns[id].question, "yes" if "yes" in turns[id].answer else "no")
                 for id in ids]  # fmt: skip
        texts = [text.strip().removesuffix(".").strip() for text in found.to(ids)]
        parts[kind] = _pope(given, kind, asked, texts, [drawn(turns[id]) for id in ids])
    return next(iter(parts.values())) if len(parts) == 1 else joined("POPE", parts)


def _pope(
    given: Any, name: str, questions: Sequence[popes.Question], texts: Sequence[str],
    pictures: Sequence[Callable[[], Image.Image] | None],
) -> Told:  # fmt: skip
    from ..evaluation import pope as measure
    from ..evaluation.beside import Measure
    from ..evaluation.exchanges import Exchange, Reply

    numbers = measure.pope(questions, texts, given.reader)
    read = {"pope": measure.said, "lmms_eval": measure.exactly}[given.reader]
    rows = [Measure("F1", numbers.balance, "higher"), Measure("accuracy", numbers.accuracy, "higher"),
            Measure("precision", numbers.precision, "higher"), Measure("recall", numbers.recall, "higher"),
            Measure("yes ratio", numbers.yes_ratio), Measure("neither yes nor no", str(numbers.unread))]  # fmt: skip
    each, shown = [], []
    for one, text, picture in zip(questions, texts, pictures, strict=True):
        said = read(text)
        each.append({"id": one.id, "label": one.label, "read": said})
        wrong = said != one.label
        reply = Reply("", ((text, wrong),), "wrong" if wrong else "right", int(wrong))
        shown.append(Exchange(one.id, one.text, f"Right: {one.label}", (reply,), picture))
    return Told(f"POPE, {name}", rows, f"Answers read as {given.reader} does.", numbers, each, shown)


def world(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """CHAIR, Cog and POPE of the playground's pictures, of one file with all its answers."""
    if not playground(annotations, "describe"):
        raise words.UsageError(f"--bench playground needs --annotations playground:all:N, got {annotations[0]}")
    described, probed = chair(given, path, annotations), pope(given, path, annotations)
    kept = [each for each in probed.rows if each.label.endswith(("F1", "yes ratio"))]
    told = joined("Playground", {"": described, "POPE": probed})
    return Told(told.name, [*described.rows[:4], *(each._replace(label=f"POPE {each.label}") for each in kept)],
                told.note, {"chair": described.numbers, "pope": probed.numbers}, told.each, told.exchanges)  # fmt: skip


def joined(name: str, parts: Mapping[str, Told]) -> Told:
    """Several measurements as one, their rows named by part."""
    return Told(
        name,
        [row._replace(label=f"{part}: {row.label}") for part, told in parts.items() for row in told.rows],
        " ".join(dict.fromkeys(told.note for told in parts.values() if told.note)),
        {part: told.numbers for part, told in parts.items()},
        [each for told in parts.values() for each in told.each],
        [each for told in parts.values() for each in told.exchanges],
    )
