"""The loop: what a step is worth, however it is cut up; what is measured; when it stops."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal import Given, Numbers, Shapes, by_hand, denoiser, losses, rehearse, settings
from torch import Tensor

from visalign.batches import Singles
from visalign.config import ConfigError, Optimizer
from visalign.contract import Loss
from visalign.draws import Draws
from visalign.models.denoiser import NetworkDenoiser
from visalign.training.engine import Moment, NonFiniteError
from visalign.training.schedule import Order, averaging, learning_rate

UNEVEN = tuple([1.0, 0.0, 0.2, 1.0] * 3 + [0.5])


def flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.detach().flatten() for each in tensors])


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def gradient(out: Path, micro: int, dtype: torch.dtype, model: NetworkDenoiser | None = None) -> Tensor:
    """The second step's gradient of all weights, of four pairs in micro-batches of `micro`, unclipped."""
    model = (model or denoiser("full")).to(dtype)
    run = settings(out, "steps=2", f"micro_batch={micro}", "optimizer.clip=0", "optimizer.eps=1e-3")
    view = Shapes(weights=UNEVEN, dtype=dtype)
    rehearse(run, model=model, view=view)
    return flat([each.grad for each in model.trainable().values() if each.grad is not None])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_four_forwards_of_one_are_one_forward_of_four(dtype: torch.dtype, tolerance: float, tmp_path: Path) -> None:
    whole, parts = (gradient(tmp_path / str(micro), micro, dtype) for micro in (4, 1))
    assert whole.norm() > 0
    assert relative(parts, whole) <= tolerance
    if dtype is torch.float64:
        one, other = (float.fromhex(losses(tmp_path / str(micro))[2]) for micro in (4, 1))
        assert abs(one - other) <= 1e-10


def moved(start: NetworkDenoiser, end: NetworkDenoiser) -> Tensor:
    return flat(list(end.trainable().values())) - flat(list(start.trainable().values()))


@pytest.mark.parametrize(("train_what", "eps"), [("lora", 1e-8), ("full", 1e-6)])
def test_after_twenty_steps_the_two_ways_have_gone_the_same_way(train_what: str, eps: float, tmp_path: Path) -> None:
    """A bias before a norm with one channel a group has no gradient but rounding, which Adam blows up to full steps
    (difference 1.2e-2 at eps = 1e-8); eps lies above that rounding for the full weights."""
    ways = []
    for micro in (4, 1):
        model = denoiser(train_what)
        changes = ("steps=20", f"micro_batch={micro}", "optimizer.lr=1e-5", f"optimizer.eps={eps}")
        rehearse(settings(tmp_path / str(micro), *changes), model=model, view=Shapes(weights=UNEVEN))
        ways.append(moved(denoiser(train_what), model))
    assert ways[0].norm() > 0
    assert relative(ways[1], ways[0]) <= 1e-3


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(tmp_path: Path) -> None:
    saving = denoiser("full")
    saving.network.enable_gradient_checkpointing()
    assert any(getattr(each, "gradient_checkpointing", False) for each in saving.network.modules())
    plain, saved = (
        gradient(tmp_path / str(i), 2, torch.float32, model) for i, model in enumerate((denoiser("full"), saving))
    )
    assert torch.equal(plain, saved)


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("train_what", ["lora", "full"])
def test_equal_models_cannot_tell_so_the_first_loss_is_log_two_bit_for_bit(
    train_what: str, precision: str, tmp_path: Path
) -> None:
    summary = rehearse(settings(tmp_path, "steps=1", f"precision={precision}"), train_what, dropout=0.2)
    log_two = float(torch.log(torch.tensor(2.0)))
    assert losses(tmp_path)[1] == log_two.hex()
    assert summary.last["grad_norm"] > 0
    assert (summary.last["margin"], summary.last["implicit_accuracy"]) == (0.0, 0.5)


# A method whose numbers can be done by hand ------------------------------------------------------------------------


