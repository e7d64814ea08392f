"""How a network runs: precision, device, pictures at a time; checked before any weights are read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
KINDS = ("cpu", "cuda")  # of devices whose autocast changes what an operation is computed in

T = TypeVar("T")


@dataclass(frozen=True)
class Running:
    """Where a network is, what its parameters are stored in, and how many samples it reads at a time."""

    device: torch.device
    dtype: torch.dtype
    batch: int


def running(device: str | torch.device, dtype: str = "fp32", batch: int = 1) -> Running:
    """These settings; ValueError for a precision that is none, a device that is not here, a batch below 1."""
    one_of("dtype", dtype, DTYPES)
    if batch < 1:
        raise ValueError(f"batch is at least 1, got {batch}")
    try:
        place = torch.device(device)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # the latter of a torch that was built without it
        why = str(error).splitlines()[0]
        raise ValueError(f"device {device!r} cannot be used here: {why}") from error
    return Running(place, DTYPES[dtype], batch)


def one_of(what: str, given: T, known: Iterable[T]) -> T:
    """What was given, if it is known; else a ValueError that lists what is."""
    if given not in (choices := list(known)):
        raise ValueError(f"{what} is one of {', '.join(map(str, choices))}, got {given!r}")
    return given


@contextmanager
def full_precision() -> Iterator[None]:
    """Outside of any autocast: a score, or a prompt's features that are kept, do not depend on who asks.

    Parameters stay as they are stored; what is computed in float32 stays in float32.
    """
    with torch.autocast(KINDS[0], enabled=False), torch.autocast(KINDS[1], enabled=False):
        yield
