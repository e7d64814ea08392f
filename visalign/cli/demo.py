"""visalign demo: the main job on the playground, from votes to a report."""

from __future__ import annotations

from typing import Any

from . import words

EXAMPLE = "visalign demo"


def add(commands: words.Commands) -> None:
    """The command."""
    about = "the whole walk on the playground: votes, Diffusion-DPO and SFT, evaluation, a report"
    made = words.command(commands, "demo", about, EXAMPLE, run)
    made.add_argument(
        "--fresh", action="store_true", help="draw the candidates and vote anew, rather than use those shipped"
    )
    made.add_argument("--seed", type=int, default=0, help="of training and, with --fresh, of candidates and votes (0)")
    made.add_argument("--out", default="runs/demo", metavar="DIR", help="where to (runs/demo)")


def run(given: Any) -> int:
    """Walk, and print the table."""
    from pathlib import Path

    from .. import demo
    from .screen import Screen

    screen = Screen()
    finished = demo.walk(Path(given.out), screen, seed=given.seed, fresh=given.fresh)
    for table in finished.comparison.tables():
        screen.show(table)
    screen.say("")
    screen.say(finished.comparison.lead())
    screen.say(f"report: {finished.page}   ({finished.seconds:.0f} s)")
    return 0
