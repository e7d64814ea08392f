"""visalign rounds: online preference training. Draw, judge, train, and again with what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words
from .generate import drawing_options, settings

if TYPE_CHECKING:
    from ..jobs.rounds import Round
    from .screen import Screen

EXAMPLE = (
    "visalign rounds playground_online_dpo --scorer voters --prompts playground:train:72 --steps 12 --guidance 1.5"
)


def add(commands: words.Commands) -> None:
    """The command."""
    about = "train online: draw with the model of now, let a scorer judge, train on that, and again"
    made = words.command(commands, "rounds", about, EXAMPLE, run)
    made.add_argument("recipe", metavar="RECIPE", help="a YAML file, or the name of a recipe; its steps are a round's")
    made.add_argument("changes", nargs="*", metavar="KEY=VALUE", help="changes by dotted path")
    made.add_argument("--rounds", type=int, default=3, help="how often (3)")
    made.add_argument("--scorer", required=True, metavar="NAME|YAML", help="who judges (visalign list scorer)")
    made.add_argument("--prompts", required=True, metavar="FILE|TEXT", help="what is drawn in every round")
    made.add_argument("--seeds", type=int, default=4, metavar="N", help="pictures a prompt and round (4)")
    refresh = "each round's reference is the model that drew (round), or always the first one (never)"
    made.add_argument("--refresh", choices=("round", "never"), default="round", help=refresh)
    made.add_argument("--out", default="runs/rounds", metavar="DIR", help="where to (runs/rounds)")
    drawing_options(made, models=False)
    made.set_defaults(takes_changes=True)


def run(given: Any) -> int:
    """Walk the rounds and print what each drew."""
    from pathlib import Path

    from .. import config, registry
    from ..jobs import rounds
    from .screen import Screen

    screen = Screen(silent=not words.first_process())
    plan = rounds.Plan(
        run=config.load(given.recipe, [*given.changes, *given.rest]),
        prompts=tuple(dict.fromkeys(words.prompts(given.prompts))),
        scorer=registry.build("scorer", words.named(given.scorer)),
        how=settings(given),
        out=Path(given.out),
        rounds=given.rounds,
        candidates=given.seeds,
        refresh=given.refresh,
    )
    summarize(rounds.walk(plan, screen), plan.scorer.name, screen)
    screen.say(f"the last model: {plan.out / f'round-{plan.rounds}' / 'run'}")
    return 0


def summarize(found: list[Round], judge: str, screen: Screen) -> None:
    """A table of the rounds."""
    rows = [
        [f"round {each.number}" if each.number else "after the last", f"{each.score:.4g}", f"{each.gap:.4g}",
         str(each.steps or ""), each.stopped]
        for each in found
    ]  # fmt: skip
    header = ["drawn by the model before", f"score by {judge}", "best minus worst", "then trained, steps", "ended"]
    screen.table("Rounds", header, rows, "The scorer that trains is the one that speaks: judge with another one too.")
