"""visalign evaluate --bench chair|pope|playground|amber|objhal|mmhal: what multimodal models' answers make up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import words
from .judged import mmhal, objhal
from .seen import chair, pope, world
from .told import Told, file, without

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.answers import Answers
    from ..evaluation.amber import Answered, Lexicon, Scene

CARDS = "First stand the questions whose answers changed most beside the first model's; marked is what is not there."


def options(made: Any) -> None:
    """What these benchmarks need."""
    made.add_argument("--answers", metavar="[NAME=]FILE", nargs="+", action="extend",
                      help="chair, pope, playground, amber, objhal, mmhal: a model's answers, or several models', the "
                      "base of comparison first")  # fmt: skip
    made.add_argument("--annotations", metavar="PATH", nargs="+",
                      help="the benchmark's own files (chair: COCO's two), or playground:all:200")  # fmt: skip
    made.add_argument("--images", metavar="DIR", help="chair, pope: the pictures, to be shown beside the answers")
    made.add_argument("--cards", type=int, default=60, metavar="N", help="questions on the page (60)")
    made.add_argument("--synonyms", metavar="FILE", help="chair, objhal: the official table of synonyms")
    made.add_argument("--chat", metavar="NAME|YAML", help="objhal, mmhal: who reads or rates (visalign list chat)")
    made.add_argument("--judge-words", metavar="FILE", help="objhal, mmhal: what it is asked, in place of ours")
    made.add_argument("--variant", default="right", choices=["right", "release"],
                      help="release: chair, mmhal with the faults of the public code (right)")  # fmt: skip
    made.add_argument("--reader", default="pope", choices=["pope", "lmms_eval"], help="pope: whose reading (pope)")
    made.add_argument("--nouns", default="nltk", choices=["nltk", "words"], help="amber: how nouns are found (nltk)")
    made.add_argument("--similarity", default="spacy", choices=["spacy", "none"],
                      help="amber: whether words alike count as one (spacy)")  # fmt: skip


def run(given: Any) -> int:
    """Read, measure, print the table, write report.json and the page."""
    from pathlib import Path

    from .screen import Screen

    for name in ("answers", "annotations"):
        if not getattr(given, name):
            raise words.UsageError(f"--bench {given.bench} needs --{name}, see docs/hallucination.md")
    if given.judge:
        raise words.UsageError(f"--bench {given.bench} asks no scorer: leave out --judge {given.judge[0]}")
    screen, files = Screen(), models(given.answers)
    annotations = [file(each) for each in given.annotations]
    told: dict[str, Told] = {}
    for name, path in files.items():
        with screen.stage(f"{given.bench}: {path.name}"):
            told[name] = BENCHES[given.bench](given, path, annotations)
    paired(files, told)
    page = report(given, files, told)
    screen.show(page.tables[0])
    screen.say(f"report: {page.write(Path(given.out))}")
    return 0


def models(given: Sequence[str]) -> dict[str, Path]:
    """Files of answers by their models: NAME=FILE, or a file whose name is the model's."""
    found: dict[str, Path] = {}
    for each in given:
        name, _, rest = each.partition("=")
        bare = not rest or "/" in name or file(each).exists()
        path = file(each if bare else rest)
        name = path.stem if bare else name
        if name in found:
            raise words.UsageError(f"two files of answers are called {name!r}: tell them apart by NAME=FILE")
        found[name] = path
    return found


def paired(files: Mapping[str, Path], told: Mapping[str, Told]) -> None:
    """DataError where two models did not answer the same."""
    from ..records import DataError

    base = next(iter(told))
    for name in told:
        for one, other in ((base, name), (name, base)):
            ids = {row["id"] for row in told[other].each}
            if missing := [row["id"] for row in told[one].each if row["id"] not in ids]:
                named = ", ".join(map(repr, missing[:3])) + (" …" if len(missing) > 3 else "")
                has = f"{files[other]} has no answer for {len(missing)} ids"
                raise DataError(f"{has} that {files[one].name} answers: {named}")


