"""A run that is interrupted goes on as if it had not been: every loss and every weight, to the last bit."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rehearsal import Nursery, digest, losses, rehearse, settings

from visalign.config import ConfigError
from visalign.training import checkpoint
from visalign.training.engine import Moment

LAST = "checkpoints/step-000012"


class Crash(Exception):
    """The test pulled the plug."""


def crash_at(step: int) -> Callable[[Moment], None]:
    def crash(moment: Moment) -> None:
        if moment.step == step:
            raise Crash

    return crash


KINDS = {
    "lora with dropout": ("lora", 0.3, ("optimizer.warmup=5", "optimizer.schedule=cosine")),
    "full with an average": ("full", 0.0, ("ema=0.9", "optimizer.lr=1e-4")),
    "bf16 autocast": ("lora", 0.0, ("precision=bf16",)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_resuming_is_as_if_nothing_had_happened(kind: str, tmp_path: Path) -> None:
    """12 steps of 4 records cross the end of an epoch of 13 within a window, before and after the crash."""
    train, dropout, changes = KINDS[kind]
    whole = rehearse(settings(tmp_path / "whole", *changes), train, dropout)
    broken = settings(tmp_path / "broken", *changes)
    for step in (2, 5, 10):  # before the first checkpoint, then between checkpoints
        with pytest.raises(Crash):
            rehearse(broken, train, dropout, on_step=crash_at(step))
    resumed = rehearse(broken, train, dropout)

    assert resumed.resumed == 9
    assert losses(broken.out) == losses(whole.out)
    assert len(losses(whole.out)) == 12
    assert digest(resumed.checkpoint) == digest(whole.checkpoint)


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    first = rehearse(settings(tmp_path))
    again = rehearse(settings(tmp_path))
    assert (again.resumed, again.steps, again.stopped) == (12, 12, "finished")
    assert again.last == first.last


def test_more_steps_may_be_asked_for_and_continue_the_run(tmp_path: Path) -> None:
    whole = rehearse(settings(tmp_path / "whole", "steps=15"))
    rehearse(settings(tmp_path / "longer"))
    longer = rehearse(settings(tmp_path / "longer", "steps=15"))
    assert "steps: 12 -> 15" in longer.notes
    assert losses(tmp_path / "longer") == losses(tmp_path / "whole")
    assert digest(longer.checkpoint) == digest(whole.checkpoint)


def test_starting_over_sets_the_earlier_run_aside(tmp_path: Path) -> None:
    """Also with settings that it could not be resumed with; only the last earlier run is kept."""
    first = rehearse(settings(tmp_path, "steps=3"))
    kept, rows = digest(first.checkpoint), losses(tmp_path)
    again = rehearse(settings(tmp_path, "steps=3", "optimizer.lr=2e-3"), resume=False)
    assert again.resumed == 0 and "previous" in again.notes[0]
    assert digest(tmp_path / "previous/checkpoints/step-000003") == kept
    assert losses(tmp_path / "previous") == rows
    assert len(losses(tmp_path)) == 3 and losses(tmp_path) != rows
    rehearse(settings(tmp_path, "steps=3", "optimizer.lr=2e-3"), resume=False)
    assert losses(tmp_path / "previous") == losses(tmp_path)


def test_another_learning_rate_is_refused_before_anything_is_touched(tmp_path: Path) -> None:
    first = rehearse(settings(tmp_path, "steps=3"))
    before = digest(first.checkpoint), losses(tmp_path)
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.001 -> 0\.002"):
        rehearse(settings(tmp_path, "steps=3", "optimizer.lr=2e-3"))
    assert (digest(first.checkpoint), losses(tmp_path)) == before


def test_a_damaged_newest_checkpoint_is_passed_over_and_the_losses_are_the_same(tmp_path: Path) -> None:
    whole = rehearse(settings(tmp_path / "whole"))
    broken = settings(tmp_path / "broken")
    with pytest.raises(Crash):
        rehearse(broken, on_step=crash_at(8))
    file = broken.out / "checkpoints/step-000006/optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    resumed = rehearse(broken)

    assert resumed.resumed == 3
    assert "step-000006/optimizer.safetensors has" in resumed.notes[0]
    assert losses(broken.out) == losses(whole.out)
    assert digest(resumed.checkpoint) == digest(whole.checkpoint)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield made
    made.close()


def killed(nursery: Nursery, out: Path, seconds: float, during_save: bool, **job: Any) -> bool:
    """Start a job and kill its whole group after a while, or that long into a save; whether a save was cut off."""
    left_before = set(out.glob("checkpoints/.tmp-*"))
    group = nursery.start(out, **job)
    give_up = time.monotonic() + 60
    while during_save and not set(out.glob("checkpoints/.tmp-*")) - left_before and time.monotonic() < give_up:
        time.sleep(0.001)
    time.sleep(seconds)
    os.killpg(group, signal.SIGKILL)
    assert nursery.wait() == -signal.SIGKILL, "the run ended before it was killed: make it longer"
    return bool(set(out.glob("checkpoints/.tmp-*")) - left_before)


def kill_and_compare(nursery: Nursery, folder: Path, kills: list[tuple[float, bool]], **job: Any) -> int:
    """How many of the kills cut a save off."""
    nursery.start(folder / "whole", **job)
    assert nursery.wait() == 0
    cut = sum(killed(nursery, folder / "broken", *each, slow=0.02, **job) for each in kills)
    nursery.start(folder / "broken", **job)
    assert nursery.wait() == 0

    whole, broken = (checkpoint.listed(folder / name / "checkpoints")[-1] for name in ("whole", "broken"))
    assert losses(folder / "broken") == losses(folder / "whole")
    assert digest(broken) == digest(whole)
    ended = [json.loads((folder / name / "rank-0.json").read_text()) for name in ("whole", "broken")]
    assert ended[0]["weights"] == ended[1]["weights"]
    assert not list((folder / "broken/checkpoints").glob(".tmp-*")), "what killed saves left was not cleared away"
    return cut


def test_a_second_signal_ends_the_run_at_once(nursery: Nursery, tmp_path: Path) -> None:
    nursery.start(tmp_path, terminate=[0, 4], twice=True)
    assert nursery.wait() == -signal.SIGTERM
    assert [path.name for path in checkpoint.listed(tmp_path / "checkpoints")] == ["step-000003"]


def test_two_kills_one_of_them_while_saving_change_no_bit(nursery: Nursery, tmp_path: Path) -> None:
    assert kill_and_compare(nursery, tmp_path, [(0.5, False), (0.03, True)], dropout=0.3) >= 1


@pytest.mark.kill
@pytest.mark.parametrize("train", ["lora", "full"])
def test_ten_random_kills_change_no_bit(train: str, nursery: Nursery, tmp_path: Path) -> None:
    """Half of them land in a save; the seed is the test's own."""
    chance = random.Random(train)
    kills = [(chance.uniform(0.0, 0.1 if during else 1.0), during) for during in [False, True] * 5]
    cut = kill_and_compare(
        nursery, tmp_path, kills, train=train, dropout=0.3, changes=("steps=60", "save_every=1", "ema=0.9")
    )
    assert cut >= 3, "too few kills cut a save off to say anything about saving"