@pytest.mark.parametrize("own_weight", [False, True])
@pytest.mark.parametrize("micro", [1, 2, 4])
def test_weights_are_summed_over_the_window_and_divided_by_once(micro: int, own_weight: bool, tmp_path: Path) -> None:
    """(1 + 0.2 * 3 + 4) / 2.2 = 2.5454…; the mean of the means of micro-batches of one would be 2."""
    summary, model = by_hand(tmp_path, f"micro_batch={micro}", method=Given(own_weight))
    assert summary.last["loss"] == pytest.approx(5.6 / 2.2, rel=1e-7)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(5.6 / 2.2, rel=1e-6)
    assert summary.last["grad_norm"] == pytest.approx(5.6 / 2.2, rel=1e-6)


def test_where_nothing_weighs_the_loss_and_the_gradient_are_zero_and_nothing_moves(tmp_path: Path) -> None:
    """Not even by weight decay or momentum: the step is counted as idle."""
    summary, model = by_hand(tmp_path, "steps=3", "optimizer.weight_decay=0.1", view=Numbers((0.0,) * 4))
    assert (summary.last["loss"], summary.last["grad_norm"]) == (0.0, 0.0)
    assert model.weight.grad is not None and model.weight.grad.item() == 0.0
    assert model.weight.item() == 1.0
    assert (summary.idle, summary.skipped, summary.steps) == (3, 0, 3)


def test_the_norm_is_logged_before_clipping_and_the_update_uses_the_clipped_gradient(tmp_path: Path) -> None:
    summary, model = by_hand(tmp_path, "optimizer.clip=0.5")
    assert summary.last["grad_norm"] == pytest.approx(5.6 / 2.2, rel=1e-6)
    assert model.weight.grad is not None
    assert model.weight.grad.item() == pytest.approx(0.5, rel=1e-6)


def test_a_method_s_own_modules_are_saved_with_the_run(tmp_path: Path) -> None:
    by_hand(tmp_path, "steps=2")
    method = Given()
    by_hand(tmp_path, "steps=3", method=method)
    assert method.state.seen.item() == 12


def test_a_method_gives_one_loss_a_record(tmp_path: Path) -> None:
    @dataclass
    class Mean(Given):
        def loss(self, batch: Singles, model: Any) -> Loss:
            return Loss((model.weight * batch.x).mean())

    with pytest.raises(ValueError, match="one loss and one weight a record"):
        by_hand(tmp_path, method=Mean())


def test_the_rate_of_the_schedule_is_the_optimizer_s(tmp_path: Path) -> None:
    changes = ("steps=6", "optimizer.warmup=3", "optimizer.schedule=cosine")
    rehearse(settings(tmp_path, *changes))
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    rule = Optimizer(lr=1e-3, warmup=3, schedule="cosine")
    assert [row["lr"] for row in rows] == [learning_rate(rule, step, 6) for step in range(6)]


# The average of the weights ----------------------------------------------------------------------------------------


def test_the_average_is_the_recursion_over_the_weights_and_the_model_ends_with_it(tmp_path: Path) -> None:
    model = denoiser()
    seen = [flat(list(model.trainable().values())).double()]
    averages = []

    def look(moment: Moment) -> None:
        now = flat(list(model.trainable().values()))
        seen.append(now.double())
        with moment.averaged():
            averages.append(flat(list(model.trainable().values())).double())
        assert torch.equal(flat(list(model.trainable().values())), now)

    rehearse(settings(tmp_path, "ema=0.5"), model=model, on_step=look)
    expected = seen[0]
    for updates, weights in enumerate(seen[1:], start=1):
        expected = torch.lerp(expected, weights, 1 - averaging(0.5, updates))
        assert torch.allclose(averages[updates - 1], expected, rtol=1e-5, atol=1e-8)
    assert torch.equal(flat(list(model.trainable().values())).double(), averages[-1])
    assert averaging(0.5, 1) == 2 / 11 and averaging(0.5, 100) == 0.5


