"""Checkpoints that survive kills, full disks and flipped bits: safetensors and JSON, no pickle.

<out>/checkpoints/step-000123/ holds a safetensors file for each group of tensors, state.json, and manifest.json with
the size and sha256 of every file. It is written under another name, put on the disk, renamed in one step and verified;
only then are old checkpoints removed. The newest is the newest that verifies: there is no pointer file to go stale.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..config import ConfigError, Run, flat, plain

FORMAT = 1
NAME = re.compile(r"step-(\d+)")
PARTIAL, REPLACED = ".tmp-", ".old-"

# Settings that a resumed run may change. `steps` only with a constant learning rate: a cosine bends with it.
FREE = ("name", "out", "steps", "save_every", "keep", "log_every", "trackers", "validation", "stop", "skip_nonfinite")
FREE_BELOW = ("data.cache", "data.max_bad", "model.allow_download")
# These keep the run's meaning, not its last bits.
ROUNDING = ("micro_batch", "compile", "model.attention", "model.strict_attention", "model.checkpointing")


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written, or none of which can be read."""


@dataclass(frozen=True)
class Snapshot:
    """Everything that a resumed run needs."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]  # file stem -> name -> tensor
    state: Mapping[str, Any]  # JSON


@dataclass(frozen=True)
class Found:
    """The newest checkpoint that verifies, and what was wrong with newer ones."""

    path: Path
    manifest: Mapping[str, Any]
    damaged: tuple[str, ...]


def save(folder: Path, snapshot: Snapshot, about: Mapping[str, Any], keep: int) -> Path:
    """Write one checkpoint below `folder`, verify it, and only then prune to the `keep` newest.

    `about` goes into the manifest: versions, settings, threads, processes. CheckpointError if it cannot be written; the
    earlier checkpoints are then as they were.
    """
    final = folder / f"step-{snapshot.step:06d}"
    partial = folder / f"{PARTIAL}{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _make_room(folder, snapshot)
        partial.mkdir()
        _write(partial, snapshot, about)
        _put_in_place(partial, final)
        verify(final)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(_cannot_write(final, error)) from error
    prune(folder, keep)
    return final


def newest(folder: Path) -> Found | None:
    """The newest checkpoint that verifies; None if there is none at all, CheckpointError if all are damaged.

    Damaged ones that were newer are set aside as damaged-step-…, so that pruning counts whole ones only.
    """
    damaged: dict[Path, str] = {}
    for path in reversed(listed(folder)):
        try:
            manifest = verify(path)
        except CheckpointError as error:
            damaged[path] = str(error)
        else:
            _set_aside(damaged)
            return Found(path, manifest, tuple(damaged.values()))
    if damaged:
        lines = "\n  ".join(damaged.values())
        raise CheckpointError(f"no checkpoint in {folder} is whole; move the folder away to start over:\n  {lines}")
    return None


def read(path: Path) -> Snapshot:
    """The content of a checkpoint, tensors on the CPU. Verify it first."""
    tensors = {file.stem: load_file(file) for file in sorted(path.glob("*.safetensors"))}
    return Snapshot(_step(path), tensors, json.loads((path / "state.json").read_text(encoding="utf-8")))


def verify(path: Path) -> dict[str, Any]:
    """The manifest, after every file was found with the size and sha256 that it states; CheckpointError if not."""
    try:
        manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        digest = manifest.pop("digest")
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}/manifest.json cannot be read: {type(error).__name__}: {error}") from None
    if digest != _digest(manifest):
        raise CheckpointError(f"{path}/manifest.json is not what was written: its digest differs")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path} is of format {manifest['format']}, this version reads {FORMAT}")
    for name, file in manifest["files"].items():
        _verify_file(path / name, file)
    return manifest


def listed(folder: Path) -> list[Path]:
    """Every checkpoint below `folder`, damaged or not, oldest first."""
    found = [path for path in folder.glob("step-*") if NAME.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=_step)


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest, and what killed saves left behind."""
    left_over = [*folder.glob(f"{PARTIAL}*"), *folder.glob(f"{REPLACED}*")]
    for path in listed(folder)[:-keep] + left_over:
        shutil.rmtree(path)


