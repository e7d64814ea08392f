"""visalign scorers: what each scorer is, and official weights made into safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from ..registry import Entry
    from ..scoring import Spec

EXAMPLE = "visalign scorers list"


def add(commands: words.Commands) -> None:
    """The command and its jobs."""
    made = words.command(commands, "scorers", "what each scorer is; official weights to safetensors", EXAMPLE, table)
    jobs = made.add_subparsers(metavar="JOB", required=True)
    words.command(jobs, "list", "names, scales and licenses", EXAMPLE, table)
    one = words.command(jobs, "show", "all there is to know of one", "visalign scorers show hpsv2.1", show)
    one.add_argument("name", metavar="NAME", help="a registered scorer")
    example = "visalign scorers convert HPS_v2.1_compressed.pt hpsv2.1.safetensors"
    convert = words.command(jobs, "convert", "take the tensors out of a pickled file, running nothing", example, make)
    convert.add_argument("source", metavar="FILE", help="an official file: .pt, .pth, .bin, or a pickled module")
    convert.add_argument("target", metavar="OUT", help="a .safetensors file")


def table(given: Any) -> int:
    """A line for every registered scorer."""
    from .. import registry
    from .screen import Screen

    lines = [[name, entry.about, *_number(described(entry))] for name, entry in registry.names("scorer").items()]
    Screen().table("scorers", ["name", "what it is", "its number", "license"], lines)
    return 0


def described(entry: Entry) -> Spec | None:
    """What a scorer says of itself without its weights, if it does."""
    from ..scoring import Spec

    made = entry.load()
    said = made.describe(**entry.settings) if hasattr(made, "describe") else getattr(made, "spec", None)
    return said if isinstance(said, Spec) else None  # where it hangs on settings, the class has a property


def _number(spec: Spec | None) -> list[str]:
    if spec is None:
        return ["", ""]
    return [spec.scale + (f", about {spec.typical[0]:g} … {spec.typical[1]:g}" if spec.typical else ""), spec.license]


def show(given: Any) -> int:
    """What one scorer is and which settings it takes."""
    import inspect

    from .. import registry
    from ..config import plain
    from .screen import Screen

    made = registry.load("scorer", given.name)
    entry, screen = registry.names("scorer")[given.name], Screen()
    spec = described(entry)
    known = {"what it is": entry.about, **(plain(spec) if spec else {})}
    lines = [[key, ", ".join(map(str, each)) if isinstance(each, list) else str(each)] for key, each in known.items()]
    screen.table(given.name, ["", ""], lines)
    takes = inspect.signature(made).parameters.values()
    screen.table("settings", ["name", "default"], [[each.name, _default(each.default, each.empty)] for each in takes])
    return 0


def _default(value: object, empty: object) -> str:
    return "must be given" if value is empty else str(value)


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
