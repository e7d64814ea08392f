"""Scorers that a command line names, with their settings: --set SCORER.KEY=VALUE, --device, --allow-download."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from ..scoring import Scorer


def setting(made: Any) -> None:
    """The option of commands that ask scorers."""
    made.add_argument(
        "--set", action="append", default=[], metavar="SCORER.KEY=VALUE", help="a setting, as in hpsv2.1.weights=FILE"
    )


def options(made: Any) -> None:
    """That option, and what all scorers with a network have in common."""
    setting(made)
    made.add_argument("--device", help="where scorers with a network run (cpu)")
    made.add_argument("--allow-download", action="store_true", help="whether scorers may ask the hub for their weights")


def apart(given: str) -> list[str]:
    """The names of a list with commas, each once; UsageError where there are none."""
    found = list(dict.fromkeys(each.strip() for each in given.split(",") if each.strip()))
    if not found:
        raise words.UsageError(f"no scorer is named in {given!r}: visalign list scorer")
    return found


def built(names: Sequence[str], given: Any) -> dict[str, tuple[Scorer, dict[str, Any]]]:
    """Each scorer by its name, with its own settings; UsageError where two would write under one name."""
    asked = settings(names, given.set)
    made = {name: (_made(name, asked[name], given), asked[name]) for name in names}
    called = [scorer.name for scorer, _ in made.values()]
    if twice := [each for each in called if called.count(each) > 1]:
        raise words.UsageError(f"two scorers are called {twice[0]!r}: ask each by itself, for a file of its own")
    return made


def settings(names: Sequence[str], changes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scorer -> its settings among `SCORER.KEY=VALUE` changes; a scorer's name may have dots."""
    import yaml

    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for change in changes:
        path, equals, value = change.partition("=")
        owner, _, key = path.rpartition(".")
        if not equals or owner not in found or key in ("", "name"):
            raise words.UsageError(f"--set {change} is not SCORER.KEY=VALUE with a scorer of {', '.join(names)}")
        try:
            found[owner][key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise words.UsageError(f"--set {change}: {value!r} is no YAML; quote it if it is meant as text") from None
    return found


def moves(scorer: Scorer) -> bool:
    """Whether it looks at clips and not at pictures, as far as it says."""
    from ..scoring import Specified

    reads = scorer.spec.reads if isinstance(scorer, Specified) else ()
    return "video" in reads and "image" not in reads


def _made(name: str, asked: dict[str, Any], given: Any) -> Scorer:
    import inspect

    from .. import registry

    known = inspect.signature(registry.load("scorer", name)).parameters
    everyone = {"device": getattr(given, "device", None), "allow_download": getattr(given, "allow_download", False)}
    shared = {key: value for key, value in everyone.items() if value not in (None, False, "auto") and key in known}
    scorer: Scorer = registry.build("scorer", {**shared, **asked, "name": name})
    return scorer
