"""visalign evaluate: models on the same prompts and seeds, judged, with a report; or a benchmark."""

from __future__ import annotations

import re
from typing import Any

from . import bench, chosen, hallucination, words
from .generate import drawing_options, settings

EXAMPLE = "visalign evaluate playground runs/demo/dpo --prompts playground:heldout:200 --judge rules"
ANSWERS = "visalign evaluate --bench playground --annotations playground:all:100 --answers runs/answers/*.jsonl"


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(
        commands, "evaluate", "compare models on the same prompts and seeds, or measure by a benchmark", EXAMPLE, run
    )
    made.add_argument("models", nargs="*", metavar="MODEL", help="two or more, the base of comparison first")
    made.add_argument("--prompts", metavar="FILE|TEXT", help="a file, one prompt, playground:heldout:200")
    made.add_argument("--judge", action="append", metavar="NAME", help="a scorer; may be repeated")
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures a prompt (1)")
    made.add_argument("--first-seed", type=int, default=0, metavar="S", help="start at this seed (0)")
    made.add_argument("--out", default="runs/evaluation", metavar="DIR", help="where to (runs/evaluation)")
    chosen.setting(made)
    bench.options(made)
    hallucination.options(made)
    drawing_options(made)
    made.epilog = (made.epilog or "").replace(EXAMPLE, f"{EXAMPLE}\n  {ANSWERS}")


def short(models: list[str]) -> list[str]:
    """The last part of each path, those among the options too, where that tells them apart."""
    last = [re.sub(r"[^,=+]*/(?=[^,+])", "", model.rstrip("/")) for model in models]
    return last if len(set(last)) == len(last) else models


def run(given: Any) -> int:
    """Draw with every model, judge, print the tables and write the report."""
    from pathlib import Path

    from ..drawing import draw
    from ..evaluation import comparison
    from .screen import Screen

    if given.bench in hallucination.BENCHES:
        return hallucination.run(given)
    if given.bench:
        return bench.run(given)
    if not given.judge:
        raise words.UsageError("evaluate needs --judge NAME, a scorer: visalign list scorer")
    if not given.prompts:
        raise words.UsageError("evaluate needs --prompts for its models, or --bench NAME for its judges")
    if len(set(given.models)) < max(2, len(given.models)):
        raise words.UsageError(f"evaluate compares different models, the base first; got {', '.join(given.models)}")
    screen, how = Screen(), settings(given)
    scorers = [scorer for scorer, _ in chosen.built(list(dict.fromkeys(given.judge)), given).values()]
    prompts = [prompt for prompt in words.prompts(given.prompts) for _ in range(given.seeds)]
    seeds = [given.first_seed + place % given.seeds for place in range(len(prompts))]
    names = short(given.models)
    drawn = {
        name: draw(model, prompts, seeds, how, screen, title=f"draw with {name}")
        for name, model in zip(names, given.models, strict=True)
    }
    with screen.stage("judge"):
        found = comparison.Comparison.of(prompts, drawn, scorers)
    for table in found.tables():
        screen.show(table)
    asked = {name: value for name, value in vars(given).items() if name not in ("run", "rest", "parser")}
    said = {"command": words.yaml_of(asked)}
    page = found.report(" against ".join(reversed(names)), settings=said).write(Path(given.out))
    screen.say(f"report: {page}")
    return 0