def report(given: Any, files: Mapping[str, Path], told: Mapping[str, Told]) -> Any:
    """The page of one model or several."""
    from ..evaluation.beside import Beside
    from ..evaluation.exchanges import side_by_side
    from ..evaluation.report import Report, Table
    from ..evaluation.shares import plain

    name, first = next(iter(told.items()))
    asked = {key: value for key, value in vars(given).items() if key not in ("run", "rest", "parser")}
    cards = side_by_side({name: each.exchanges for name, each in told.items()})
    shown = f"{CARDS} {min(given.cards, len(cards))} of {len(cards)} questions."
    more: dict[str, Any] = {
        "settings": {"command": words.yaml_of(asked)}, "exchanges": cards[: given.cards], "exchanges_note": shown
    }  # fmt: skip
    each = {name: {"answers": str(files[name]), **plain(one.numbers), "each": one.each} for name, one in told.items()}
    if len(told) == 1:
        numbers = {"name": first.name, "note": first.note, **each[name]}
        rows = [[row.label, str(row.value)] for row in first.rows]
        table = Table(first.name, ["measure", "value"], rows, first.note)
        return Report(first.name, f"{len(first.each)} answers of {files[name].name}.", plain(numbers), [table], **more)
    beside = Beside({name: one.rows for name, one in told.items()})
    numbers = {"name": first.name, "note": first.note, "models": each, "differences": beside.differences()}
    table = beside.table(first.name, first.note)
    return Report(
        f"{first.name}: {beside.title()}", beside.lead(), plain(numbers), [table], figures=beside.figures(), **more
    )


def amber(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """AMBER of descriptions, of yes/no answers, or of both: whatever the file has answers to, it must answer wholly."""
    from ..data import answers, hallucination
    from ..evaluation import amber as measure
    from ..evaluation.beside import Measure
    from ..records import DataError

    files, found = hallucination.amber_files(annotations[0]), answers.read(path, ("id", "question_id"))
    ids = set(found.ids or ())
    scenes = files.scenes if any(each.id in ids for each in files.scenes) else ()
    kinds = {measure.dimension(each.kind) for each in files.asked if each.id in ids}
    asked = [each for each in files.asked if measure.dimension(each.kind) in kinds]
    if not scenes and not asked:
        raise DataError(f"{path} answers nothing that {annotations[0]} asks: its ids are AMBER's, 1 to 15220")
    name, rows, numbers, each = _described(given, found, scenes, files.lexicon) if scenes else ("AMBER", [], {}, [])
    if asked:
        texts = found.to([one.id for one in asked])
        by = numbers["discriminative"] = measure.answered(texts, asked)
        rows += [[f"{part}: accuracy, precision, recall, F1", _row(one)] for part, one in by.items()]
        rows.append(["neither Yes nor No", str(by["all"].unread)])
        each += [{"id": one.id, "truth": one.truth, "answer": text} for one, text in zip(asked, texts, strict=True)]
    if scenes and kinds == set(measure.DIMENSIONS):
        numbers["score"] = measure.score(numbers["generative"]["chair"], by["all"].f1)
        rows.append(["AMBER score", f"{numbers['score']:.2f}"])
    made = [Measure(label, value) for label, value in rows]
    return Told(name, made, "Per cent. Published tables have Cog by the code. Read CHAIR beside Cover.", numbers, each)


def _described(
    given: Any, found: Answers, scenes: Sequence[Scene], lexicon: Lexicon
) -> tuple[str, list[list[str]], dict[str, Any], list[dict[str, Any]]]:
    """AMBER's name, rows, numbers and each answer, of descriptions."""
    from ..evaluation import amber as measure
    from ..evaluation import language

    nouns = language.nltk_nouns() if given.nouns == "nltk" else language.known_nouns(lexicon.known)
    similarity = language.spacy_similarity() if given.similarity == "spacy" else None
    name = "AMBER" if given.nouns == "nltk" else "AMBER with known words for nouns"
    texts = found.to([one.id for one in scenes])
    told = measure.described(texts, scenes, lexicon, nouns=nouns, similarity=similarity, name=name)
    rows = [["CHAIR", f"{told.chair:.1f}"], ["Cover", f"{told.cover:.1f}"], ["Hal", f"{told.hal:.1f}"],
            ["Cog, by the code", f"{told.cog:.1f}"], ["Cog, by the paper", f"{told.cog_paper:.1f}"]]  # fmt: skip
    each = [{"id": one.id, "hallucinated": list(mark.hallucinated)}
            for one, mark in zip(scenes, told.marked, strict=True)]  # fmt: skip
    return told.name, rows, {"generative": without(told, "marked")}, each


def _row(one: Answered) -> str:
    return ", ".join(f"{value:.1f}" for value in (one.accuracy, one.precision, one.recall, one.f1))


BENCHES = {"chair": chair, "pope": pope, "playground": world, "amber": amber, "objhal": objhal, "mmhal": mmhal}
