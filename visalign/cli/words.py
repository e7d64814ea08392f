"""What commands have in common: the error for a wrong word, prompts from a file or from the line, how --help looks."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Commands = Any  # argparse keeps the type of a set of sub-parsers to itself


class UsageError(ValueError):
    """Something given on the command line cannot be used; one line with the mend."""


def command(commands: Commands, name: str, about: str, example: str, run: Callable[[Any], int]) -> Any:
    """A sub-parser with its one line, an example in its help, and the function it runs."""
    made = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.set_defaults(run=run, parser=made)
    return made


def first_process() -> bool:
    """Whether this is the process that speaks, when `accelerate launch` started several."""
    return os.environ.get("RANK", "0") == "0"


def at_least_one(given: Any, *names: str) -> None:
    """UsageError for a number among the options of that name that is below 1."""
    for name in names:
        if getattr(given, name) < 1:
            raise UsageError(f"--{name} must be at least 1, got {getattr(given, name)}")


def out_file(given: str) -> Path:
    """Where records go, made sure of before the work is done: a .parquet or .jsonl file, or a new folder of shards."""
    path = Path(given).expanduser()
    if path.suffix not in ("", ".parquet", ".jsonl"):
        raise UsageError(f"--out {given} should end in .parquet or .jsonl")
    if path.suffix and path.is_dir():
        raise UsageError(f"--out {given} is a folder: name a file in it")
    if not path.suffix and path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise UsageError(f"--out {given} is there already: name a .parquet or .jsonl file, or a new folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def prompts(given: str) -> list[str]:
    """Prompts from a text file (one a line), a JSON list, JSON lines with a `prompt`, or the text itself.

    "playground:heldout:200" are the first 200 of the playground's held-out prompts, "playground_moving:heldout:200" of
    those for clips.
    """
    if given.startswith(("playground:", "playground_moving:")):
        return _playground(given)
    path = Path(given).expanduser()
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give a file of prompts, or one prompt as text")
    if path.suffix in (".txt", ".json", ".jsonl") and not path.exists():
        raise UsageError(f"no file of prompts at {path}; give a file that exists, or one prompt as text")
    found = _read(path) if path.suffix and path.is_file() else [given]
    kept = [each.strip() for each in found if each.strip()]
    if not kept:
        raise UsageError(f"no prompts in {given!r}: give one a line")
    return kept


def _read(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [json.loads(line)["prompt"] for line in text.splitlines() if line.strip()]
        return [str(each) for each in json.loads(text)] if path.suffix == ".json" else text.splitlines()
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{path} holds no prompts: {error!r}; give JSON lines with a `prompt`, or plain lines"
        ) from None


def yaml_of(settings: Any) -> str:
    """Settings as YAML text: a dataclass, or a mapping."""
    import yaml

    from ..config import plain

    return str(yaml.safe_dump(plain(settings), sort_keys=False, allow_unicode=True))


def named(given: str) -> Any:
    """What `registry.build` takes: a name, or the YAML of a mapping with one: "{name: grammar, strength: weak}"."""
    import yaml

    try:
        found = yaml.safe_load(given)
    except yaml.YAMLError:
        raise UsageError(f"{given!r} is neither a name nor YAML such as {{name: grammar, strength: weak}}") from None
    return found if isinstance(found, dict) else given


def _playground(given: str) -> list[str]:
    from ..playground import corpus, moving

    name, split, count = [*given.split(":"), "", ""][:3]
    splits = list(corpus.SPLITS)
    if split not in splits or not (count or "1").isdigit():
        raise UsageError(f"{given!r} is not {name}:SPLIT:COUNT; splits are {', '.join(splits)}")
    asked = moving.prompts if name == "playground_moving" else corpus.prompts
    return asked(split, int(count or 200))
