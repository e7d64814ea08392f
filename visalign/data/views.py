"""Records as batches: who won and how surely, one posterior sample a visit, one dropped prompt for the two of a pair.

A view holds no random state. What a batch is depends on (records, indices, visits, seed) alone, so a batch of three is
three batches of one, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..batches import Anchored, Labelled, Pairs, Prompts, Rewarded, Segments, Singles, joined
from ..contract import View
from ..draws import Draws
from ..records import DataError, Preference
from .encode import Encoded
from .pairing import Pair, sorted_out
from .rewarded import RewardedView
from .rows import Rows
from .segmented import Labels

Ties = Literal["skip", "half"]


@dataclass(frozen=True)
class Settings:
    """How records become batches; each view heeds what concerns it.

    Ties (equal scores, or the verdict): `skip` leaves them out of the view and counts them in `left_out`; `half` keeps
    them as pairs with confidence 1/2.
    """

    ties: Ties = "skip"
    prompt_dropout: float = 0.0  # share of the visits at which the prompt is ""
    temperature: float = 0.0  # from differences of utilities to confidence; 0: the higher one is surely better
    liked: float | None = None  # weight that liked items have among labelled ones, all together; None: each counts 1
    users: Mapping[str, Tensor] | None = None  # (tokens, width) embedding of each user whose taste a record can be
    segments_min: float = 0.2  # share of a clip's frames that need a label for it to be trained on

    def __post_init__(self) -> None:
        if self.ties not in ("skip", "half"):
            raise DataError(f"ties: {self.ties!r} is not one of skip, half")
        if not 0.0 <= self.prompt_dropout <= 1.0:
            raise DataError(f"prompt_dropout must lie in 0 … 1, got {self.prompt_dropout}")
        if self.liked is not None and not 0.0 < self.liked <= 1.0:
            raise DataError(f"liked is a share above 0 and at most 1, got {self.liked}")
        if not 0.0 <= self.segments_min <= 1.0:
            raise DataError(f"segments_min must lie in 0 … 1, got {self.segments_min}")


class PairsView:
    """Preference pairs: the best and the worst item of each record.

    Records that are "both bad" or not judged are left out and counted in `left_out`, whatever the policy for ties.
    """

    kind: type[Pairs] = Pairs

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        skip = settings.ties == "skip"
        self.pairs, self.left_out = sorted_out(records, encoded, settings.temperature, skip=skip)

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        """The key of a pair's record."""
        return self.pairs[index].record.key

    def weight(self, index: int) -> float:
        """1: what has no weight is left out of the view."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Pairs:
        """The pairs at these indices, each at its visit."""
        pairs = [self.pairs[index] for index in indices]
        draw = Draws(seed, tuple(pair.record.key for pair in pairs), tuple(visits))
        win = self.rows.taken([(pair.record, pair.win) for pair in pairs], draw, "posterior/win")
        lose = self.rows.taken([(pair.record, pair.lose) for pair in pairs], draw, "posterior/lose")
        return self.kind(
            win=win.x,
            lose=lose.x,
            condition=joined(win.condition, lose.condition),
            draw=draw,
            confidence=torch.tensor([pair.confidence for pair in pairs], dtype=torch.float32),
            weight=torch.ones(len(pairs)),
            scores=torch.tensor([pair.scores for pair in pairs], dtype=torch.float64),
            empty=joined(win.empty, lose.empty),
        )


class AnchoredView(PairsView):
    """Pairs in their records' order. Records of other than two items, both with a scorer's value, are left out."""

    kind = Anchored

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        usable = list(encoded.usable(records))
        self.pairs = [Pair(record, 0, 1, 1.0) for record in usable if _rewarded(record)]
        self.left_out = Counter({"not two scored items": len(usable) - len(self.pairs)})


class SegmentsView(PairsView):
    """Pairs of clips in their records' order, with a label for each latent frame; see `Labels`."""

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        found = Labels(records, encoded, settings.temperature, settings.segments_min)
        self.pairs = [Pair(record, 0, 1, 1.0) for record in found.records]
        self.labels, self.left_out = found.labels, found.left_out

    def weight(self, index: int) -> float:
        """How many latent frames have a label: DenseDPO averages over those."""
        return float(self.labels[index].count_nonzero())

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Segments:
        """The pairs at these indices, each at its visit."""
        labels = torch.stack([self.labels[index] for index in indices])
        weight = torch.tensor([self.weight(index) for index in indices])
        parts = vars(super().batch(indices, visits, seed))
        return Segments(**parts | {"weight": weight, "labels": labels})


def _rewarded(record: Preference) -> bool:
    values = record.utilities
    return len(values) == 2 and record.scale == "utility" and not bool(np.isnan(values).any())


