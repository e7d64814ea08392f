"""What happens at an optimizer step, as pure functions of its number: which records are seen, and the learning rate.

Nothing here remembers anything, so a resumed run needs only the number of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..config import ConfigError, Optimizer
from ..draws import generator


@dataclass(frozen=True)
class Slice:
    """A micro-batch: which records, for which time each, and where its first stands in the run's whole order."""

    indices: tuple[int, ...]
    visits: tuple[int, ...]  # the epoch: how often the record was seen before
    first: int


@dataclass(frozen=True)
class Order:
    """The run's order of records: every epoch is a permutation of its own, and steps run on over epochs' ends.

    A step's `batch` records are cut into micro-batches that are dealt to the ranks in turn. How many ranks there are
    changes neither which records a step sees nor, at the same `micro` size, which of them share a forward.
    """

    seed: int
    length: int  # records
    batch: int  # records a step, over all ranks
    micro: int  # records a forward
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.length < 1:
            raise ConfigError("there is no record to train on; see the quarantine list and data.ties")
        if self.batch % (self.micro * self.ranks):
            raise ConfigError(
                f"batch ({self.batch}) must be a multiple of micro_batch x processes ({self.micro} x {self.ranks})"
            )

    @property
    def forwards(self) -> int:
        """Micro-batches of one rank in a step."""
        return self.batch // (self.micro * self.ranks)

    def slices(self, step: int, rank: int = 0) -> Iterator[Slice]:
        """The micro-batches of a rank at a step (from 0)."""
        for forward in range(self.forwards):
            yield self.slice(step * self.batch + (forward * self.ranks + rank) * self.micro)

    def slice(self, first: int) -> Slice:
        """The micro-batch that starts at a position of the whole order."""
        visits, places = zip(*(divmod(first + i, self.length) for i in range(self.micro)), strict=True)
        pairs = zip(visits, places, strict=True)
        return Slice(tuple(int(_permutation(self.seed, e, self.length)[place]) for e, place in pairs), visits, first)


def learning_rate(optimizer: Optimizer, step: int, steps: int) -> float:
    """The rate at a step (from 0) of `steps`: a linear rise over `warmup`, then constant or half a cosine to 0."""
    if step < optimizer.warmup:
        return optimizer.lr * (step + 1) / optimizer.warmup
    if optimizer.schedule == "constant":
        return optimizer.lr
    progress = (step - optimizer.warmup) / max(1, steps - optimizer.warmup)
    return optimizer.lr * 0.5 * (1.0 + math.cos(math.pi * progress))


def averaging(decay: float, updates: int) -> float:
    """The decay of the weights' moving average after `updates` updates: a short memory first forgets the start.

    min(decay, (1 + n) / (10 + n)), as tf.train.ExponentialMovingAverage does with num_updates.
    """
    return min(decay, (1.0 + updates) / (10.0 + updates))


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, length: int) -> NDArray[np.int64]:
    return generator(seed, "order", epoch, "permutation").permutation(length)
