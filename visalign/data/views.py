"""Records as batches: who won and how surely, one posterior sample a visit, one dropped prompt for the two of a pair.

A view holds no random state. What a batch is depends on (records, indices, visits, seed) alone, so a batch of three is
three batches of one, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..batches import Condition, Pairs, Singles
from ..draws import Draws
from ..records import DataError, Preference
from ..scoring import bradley_terry
from .encode import Encoded

Ties = Literal["skip", "half"]


@dataclass(frozen=True)
class Pair:
    """Which two items of a record are compared."""

    record: Preference
    win: int  # index of the better item
    lose: int
    confidence: float  # P(win is really better), 1/2 for a tie


def paired(record: Preference, temperature: float = 0.0) -> Pair | str:
    """The best and the worst item of a record, or why there are none: "both bad" or "not judged".

    A verdict decides where there is one, else the scores. Confidence is the winner's share of the two items'
    probability or votes, and for utilities Bradley-Terry at `temperature` (0: certain).
    """
    if record.verdict == "both_bad":
        return "both bad"
    values = record.utilities
    seen = np.flatnonzero(~np.isnan(values))
    if record.scale == "votes" and not values[seen].any():  # nobody voted, which is not a tie
        seen = seen[:0]
    if len(seen) < 2:
        said = {"first": (0, 1, 1.0), "second": (1, 0, 1.0), "tie": (0, 1, 0.5)}.get(record.verdict or "")
        return Pair(record, *said) if said else "not judged"
    order = seen[np.argsort(-values[seen], kind="stable")]
    win, lose = int(order[0]), int(order[-1])
    return Pair(record, win, lose, _confidence(record, float(values[win]), float(values[lose]), temperature))


def _confidence(record: Preference, win: float, lose: float, temperature: float) -> float:
    if win == lose:
        return 0.5
    if record.scale == "utility":
        double = torch.tensor([win, lose], dtype=torch.float64)
        return float(bradley_terry(double[0], double[1], temperature))
    return win / (win + lose)


class PairsView:
    """Preference pairs: the best and the worst item of each record.

    Ties (equal scores, or the verdict): `skip` leaves them out of the view and counts them in `left_out`; `half` keeps
    them with confidence 1/2. Records that are "both bad" or not judged are left out and counted whatever `ties` says.
    """

    batch_type = Pairs

    def __init__(
        self,
        records: Iterable[Preference],
        encoded: Encoded,
        *,
        ties: Ties = "skip",
        prompt_dropout: float = 0.0,
        temperature: float = 0.0,
    ) -> None:
        if ties not in ("skip", "half"):
            raise DataError(f"ties: {ties!r} is not one of skip, half")
        self.rows = _Rows(encoded, prompt_dropout)
        self.pairs, self.left_out = _sorted_out(records, encoded, temperature, skip=ties == "skip")

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
        return Pairs(
            win=win.x,
            lose=lose.x,
            condition=_joined(win.condition, lose.condition),
            draw=draw,
            confidence=torch.tensor([pair.confidence for pair in pairs], dtype=torch.float32),
            weight=torch.ones(len(pairs)),
        )


class SinglesView:
    """Single items: each pair's winner, or with `choose="both"` its winner (label +1) and its loser (label -1).

    Ties have no winner and are left out, as are records not judged; of records that are "both bad", `both` takes the
    two items as losers.
    """

    batch_type = Singles

    def __init__(
        self,
        records: Iterable[Preference],
        encoded: Encoded,
        *,
        choose: Literal["winner", "both"] = "winner",
        prompt_dropout: float = 0.0,
    ) -> None:
        if choose not in ("winner", "both"):
            raise DataError(f"choose: {choose!r} is not one of winner, both")
        self.rows = _Rows(encoded, prompt_dropout)
        records = list(records)
        pairs, self.left_out = _sorted_out(records, encoded, 0.0, skip=True)
        self.items = [(pair.record, pair.win, 1) for pair in pairs]
        if choose == "both":
            self.items += [(pair.record, pair.lose, -1) for pair in pairs]
            bad = [record for record in encoded.usable(records) if record.verdict == "both_bad"]
            self.items += [(record, item, -1) for record in bad for item in range(len(record.items))]
            self.left_out.pop("both bad", None)

    def __len__(self) -> int:
        return len(self.items)

    def key(self, index: int) -> str:
        """The record's key for its winner; for other items the key and the item's place."""
        record, item, label = self.items[index]
        return record.key if label > 0 else f"{record.key}/{item}"

    def weight(self, index: int) -> float:
        """1 for every item."""
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Singles:
        """The items at these indices, each at its visit."""
        draw = Draws(seed, tuple(self.key(index) for index in indices), tuple(visits))
        chosen = [self.items[index] for index in indices]
        taken = self.rows.taken([(record, item) for record, item, _ in chosen], draw, "posterior/win")
        label = torch.tensor([label for _, _, label in chosen], dtype=torch.float32)
        return Singles(taken.x, taken.condition, draw, weight=torch.ones(len(chosen)), label=label)


def view(
    batch_type: type,
    records: Iterable[Preference],
    encoded: Encoded,
    *,
    ties: Ties = "skip",
    prompt_dropout: float = 0.0,
    temperature: float = 0.0,
) -> PairsView | SinglesView:
    """The view that makes batches of this type, with the settings that concern it.

    Raises DataError for a type that no view makes, or if nothing is left to train on.
    """
    made: PairsView | SinglesView
    if batch_type is Pairs:
        made = PairsView(records, encoded, ties=ties, prompt_dropout=prompt_dropout, temperature=temperature)
    elif batch_type is Singles:
        made = SinglesView(records, encoded, prompt_dropout=prompt_dropout)
    else:
        raise DataError(f"no view makes {batch_type.__name__}; there are views for Pairs, Singles")
    if not len(made):
        raise DataError(f"no record is left to train on; left out were {dict(made.left_out)}")
    return made


def _sorted_out(
    records: Iterable[Preference], encoded: Encoded, temperature: float, *, skip: bool
) -> tuple[list[Pair], Counter[str]]:
    """The pairs to train on, and how many records were left out for which reason."""
    pairs: list[Pair] = []
    left_out: Counter[str] = Counter()
    for record in encoded.usable(records):
        found = paired(record, temperature)
        if isinstance(found, str):
            left_out[found] += 1
        elif skip and found.confidence == 0.5:
            left_out["tie"] += 1
        else:
            pairs.append(found)
    return pairs, left_out


@dataclass(frozen=True)
class _Taken:
    """One item of each of b records."""

    x: Tensor  # (b, c, h, w) float32
    condition: Condition  # (b, ...)


class _Rows:
    """Cached rows to tensors: posterior samples, dropped prompts, flips."""

    def __init__(self, encoded: Encoded, prompt_dropout: float) -> None:
        if not 0.0 <= prompt_dropout <= 1.0:
            raise DataError(f"prompt_dropout must lie in 0 … 1, got {prompt_dropout}")
        self.encoded, self.prompt_dropout = encoded, prompt_dropout

    def taken(self, chosen: Sequence[tuple[Preference, int]], draw: Draws, stream: str) -> _Taken:
        """The chosen items: posterior noise from `stream`, dropout and flips from the record's own streams."""
        flips = draw.integers("flip", 0, 2).bool() if self.encoded.flips else torch.zeros(len(draw), dtype=torch.bool)
        items = [record.items[item] for record, item in chosen]
        latents = [self.encoded.latent(item, bool(flip)) for item, flip in zip(items, flips, strict=True)]
        mean = torch.stack([latent.mean.float() for latent in latents])
        deviation = torch.stack([latent.deviation.float() for latent in latents])
        x = mean + deviation * draw.normal(stream, mean.shape[1:], like=mean)
        text, pooled = self._texts([_caption(record, item) for record, item in chosen], draw)
        frames = torch.stack([latent.frame for latent in latents])
        return _Taken(x, Condition(text, pooled, self._time_ids(frames)))

    def _texts(self, captions: Sequence[str], draw: Draws) -> tuple[Tensor, Tensor | None]:
        """Text states, with "" in place of those that the record's draw drops."""
        dropped = draw.uniform("dropout") < self.prompt_dropout
        told = ["" if drop else caption for caption, drop in zip(captions, dropped, strict=True)]
        rows = [self.encoded.text(caption) for caption in told]
        pooled = [row for _, row in rows if row is not None]
        return torch.stack([row for row, _ in rows]), torch.stack(pooled) if pooled else None

    def _time_ids(self, frames: Tensor) -> Tensor | None:
        """SDXL's (n, 6): original height and width, crop top and left, target height and width."""
        if not self.encoded.wants_time_ids:
            return None
        target = torch.full((len(frames), 2), self.encoded.resolution)
        return torch.cat([frames, target], dim=1).float()


def _caption(record: Preference, item: int) -> str:
    return record.captions[item] if record.captions else record.prompt


def _joined(first: Condition, second: Condition) -> Condition:
    """The conditions of winners, then of losers."""

    def both(a: Tensor | None, b: Tensor | None) -> Tensor | None:
        return None if a is None or b is None else torch.cat([a, b])

    text = torch.cat([first.text, second.text])
    return Condition(text, both(first.pooled, second.pooled), both(first.time_ids, second.time_ids))
