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
    def places(self) -> dict[str, list[int]]:
        """Where each prompt's candidates are."""
        found: dict[str, list[int]] = {}
        for place, prompt in enumerate(self.prompts):
            found.setdefault(prompt, []).append(place)
        return found

    @cached_property
    def pairs(self) -> list[Pair]:
        """Every two candidates of one prompt."""
        return [pair for own in self.places.values() for pair in combinations(own, 2)]

    def shown(self, places: Sequence[int]) -> tuple[str, tuple[str, ...]]:
        """The prompt and the items of some of its candidates."""
        return self.prompts[places[0]], tuple(self.items[place] for place in places)

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


def pairwise(candidates: Candidates, people: Sequence[User], each: int, *, seed: int = 0) -> Iterator[Preference]:
    """`each` votes of every user on pairs that are drawn for them, without repetition: pure functions of the seed."""
    for user in people:
        utility = candidates.utility(user)
        for place in _drawn(len(candidates.pairs), each, user, seed):
            pair = candidates.pairs[place]
            prompt, items = candidates.shown(pair)
            verdict = _vote(candidates, user, pair, utility, seed)
            yield Preference(prompt, items, user=user.name, verdict=verdict, judge="simulated user")


def tallied(candidates: Candidates, people: Sequence[User], each: int, *, seed: int = 0) -> Iterator[Preference]:
    """Every user's votes on every two candidates of `each` prompts that are drawn for them: what each won, a tie half.

    A record's best and worst are much surer than one vote on two that were drawn: the demo's votes are made alike.
    """
    prompts = list(candidates.places)
    for user in people:
        utility = candidates.utility(user)
        for number in _drawn(len(prompts), each, user, seed):
            own = candidates.places[prompts[number]]
            won = dict.fromkeys(own, 0.0)
            for first, second in combinations(own, 2):
                verdict = _vote(candidates, user, (first, second), utility, seed)
                won[first] += {"first": 1.0, "second": 0.0, "tie": 0.5}[verdict]
                won[second] += {"first": 0.0, "second": 1.0, "tie": 0.5}[verdict]
            prompt, items = candidates.shown(own)
            asked = Preference(prompt, items, user=user.name)
            yield asked.judged(list(won.values()), scale="utility", judge="votes of a simulated user")


def _drawn(count: int, each: int, user: User, seed: int) -> NDArray[np.int64]:
    return generator(seed, user.name, 0, "ballots").choice(count, each, replace=False)


def _vote(candidates: Candidates, user: User, pair: Pair, utility: NDArray[np.float64], seed: int) -> str:
    """One user's vote on two candidates."""
    prompt, items = candidates.shown(pair)
    first, second = (float(utility[place]) for place in pair)
    return user.vote(first, second, seed=seed, key="\n".join([prompt, *items]))
