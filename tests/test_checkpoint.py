"""Checkpoints: what is written is read back, damage is passed over, and what cannot be written harms nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal import ROOT, denoiser, rehearse, settings

from visalign.config import ConfigError, Run, load, plain
from visalign.trainers import DiffusionDPO
from visalign.training import checkpoint
from visalign.training.checkpoint import CheckpointError, Snapshot
from visalign.training.distributed import Ranks
from visalign.training.learner import Learner

RECORDS = {"count": 13, "sha256": "0" * 64}
FILES = ("trainable.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


def about(run: Run) -> dict[str, Any]:
    return {**checkpoint.environment(1, "cpu"), "config": plain(run), "records": RECORDS}


def snapshot(step: int, size: int = 8) -> Snapshot:
    values = torch.arange(size, dtype=torch.float32) + step
    moments = {"weight:exp_avg": -values, "weight:step": torch.tensor(3.0)}
    tensors = {"trainable": {"weight": values}, "optimizer": moments}
    return Snapshot(step, tensors, {"updates": step, "last": {"loss": 0.1 + 0.2}})


def save(folder: Path, step: int, keep: int = 2) -> Path:
    return checkpoint.save(folder, snapshot(step), about(Run()), keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_read_back_to_the_last_bit(tmp_path: Path) -> None:
    read, wrote = checkpoint.read(save(tmp_path, 3)), snapshot(3)
    assert (read.step, read.state) == (wrote.step, wrote.state)
    assert read.tensors.keys() == wrote.tensors.keys()
    for file, group in wrote.tensors.items():
        assert all(torch.equal(read.tensors[file][name], value) for name, value in group.items())


def test_the_files_are_safetensors_and_json_and_the_manifest_says_what_exactness_hangs_on(tmp_path: Path) -> None:
    path = save(tmp_path, 3)
    assert names(path) == sorted(FILES)
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["threads"] == torch.get_num_threads()
    assert manifest["processes"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["config"] == plain(Run())
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}


def test_old_checkpoints_go_only_after_the_new_one_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-000002", "step-000003"]

    def torn(path: Path, content: bytes) -> dict[str, Any]:
        path.write_bytes(content[:-1])
        return {"bytes": len(content), "sha256": "not looked at: the size differs"}

    monkeypatch.setattr(checkpoint, "_write_file", torn)
    with pytest.raises(CheckpointError):
        save(tmp_path, 4)
    assert {"step-000002", "step-000003"} <= set(names(tmp_path))
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.path.name == "step-000003"


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-2])  # a manifest without its last newline is still whole


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip, empty, Path.unlink])
@pytest.mark.parametrize("name", FILES)
def test_any_damage_to_any_file_falls_back_to_the_one_before_and_says_so(
    name: str, damage: Callable[[Path], None], tmp_path: Path
) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    damage(path / name)
    found = checkpoint.newest(tmp_path)
    assert found is not None
    assert found.path.name == "step-000001"
    assert len(found.damaged) == 1 and "step-000002" in found.damaged[0] and name in found.damaged[0]
    assert names(tmp_path) == ["damaged-step-000002", "step-000001"], "it is set aside, not thrown away"


def test_when_all_are_damaged_each_is_listed(tmp_path: Path) -> None:
    for step in (1, 2):
        truncate(save(tmp_path, step) / "optimizer.safetensors")
    with pytest.raises(CheckpointError) as caught:
        checkpoint.newest(tmp_path)
    assert all(f"step-00000{step}/optimizer.safetensors has" in str(caught.value) for step in (1, 2))
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_no_checkpoint_at_all_is_a_fresh_start(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "nothing") is None


def test_a_format_of_another_version_is_not_guessed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    with pytest.raises(CheckpointError, match="is of format 1, this version reads 2"):
        checkpoint.newest(tmp_path)


def test_what_a_killed_save_left_is_never_read_and_cleared_by_the_next(tmp_path: Path) -> None:
    shutil.copytree(save(tmp_path, 1), tmp_path / ".tmp-of-a-killed-save")
    found = checkpoint.newest(tmp_path)
    assert found is not None and found.path.name == "step-000001"
    save(tmp_path, 2)
    assert names(tmp_path) == ["step-000001", "step-000002"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 1)
    path = checkpoint.save(tmp_path, snapshot(1, size=3), about(Run()), 2)
    assert checkpoint.read(path).tensors["trainable"]["weight"].shape == (3,)
    assert names(tmp_path) == ["step-000001"]


# Disks that do not hold it -----------------------------------------------------------------------------------------

FULL_DISK = """
import sys, torch
from pathlib import Path
from visalign.training import checkpoint
from visalign.training.checkpoint import CheckpointError, Snapshot
folder = Path(sys.argv[1])
checkpoint._make_room = lambda folder, snapshot: None  # the estimate was wrong
for step, size in ((1, 10_000), (2, 1_000_000)):
    about = {"config": {}, "records": {}}
    checkpoint.save(folder, Snapshot(step, {"trainable": {"weight": torch.zeros(size)}}, {}), about, 2)
