"""Training runs as the page shows them: what was measured at each step, thinned, and the validation sheets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visalign.training import metrics
from visalign.training.healthy import HEALTHY

from .safety import Refused

ROWS = 600  # points of a curve: more than that no screen shows
SHEET = re.compile(r"step-\d+\.png")


class Runs:
    """The folders of training runs, by a short name. They are read anew whenever somebody looks."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = dict(folders)

    def listed(self) -> list[dict[str, Any]]:
        """Every run, how far it is, and whether it is done."""
        return [self._about(name, folder) for name, folder in self.folders.items()]

    def _about(self, name: str, folder: Path) -> dict[str, Any]:
        rows = metrics.read(folder / "metrics.jsonl")
        return {
            "name": name,
            "step": int(rows[-1]["step"]) if rows else 0,
            "steps": _steps(folder),
            "done": (folder / "weights").is_dir(),
        }

    def shown(self, name: str, after: int = 0) -> dict[str, Any]:
        """The rows after a step, thinned to ROWS, the names of the sheets, and what is healthy."""
        folder = self._folder(name)
        rows = [row for row in metrics.read(folder / "metrics.jsonl") if row["step"] > after]
        return {
            **self._about(name, folder),
            "rows": thinned(rows),
            "sheets": sorted(path.name for path in (folder / "validation").glob("*.png") if SHEET.fullmatch(path.name)),
            "healthy": {key: {"meaning": each.meaning, "range": each.range} for key, each in HEALTHY.items()},
        }

    def sheet(self, name: str, file: str) -> Path:
        """A validation sheet's file; raises Refused for anything else."""
        path = self._folder(name) / "validation" / file
        if not SHEET.fullmatch(file) or not path.is_file():
            raise Refused("no such sheet")
        return path

    def _folder(self, name: str) -> Path:
        if name not in self.folders:
            raise Refused(f"no run is named {name!r}; there are {', '.join(self.folders) or 'none'}")
        return self.folders[name]


def thinned(rows: Sequence[Mapping[str, Any]], most: int = ROWS) -> list[dict[str, Any]]:
    """At most `most` rows: means of equal stretches, each under the step of its last row; the last row is the last."""
    width = max(1, math.ceil(len(rows) / most))
    return [_mean(rows[start : start + width]) for start in range(0, len(rows), width)]


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {"step": rows[-1]["step"]}
    for name in rows[-1]:
        values = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if name != "step" and values:
            found[name] = math.fsum(values) / len(values)
    return found


def _steps(folder: Path) -> int | None:
    """How many steps the run was asked for."""
    path = folder / "run.yaml"
    if not path.is_file():
        return None
    found = re.search(r"^steps: (\d+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return int(found[1]) if found else None