def start_over(out: Path) -> bool:
    """Set an earlier run's checkpoints and rows aside in out/previous, where only the last such run is kept."""
    if not listed(out / "checkpoints"):
        return False
    previous = out / "previous"
    shutil.rmtree(previous, ignore_errors=True)
    previous.mkdir()
    for part in (out / "checkpoints", out / "metrics.jsonl"):
        if part.exists():
            os.replace(part, previous / part.name)
    return True


def environment(processes: int, device: str) -> dict[str, Any]:
    """What bit equality hangs on besides the settings."""
    packages = ("visalign", "numpy", "accelerate", "diffusers", "transformers", "peft", "safetensors")
    built = {"python": platform.python_version(), "torch": torch.__version__}
    versions = built | {name: _version(name) for name in packages}
    machine = {"machine": platform.machine(), "device": device}
    return {"versions": versions, "threads": torch.get_num_threads(), "processes": processes, **machine}


def compare(before: Mapping[str, Any], run: Run, about: Mapping[str, Any]) -> list[str]:
    """What differs from the run that wrote the manifest `before`, a line each; ConfigError if it may not differ."""
    old, new = flat(before["config"]), flat(plain(run))
    differing = [key for key in [*old, *(new.keys() - old.keys())] if old.get(key) != new.get(key)]
    lines = {key: f"{key}: {old.get(key)!r} -> {new.get(key)!r}" for key in differing}
    refused = [line for key, line in lines.items() if not _may_change(key, run)]
    if before["records"] != about["records"]:
        refused.append(f"records: {_records(before)} -> {_records(about)}")
    if refused:
        raise ConfigError(
            f"{run.out} holds a run with other settings; give another out, or take these back: {'; '.join(refused)}"
        )
    moved = [f"{key}: {before.get(key)} -> {about[key]}" for key in environment(1, "") if before.get(key) != about[key]]
    rounding = " (from here on equal to the uninterrupted run only to rounding)"
    return [line + rounding * key.startswith(ROUNDING) for key, line in lines.items()] + [m + rounding for m in moved]


def _may_change(key: str, run: Run) -> bool:
    if key == "steps":
        return run.optimizer.schedule == "constant"
    return key.split(".")[0] in FREE or key in FREE_BELOW + ROUNDING


def _records(about: Mapping[str, Any]) -> str:
    return f"{about['records']['count']} ({about['records']['sha256'][:12]})"


def _set_aside(paths: Iterable[Path]) -> None:
    for path in paths:
        aside = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(path, aside)


def _make_room(folder: Path, snapshot: Snapshot) -> None:
    """Raise ENOSPC before a byte is written, where it is plain that the disk would not hold it."""
    needed = sum(each.nbytes for group in snapshot.tensors.values() for each in group.values())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"it needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free")


def _write(partial: Path, snapshot: Snapshot, about: Mapping[str, Any]) -> None:
    files = {}
    for stem, group in snapshot.tensors.items():
        content = to_bytes({name: each.detach().cpu().contiguous() for name, each in group.items()})
        files[f"{stem}.safetensors"] = _write_file(partial / f"{stem}.safetensors", content)
    files["state.json"] = _write_file(partial / "state.json", _json(snapshot.state))
    manifest = {"format": FORMAT, "step": snapshot.step, "files": files, **about}
    _write_file(partial / "manifest.json", _json(manifest | {"digest": _digest(manifest)}))
    _sync_folder(partial)


def _write_file(path: Path, content: bytes) -> dict[str, Any]:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename in one step; a folder that stands there already gives way."""
    if final.exists():
        os.replace(final, final.with_name(f"{REPLACED}{uuid.uuid4().hex}"))
    os.replace(partial, final)
    _sync_folder(final.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _verify_file(path: Path, stated: Mapping[str, Any]) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    if path.stat().st_size != stated["bytes"]:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, its manifest says {stated['bytes']}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != stated["sha256"]:
            raise CheckpointError(f"{path} is not what was written: its sha256 differs from its manifest's")


def _cannot_write(final: Path, error: OSError) -> str:
    kept = listed(final.parent)
    left = f"{kept[-1]} is still there" if kept else "there is no earlier one"
    why = "the disk is full" if error.errno == errno.ENOSPC else "the system refused"
    return f"checkpoint {final} was not written, {why}: {error}; {left}. Free some space and start again to resume"


def _digest(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(_json(manifest)).hexdigest()


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
