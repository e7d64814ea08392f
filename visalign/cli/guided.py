"""visalign guided: several takes of each real picture or clip, as candidates whose details can be compared."""

from __future__ import annotations

from typing import Any

from . import words
from .generate import drawing_options, settings

EXAMPLE = "visalign guided playground shots --out runs/takes"
MORE = """PATH is a folder of pictures or clips, each with its prompt beside it (NAME.txt; a clip may be a folder of
frames with FOLDER.txt), or records, whose items are taken with their prompts. A model that draws clips takes clips. The
same command goes on where it stopped."""


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "guided", "draw takes of real pictures or clips, alike but for detail", EXAMPLE, run)
    made.epilog = f"{made.epilog}\n\n{MORE}"
    made.add_argument("model", metavar="MODEL", help="what draws, as below")
    made.add_argument("path", metavar="PATH", help="what is real, as below")
    made.add_argument("--out", default="runs/takes", metavar="DIR", help="where to (runs/takes)")
    made.add_argument("--takes", type=int, default=2, metavar="N", help="of each, from noise of their own (2)")
    made.add_argument("--low", type=float, default=0.65, help="least share of noise that takes begin with (0.65)")
    made.add_argument("--high", type=float, default=0.80, help="most; one share for the takes of one (0.80)")
    made.add_argument("--seed", type=int, default=0, help="of shares and noises (0)")
    made.add_argument("--lora", metavar="PATH", help="adapters to load: a file, a folder, or a run's folder")
    made.add_argument("--allow-download", action="store_true", help="let a model be fetched from the hub")
    drawing_options(made, steps=40)


def run(given: Any) -> int:
    """Draw the takes that are not there yet; exit code 1 if none could be drawn."""
    from pathlib import Path

    from ..data import originals
    from ..diffusion.source import Source
    from ..drawing import Drawer
    from ..jobs import takes
    from .screen import Screen

    words.at_least_one(given, "takes")
    plan = takes.Plan(given.takes, (given.low, given.high), given.seed)
    source = Source.find(given.model, given.lora, allow_download=given.allow_download)
    if source.gap is not None:
        raise words.UsageError(f"takes are drawn without reflection: leave it out of {given.model}")
    found, root = originals.found(Path(given.path).expanduser())
    screen, out = Screen(), Path(given.out)
    how = settings(given)
    with screen.stage(f"open {given.model}"):
        drawer = Drawer(source, how)
    outcome = takes.walk(drawer, found, root, out, plan, screen)
    if outcome.bad:
        screen.warn(f"{len(outcome.bad)} of {len(found)} could not be read and have no takes: {outcome.bad[0]}")
    screen.say(f"{outcome.count} records of {plan.count} takes each in {outcome.records}, {outcome.drawn} drawn now")
    screen.say(f"next: visalign label {outcome.records} --scorer NAME")
    return int(outcome.count == 0)