# What goes wrong ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_record_and_time(tmp_path: Path) -> None:
    with pytest.raises(
        NonFiniteError, match=r"step \d+: the loss is not finite for 1 of 4 records: record-5 \(t = "
    ) as caught:
        rehearse(settings(tmp_path), view=Shapes(broken=(5,)))
    step = int(str(caught.value).split()[1].rstrip(":"))
    part = Order(seed=0, length=13, batch=4, micro=4).slice((step - 1) * 4)
    visit = part.visits[part.indices.index(5)]
    time = denoiser().process.times(Draws(0, ("record-5",), (visit,))).item()
    assert f"(t = {time:.1f})" in str(caught.value)


def test_steps_that_are_not_finite_may_be_left_out_and_are_counted(tmp_path: Path) -> None:
    model = denoiser()
    summary = rehearse(settings(tmp_path, "skip_nonfinite=3"), view=Shapes(broken=(5,)), model=model)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    bad = [row["step"] for row in rows if row["loss"] is None]
    assert summary.skipped == len(bad) == 3 and summary.steps == 12
    assert all(row["loss_hex"] == "nan" for row in rows if row["step"] in bad)
    assert flat(list(model.trainable().values())).isfinite().all()


def test_one_more_than_may_be_left_out_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        rehearse(settings(tmp_path, "skip_nonfinite=2"), view=Shapes(broken=(5,)))


def test_a_gradient_that_is_not_finite_stops_the_run_although_the_loss_is(tmp_path: Path) -> None:
    @dataclass
    class Root(Given):
        def loss(self, batch: Singles, model: Any) -> Loss:
            return Loss((model.weight - 1.0).sqrt() + batch.x.flatten())  # d sqrt / d 0 is infinite

    with pytest.raises(NonFiniteError, match=r"the gradient is not finite although every loss is; .* number-4"):
        by_hand(tmp_path, method=Root(), view=Numbers((1.0,) * 4))


@pytest.mark.parametrize(
    ("change", "said"),
    [("precision=fp16", "fp16 needs an accelerator"), ("trackers=[wandb]", r"wandb is not installed; pip install")],
)
def test_what_this_machine_cannot_do_is_said_before_training(
    change: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as where it is not installed
    if change == "precision=fp16" and torch.cuda.is_available():
        pytest.skip("this machine can")
    with pytest.raises(ConfigError, match=said):
        rehearse(settings(tmp_path, change))
    assert not (tmp_path / "checkpoints").exists()


def test_a_model_without_anything_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to train"):
        rehearse(settings(tmp_path), model=denoiser("full").requires_grad_(False))


# Signals, callbacks, trackers --------------------------------------------------------------------------------------


def at_step(step: int, act: Callable[[], None]) -> Callable[[Moment], None]:
    return lambda moment: act() if moment.step == step else None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_step_finish_saves_and_returns(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)
    summary = rehearse(settings(tmp_path), on_step=at_step(4, lambda: os.kill(os.getpid(), number)))
    assert (summary.stopped, summary.steps, summary.checkpoint.name) == ("signal", 5, "step-000005")
    assert signal.getsignal(number) is before
    whole = rehearse(settings(tmp_path / "whole"))
    assert rehearse(settings(tmp_path)).last["loss"] == whole.last["loss"]
    assert losses(tmp_path) == losses(tmp_path / "whole")


def test_the_global_random_numbers_are_left_as_they_were(tmp_path: Path) -> None:
    model = denoiser(dropout=0.5)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    rehearse(settings(tmp_path, "steps=2"), model=model)
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_follows_the_run_s_seed_and_not_the_process(tmp_path: Path) -> None:
    run = [settings(tmp_path / str(i), f"seed={i // 2}", "steps=2") for i in range(3)]
    runs = [rehearse(each, dropout=0.5).last["loss"] for each in run]
    assert runs[0] == runs[1] != runs[2]
