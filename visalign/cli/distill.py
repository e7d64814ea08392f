"""visalign distill: pairs of right answers that differ in form alone."""

from __future__ import annotations

from typing import Any

from . import words

EXAMPLE = "visalign distill data/train.parquet --answers runs/1.jsonl runs/2.jsonl --form think --out runs/form.parquet"


def add(commands: words.Commands) -> None:
    """The command."""
    about = "pair a model's own right answers by their form, well-formed over not (SPECS, arXiv 2510.25801)"
    made = words.command(commands, "distill", about, EXAMPLE, run)
    made.add_argument("records", metavar="PATH", help='questions with a true answer each, or "playground"')
    made.add_argument("--answers", required=True, nargs="+", metavar="FILE",
                      help="the model's answers by question_id, several a question")  # fmt: skip
    made.add_argument("--form", required=True, metavar="NAME|REGEX", help="think, stop, or what a whole answer matches")
    made.add_argument("--loose", default="", metavar="REGEX", help="finds the result in any other answer (all of it)")
    made.add_argument("--most", type=int, default=1, metavar="N", help="pairs of a question (1)")
    made.add_argument("--out", required=True, metavar="FILE", help="a .parquet or .jsonl file of pairs")


def run(given: Any) -> int:
    """Read the answers, pair them, write the pairs and say what was left out."""
    from pathlib import Path

    from .. import playground
    from ..answering import distilled
    from ..data import answers, sources, store
    from ..jobs import dialogues
    from ..records import DataError
    from .screen import Screen

    screen, out = Screen(), Path(given.out)
    form = distilled.Form(given.form, given.loose)
    path = playground.found(given.records, dialogues.SHIPPED)
    records, root = sources.open_source(path), sources.root(path)
    said = answers.several([Path(each).expanduser() for each in given.answers])
    made = distilled.distilled(records, said, form, root, out.parent, most=given.most)
    for reason, count in made.left_out.items():
        screen.say(f"{count} questions left out: {reason}")
    if not made.records:
        raise DataError("no question has a right answer in the form and one out of it: sample more answers to each, "
                        "`visalign answer --temperature 1 --seed N`, or ask for another --form")  # fmt: skip
    store.write(made.records, out)
    screen.say(f"{len(made.records)} records in {out}")
    screen.say(f"next: visalign train RECIPE method.name=mllm_dpo method.sft=1 data.path={out}")
    return 0
