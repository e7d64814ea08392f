"""visalign scorers: what each scorer is, and official weights made into safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from ..scoring import Spec

EXAMPLE = "visalign scorers list"


def add(commands: words.Commands) -> None:
    """The command and its jobs."""
    made = words.command(commands, "scorers", "what each scorer is; official weights to safetensors", EXAMPLE, show)
    jobs = made.add_subparsers(metavar="JOB", required=True)
    words.command(jobs, "list", "names, scales, weights and their licenses", EXAMPLE, show)
    example = "visalign scorers convert HPS_v2.1_compressed.pt hpsv2.1.safetensors"
    convert = words.command(jobs, "convert", "take the tensors out of a pickled file, running nothing", example, make)
    convert.add_argument("source", metavar="FILE", help="an official file: .pt, .pth, .bin, or a pickled module")
    convert.add_argument("target", metavar="OUT", help="a .safetensors file")


def show(given: Any) -> int:
    """A table of every registered scorer."""
    from .. import registry
    from .screen import Screen

    found = registry.names("scorer")
    lines = [[name, entry.about, *described(name, entry)] for name, entry in found.items()]
    Screen().table("scorers", ["name", "what it is", "its number", "reads", "weights", "license"], lines)
    return 0


def described(name: str, entry: Any) -> list[str]:
    """Scale, what it reads, files and license, where the scorer tells without its weights."""
    made = entry.load()
    if not hasattr(made, "describe"):
        return ["", "", "", ""]
    spec: Spec = made.describe(**entry.settings)
    typical = "" if spec.typical is None else f", about {spec.typical[0]:g} … {spec.typical[1]:g}"
    return [spec.scale + typical, ", ".join(spec.reads), "; ".join(spec.files), spec.license]


def make(given: Any) -> int:
    """Convert a file and say what was in it."""
    from pathlib import Path

    from ..models import states
    from .screen import Screen

    target = Path(given.target).expanduser()
    written = states.convert(Path(given.source).expanduser(), target)
    size = sum(each.numel() * each.element_size() for each in written.values())
    Screen().say(f"{len(written)} tensors, {size / 1e6:.1f} MB in {target}")
    return 0
