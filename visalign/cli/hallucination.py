"""visalign evaluate --bench chair|pope|amber|objhal|mmhal: what a multimodal model's answers make up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import words
from .judged import mmhal, objhal
from .told import Told, file, note, synonyms, there, without

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.answers import Answers
    from ..evaluation.amber import Answered, Lexicon, Scene

IMAGES = ("image_id", "image", "id", "question_id")  # ids of captions, the likeliest first


def options(made: Any) -> None:
    """What these benchmarks need."""
    made.add_argument("--answers", metavar="FILE", help="chair, pope, amber, objhal, mmhal: a model's answers")
    made.add_argument("--annotations", metavar="PATH", nargs="+", help="the benchmark's own files; chair: COCO's two")
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

    from ..evaluation.report import Report, Table
    from ..evaluation.shares import plain
    from .screen import Screen

    for name in ("answers", "annotations"):
        if not getattr(given, name):
            raise words.UsageError(f"--bench {given.bench} needs --{name}, see docs/hallucination.md")
    if given.judge:
        raise words.UsageError(f"--bench {given.bench} asks no scorer: leave out --judge {given.judge[0]}")
    screen, answers = Screen(), file(given.answers)
    with screen.stage(f"{given.bench}: {answers.name}"):
        told = BENCHES[given.bench](given, answers, [file(each) for each in given.annotations])
    table = Table(told.name, ["measure", "value"], told.rows, told.note)
    screen.show(table)
    asked = {name: value for name, value in vars(given).items() if name not in ("run", "rest", "parser")}
    numbers = {"name": told.name, "note": told.note, "answers": str(answers), **plain(told.numbers), "each": told.each}
    report = Report(told.name, f"{len(told.each)} answers of {answers.name}.", plain(numbers), [table],
                    settings={"command": words.yaml_of(asked)})  # fmt: skip
    screen.say(f"report: {report.write(Path(given.out))}")
    return 0


def chair(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """CHAIR of captions of COCO's pictures."""
    from ..data import answers, hallucination
    from ..evaluation import chair as measure
    from ..evaluation.objects import Objects
    from ..records import DataError

    found = answers.read(path, IMAGES, id_of=hallucination.image_id)
    if found.ids is None:
        raise DataError(f"{path} does not name pictures: each caption needs one of {', '.join(IMAGES)}")
    objects = Objects.chair(synonyms(given), variant=given.variant)
    truth = there(objects, annotations, found.ids)
    said = [objects.mentioned(text) for text in found.texts]
    numbers = measure.chair(said, truth)
    each = [{"id": id, "mentioned": names, "hallucinated": list(false)}
            for id, names, false in zip(found.ids, said, numbers.hallucinated, strict=True)]  # fmt: skip
    rows = [["CHAIR_i, of mentions", str(numbers.instance)], ["CHAIR_s, of captions", str(numbers.sentence)],
            ["CHAIR_s, of captions with objects", str(numbers.refined)],
            ["recall of what is there", str(numbers.recall)],
            ["CHAIR_i, each class once a caption", str(numbers.unique)]]  # fmt: skip
    name = "CHAIR" if given.variant == "right" else "CHAIR, release"
    return Told(name, rows, note(given), without(numbers, "hallucinated"), each)


def pope(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """POPE of yes/no answers."""
    from ..data import answers, hallucination
    from ..evaluation import pope as measure

    questions = hallucination.questions(annotations[0])
    texts = answers.read(path, ("question_id", "id")).to([each.id for each in questions])
    numbers = measure.pope(questions, texts, given.reader)
    rows = [["accuracy", str(numbers.accuracy)], ["precision", str(numbers.precision)], ["recall", str(numbers.recall)],
            ["F1", f"{numbers.f1:.4f}"], ["yes ratio", str(numbers.yes_ratio)],
            ["neither yes nor no", str(numbers.unread)]]  # fmt: skip
    read = {"pope": measure.said, "lmms_eval": measure.exactly}[given.reader]
    each = [{"id": one.id, "label": one.label, "read": read(text)} for one, text in zip(questions, texts, strict=True)]
    return Told(f"POPE, {annotations[0].stem}", rows, f"Answers read as {given.reader} does.", numbers, each)


def amber(given: Any, path: Path, annotations: Sequence[Path]) -> Told:
    """AMBER of descriptions, of yes/no answers, or of both: whatever the file has answers to, it must answer wholly."""
    from ..data import answers, hallucination
    from ..evaluation import amber as measure
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
    return Told(name, rows, "Per cent. Published tables have Cog by the code. Read CHAIR beside Cover.", numbers, each)


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


BENCHES = {"chair": chair, "pope": pope, "amber": amber, "objhal": objhal, "mmhal": mmhal}
