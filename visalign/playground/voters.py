"""Simulated voters: Bradley-Terry on the checker, with noise that is stated and a tie where they cannot tell.

A voter's utility of a picture is the mean of its overall score and of its aspects' mean, so that between two wrong
pictures the less wrong one is liked better. They call a tie when the utilities differ by less than `tie`, and else say
the first with probability sigmoid((u1 - u2) / temperature). A vote is a pure function of (seed, record key).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ..draws import generator
from .checker import ASPECTS, scores


@dataclass(frozen=True)
class Voters:
    """The electorate: how noisy it is, and below which difference it sees none."""

    temperature: float = 0.12
    tie: float = 0.05

    def utility(self, pictures: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """(n,) utilities in [0, 1] of n pictures for their captions."""
        found = scores(pictures, captions)
        utility: np.ndarray = 0.5 * found["overall"] + 0.5 * np.mean([found[name] for name in ASPECTS], axis=0)
        return utility

    def probability(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """P(the first is preferred) for utilities (n,), ties left aside."""
        return np.asarray(expit((first - second) / self.temperature))

    def vote(self, first: float, second: float, *, seed: int, key: str) -> str:
        """ "first", "second" or "tie": one vote of one voter on the pair `key`."""
        if abs(first - second) < self.tie:
            return "tie"
        chance = float(self.probability(np.array([first]), np.array([second]))[0])
        return "first" if generator(seed, key, 0, "vote").random() < chance else "second"
