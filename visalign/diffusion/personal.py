"""Whose taste: a user's votes, what reads an embedding from a few of them, and mixtures of users.

An embedding is (tokens, width) numbers that personalised methods are told; zeros are nobody's. A record's `user` names
the embedding that stands for its voter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from ..batches import Condition
from ..data import media
from ..data.pairing import paired
from ..records import DataError, Preference
from ..scoring import Sample
from .guidance import Predict, pushed
from .sampling import Painter

APART = "#"  # between a user and the number of a group of their votes


@dataclass(frozen=True)
class Vote:
    """Two items of one prompt, and how sure it is that the user likes the first better."""

    better: Sample
    worse: Sample
    confidence: float = 1.0  # 1/2: a tie


class Reader(Protocol):
    """What makes an embedding of a user's votes."""

    def read(self, users: Sequence[Sequence[Vote]]) -> list[Tensor]:
        """An embedding (tokens, width) for each user's votes, all of one shape."""


@runtime_checkable
class Learner(Protocol):
    """A reader that has to see a population of users first."""

    @property
    def learned(self) -> bool:
        """Whether it has."""

    def learn(self, users: Sequence[Sequence[Vote]]) -> None:
        """Read the population from each user's votes."""

    def save(self, path: Path) -> Path:
        """Write the population, to read embeddings of later users by it."""


def votes(records: Iterable[Preference], root: Path) -> dict[str, list[tuple[Preference, Vote]]]:
    """Each user's records that say who won, with the vote in each, in order; DataError if no record names a user."""
    samples: dict[tuple[str, str], Sample] = {}
    found: dict[str, list[tuple[Preference, Vote]]] = {}
    for record in records:
        pair = paired(record)
        if record.user is None or isinstance(pair, str):
            continue
        win, lose = (_sample(samples, record, record.items[item], root) for item in (pair.win, pair.lose))
        found.setdefault(record.user, []).append((record, Vote(win, lose, pair.confidence)))
    if not found:
        raise DataError("no record says whose taste it is and who won: tastes are read from records with a `user`")
    return found


def _sample(known: dict[tuple[str, str], Sample], record: Preference, item: str, root: Path) -> Sample:
    """One sample an item and prompt, so that a reader looks at each picture once."""
    key = (record.prompt, item)
    if key not in known:
        known[key] = Sample(record.prompt, image=media.fetch(item, root))
    return known[key]


@dataclass(frozen=True)
class Grouped:
    """Users' votes in groups of a few, each group with an embedding of its own, and records that name them."""

    groups: Mapping[str, list[Vote]]  # "anna" all of her votes, "anna#0" the first few …
    records: list[Preference]  # the `user` of each is a group of other votes of the same user, where there is one


def grouped(found: Mapping[str, list[tuple[Preference, Vote]]], shots: int) -> Grouped:
    """Disjoint groups of `shots` votes a user (PPD, arXiv 2501.06655, uses 4), the last with what is left over.

    A record's taste is that of its user's next group: an embedding never saw the vote that it is trained on. A user
    with fewer than two groups is one group.
    """
    if shots < 1:
        raise DataError(f"a taste is read from at least 1 vote, got {shots}")
    groups: dict[str, list[Vote]] = {}
    records: list[Preference] = []
    for user, cast in found.items():
        groups[user] = [vote for _, vote in cast]
        count = len(cast) // shots
        if count < 2:
            records += [record for record, _ in cast]
            continue
        for place, (record, vote) in enumerate(cast):
            own = min(place // shots, count - 1)
            groups.setdefault(f"{user}{APART}{own}", []).append(vote)
            records.append(replace(record, user=f"{user}{APART}{(own + 1) % count}"))
    return Grouped(groups, records)


def taste(said: str, users: Mapping[str, Tensor]) -> Tensor:
    """The embedding (tokens, width) that a user means by "anna", or by a mixture, "0.3*anna+0.7*ben".

    Weights sum to 1, and may be negative: "2*anna+-1*ben" is further from Ben than Anna is. Raises DataError.
    """
    if said in users:
        return users[said]
    parts = [part.rpartition("*") for part in said.split("+")]
    wrong = [part for part in parts if part[2] not in users or not re.fullmatch(r"-?\d*\.?\d+", part[0] or "1")]
    if wrong:
        known = ", ".join(sorted(users)[:8])
        raise DataError(f"no user {wrong[0][2]!r}: there are {len(users)}, {known} …; a mixture reads 0.3*anna+0.7*ben")
    weights = [float(weight or 1) for weight, _, _ in parts]
    if abs(sum(weights) - 1) > 1e-6:
        raise DataError(f"the weights of {said!r} sum to {sum(weights):g}, not 1")
    return torch.stack([weight * users[name] for weight, (_, _, name) in zip(weights, parts, strict=True)]).sum(0)


@dataclass(frozen=True)
class Addressed:
    """A painter whose conditions say for whom it draws; the empty prompt, which guides, is nobody's."""

    painter: Painter
    user: Tensor  # (tokens, width)

    def conditions(self, prompts: Sequence[str], size: tuple[int, ...]) -> Condition:
        """The painter's conditions of n prompts, with the user's embedding for each that is not empty."""
        made = self.painter.conditions(prompts, size)
        asked = torch.tensor([bool(prompt) for prompt in prompts], device=made.text.device)
        return replace(made, user=asked[:, None, None] * self.user.to(made.text.device))

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The painter's."""
        return self.painter.latent_shape(size)

    def decode(self, latents: Tensor) -> Tensor:
        """The painter's."""
        return self.painter.decode(latents)


def towards_user(predict: Predict, guidance: float) -> Predict:
    """Answers pushed from what everybody likes to what the condition's user likes: nobody + guidance (user - nobody).

    1 is the user's answer itself; any other guidance asks twice.
    """
    if guidance == 1.0:
        return predict

    def answer(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if condition.user is None:
            return predict(x, t, condition)
        nobody = replace(condition, user=torch.zeros_like(condition.user))
        return pushed(predict(x, t, condition), predict(x, t, nobody), guidance)

    return answer
