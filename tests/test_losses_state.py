"""What losses remember: averages that agree over processes, are checkpointed, and carry on where they stopped.

Run as a script it is one rank of two: python test_losses_state.py RANK STORE ANSWER.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

from visalign import losses
from visalign.losses import coupled, state

BATCHES, SIZE, RANKS = 3, 6, 2
BETA = 0.3
SHARES = (4, 2)
"""How the pairs of a batch are dealt out to the two ranks: unevenly, but for the losses that gather."""


def batches() -> list[dict[str, Tensor]]:
    draw = torch.Generator().manual_seed(7)
    names = ("win", "lose", "logp_win", "logp_lose")
    return [{name: torch.randn(SIZE, generator=draw, dtype=torch.float64) for name in names} for _ in range(BATCHES)]


def double(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


Step = Callable[[dict[str, Tensor]], Tensor]


def stateful(reduce: state.Reduce, gather: coupled.Gather) -> dict[str, Step]:
    """Every loss that couples a batch, as a function of a batch."""
    dynamic, shift = state.BetaDPO(reduce=reduce), state.RewardShift(reduce)
    single, point = state.RewardShift(reduce), state.ReferencePoint(reduce=reduce)
    moving = state.ReferencePoint(momentum=0.5, reduce=reduce)
    return {
        "beta_dpo": lambda b: dynamic.forward(b["win"], b["lose"], beta=BETA),
        "beta_dpo_keep": lambda b: dynamic.keep(b["win"], b["lose"]) * b["win"],
        "bco_pair": lambda b: shift.pair(b["win"], b["lose"], beta=BETA),
        "bco": lambda b: single.single(b["win"], b["lose"] > 0, beta=BETA),
        "kto": lambda b: point.kto(b["win"], b["lose"] > 0, b["logp_win"], beta=BETA),
        "kto_moving": lambda b: moving.kto(b["win"], b["lose"] > 0, b["logp_lose"], beta=BETA),
        "aot_unpaired": lambda b: losses.aot_unpaired(b["win"], b["lose"], beta=BETA, gather=gather),
        "aot": lambda b: losses.aot(b["win"], b["lose"], b["logp_win"], b["logp_lose"], beta=BETA, gather=gather),
    }


def trace(steps: dict[str, Step], mine: Callable[[Tensor, str], Tensor]) -> dict[str, list[list[list[float]]]]:
    """Losses and gradients of our share of each batch, by loss."""
    found: dict[str, list[list[list[float]]]] = {}
    for name, step in steps.items():
        found[name] = []
        for batch in batches():
            own = {key: mine(value, name).clone().requires_grad_() for key, value in batch.items()}
            each = step(own)
            slopes = torch.autograd.grad(each.sum(), list(own.values()), allow_unused=True, materialize_grads=True)
            found[name].append([each.tolist(), *(slope.tolist() for slope in slopes)])
    return found


def rank_share(rank: int) -> Callable[[Tensor, str], Tensor]:
    def share(values: Tensor, name: str) -> Tensor:
        sizes = (SIZE // RANKS,) * RANKS if name.startswith("aot") else SHARES
        start = sum(sizes[:rank])
        return values[start : start + sizes[rank]]

    return share


def main(rank: int, store: str, answer: str) -> None:
    """One of two gloo processes: its shares of the batches through losses that reduce and gather over both."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)

    def reduce(value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total / RANKS

    def gather(values: Tensor) -> tuple[Tensor, int]:
        parts = [torch.empty_like(values) for _ in range(RANKS)]
        distributed.all_gather(parts, values)
        return torch.cat(parts), rank * len(values)

    Path(answer).write_text(json.dumps(trace(stateful(reduce, gather), rank_share(rank))))
    distributed.destroy_process_group()


def test_two_processes_give_the_losses_and_gradients_of_one(tmp_path: Path) -> None:
    """Over gloo, with uneven shares of a batch: the losses that couple a batch do not see the split."""
    answers = [tmp_path / f"{rank}.json" for rank in range(RANKS)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), "OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(tmp_path / "store"), str(answers[rank])] for rank in range(2)]
    ranks = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait(timeout=120) for process in ranks] == [0] * RANKS
    parts = [json.loads(answer.read_text()) for answer in answers]
    whole = trace(stateful(state.alone, coupled.here), lambda values, name: values)
    for name, wanted in whole.items():
        for step, columns in enumerate(wanted):
            for spot, column in enumerate(columns):
                joined = [value for part in parts for value in part[name][step][spot]]
                torch.testing.assert_close(torch.tensor(joined), torch.tensor(column), msg=name)


def test_the_split_is_seen_without_reduce() -> None:
    """The test above can fail: ranks that keep to themselves hold other numbers."""
    whole = trace(stateful(state.alone, coupled.here), lambda values, name: values)
    lone = trace(stateful(state.alone, coupled.here), rank_share(0))
    for name, steps in whole.items():
        seen = [step[0][: len(alone[0])] != alone[0] for step, alone in zip(steps, lone[name], strict=True)]
        assert any(seen), name


def test_everything_remembered_is_in_the_checkpoint() -> None:
    """Stopped after two batches and loaded into fresh modules, the third batch gives the same losses."""
    makers: list[Callable[[], Any]] = [state.BetaDPO, state.RewardShift, lambda: state.ReferencePoint(momentum=0.5)]
    for make in makers:
        first: Any = make()
        for batch in batches()[:2]:
            call(first, batch)
        second: Any = make()
        second.load_state_dict(first.state_dict())
        last = batches()[2]
        assert (call(first, last) == call(second, last)).all()
        assert not torch.equal(call(make(), last), call(second, last))


def call(module: Any, batch: dict[str, Tensor]) -> Tensor:
    if isinstance(module, state.BetaDPO):
        return module.forward(batch["win"], batch["lose"], beta=BETA)
    if isinstance(module, state.RewardShift):
        return module.pair(batch["win"], batch["lose"], beta=BETA)
    found: Tensor = module.kto(batch["win"], batch["lose"] > 0, batch["logp_win"].abs(), beta=BETA)
    return found


def test_the_running_mean_counts_every_element_alike() -> None:
    values = torch.tensor([1.0, 2.0, 4.0, 9.0])
    mean = state.RunningMean()
    mean.update(values[:3])
    assert mean.update(values[3:]).item() == 4.0
    assert mean.update(values[:0].new_tensor([4.0])).dtype == torch.float32


def test_the_first_batch_of_beta_dpo_is_dpo_and_beta_has_a_floor() -> None:
    win, lose = torch.tensor([0.4, -0.2]), torch.tensor([0.1, 0.3])
    dynamic = state.BetaDPO()
    assert (dynamic(win, lose, beta=BETA) == losses.dpo(win, lose, beta=BETA)).all()
    assert dynamic.beta(win - 100.0, lose, beta=BETA).item() == torch.tensor(1e-3).item()
    assert dynamic.usual.mean.item() != 0


def test_the_reference_point_is_never_below_zero_and_takes_no_gradient() -> None:
    ratio = torch.tensor([-1.0, -2.0], requires_grad=True)
    assert state.ReferencePoint().update(ratio).item() == 0.0
    point = state.ReferencePoint().update(-ratio)
    assert point.item() == 1.5 and not point.requires_grad


def test_a_momentum_that_never_moves_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        state.MovingMean(momentum=1.0)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
