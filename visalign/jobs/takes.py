"""Takes of real pictures or clips as candidates to be judged. What `visalign guided` does, for any caller.

Each picture's takes are files of their own, named by what it holds and shows, and are there whole or not: the same call
goes on where an interrupted one stopped, and originals that were added to a folder change nothing of the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import ConfigError
from ..data import clips, media, originals, store
from ..data.originals import Opened, Original
from ..data.shards import replace_file
from ..diffusion.guided import HIGH, LOW, Takes, guided_takes, level_of
from ..diffusion.sampling import to_uint8
from ..drawing import Drawer
from ..draws import Draws
from ..evaluation.report import png
from ..images import ImageError
from ..records import Preference
from . import Screen


@dataclass(frozen=True)
class Plan:
    """What is drawn from each original."""

    count: int = 2
    levels: tuple[float, float] = (LOW, HIGH)  # shares of noise that takes begin with
    seed: int = 0

    def __post_init__(self) -> None:
        low, high = self.levels
        if self.count < 1 or not 0 < low <= high <= 1:
            raise ConfigError(f"at least 1 take, 0 < low <= high <= 1: got {self.count} takes, levels {low} … {high}")


@dataclass(frozen=True)
class Outcome:
    """What is there now."""

    records: Path
    count: int  # of originals that have their takes
    drawn: int  # of those, how many were drawn by this call
    bad: tuple[str, ...]  # why others have none


def walk(drawer: Drawer, found: Sequence[Original], root: Path, out: Path, plan: Plan, screen: Screen) -> Outcome:
    """Draw what is not there yet; then write records.jsonl, and takes.jsonl with each one's original and level.

    Originals that cannot be read are left out and told. Raises ConfigError if `out` holds takes of other settings.
    """
    job, there, drawn = Job(drawer, root, out, plan), dict[str, Original](), 0
    job.claim()
    with screen.stage(f"draw {plan.count} takes of each with {drawer.source.name}", total=len(found)) as stage:
        for start in range(0, len(found), job.at_once):
            batch = found[start : start + job.at_once]
            opened = job.opened(batch)
            drawn += job.take({name: one for name, one in opened.items() if not job.done(name)})
            there |= {name: one.original for name, one in opened.items() if job.done(name)}
            stage(start + len(batch))
    media.forget()
    return Outcome(job.write(there), len(there), drawn, tuple(job.bad))


class Job:
    """Takes by one drawer into one folder, of originals cut to the size that it draws."""

    def __init__(self, drawer: Drawer, root: Path, out: Path, plan: Plan) -> None:
        self.drawer, self.root, self.out, self.plan = drawer, root, out, plan
        self.bad: list[str] = []  # why an original has no takes
        *frames, height, width = drawer.size
        self.sides = (height, width)
        self.frames = frames[0] if frames else None

    @property
    def at_once(self) -> int:
        """How many originals have their takes drawn together: as many as was said, or by the size of all takes."""
        return self.drawer.settings.batch or max(1, self.drawer.batch // self.plan.count)

    def claim(self) -> None:
        """Note in takes.json how takes here are drawn; ConfigError if they were drawn otherwise, or cannot be."""
        level_of(self.drawer.model.process, self._draw([]), self.plan.levels)
        told, file = self._settings(), self.out / "takes.json"
        if file.is_file() and (before := json.loads(file.read_text(encoding="utf-8"))) != told:
            odd = min(name for name in told.keys() | before.keys() if told.get(name) != before.get(name))
            said = f"{odd} {before.get(odd)!r}, not {told.get(odd)!r}"
            raise ConfigError(f"{self.out} holds takes that were drawn with {said}: name another --out")
        self.out.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(told, indent=1).encode())

    def _settings(self) -> dict[str, Any]:
        plan, how = self.plan, self.drawer.proof("", 0)
        drawing = {name: how[name] for name in ("weights", "sampler", "prediction", "steps", "guidance", "dtype")}
        return drawing | {
            "size": list(self.drawer.size),
            "takes": plan.count,
            "levels": list(plan.levels),
            "seed": plan.seed,
        }

    def opened(self, batch: Sequence[Original]) -> dict[str, Opened]:
        """The bytes of originals, by name; what cannot be read is noted in `bad`."""
        found = {}
        for each in batch:
            try:
                one = originals.opened(each, self.root, self.frames)
                found[one.name] = one
            except ImageError as error:
                self.bad.append(str(error))
        return found

    def files(self, name: str) -> list[str]:
        """The takes of the original of that name, relative to the folder."""
        room, ending = ("pictures", "png") if self.frames is None else ("clips", "webp")
        return [f"{room}/{name}-{take}.{ending}" for take in range(self.plan.count)]

    def done(self, name: str) -> bool:
        """Whether all takes are there."""
        return all((self.out / file).is_file() for file in self.files(name))

    def take(self, missing: Mapping[str, Opened]) -> int:
        """Draw and write the takes of these, and say of how many; what cannot be decoded is noted in `bad`."""
        pixels: dict[str, Tensor] = {}
        for name, one in missing.items():
            try:
                pixels[name] = one.pixels(*self.sides)
            except ImageError as error:
                self.bad.append(str(error))
        if pixels:
            prompts = [missing[name].original.prompt for name in pixels]
            found = self._drawn(list(pixels), torch.stack(list(pixels.values())), prompts)
            for name, each in zip(pixels, found.x, strict=True):
                self._save(name, to_uint8(self.drawer.encoders.decode(each)))
        return len(pixels)

    def _drawn(self, names: Sequence[str], pixels: Tensor, prompts: Sequence[str]) -> Takes:
        """From the middle of each one's posterior."""
        drawer = self.drawer
        latents, _ = drawer.encoders.encode_images(pixels)
        size = tuple(pixels.shape[2:])
        told, untold = (drawer.painter.conditions(each, size) for each in (prompts, [""] * len(prompts)))
        return guided_takes(
            drawer.model, latents.to(drawer.place, drawer.dtype), told, untold, self._draw(names),
            steps=drawer.settings.steps, guidance=drawer.settings.guidance, count=self.plan.count,
            levels=self.plan.levels, predict=drawer.predict, negative=drawer.negative.policy,
        )  # fmt: skip

    def _draw(self, names: Sequence[str]) -> Draws:
        return Draws(self.plan.seed, tuple(names), (0,) * len(names))

    def _save(self, name: str, takes: NDArray[np.uint8]) -> None:
        for file, take in zip(self.files(name), takes, strict=True):
            path = self.out / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if self.frames is None:
                replace_file(path, png(take))
            else:
                clips.write(path, take, rate=self.drawer.source.folder.family.rate)

    def write(self, there: Mapping[str, Original]) -> Path:
        """The records of what is there, and beside them where each is from; the records' path."""
        models = (self.drawer.source.name,) * self.plan.count
        records = [Preference(each.prompt, tuple(self.files(name)), models=models) for name, each in there.items()]
        levels = level_of(self.drawer.model.process, self._draw(list(there)), self.plan.levels)
        items = media.seen_from([each.item for each in there.values()], self.root, self.out)
        rows = [
            {"key": record.key, "original": item, "level": float(level)}
            for record, item, level in zip(records, items, levels, strict=True)
        ]
        replace_file(self.out / "takes.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
        store.write(records, self.out / "records.jsonl")
        return self.out / "records.jsonl"
