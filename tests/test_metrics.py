"""What is measured, when it warns, and that every row is written once, whatever happens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rehearsal import losses, rehearse, settings

from visalign.config import Stop
from visalign.trainers import DiffusionDPO
from visalign.training import metrics
from visalign.training.healthy import HEALTHY
from visalign.training.metrics import Collapse, Jsonl, summarised

QUIET = {"win_error": 1.0, "win_reference_error": 1.0, "lose_error": 1.0, "lose_reference_error": 1.0}


def test_percentiles_accuracy_and_sigma_are_over_the_records_that_weigh() -> None:
    """Margins -1, 0, 1, 2 with weights 1, 0, 0.2, 1."""
    weights = np.array([1.0, 0.0, 0.2, 1.0])
    row = summarised({"margin": np.array([-1.0, 0.0, 1.0, 2.0])}, weights)
    assert row["margin"] == pytest.approx((-1 + 0.2 + 2) / 2.2, rel=1e-15)
    assert row["implicit_accuracy"] == pytest.approx(1.2 / 2.2, rel=1e-15)
    sigma = [1 / (1 + math.exp(margin)) for margin in (-1, 1, 2)]
    assert row["sigma_minus_margin"] == pytest.approx((sigma[0] + 0.2 * sigma[1] + sigma[2]) / 2.2, rel=1e-14)
    assert (row["margin_p05"], row["margin_p50"], row["margin_p95"]) == (-1.0, 1.0, 2.0)


def test_a_tie_is_half_right() -> None:
    assert summarised({"margin": np.array([-1.0, 0.0, 0.0, 2.0])}, np.ones(4))["implicit_accuracy"] == 0.5


def test_huge_margins_overflow_nothing() -> None:
    row = summarised({"margin": np.array([-1e6, 1e6])}, np.ones(2))
    assert row["sigma_minus_margin"] == 0.5


def test_the_mean_does_not_depend_on_the_order_of_the_records() -> None:
    generator = np.random.default_rng(0)
    values, weights = generator.normal(size=1000) * 10.0 ** generator.integers(-8, 8, 1000), generator.random(1000)
    shuffle = generator.permutation(1000)
    assert summarised({"loss": values}, weights) == summarised({"loss": values[shuffle]}, weights[shuffle])


def test_a_value_that_is_not_finite_is_not_hidden_in_a_mean() -> None:
    assert math.isnan(summarised({"loss": np.array([1.0, np.inf])}, np.ones(2))["loss"])


def test_what_weighs_nothing_says_nothing() -> None:
    """A record whose pictures nobody could judge has no score, and must not take the others' from the row."""
    values = {name: np.array([np.nan, 2.0]) for name in ("score", "margin")} | {"loss": np.array([0.0, 1.0])}
    alone = {name: each[1:] for name, each in values.items()}
    assert summarised(values, np.array([0.0, 0.5])) == summarised(alone, np.array([0.5]))


def test_every_metric_of_a_run_says_what_healthy_is(tmp_path: Path) -> None:
    last = rehearse(settings(tmp_path, "steps=2")).last
    assert set(last) - {"records_per_second"} <= set(HEALTHY) and "margin_p95" in last
    assert all(each.meaning.endswith(".") and each.range for each in HEALTHY.values())


# The alarm ---------------------------------------------------------------------------------------------------------


def errors(win: float, lose: float) -> dict[str, float]:
    """A step's row with these errors, the reference's being 1."""
    return {**QUIET, "win_error": win, "lose_error": lose}


def alarms(rule: Stop, *rows: dict[str, float]) -> list[bool]:
    alarm = Collapse(rule)
    return [alarm.sees(row) is not None for row in rows]


RULE = Stop(window=3, win_rise=0.2, lose_rise=0.5)


def test_the_alarm_is_raised_when_winners_and_losers_are_both_unlearnt() -> None:
    assert alarms(RULE, *[errors(1.3, 1.6)] * 4) == [False, False, True, True]


@pytest.mark.parametrize(("win", "lose"), [(1.0, 5.0), (0.9, 1.6), (1.3, 1.4), (1.0, 1.0), (1.19, 1.6)])
def test_it_is_not_raised_when_only_one_side_suffers(win: float, lose: float) -> None:
    """Losers getting worse alone is what the method is for."""
    assert not any(alarms(RULE, *[errors(win, lose)] * 10))


def test_single_steps_and_steps_without_errors_do_not_raise_it() -> None:
    assert not any(alarms(RULE, *[errors(1.5, 1.6), QUIET, QUIET] * 4))
    assert not any(alarms(RULE, *[{"loss": 1.0}, {**errors(9.0, 9.0), "lose_error": math.nan}] * 4))


def test_it_can_be_switched_off() -> None:
    assert not any(alarms(Stop(window=1, collapse=False), *[errors(9.0, 9.0)] * 4))


def test_its_memory_is_its_rows() -> None:
    first = Collapse(RULE)
    assert [first.sees(errors(1.3, 1.6)) for _ in range(2)] == [None, None]
    assert Collapse(RULE, json.loads(json.dumps(list(first.recent)))).sees(errors(1.3, 1.6)) is not None


def test_a_learning_rate_that_is_far_too_high_is_stopped_with_the_reason(tmp_path: Path) -> None:
    run = settings(tmp_path, "steps=60", "optimizer.lr=3e-2", "save_every=0", "stop.window=5")
    summary = rehearse(run, "full", method=DiffusionDPO(beta=1.0))
    assert summary.stopped == "collapse" and summary.steps < 60
    assert "lower optimizer.lr" in summary.why and "% above" in summary.why
    assert summary.checkpoint.name == f"step-{summary.steps:06d}"


# Rows --------------------------------------------------------------------------------------------------------------


def test_rows_after_the_resumed_step_and_a_line_that_was_cut_off_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": 0.5}) for step in (1, 2, 3)]
    path.write_text("\n".join(lines) + '\n{"step": 4, "lo')
    assert [row["step"] for row in metrics.read(path)] == [1, 2, 3]
    writer = Jsonl(path, after=2)
    writer.write(3, {"loss": 0.1})
    writer.close()
    assert [row["step"] for row in metrics.read(path)] == [1, 2, 3]
    assert float.fromhex(metrics.read(path)[-1]["loss_hex"]) == 0.1


def test_what_is_not_finite_is_null_in_a_line_and_named_in_hex(tmp_path: Path) -> None:
    writer = Jsonl(tmp_path / "metrics.jsonl", after=0)
    writer.write(1, {"loss": math.nan, "grad_norm": math.inf})
    writer.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {
        "step": 1, "loss_hex": "nan", "loss": None, "grad_norm": None,
    }  # fmt: skip


def test_tensorboard_holds_what_the_lines_hold(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rehearse(settings(tmp_path, "trackers=[tensorboard]", "log_every=5"))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("loss")}
    lines = {step: np.float32(float.fromhex(value)) for step, value in losses(tmp_path).items()}
    assert logged == lines and list(lines) == [5, 10, 12]
