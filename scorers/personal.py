"""Personal taste: what tells pictures apart, a reader of tastes from a few votes, a scorer that judges by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from visalign import registry
from visalign.diffusion.personal import Vote
from visalign.images import ImageError
from visalign.scoring import Prefers, Sample, Scores, Spec, opened

from . import reading
from .clip import PathLike
from .preprocess import Geometry
from .tastes import Tastes


class Features(Protocol):
    """What says of each sample a few numbers, without being trained for it."""

    @property
    def name(self) -> str:
        """By which `features` makes it again."""

    def of(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[int, str]]:
        """(n, D) float64, NaN in the rows of samples that cannot be read, and why they cannot."""


class Checked:
    """The playground's own: the checker's aspects and their product, and the looks that its users have tastes in."""

    name = "checker"

    def of(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[int, str]]:
        """(n, 10)."""
        from visalign.playground import checker, users

        width = len(checker.ASPECTS) + 1 + len(users.LOOKS)
        rows, reasons = torch.full((len(samples), width), torch.nan, dtype=torch.float64), {}
        for place, (sample, image) in enumerate(zip(samples, opened(samples), strict=True)):
            try:
                if isinstance(image, ImageError):
                    raise image
                picture = np.asarray(image)[None]
                seen = checker.scores(picture, [sample.prompt]) | users.looks(picture)
                rows[place] = torch.tensor([float(each[0]) for each in seen.values()])
            except ValueError as error:
                reasons[place] = str(error)
        return rows, reasons


@runtime_checkable
class Embeds(Protocol):
    """A registered scorer that offers embeddings: one that is made of two towers."""

    @property
    def towers(self) -> Any:
        """`images` and `texts` to unit vectors."""

    @property
    def geometry(self) -> Geometry:
        """How a picture is made square."""

    @property
    def batch(self) -> int:
        """Pictures at a time."""

    @property
    def device(self) -> torch.device:
        """Where the towers are."""

    @property
    def texts(self) -> reading.Remembered:
        """The text tower, each prompt asked once."""


class Embedded:
    """A scorer's image embedding, what of it the prompt does not say, and their cosine: (n, 2 d + 1).

    The second part is the embedding without its component along the prompt's: how a picture shows what was not asked.
    """

    def __init__(self, name: str, scorer: Any) -> None:
        if not isinstance(scorer, Embeds):
            raise ValueError(f"{name} offers no embeddings; known are checker and scorers of two towers, as hpsv2.1")
        self.name, self.scorer = name, scorer

    def of(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[int, str]]:
        """(n, 2 d + 1), computed in float32."""
        asked, found = self.scorer, []
        reasons: dict[int, str] = {}
        for part in reading.batches(samples, asked.geometry, asked.batch, asked.device):
            reasons |= part.reasons
            if part.rows:
                with torch.no_grad():
                    found.append((part.rows, asked.towers.images(part.pixels).double().cpu()))
        texts = asked.texts([each.prompt for each in samples]).double().cpu()
        rows = torch.full((len(samples), 2 * texts.shape[1] + 1), torch.nan, dtype=torch.float64)
        for places, images in found:
            along = (images * texts[places]).sum(-1, keepdim=True)
            rows[places] = torch.cat([images, images - along * texts[places], along], dim=1)
        return rows, reasons


def features(name: str) -> Features:
    """Features by name: "checker", or a registered scorer that offers embeddings."""
    return Checked() if name == Checked.name else Embedded(name, registry.build("scorer", name))


class TasteReader:
    """Reads a user's place in a population of tastes from one to eight votes: an embedding (1, d).

    Args:
        tastes: a population that was learned before (`visalign users` writes it); None: `learn` it.
        features: what pictures are told by: "checker", or a scorer that offers embeddings.
        width: numbers that features are turned into at most.
    """

    def __init__(self, tastes: PathLike | None = None, features: str = "checker", width: int = 32) -> None:
        self.tastes = None if tastes is None else Tastes.load(tastes)
        self.width = width
        self.features = _features(self.tastes.features if self.tastes else features)
        self._known: dict[int, tuple[Sample, Tensor]] = {}  # by identity: a population is looked at once

    @property
    def learned(self) -> bool:
        """Whether it knows a population."""
        return self.tastes is not None

    def learn(self, users: Sequence[Sequence[Vote]]) -> None:
        """Read the population from each user's votes."""
        better, worse, sure = self._told(users)
        self.tastes = Tastes.learned(better, worse, sure, features=self.features.name, width=self.width)

    def read(self, users: Sequence[Sequence[Vote]]) -> list[Tensor]:
        """(1, d) float32 for each user's votes."""
        if self.tastes is None:
            raise ValueError("this reader knows no population yet: give tastes=FILE, or let it `learn` from users")
        told = zip(*self._told(users), strict=True)
        return [self.tastes.read(*each)[None].float() for each in told]

    def save(self, path: Path) -> Path:
        """Write the population to a safetensors file."""
        if self.tastes is None:
            raise ValueError("there is no population to write yet")
        return self.tastes.save(path)

    def _told(self, users: Sequence[Sequence[Vote]]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Features of the better and the worse items, (m, D) each, and P(better), (m,), of each user."""
        self._look([each for cast in users for vote in cast for each in (vote.better, vote.worse)])
        better, worse = (
            [torch.stack([self._known[id(getattr(vote, side))][1] for vote in cast]) for cast in users]
            for side in ("better", "worse")
        )
        return better, worse, [torch.tensor([vote.confidence for vote in cast]).double() for cast in users]

    def _look(self, samples: Sequence[Sample]) -> None:
        """Know the features of these samples; ImageError if one cannot be read."""
        new = list({id(each): each for each in samples if id(each) not in self._known}.values())
        rows, reasons = self.features.of(new)
        if reasons:
            place, why = next(iter(reasons.items()))
            raise ImageError(f"{len(reasons)} pictures cannot be read, the first of {new[place].prompt!r}: {why}")
        self._known |= {id(each): (each, row) for each, row in zip(new, rows, strict=True)}


_features = features  # the reader has a setting of that name


class Personal(Prefers):
    """How well a picture suits its sample's user, in units of log-odds; of samples without user, everybody at once.

    Args:
        tastes: the population that `visalign users` wrote.
        users: the users' embeddings that it wrote; a sample of another user cannot be judged.
    """

    name = "personal"
    spec = Spec(
        name, "log-odds of a user's liking", (-math.inf, math.inf), temperature=1.0, reads=("user", "prompt", "image")
    )

    def __init__(self, tastes: PathLike, users: PathLike) -> None:
        from visalign.data import sources

        self.tastes, self.users = Tastes.load(tastes), sources.users(Path(users))
        self.features = features(self.tastes.features)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Utilities (n,): the sigmoid of a gap is P(the user likes the first better)."""
        rows, reasons = self.features.of(samples)
        strangers = {
            place: each.user for place, each in enumerate(samples) if each.user and each.user not in self.users
        }
        reasons |= {place: f"no embedding of user {user!r}" for place, user in strangers.items()}
        known = [place for place in range(len(samples)) if place not in reasons]
        values = [self._value(rows[place], samples[place].user) for place in known]
        return Scores.scattered(len(samples), known, torch.stack(values) if values else torch.zeros(0), reasons)

    def _value(self, row: Tensor, user: str | None) -> Tensor:
        if user is None:
            return self.tastes.common(row[None])[0]
        return self.tastes.utilities(row[None], self.users[user].flatten())[0]
