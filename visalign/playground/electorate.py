"""Users' votes on candidates that were drawn already: records that say whose taste they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import images
from ..data import media
from ..draws import generator
from ..records import Preference
from .checker import scores
from .users import User, looks

Pair = tuple[int, int]  # two candidates of one prompt, by their places


@dataclass(frozen=True)
class Candidates:
    """Pictures that somebody may vote on, those of a prompt one after the other."""

    prompts: tuple[str, ...]  # (n,) of each picture
    items: tuple[str, ...]  # (n,) what records call it
    pictures: NDArray[np.uint8]  # (n, 32, 32, 3)

    @classmethod
    def of(cls, records: Sequence[Preference], root: Path) -> Candidates:
        """Every item of every record."""
        each = [(record.prompt, item) for record in records for item in record.items]
        pictures = np.stack([np.asarray(images.load(media.fetch(item, root))) for _, item in each])
        return cls(tuple(prompt for prompt, _ in each), tuple(item for _, item in each), pictures)

    @cached_property
    def overall(self) -> NDArray[np.float64]:
        """(n,) the checker's overall scores."""
        return np.asarray(scores(self.pictures, self.prompts)["overall"])

    @cached_property
    def looks(self) -> dict[str, NDArray[np.float64]]:
        """(n,) of each look."""
        return looks(self.pictures)

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two candidates of one prompt."""
        places: dict[str, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            places.setdefault(prompt, []).append(place)
        return [pair for own in places.values() for pair in combinations(own, 2)]

    def utility(self, user: User) -> NDArray[np.float64]:
        """(n,) utilities for a user."""
        return np.asarray(user.likes(self.looks, self.overall))

    def taste_share(self, people: Sequence[User]) -> float:
        """How much of what users see between candidates of one prompt is taste rather than faithfulness to it.

        The variance of the tastes' part within prompts, as a share of both parts' together, over all users.
        """
        taste = np.array([self._within(user.likes(self.looks, 0 * self.overall)) for user in people])
        faith = np.array([self._within(user.faithfulness * self.overall) for user in people])
        return float(taste.mean() / (taste.mean() + faith.mean()))

    def _within(self, values: NDArray[np.float64]) -> float:
        """The variance of (n,) values around the mean of their prompt."""
        first, second = np.array(self.pairs).T
        return float(np.square(values[first] - values[second]).mean() / 2)


def ballots(candidates: Candidates, people: Sequence[User], each: int, *, seed: int = 0) -> Iterator[Preference]:
    """`each` votes of every user on pairs that are drawn for them, without repetition: pure functions of the seed."""
    for user in people:
        utility = candidates.utility(user)
        drawn = generator(seed, user.name, 0, "ballots").choice(len(candidates.pairs), each, replace=False)
        yield from (ballot(candidates, user, candidates.pairs[place], utility, seed) for place in drawn)


def ballot(
    candidates: Candidates, user: User, pair: Pair, utility: NDArray[np.float64], seed: int
) -> Preference:  # fmt: skip
    """One user's vote on two candidates."""
    first, second = pair
    items = (candidates.items[first], candidates.items[second])
    key = "\n".join([candidates.prompts[first], *items])
    verdict = user.vote(float(utility[first]), float(utility[second]), seed=seed, key=key)
    return Preference(candidates.prompts[first], items, user=user.name, verdict=verdict, judge="simulated user")
