"""A cache of tensors on disk: rows under content-addressed keys, in safetensors shards that are whole or not there.

A shard is written to a temporary name, flushed to the disk and renamed to the sha256 of its own bytes, so a reader can
tell that it is whole, and two writers can never hurt one another: the worst is a row that is there twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

SHARD_BYTES = 256 * 2**20  # a shard is closed when it holds this much,
SHARD_ROWS = 2048  # or this many rows: what an interruption may cost
OPEN_FILES = 64
ABANDONED = 24 * 3600  # seconds
FORMAT = "1"  # raised whenever the same input would give another value
Row = Mapping[str, Tensor]


class Shards:
    """The rows of one folder. Every row has the same columns, each of one shape and dtype.

    Opening reads every shard once and compares its bytes with its name; a damaged one is set aside (renamed to
    .damaged) and its rows are simply missing, to be made again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[Path] = []
        self._where: dict[str, tuple[Path, int]] = {}
        self._pending: dict[str, Row] = {}
        self._opened: OrderedDict[Path, Any] = OrderedDict()
        _sweep(folder)
        for path in sorted(folder.glob("*.safetensors")):
            with contextlib.suppress(FileNotFoundError):  # another process set it aside first
                self._admit(path)

    def __contains__(self, key: str) -> bool:
        return key in self._where or key in self._pending

    def __len__(self) -> int:
        return len(self._where.keys() | self._pending.keys())

    def __getitem__(self, key: str) -> dict[str, Tensor]:
        """The columns of a row; raises KeyError for a row that is not there."""
        if key in self._pending:
            return dict(self._pending[key])
        path, row = self._where[key]
        file = self._open(path)
        return {name: file.get_slice(name)[row : row + 1][0].clone() for name in file.keys()}  # noqa: SIM118

    def column(self, key: str, name: str) -> Tensor:
        """One column of a row, the others unread; raises KeyError for a row or column that is not there."""
        if key in self._pending:
            return self._pending[key][name]
        path, row = self._where[key]
        value: Tensor = self._open(path).get_slice(name)[row : row + 1][0].clone()
        return value

    def add(self, key: str, row: Row) -> None:
        """Hold a row, and write a shard once enough are held."""
        self._pending[key] = {name: value.detach().cpu().contiguous() for name, value in row.items()}
        held = sum(value.nbytes for value in self._pending[key].values()) * len(self._pending)
        if held >= SHARD_BYTES or len(self._pending) >= SHARD_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what is held as one shard."""
        if not self._pending:
            return
        keys = list(self._pending)
        columns = {name: torch.stack([self._pending[key][name] for key in keys]) for name in self._pending[keys[0]]}
        path = self._write(save(columns, metadata={"keys": json.dumps(keys)}))
        self._where.update({key: (path, row) for row, key in enumerate(keys)})
        self._pending = {}

    def _write(self, data: bytes) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{hashlib.sha256(data).hexdigest()}.safetensors"
        replace_file(path, data)
        return path

    def _admit(self, path: Path) -> None:
        """Take up the rows of a shard that is whole."""
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == path.stem
        if not whole:
            os.replace(path, path.with_suffix(".damaged"))
            self.damaged.append(path)
            return
        keys = json.loads(self._open(path).metadata()["keys"])
        self._where.update({key: (path, row) for row, key in enumerate(keys)})

    def _open(self, path: Path) -> Any:
        """The memory-mapped file; the longest unused of many is closed."""
        if path not in self._opened:
            try:
                self._opened[path] = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise OSError(f"{path} vanished or was changed while it was in use: start again") from error
            if len(self._opened) > OPEN_FILES:
                self._opened.popitem(last=False)
        self._opened.move_to_end(path)
        return self._opened[path]


def name_of(*parts: str) -> str:
    """The sha256 of some texts: a key, or the name of a folder for all that was made with the same settings."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()


def _sweep(folder: Path) -> None:
    """Remove what killed writers left, once nobody can still be writing it."""
    for path in folder.glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or as it was before: temporary name, fsync, rename."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
