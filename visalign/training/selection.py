"""Which weights a run keeps: the ones whose validation pictures a scorer liked best, and when to stop looking."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from ..data.shards import replace_file


@dataclass(frozen=True)
class Selection:
    """The validations of a run on the disk: scores.jsonl with a row each, and best.safetensors, the best one's weights.

    Earlier validations win ties. Both files are replaced whole, and a run that goes on finds them.
    """

    folder: Path

    @property
    def rows(self) -> dict[int, float]:
        """Mean score by step, in order."""
        path = self.folder / "scores.jsonl"
        found = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.is_file() else ()
        return {row["step"]: row["score"] for row in found}

    @property
    def best(self) -> int | None:
        """The step whose pictures were liked best."""
        rows = self.rows
        return max(rows, key=lambda step: (rows[step], -step)) if rows else None

    def sees(self, step: int, score: float, weights: Mapping[str, Tensor]) -> None:
        """Take a validation in, after which what a resumed run had seen beyond it is forgotten."""
        rows = {before: value for before, value in self.rows.items() if before < step} | {step: score}
        self.folder.mkdir(parents=True, exist_ok=True)
        if score > max((value for before, value in rows.items() if before < step), default=-float("inf")):
            held = {name: each.detach().contiguous().cpu() for name, each in weights.items()}
            replace_file(self.folder / "best.safetensors", save(held))
        lines = [json.dumps({"step": at, "score": value}) + "\n" for at, value in rows.items()]
        replace_file(self.folder / "scores.jsonl", "".join(lines).encode())

    def stale(self, patience: int) -> str:
        """Why to stop: as many validations since the best one as `patience` allows (0: never); "" if there is none."""
        rows, best = self.rows, self.best
        since = sum(step > best for step in rows) if best is not None else 0
        if best is None or not patience or since < patience:
            return ""
        return f"{since} validations since step {best} scored no higher than its {rows[best]:.4g}"

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> int | None:
        """Copy the best weights into these; the step that they are of."""
        if self.best is None:
            return None
        for name, value in load_file(self.folder / "best.safetensors").items():
            weights[name].copy_(value)
        return self.best
