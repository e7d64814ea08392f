"""Cached rows to tensors: posterior samples, dropped prompts, and whose taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..batches import Condition
from ..draws import Draws
from ..records import DataError, Preference
from .encode import Encoded


@dataclass(frozen=True)
class Taken:
    """One item of each of b records."""

    x: Tensor  # (b, c, h, w) float32
    condition: Condition  # (b, ...)
    empty: Condition  # (b, ...) the same without prompt and user


class Rows:
    """Looks items and texts up for a view."""

    def __init__(self, encoded: Encoded, prompt_dropout: float, users: Mapping[str, Tensor] | None) -> None:
        self.encoded, self.prompt_dropout, self.users = encoded, prompt_dropout, users

    def taken(self, chosen: Sequence[tuple[Preference, int]], draw: Draws, stream: str) -> Taken:
        """The chosen items: posterior noise from `stream`, dropout from the record's own."""
        latents = [self.encoded.latent(record.items[item]) for record, item in chosen]
        mean = torch.stack([latent.mean.float() for latent in latents])
        deviation = torch.stack([latent.deviation.float() for latent in latents])
        x = mean + deviation * draw.normal(stream, mean.shape[1:], like=mean)
        frames = torch.stack([latent.frame for latent in latents])
        told, untold = self._conditions([_caption(record, item) for record, item in chosen], draw, frames)
        user = self._users([record for record, _ in chosen])
        nobody = None if user is None else torch.zeros_like(user)
        return Taken(x, replace(told, user=user), replace(untold, user=nobody))

    def told(self, texts: Sequence[str], draw: Draws) -> tuple[Condition, Condition]:
        """The conditions of texts without pictures, and the same without text: whole pictures of the resolution."""
        return self._conditions(texts, draw, torch.tensor([[*self.encoded.sides, 0, 0]] * len(texts)))

    def _conditions(self, texts: Sequence[str], draw: Draws, frames: Tensor) -> tuple[Condition, Condition]:
        """Conditions with "" in place of the texts that the record's draw drops, and with "" in place of all."""
        dropped = draw.uniform("dropout") < self.prompt_dropout
        kept = ["" if drop else text for text, drop in zip(texts, dropped, strict=True)]
        told = self._time_ids(frames), None, self._guidance(len(texts))
        return Condition(*self._read(kept), *told), Condition(*self._read([""] * len(texts)), *told)

    def _guidance(self, count: int) -> Tensor | None:
        """(n,) what a network is told that was distilled from guided answers."""
        return None if self.encoded.guidance is None else torch.full((count,), self.encoded.guidance)

    def _read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        known = {text: self.encoded.text(text) for text in dict.fromkeys(texts)}  # T5's states are megabytes each
        rows = [known[text] for text in texts]
        pooled = [row for _, row in rows if row is not None]
        return torch.stack([row for row, _ in rows]), torch.stack(pooled) if pooled else None

    def _users(self, records: Sequence[Preference]) -> Tensor | None:
        """(b, tokens, width) of whose taste each record is; zeros, which is nobody's, where it names no user."""
        if self.users is None:
            return None
        nobody = torch.zeros_like(next(iter(self.users.values())))
        unknown = {record.user for record in records if record.user} - self.users.keys()
        if unknown:
            raise DataError(f"no embedding of user {min(unknown)!r}: data.users holds {len(self.users)} others")
        return torch.stack([self.users[record.user] if record.user else nobody for record in records])

    def _time_ids(self, frames: Tensor) -> Tensor | None:
        """SDXL's (n, 6): original height and width, crop top and left, target height and width."""
        if not self.encoded.wants_time_ids:
            return None
        target = torch.tensor([self.encoded.sides] * len(frames))
        return torch.cat([frames, target], dim=1).float()


def _caption(record: Preference, item: int) -> str:
    return record.captions[item] if record.captions else record.prompt