class SinglesView:
    """Single items: each pair's winner, and what was liked by itself (a record of one item, as in `LabelledView`).

    Ties have no winner and are left out, as are records not judged and single items not liked.
    """

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        records = list(records)
        liked = [record for record in encoded.usable(records) if _thumb(record) > 0]
        alone = {record.key for record in liked}
        rest = [record for record in records if record.key not in alone]
        self.pairs, self.left_out = sorted_out(rest, encoded, 0.0, skip=True)
        self.pairs += [Pair(record, 0, 0, 1.0) for record in liked]

    def __len__(self) -> int:
        return len(self.pairs)

    def key(self, index: int) -> str:
        """The key of the winner's record."""
        return self.pairs[index].record.key

    def weight(self, index: int) -> float:
        """1 for every item."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Singles:
        """The winners at these indices, each at its visit."""
        draw = Draws(seed, tuple(self.key(index) for index in indices), tuple(visits))
        chosen = [(self.pairs[index].record, self.pairs[index].win) for index in indices]
        taken = self.rows.taken(chosen, draw, "posterior/win")
        return Singles(taken.x, taken.condition, draw, torch.ones(len(chosen)), taken.empty)


class LabelledView:
    """Each pair's winner (label +1) and its loser (label -1), as single items; no pair is formed of them.

    Ties are left out, as are records not judged; of records that are "both bad" the items are losers, and of a record
    of one item and a probability that item is liked above 1/2, disliked below. With `liked` (Diffusion-KTO's gamma)
    the items of a label share a weight, so that liked ones come to that share of the whole, however many there are:
    what drawing them that often comes to, without an item being drawn twice or never.
    """

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        records = list(records)
        alone = [(record, 0, label) for record in encoded.usable(records) if (label := _thumb(record))]
        single = {record.key for record, _, _ in alone}
        rest = [record for record in records if record.key not in single]
        pairs, self.left_out = sorted_out(rest, encoded, 0.0, skip=True)
        bad = [record for record in encoded.usable(records) if record.verdict == "both_bad"]
        self.left_out.pop("both bad", None)
        self.items = [(pair.record, pair.win, 1) for pair in pairs]
        self.items += [(pair.record, pair.lose, -1) for pair in pairs]
        self.items += [(record, item, -1) for record in bad for item in range(len(record.items))]
        self.items += alone
        self.weights = _shares([label for _, _, label in self.items], settings.liked)

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        """The record's key and the item's place in it."""
        record, item, _ = self.items[index]
        return f"{record.key}/{item}"

    def weight(self, index: int) -> float:
        """1 for every item, or its part of its label's share."""
        return self.weights[self.items[index][2]]

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Labelled:
        """The items at these indices, each at its visit."""
        draw = Draws(seed, tuple(self.key(index) for index in indices), tuple(visits))
        chosen = [self.items[index] for index in indices]
        taken = self.rows.taken([(record, item) for record, item, _ in chosen], draw, "posterior")
        label = torch.tensor([label for _, _, label in chosen], dtype=torch.float32)
        weight = torch.tensor([self.weight(index) for index in indices], dtype=torch.float32)
        return Labelled(taken.x, taken.condition, draw, label, weight, taken.empty)


def _thumb(record: Preference) -> int:
    """+1 or -1 for a record of one item that was judged by itself, 0 for any other."""
    if len(record.items) != 1 or record.scale != "probability":
        return 0
    chance = float(record.utilities[0])
    return int(chance > 0.5) - int(chance < 0.5)


def _shares(labels: Sequence[int], liked: float | None) -> dict[int, float]:
    """The weight of an item of each label: 1, or such that liked ones come to a share and the mean is 1."""
    counts = Counter(labels)
    if liked is None or len(counts) < 2:
        return {1: 1.0, -1: 1.0}
    return {1: liked * len(labels) / counts[1], -1: (1.0 - liked) * len(labels) / counts[-1]}


class PromptsView:
    """Each prompt once, whatever was drawn for it."""

    def __init__(self, records: Iterable[Preference], encoded: Encoded, settings: Settings) -> None:
        self.rows = Rows(encoded, settings.prompt_dropout, settings.users)
        self.texts = list(dict.fromkeys(record.prompt for record in records))
        self.left_out: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.texts)

    def key(self, index: int) -> str:
        """The prompt itself."""
        return self.texts[index]

    def weight(self, index: int) -> float:
        """1 for every prompt."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Prompts:
        """The prompts at these indices, each at its visit."""
        texts = tuple(self.texts[index] for index in indices)
        draw = Draws(seed, texts, tuple(visits))
        shape = self.rows.encoded.latent_shape
        condition, empty = self.rows.told(texts, draw)
        return Prompts(texts, shape, condition, empty, draw, torch.ones(len(texts)))


VIEWS: Mapping[type, Callable[[Iterable[Preference], Encoded, Settings], View]] = {
    Pairs: PairsView,
    Anchored: AnchoredView,
    Segments: SegmentsView,
    Singles: SinglesView,
    Labelled: LabelledView,
    Rewarded: RewardedView,
    Prompts: PromptsView,
}


def view(batch_type: type, records: Iterable[Preference], encoded: Encoded, settings: Settings | None = None) -> Any:
    """The view that makes batches of this type.

    Raises DataError for a type that no view makes, or if nothing is left to train on.
    """
    if batch_type not in VIEWS:
        known = ", ".join(each.__name__ for each in VIEWS)
        raise DataError(f"no view makes {batch_type.__name__}; there are views for {known}")
    made: Any = VIEWS[batch_type](records, encoded, settings or Settings())
    if not len(made):
        raise DataError(f"no record is left to train on; left out were {dict(made.left_out)}")
    return made
