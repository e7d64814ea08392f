"""What a method asks of its records and of its model beyond what their types say: before a picture is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from .data.pairing import Pair, paired
from .draws import Draws
from .process import Ddpm, Flow, Process
from .records import DataError, Preference
from .strict import ConfigError

MEND = "score the records with `visalign label` and train on what it writes"


@runtime_checkable
class Needing(Protocol):
    """A method whose records must say more than who won."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Names in NEEDS."""


@runtime_checkable
class FlowOnly(Protocol):
    """A method that is written for flow paths alone."""

    @property
    def elsewhere(self) -> str:
        """The method that does the same on any path."""


@runtime_checkable
class Branching(Protocol):
    """A method that trains what answers the empty prompt under guidance."""

    @property
    def negative_branch(self) -> bool:
        """Whether it does, as it is set."""


class Scored(Protocol):
    """A batch of b records with a scorer's values of two items each."""

    @property
    def draw(self) -> Draws:
        """Of the b records."""

    @property
    def scores(self) -> Tensor | None:
        """(b, 2), NaN where there is none."""

    def __len__(self) -> int:
        """b."""


def unscored(record: Preference) -> str:
    """Why a record that somebody judged is not judged by a scorer's values: what it holds instead; "" if it is."""
    if np.count_nonzero(~np.isnan(record.utilities)) < 2:
        return f"only the verdict {record.verdict!r}"
    return "" if record.scale == "utility" else f"its numbers are of scale {record.scale!r}"


def unvalued(record: Preference) -> str:
    """Why no item of a record has a scorer's value: what it holds instead; "" if one has."""
    if record.scale != "utility" and not np.isnan(record.utilities).all():
        return f"its numbers are of scale {record.scale!r}"
    return f"only the verdict {record.verdict!r}" if np.isnan(record.utilities).all() else ""


@dataclass(frozen=True)
class Need:
    """What records must say for a method that asks it of them."""

    what: str
    lacks: Callable[[Preference], str]  # what a record holds instead; "": it says so
    mend: str
    pairs: bool = True  # whether a record takes part by two items that are compared, or one with a value is enough


NEEDS: Mapping[str, Need] = {
    "scores": Need("a scorer's values of a record's items", unscored, MEND),
    "rewards": Need("a scorer's value of each item", unvalued, MEND, pairs=False),
}


def check(name: str, method: Any, records: Sequence[Preference], *, ties: Literal["skip", "half"] = "half") -> None:
    """DataError that names the first record which lacks what the method `name` needs, and the mend.

    Records that are judged by nobody, or as both bad, take no part in a training and are passed over, and so are ties
    that it will `skip`; it is an error if nobody judged any record.
    """
    for need in (NEEDS[each] for each in (method.needs if isinstance(method, Needing) else ())):
        found = [record for record in records if _takes_part(record, need, ties)]
        if records and not found and not any(isinstance(paired(record), Pair) for record in records):
            raise DataError(
                f"{name} needs {need.what}; nobody judged record {records[0].key!r} or any other; {need.mend}"
            )
        for record in found:
            if instead := need.lacks(record):
                raise DataError(f"{name} needs {need.what}; record {record.key!r} has none, {instead}; {need.mend}")


def _takes_part(record: Preference, need: Need, ties: str) -> bool:
    pair = paired(record)
    if isinstance(pair, Pair):
        return not (need.pairs and ties == "skip" and pair.confidence == 0.5)
    return not need.pairs and not unvalued(record)


def check_path(name: str, method: Any, process: Process) -> None:
    """ConfigError if the method `name` is for flow paths alone and this is another; it names the method that serves."""
    if isinstance(method, FlowOnly) and not isinstance(process, Flow):
        said = f"a diffusion path and predicts {process.prediction}" if isinstance(process, Ddpm) else repr(process)
        raise ConfigError(
            f"{name} trains flow-matching models, and this model has {said}; method.name={method.elsewhere} trains it"
        )


def check_guided(name: str, method: Any, told: float | None) -> None:
    """ConfigError if the method `name` trains the branch of guidance that a model has not which is `told` guidance."""
    if told is not None and isinstance(method, Branching) and method.negative_branch:
        raise ConfigError(
            f"{name} trains what answers the empty prompt under guidance, and this model is told its guidance and "
            "never asked that; method.name=diffusion_dpo trains what it draws"
        )


def known_scores(batch: Scored, name: str) -> Tensor:
    """(b, 2) scores of b records; ValueError names those that no scorer has scored, and the method that needs them."""
    scores = torch.full((len(batch), 2), torch.nan) if batch.scores is None else batch.scores
    unknown = scores.isnan().any(1).tolist()  # one transfer from the device
    if missing := [key for key, lacks in zip(batch.draw.keys, unknown, strict=True) if lacks]:
        raise ValueError(
            f"{name} needs a scorer's values of both items, and {len(missing)} of {len(batch)} records have none, "
            f"{missing[0]!r} the first; {MEND}"
        )
    return scores
