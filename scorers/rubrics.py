"""Rubrics: the aspects that a judge is asked about and how each is worded, from YAML, checked before anything is asked.

    name: mine
    about: You compare photographs for a calendar.
    aspects:
      - {name: light, question: How well is the picture lit?, worst: flat or burnt out, best: shapes the subject}

`overall` is one question, `visionprefer` the four aspects of VisionPrefer (arXiv 2404.15100), `video_detail` what
DenseDPO asks about segments (arXiv 2506.03517). The wording is this project's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from visalign.strict import ConfigError, between, check_ranges, fill, suggestion

PREFIX = "rubric_"  # of the files beside this one


@dataclass(frozen=True)
class Aspect:
    """One thing that is judged."""

    name: str
    question: str
    worst: str = "as bad as can be"  # what the lowest rating means
    best: str = "without a flaw"  # what the highest one means
    weight: float = between(1.0, 0.0, open_low=True)  # in the mean over the aspects


@dataclass(frozen=True)
class Rubric:
    """What a judge is told and asked. Raises ConfigError for one that cannot be used."""

    aspects: tuple[Aspect, ...]
    name: str = "custom"
    about: str = "You judge pictures that were made from a text prompt."
    lowest: int = between(1, 0)  # rating
    highest: int = between(5, 1, 100)
    ties: bool = True  # whether a judge may call two equally good

    def __post_init__(self) -> None:
        check_ranges(self)
        names = [each.name for each in self.aspects]
        if not names:
            raise ConfigError(f"rubric {self.name} has no aspects: give at least one, {{name: …, question: …}}")
        for each in self.aspects:
            check_ranges(each, f"aspect {each.name}")
            if not re.fullmatch(r"[a-z][a-z0-9_]*", each.name) or not each.question.strip():
                raise ConfigError(f"an aspect has a name of a-z, 0-9 and _ and a question, got {each}")
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"rubric {self.name} has the aspect {twice[0]} twice")
        if self.lowest >= self.highest:
            raise ConfigError(f"ratings go from lowest to highest, got {self.lowest} … {self.highest}")

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return sum(each.weight for each in self.aspects)


def shipped() -> list[str]:
    """The rubrics that come with the package."""
    files = resources.files(__package__).iterdir()
    return sorted(each.name.removeprefix(PREFIX)[:-5] for each in files if each.name.startswith(PREFIX))


def load(given: str | Path | Mapping[str, Any] | Rubric) -> Rubric:
    """A rubric by its name, of a YAML file, or of a mapping; ConfigError says what is wrong with it."""
    if isinstance(given, Rubric):
        return given
    if isinstance(given, Mapping):
        return fill(Rubric, given, "rubric")
    if Path(given).suffix in (".yaml", ".yml"):
        return _of(given, _text(Path(given)))
    if str(given) not in shipped():
        raise ConfigError(f"no rubric is named {str(given)!r}{suggestion(str(given), shipped())}, or a .yaml file")
    return _of(given, (resources.files(__package__) / f"{PREFIX}{given}.yaml").read_text(encoding="utf-8"))


def _text(path: Path) -> str:
    try:
        return path.expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rubric {path} cannot be read ({error})") from None


def _of(source: str | Path, text: str) -> Rubric:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"rubric {source} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, Mapping):
        raise ConfigError(f"rubric {source} should hold name, about and aspects, got {values!r}")
    return fill(Rubric, {"name": Path(source).stem, **values}, f"rubric {source}")
