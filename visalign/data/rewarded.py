"""Single items with what a scorer thinks of each: everything that was scored, good or bad, by itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..batches import Rewarded
from ..draws import Draws
from ..records import DataError, Preference
from .encode import Encoded
from .rows import Rows

if TYPE_CHECKING:
    from .views import Settings


class RewardedView:
    """Every item that has a scorer's value; the values are standardised over all of them, mean 0 and deviation 1.

    Items without a value, and those of records whose numbers are votes or probabilities, are left out and counted.
    Raises DataError where all values are the same.
    """

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        self.items: list[tuple[Preference, int]] = []
        self.left_out: Counter[str] = Counter()
        found = []
        for record in encoded.usable(records):
            values = record.utilities if record.scale == "utility" else np.full(len(record.items), np.nan)
            seen = np.flatnonzero(~np.isnan(values))
            self.left_out.update(["no scorer's value"] * (len(values) - len(seen)))
            self.items += [(record, int(item)) for item in seen]
            found.append(values[seen])
        self.rewards = _standardised(np.concatenate(found) if found else np.empty(0))

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        """The record's key and the item's place in it."""
        record, item = self.items[index]
        return f"{record.key}/{item}"

    def weight(self, index: int) -> float:
        """1 for every item: how hard it is trained is the method's affair."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Rewarded:
        """The items at these indices, each at its visit."""
        draw = Draws(seed, tuple(self.key(index) for index in indices), tuple(visits))
        taken = self.rows.taken([self.items[index] for index in indices], draw, "posterior")
        reward = torch.from_numpy(self.rewards[list(indices)])
        weight = torch.ones(len(indices))
        return Rewarded(taken.x, taken.condition, draw, weight, taken.empty, reward=reward)


def _standardised(values: np.ndarray) -> np.ndarray:
    """(n,) values less their mean, over their deviation; none at all stay none."""
    if not len(values):
        return values
    spread = values.std()
    if not spread > 0:
        raise DataError(f"all {len(values)} items have the same score, {values[0]:g}: there is nothing to prefer")
    standard: np.ndarray = (values - values.mean()) / spread
    return standard
