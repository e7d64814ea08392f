"""fp16's loss scale: overflows are left out and counted, and the scale is part of the run.

torch's scaler also runs on a CPU, where autocast to fp16 does not: here it scales float32, whose overflows are as good.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from rehearsal import denoiser, digest, losses, rehearse, settings
from torch.amp.grad_scaler import GradScaler

from visalign.training.distributed import Ranks
from visalign.training.engine import Moment


class Crash(Exception):
    """The test pulled the plug."""


def crash(moment: Moment) -> None:
    if moment.step == 8:
        raise Crash


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this test scale their losses by 2^126 at first, which overflows, and by half as much after overflows."""
    begin = Ranks.__init__

    def begin_scaled(ranks: Ranks, precision: str) -> None:
        begin(ranks, precision)
        ranks.accelerator.scaler = GradScaler("cpu", init_scale=2.0**126, growth_interval=3)

    monkeypatch.setattr(Ranks, "__init__", begin_scaled)


def test_overflows_move_nothing_and_are_counted_and_the_rest_is_the_unscaled_run(tmp_path: Path, scaled: None) -> None:
    model = denoiser()
    start = {name: value.detach().clone() for name, value in model.trainable().items()}
    still = []

    def look(moment: Moment) -> None:
        still.append(all(torch.equal(value, start[name]) for name, value in model.trainable().items()))

    summary = rehearse(settings(tmp_path, "steps=40", "ema=0.5", "save_every=0"), model=model, on_step=look)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    overflowed = [row["step"] for row in rows if row["grad_norm"] is None]
    assert 0 < len(overflowed) == summary.idle < 40 and summary.skipped == 0
    first = still.index(False)
    assert overflowed[:first] == list(range(1, first + 1)), "nothing moves before the scale has come down"
    assert all(row["grad_norm"] > 0 for row in rows if row["step"] not in overflowed)
    state = json.loads((summary.checkpoint / "state.json").read_text())
    assert state["updates"] == 40 - summary.idle
    assert state["scaler"]["scale"] < 2.0**126


def test_the_scale_is_part_of_what_is_resumed(tmp_path: Path, scaled: None) -> None:
    whole = rehearse(settings(tmp_path / "whole"))
    with pytest.raises(Crash):
        rehearse(settings(tmp_path / "broken"), on_step=crash)
    resumed = rehearse(settings(tmp_path / "broken"))
    assert resumed.resumed == 6
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    assert digest(resumed.checkpoint) == digest(whole.checkpoint)
    states = [json.loads((each.checkpoint / "state.json").read_text()) for each in (whole, resumed)]
    assert states[0]["scaler"] == states[1]["scaler"]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_trains_on_an_accelerator_from_log_two(precision: str, tmp_path: Path) -> None:
    summary = rehearse(settings(tmp_path, f"precision={precision}"), "full", model=denoiser("full").to("cuda"))
    assert losses(tmp_path)[1] == float(torch.log(torch.tensor(2.0))).hex()
    assert summary.skipped == 0 and summary.idle < 12
    assert summary.last["grad_norm"] > 0
