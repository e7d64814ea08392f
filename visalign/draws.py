"""Every random number of a step: a pure function of (run seed, record key, visit, stream).

No global generator is read or advanced anywhere. Exact resume, the same run on one or eight processes, and a batch of
three being three batches of one all follow from this one rule. The generator is Philox (Salmon et al., SC 2011),
which is counter-based with a 128-bit key: two records never share a sequence by accident, which torch's CPU generator
(32 bits of seed) cannot promise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, key: str, visit: int, stream: str) -> np.random.Generator:
    """The generator of one stream ("t", "noise", "posterior", …) of one visit to one record."""
    name = f"{seed}\x1f{key}\x1f{visit}\x1f{stream}".encode()
    digest = hashlib.blake2b(name, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True)
class Draws:
    """Where the random numbers of a batch come from: one (key, visit) for each of its b records."""

    seed: int
    keys: tuple[str, ...]
    visits: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.visits):
            raise ValueError(f"each record needs its visit: got {len(self.keys)} keys and {len(self.visits)} visits")

    def __len__(self) -> int:
        return len(self.keys)

    def _each(self, stream: str) -> list[np.random.Generator]:
        return [generator(self.seed, key, visit, stream) for key, visit in zip(self.keys, self.visits, strict=True)]

    def normal(self, stream: str, shape: Sequence[int], like: Tensor) -> Tensor:
        """Standard normal numbers of shape (b, *shape), drawn in float32, with the device and dtype of `like`."""
        rows = [each.standard_normal(tuple(shape), dtype=np.float32) for each in self._each(stream)]
        return torch.from_numpy(np.stack(rows)).to(device=like.device, dtype=like.dtype, non_blocking=True)

    def uniform(self, stream: str) -> Tensor:
        """Uniform numbers in [0, 1), shape (b,), float64 on the CPU."""
        return torch.tensor([each.random() for each in self._each(stream)], dtype=torch.float64)

    def uniforms(self, stream: str, count: int) -> Tensor:
        """(b, count) uniform numbers in [0, 1), float64 on the CPU; more of them begin with the same ones."""
        return torch.from_numpy(np.stack([each.random(count) for each in self._each(stream)]))

    def integers(self, stream: str, low: int, high: int) -> Tensor:
        """Integers in [low, high), shape (b,), int64 on the CPU."""
        return torch.tensor([int(each.integers(low, high)) for each in self._each(stream)], dtype=torch.int64)
