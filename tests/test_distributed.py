"""Several processes are one run: the same weights on each, and the run of one process within rounding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rehearsal import Nursery, denoiser, digest, losses

from visalign.training import checkpoint

RUN = ("batch=8", "micro_batch=2", "steps=9", "ema=0.9")  # two forwards a rank and step; epochs end within steps


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    made = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield made
    made.close()


def finish(nursery: Nursery, out: Path, ranks: int, *changes: str, **job: Any) -> list[dict[str, Any]]:
    """How each rank of a run ended."""
    out.mkdir(parents=True, exist_ok=True)
    nursery.start(out, [*RUN, *changes], ranks, **job)
    assert nursery.wait() == 0, Path(nursery.log.name).read_text()
    return [json.loads((out / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


def trained(out: Path) -> torch.Tensor:
    """The newest checkpoint's weights, as they have moved since the start."""
    saved = checkpoint.read(checkpoint.listed(out / "checkpoints")[-1]).tensors["trainable"]
    start = {f"model.weights.network.{name}": value for name, value in denoiser().trainable().items()}
    return torch.cat([(saved[name] - value.detach()).flatten() for name, value in sorted(start.items())])


@pytest.fixture(scope="module")
def runs(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One run of one process and one of two, with dropout in the adapters."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks-{ranks}") for ranks in (1, 2)}
    for ranks, out in folders.items():
        finish(nursery, out, ranks, dropout=0.2)
    return folders


def test_two_ranks_end_with_the_same_weights_bit_for_bit(runs: dict[int, Path]) -> None:
    ended = [json.loads((runs[2] / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert ended[0]["weights"] == ended[1]["weights"]
    assert trained(runs[2]).norm() > 0


def test_others_wait_for_days_while_the_main_process_encodes(runs: dict[int, Path]) -> None:
    """By default NCCL gives up after ten minutes, and no set of pictures is encoded in so few."""
    ended = [json.loads((runs[2] / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert all(each["patience"] >= 24 * 3600 for each in ended)


def test_what_a_method_remembers_is_one_number_on_all_ranks_and_that_of_one_process(runs: dict[int, Path]) -> None:
    one, *two = (json.loads((runs[n] / f"rank-{rank}.json").read_text()) for n, rank in ((1, 0), (2, 0), (2, 1)))
    assert two[0]["mean"] == two[1]["mean"] == pytest.approx(one["mean"], rel=1e-6)
    assert two[0]["count"] * 2 == two[1]["count"] * 2 == one["count"] == 72  # `reduce` is a mean: sizes too


def test_two_processes_go_where_one_goes(runs: dict[int, Path]) -> None:
    """Sums are made in another order, so not to the bit: to 1e-3 of the distance moved. Dropout falls alike."""
    one, two = trained(runs[1]), trained(runs[2])
    assert (one - two).norm() <= 1e-3 * one.norm()


def test_the_losses_of_two_processes_are_those_of_one_within_rounding(runs: dict[int, Path]) -> None:
    one, two = (torch.tensor([float.fromhex(value) for value in losses(runs[n]).values()]) for n in (1, 2))
    assert len(one) == 9
    assert torch.allclose(one, two, rtol=0, atol=1e-4)


def margins(out: Path) -> torch.Tensor:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return torch.tensor([row["margin"] for row in rows], dtype=torch.float64)


def test_the_margins_differ_by_rounding_that_leans_to_no_side(runs: dict[int, Path]) -> None:
    """beta = 200 times errors' noise of 5e-7, and a mean residual within three of its standard errors."""
    residual = margins(runs[2]) - margins(runs[1])
    assert residual.abs().max() <= 200 * 5e-7 * 10  # weights differ by then, too
    assert residual.mean().abs() <= 3 * residual.std() / len(residual) ** 0.5 + 1e-12


def test_one_process_writes_the_rows_and_the_records_of_both_are_in_them(runs: dict[int, Path]) -> None:
    rows = [json.loads(line) for line in (runs[2] / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 10))
    ones = [json.loads(line) for line in (runs[1] / "metrics.jsonl").read_text().splitlines()]
    assert [row["win_reference_error"] for row in rows] == pytest.approx(
        [row["win_reference_error"] for row in ones], rel=1e-6
    )


def test_two_processes_that_are_resumed_change_no_bit(nursery: Nursery, runs: dict[int, Path], tmp_path: Path) -> None:
    ended = finish(nursery, tmp_path, 2, dropout=0.2, terminate=[1, 4])
    assert [each["stopped"] for each in ended] == ["signal", "signal"], "a signal to one rank stops both, together"
    assert [each["steps"] for each in ended] == [5, 5]
    ended = finish(nursery, tmp_path, 2, dropout=0.2)
    assert [each["resumed"] for each in ended] == [5, 5]
    assert losses(tmp_path) == losses(runs[2])
    newest, whole = (checkpoint.listed(out / "checkpoints")[-1] for out in (tmp_path, runs[2]))
    assert digest(newest) == digest(whole)


def test_another_number_of_processes_may_go_on_and_is_announced(
    nursery: Nursery, runs: dict[int, Path], tmp_path: Path
) -> None:
    finish(nursery, tmp_path, 2, dropout=0.2, terminate=[0, 4])
    (ended,) = finish(nursery, tmp_path, 1, dropout=0.2)
    assert any(note.startswith("processes: 2 -> 1 (from here on") for note in ended["notes"])
    assert (trained(tmp_path) - trained(runs[1])).norm() <= 1e-3 * trained(runs[1]).norm()


def test_a_loss_that_is_not_finite_on_one_rank_stops_both_with_its_record(nursery: Nursery, tmp_path: Path) -> None:
    nursery.start(tmp_path, RUN, 2, broken=[5])
    assert nursery.wait() == 1
    said = Path(nursery.log.name).read_text()
    assert said.count("the loss is not finite for 1 of 8 records: record-5 (t = ") == 2, "each rank says so"
