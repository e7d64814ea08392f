"""What losses of the gap cost beside -logsigmoid(z): forward and backward of a million pairs on one thread.

    python benchmarks/losses.py benchmarks/results/losses.json

Every round times every loss once, so that a busy moment of the machine hits all alike. A loss's cost is its least
process time over the rounds (other programs do not count, but the caches that they empty do), against that of
-logsigmoid(z) with z given; the medians stand beside it.
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign import losses
from visalign.losses.picture import CONFIDENCE, EXAMPLE, SETTINGS, drawn

PAIRS, ROUNDS, WARM_UP, LIMIT = 1_000_000, 25, 2, 3.0
BETA = 0.1


def contender(name: str, win: Tensor, lose: Tensor) -> Callable[[], Tensor]:
    """A loss by name, as a method calls it, with the further columns that it reads."""
    entry = losses.by_name(name)
    assert isinstance(entry, losses.Entry)
    extra = {
        field: torch.full_like(win, EXAMPLE[field]).detach()[:, None]
        if field.startswith("reward")
        else torch.full_like(win, EXAMPLE[field]).detach()
        for field in entry.fields[2:]
        if field != "confidence"
    }
    spec = {"name": name, **SETTINGS.get(name, {})}
    bound = losses.resolve(spec, kinds=entry.kinds, nats=True, feeds=frozenset(entry.fields))
    confidence = CONFIDENCE.get(name, EXAMPLE["confidence"] if "confidence" in entry.fields else None)
    return lambda: bound(win, lose, beta=BETA, confidence=confidence, **extra)


def seconds(run: Callable[[], Tensor], leaves: tuple[Tensor, ...], seed: Tensor) -> float:
    """Process time of one forward and backward."""
    start = time.process_time()
    torch.autograd.grad(run(), leaves, seed)
    return time.process_time() - start


def measure() -> dict[str, object]:
    """Costs of all, in milliseconds and in units of -logsigmoid(z)."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    win, lose = (torch.randn(PAIRS, generator=draw).mul_(5).requires_grad_() for _ in range(2))
    z = (BETA * (win - lose)).detach().requires_grad_()
    seed = torch.ones(PAIRS)
    runs: dict[str, tuple[Callable[[], Tensor], tuple[Tensor, ...]]] = {
        "-logsigmoid(z)": (lambda: -logsigmoid(z), (z,)),
        **{entry.name: (contender(entry.name, win, lose), (win, lose)) for entry in drawn()},
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(WARM_UP + ROUNDS):
        for name, (run, leaves) in runs.items():
            taken[name].append(seconds(run, leaves, seed))
    cost = {name: min(times[WARM_UP:]) for name, times in taken.items()}
    usual = {name: statistics.median(times[WARM_UP:]) for name, times in taken.items()}
    unit, usual_unit = cost["-logsigmoid(z)"], usual["-logsigmoid(z)"]
    slowest = max(cost, key=lambda name: cost[name])
    return {
        "what": f"forward and backward of {PAIRS} pairs, float32, one thread, process time, least of {ROUNDS} rounds",
        "machine": {"processor": platform.machine(), "python": platform.python_version(), "torch": torch.__version__},
        "limit": LIMIT,
        "slowest": {"name": slowest, "times": round(cost[slowest] / unit, 2)},
        "losses": {
            name: {
                "milliseconds": round(1e3 * value, 2),
                "times": round(value / unit, 2),
                "times_median": round(usual[name] / usual_unit, 2),
            }
            for name, value in sorted(cost.items(), key=lambda item: item[1])
        },
    }


def main(path: str) -> None:
    """Measure, print, and keep."""
    found = measure()
    Path(path).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2))
    slowest = found["slowest"]
    assert isinstance(slowest, dict)
    if slowest["times"] > LIMIT:
        sys.exit(f"{slowest['name']} costs {slowest['times']} times -logsigmoid(z); the limit is {LIMIT}")


if __name__ == "__main__":
    main(sys.argv[1])
