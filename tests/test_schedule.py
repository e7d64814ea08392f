"""What a step sees and how far it goes are pure functions of its number."""

from __future__ import annotations

import pytest

from visalign.config import ConfigError, Optimizer
from visalign.training.schedule import Order, averaging, learning_rate


def positions(order: Order, steps: int) -> list[tuple[int, int]]:
    """(record, visit) in the order that the run's steps see them, whichever rank does."""
    parts = [part for step in range(steps) for rank in range(order.ranks) for part in order.slices(step, rank)]
    seen = [zip(range(part.first, part.first + order.micro), part.indices, part.visits, strict=True) for part in parts]
    rows = sorted(row for part in seen for row in part)
    assert [row[0] for row in rows] == list(range(steps * order.batch))
    return [(index, visit) for _, index, visit in rows]


def test_every_epoch_sees_every_record_once_in_an_order_of_its_own() -> None:
    seen = positions(Order(seed=3, length=13, batch=4, micro=2), steps=13)
    epochs = [[index for index, visit in seen if visit == epoch] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize(("micro", "ranks"), [(1, 1), (1, 4), (2, 2), (4, 2), (1, 8)])
def test_neither_micro_batches_nor_ranks_change_what_a_step_sees(micro: int, ranks: int) -> None:
    cut = Order(seed=3, length=13, batch=8, micro=micro, ranks=ranks)
    assert positions(cut, 5) == positions(Order(seed=3, length=13, batch=8, micro=8), 5)


def test_a_batch_that_cannot_be_dealt_out_evenly_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"batch \(8\) must be a multiple of micro_batch x processes \(2 x 3\)"):
        Order(seed=0, length=13, batch=8, micro=2, ranks=3)
    with pytest.raises(ConfigError, match="no record to train on"):
        Order(seed=0, length=0, batch=8, micro=2)


def test_the_learning_rate_rises_in_a_line_and_falls_in_half_a_cosine() -> None:
    cosine = Optimizer(lr=2.0, warmup=4, schedule="cosine")
    assert [learning_rate(cosine, step, 12) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert learning_rate(cosine, 8, 12) == pytest.approx(1.0)
    assert learning_rate(cosine, 12, 12) == pytest.approx(0.0, abs=1e-12)
    assert {learning_rate(Optimizer(lr=2.0), step, 12) for step in range(12)} == {2.0}


def test_the_average_forgets_the_start_first_and_then_has_its_own_memory() -> None:
    assert [averaging(0.999, updates) for updates in (1, 11)] == [2 / 11, 12 / 21]
    assert averaging(0.999, 10_000_000) == 0.999
