"""What the reference says of the records' own answers, asked once before training and kept on disk.

A method that compares with the reference asks it the same of the same answers at every epoch: two of a DPO pair's eight
passes (a backward counts as two). An answer's log-probabilities lie under a key that names everything that they depend
on: the model's weights and how they are run, how records are read, and the tokens and pixels themselves. The dialogues
that share a forward are not part of it: they move the last bits at most, through the padding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ..batches import AnswerPairs, Dialogues, moved
from ..contract import Spoken
from ..text import token_log_probs
from .shards import name_of, replace_file

FORMAT = "1"  # raised whenever the same input would give another value
HELD = 1024  # answers that are held before they are written: what an interruption may cost


class Answered(Protocol):
    """A view of pairs of answers that can say what a pair consists of."""

    def __len__(self) -> int:
        """How many pairs there are."""

    def key(self, index: int) -> str:
        """The key of a pair's record."""

    def weight(self, index: int) -> float:
        """The pair's weight."""

    def digest(self, index: int) -> str:
        """A hash of the tokens and pixels of both answers."""

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> AnswerPairs:
        """The pairs at these indices."""


class Remembered:
    """Log-probabilities (tokens,) under names, in safetensors files that are whole or not there.

    A file is named by the sha256 of its bytes. One that was damaged is set aside, and what it held is asked again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[Path] = []
        self._known: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self.reload()

    def reload(self) -> None:
        """Take up what is on the disk, also what other processes wrote."""
        for path in sorted(self.folder.glob("*.safetensors")):
            with contextlib.suppress(FileNotFoundError):  # another process set it aside first
                self._known.update(self._opened(path))

    def _opened(self, path: Path) -> dict[str, Tensor]:
        data = path.read_bytes()
        with contextlib.suppress(SafetensorError):
            if hashlib.sha256(data).hexdigest() == path.stem:
                return load(data)
        os.replace(path, path.with_suffix(".damaged"))
        self.damaged.append(path)
        return {}

    def __contains__(self, name: str) -> bool:
        return name in self._known

    def __getitem__(self, name: str) -> Tensor:
        """(tokens,) on the CPU; KeyError for what was not asked."""
        return self._known[name]

    def add(self, name: str, values: Tensor) -> None:
        """Remember; on the disk once HELD are new."""
        self._known[name] = self._pending[name] = values.detach().cpu().clone()
        if len(self._pending) >= HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is new as one file."""
        if not self._pending:
            return
        data = save(self._pending)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors", data)
        self._pending = {}


@dataclass(frozen=True)
class Recalled:
    """The same view, whose batches carry what the reference says of their answers."""

    view: Answered
    memory: Remembered

    def __len__(self) -> int:
        return len(self.view)

    def key(self, index: int) -> str:
        """The key of a pair's record."""
        return self.view.key(index)

    def weight(self, index: int) -> float:
        """The pair's weight."""
        return self.view.weight(index)

    @property
    def left_out(self) -> Mapping[str, int]:
        """Records that no pair is made of, by reason."""
        return dict(getattr(self.view, "left_out", {}))

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> AnswerPairs:
        """The pairs at these indices, with `cached` (2b, A), zero beyond an answer's end."""
        made, names = self.view.batch(indices, visits, seed), [self.view.digest(index) for index in indices]
        rows = [self.memory[f"{name}/{side}"] for side in ("win", "lose") for name in names]
        counts = made.answers.answer.sum(1).tolist()
        if counts != [len(row) for row in rows]:
            raise ValueError(f"the cache has {[len(row) for row in rows]} tokens for answers of {counts}")
        return replace(made, cached=torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))


def folder_of(cache: Path, **settings: str) -> Path:
    """Where the answers of a reference are kept: below `cache`, by everything that is alike for all of them."""
    return cache / "recalled" / name_of("recalled", FORMAT, json.dumps(settings, sort_keys=True))[:32]


def digest(dialogues: Dialogues) -> str:
    """A hash of every token and pixel of some dialogues."""
    found = hashlib.sha256()
    for name, value in (*_tables(dialogues), *sorted(dialogues.media.items()), *sorted(dialogues.kinds.items())):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:32]


def _tables(dialogues: Dialogues) -> list[tuple[str, Tensor]]:
    return [(name, getattr(dialogues, name)) for name in ("ids", "attention", "answer")]


@torch.no_grad()
def recall(
    view: Answered,
    batches: Iterable[Sequence[int]],
    ask: Callable[[Dialogues], Spoken],
    memory: Remembered,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> int:
    """Ask what is not yet remembered, a batch of indices at a time; how many pairs were asked for.

    `ask` is the reference. What was remembered before an interruption is not asked again.
    """
    asked = 0
    for done, indices in enumerate(batches, start=1):
        names = [view.digest(index) for index in indices]
        if not all(f"{name}/{side}" in memory for name in names for side in ("win", "lose")):
            batch = moved(view.batch(indices, (0,) * len(indices), 0), device)
            spoken = ask(batch.answers)
            logs = token_log_probs(spoken)
            sides = [f"{name}/{side}" for side in ("win", "lose") for name in names]
            for name, log, mask in zip(sides, logs, spoken.mask, strict=True):
                memory.add(name, log[mask])
            asked += len(indices)
        if progress is not None:
            progress(done)
    memory.flush()
    return asked