"""


def test_a_full_disk_keeps_the_earlier_checkpoint_and_says_what_to_do(tmp_path: Path) -> None:
    """On a real file system of 1 MB, in a mount namespace of its own."""
    mount = f"mount -t tmpfs -o size=1m tmpfs {tmp_path} && "
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount + "true"]).returncode:
        pytest.skip("no user may mount here (unshare -rm)")
    script = mount + f'{sys.executable} -c "$0" {tmp_path} 2>&1; ls -a {tmp_path}'
    path = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, FULL_DISK], capture_output=True, text=True, env={**os.environ, **path}
    )
    said = done.stdout
    assert "step-000002 was not written, the disk is full" in said
    assert "step-000001 is still there. Free some space and start again to resume" in said
    assert said.split()[-3:] == [".", "..", "step-000001"], "the part that was written is gone"


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file of this process may grow beyond 2 KB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_system_refuses_keeps_the_earlier_checkpoint(tmp_path: Path, small_files: None) -> None:
    state: dict[str, Any] = {"config": {}, "records": {}}
    checkpoint.save(tmp_path, snapshot(1), state, 2)
    with pytest.raises(CheckpointError, match=r"the system refused: .*File too large.*step-000001 is still there"):
        checkpoint.save(tmp_path, snapshot(2, size=10_000), state, 2)
    assert names(tmp_path) == ["step-000001"]


def test_a_disk_that_is_plainly_too_small_is_not_begun_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, 1)
    usage = shutil._ntuple_diskusage(1000, 980, 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(CheckpointError, match=r"the disk is full: .*needs .* MB and 0\.0 MB are free") as caught:
        save(tmp_path, 2)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == errno.ENOSPC


# Which settings may change -----------------------------------------------------------------------------------------


def compared(*changes: str, start: tuple[str, ...] = ()) -> list[str]:
    before = about(load(None, start))
    run = load(None, [*start, *changes])
    return checkpoint.compare(before, run, about(run))


def test_the_same_settings_differ_in_nothing() -> None:
    assert compared() == []


@pytest.mark.parametrize(
    "change", ["steps=5", "save_every=7", "keep=5", "log_every=3", "validation.every=9", "data.cache=/tmp/c", "name=b"]
)
def test_what_does_not_touch_the_losses_may_change_and_is_shown(change: str) -> None:
    (line,) = compared(change)
    assert line.startswith(change.split("=")[0] + ": ") and "->" in line and "rounding" not in line


@pytest.mark.parametrize("change", ["micro_batch=4", "model.checkpointing=true", "model.attention=sdpa"])
def test_what_touches_only_the_last_bits_may_change_and_is_announced(change: str) -> None:
    (line,) = compared(change)
    assert "only to rounding" in line


@pytest.mark.parametrize(
    "change",
    [
        "optimizer.lr=2e-5", "batch=16", "seed=1", "method.beta=3", "data.path=b.parquet", "model.rank=8", "ema=0.5",
        "precision=bf16", "optimizer.warmup=3",
    ],
)  # fmt: skip
def test_what_makes_it_another_run_is_refused_with_both_values(change: str) -> None:
    with pytest.raises(ConfigError, match="other settings") as caught:
        compared(change, "steps=5")
    assert f"{change.split('=')[0]}: " in str(caught.value) and "steps" not in str(caught.value)


def test_a_cosine_bends_with_the_number_of_steps_so_that_may_not_change() -> None:
    with pytest.raises(ConfigError, match="steps: 1000 -> 5"):
        compared("steps=5", start=("optimizer.schedule=cosine",))


def test_other_records_are_another_run() -> None:
    run = Run()
    other = about(run) | {"records": {"count": 12, "sha256": "f" * 64}}
    with pytest.raises(ConfigError, match=r"records: 13 \(000000000000\) -> 12 \(ffffffffffff\)"):
        checkpoint.compare(about(run), run, other)


def test_another_thread_or_process_count_or_version_is_announced() -> None:
    run = Run()
    before = about(run) | {"threads": 64, "processes": 8}
    lines = checkpoint.compare(before, run, about(run))
    assert [line.split(" (")[0] for line in lines] == [f"threads: 64 -> {torch.get_num_threads()}", "processes: 8 -> 1"]
    assert all("only to rounding" in line for line in lines)


# What the learner puts in and takes out ----------------------------------------------------------------------------


def test_every_state_of_the_learner_survives_and_the_loaded_moments_are_its_own(tmp_path: Path) -> None:
    """torch's load_state_dict keeps the tensors that it is given: they must not be the checkpoint's."""
    summary = rehearse(settings(tmp_path, "ema=0.9", "steps=3"))
    saved = checkpoint.read(summary.checkpoint)
    learner = Learner(settings(tmp_path, "ema=0.9"), DiffusionDPO(), denoiser(), Ranks("no"))
    learner.load(saved.tensors)
    loaded = learner.tensors()
    assert loaded.keys() == saved.tensors.keys() == {"trainable", "optimizer", "ema"}
    for file, group in saved.tensors.items():
        assert loaded[file].keys() == group.keys()
        for name, value in group.items():
            assert torch.equal(loaded[file][name], value)
            assert loaded[file][name].data_ptr() != value.data_ptr()


def test_lora_is_not_zero_after_loading_and_its_names_are_the_model_s(tmp_path: Path) -> None:
    summary = rehearse(settings(tmp_path, "steps=3"))
    trained = checkpoint.read(summary.checkpoint).tensors["trainable"]
    expected = {f"model.weights.network.{name}" for name in denoiser().trainable()}
    assert trained.keys() == expected
    assert all(value.abs().max() > 0 for name, value in trained.items() if "lora_B" in name)


def test_another_model_s_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    summary = rehearse(settings(tmp_path, "steps=3"))
    learner = Learner(settings(tmp_path), DiffusionDPO(), denoiser("full"), Ranks("no"))
    with pytest.raises(CheckpointError, match=r"trainable\.safetensors is of another model; it differs in model\."):
        learner.load(checkpoint.read(summary.checkpoint).tensors)
