"""Shards of tensors are whole or not there, whoever writes them and whatever stops the writing."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from visalign.data import shards
from visalign.data.shards import Shards


def rows(count: int, start: int = 0) -> dict[str, dict[str, torch.Tensor]]:
    return {str(i): {"mean": torch.full((2, 3), float(i)), "frame": torch.tensor([i])} for i in range(start, count)}


def assert_holds(found: Shards, expected: dict[str, dict[str, torch.Tensor]]) -> None:
    assert len(found) == len(expected)
    for key, row in expected.items():
        assert key in found
        assert all(torch.equal(found[key][name], value) for name, value in row.items())


def test_rows_come_back_from_pending_from_disk_and_after_reopening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "SHARD_ROWS", 3)
    monkeypatch.setattr(shards, "OPEN_FILES", 2)
    made = Shards(tmp_path)
    for key, row in rows(14).items():
        made.add(key, row)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4  # and two rows pending
    assert_holds(made, rows(14))
    made.flush()
    for found in (made, Shards(tmp_path)):
        assert_holds(found, rows(14))
    with pytest.raises(KeyError):
        made["14"]


def test_a_shard_is_closed_when_it_is_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 100)
    made = Shards(tmp_path)
    for key, row in rows(8).items():  # 32 bytes each
        made.add(key, row)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


WRITER = """
import sys, time, torch
from pathlib import Path
from visalign.data import shards
def slow(descriptor):
    print("writing", flush=True)
    time.sleep(60)
shards.os.fsync = slow
made = shards.Shards(Path(sys.argv[1]))
made.add("a", {"mean": torch.zeros(1000)})
made.flush()
"""


def test_a_killed_writer_leaves_no_half_shard(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.kill()
    writer.wait()
    (left,) = tmp_path.iterdir()
    assert left.suffix == ".tmp"
    assert len(Shards(tmp_path)) == 0
    assert left.exists()  # somebody else might still be writing it
    yesterday = time.time() - shards.ABANDONED - 1
    os.utime(left, (yesterday, yesterday))
    Shards(tmp_path)
    assert not left.exists()


def write_rows(folder: Path, start: int) -> None:
    made = Shards(folder)
    for key, row in rows(start + 40, start).items():
        made.add(key, row)
        made.flush()


def test_two_writers_do_each_other_no_harm(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=write_rows, args=(tmp_path, start)) for start in (0, 20)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = Shards(tmp_path)
    assert (len(found), found.damaged) == (60, [])
    assert all(torch.equal(found[key]["mean"], row["mean"]) for key, row in rows(60).items())
    assert len(list(tmp_path.iterdir())) == 60  # a row that both wrote is one file: its name is its content
