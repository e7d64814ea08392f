"""How far a flow's times are moved towards noise, where that depends on the size of what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Growing:
    """A shift that grows with the picture: more tokens take more noise until nothing is seen (arXiv 2403.03206, 5.3.2).

    mu lies on the straight line through (fewest, low) and (most, high); the shift is e^mu, or mu where not
    `exponential`. That is diffusers' dynamic shifting, e^mu / (e^mu + 1 / t - 1) written as any other shift.
    """

    fewest: int = 256
    most: int = 4096
    low: float = 0.5
    high: float = 1.15
    exponential: bool = True

    def __call__(self, tokens: int) -> float:
        """The shift for so many tokens."""
        mu = self.low + (self.high - self.low) * (tokens - self.fewest) / (self.most - self.fewest)
        return math.exp(mu) if self.exponential else mu


def growing(config: Mapping[str, Any]) -> Growing:
    """The shift by size of a FlowMatchEulerDiscreteScheduler with `use_dynamic_shifting`."""
    return Growing(
        fewest=int(config.get("base_image_seq_len", 256)),
        most=int(config.get("max_image_seq_len", 4096)),
        low=float(config.get("base_shift", 0.5)),
        high=float(config.get("max_shift", 1.15)),
        exponential=config.get("time_shift_type", "exponential") == "exponential",
    )
