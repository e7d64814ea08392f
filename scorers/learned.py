"""A reward model that `visalign train` published, as a scorer: whatever head it has."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from visalign.batches import Comparisons
from visalign.contract import Rated
from visalign.draws import Draws
from visalign.scoring import Prefers, Sample, Scores, Spec

from .clip import PathLike
from .reading import batches
from .running import full_precision, running
from .trainable import HEAD, OpenClipReward


class Learned(Prefers):
    """The score of each picture for its prompt; a gap's sigmoid is P(first is better). Gaussian heads give a sigma.

    Users that the model does not know, and `general` heads, which only compare, are refused.

    Args:
        weights: the folder `weights/` of a run.
    """

    def __init__(self, weights: PathLike, *, device: str = "cpu", batch: int = 64) -> None:
        run, folder = running(device, batch=batch), Path(weights).expanduser()
        said = folder / HEAD
        if not said.is_file():
            raise ValueError(f"{folder} is no published reward model: it has no {HEAD}")
        about = json.loads(said.read_text(encoding="utf-8"))
        if about["head"].get("name") == "general":
            raise ValueError("a general preference model compares pictures and gives none of them a score")
        self.users: dict[str, int] = about["users"]
        made = OpenClipReward(str(folder), geometry=about["geometry"], head=about["head"])
        self.model = made.to(run.device).eval().requires_grad_(False)
        self.name, self.device, self.batch = folder.resolve().parent.name, run.device, batch
        self.spec = Spec(
            self.name,
            scale=f"reward, by a {about['head'].get('name', 'cosine')} head",
            range=(-math.inf, math.inf),
            files=(str(folder),),
            temperature=1.0,
            reads=("user", "prompt", "image") if self.users else ("prompt", "image"),
            preprocessing=f"{about['geometry']}, CLIP's normalization",
        )

    @torch.no_grad()
    @full_precision()
    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; what cannot be read is invalid, with its reason."""
        if self.users and (unknown := [each.user for each in samples if each.user not in self.users]):
            raise ValueError(f"this model knows {len(self.users)} users, and none of them is {unknown[0]!r}")
        rows: list[int] = []
        said = [torch.zeros(0, 2)]
        reasons: dict[int, str] = {}
        for each in batches(samples, self.model.geometry, self.batch, self.device):
            reasons |= each.reasons
            if each.rows:
                said.append(self._of(each.pixels, [samples[row] for row in each.rows]))
                rows += each.rows
        values, log_sigma = torch.cat(said).unbind(-1)
        found = Scores.scattered(len(samples), rows, values, reasons)
        if log_sigma.isnan().any() or not len(rows):
            return found
        sigma = torch.full_like(found.values, torch.nan)
        sigma[rows] = log_sigma.exp()
        return replace(found, sigma=sigma)

    def _of(self, pixels: Tensor, samples: Sequence[Sample]) -> Tensor:
        """(n, 2) scores and logarithms of their deviations, NaN where the head knows none."""
        count = len(samples)
        alone = torch.ones(count, 1, device=self.device)
        rated: Rated = self.model.rewards(Comparisons(
            pictures=pixels[:, None],
            texts=self.model.tokenizer([each.prompt for each in samples]).to(self.device),
            scores=alone,
            confidence=alone[..., None],
            repeats=alone[:, 0],
            draw=Draws(0, ("",) * count, (0,) * count),
            weight=alone[:, 0],
            user=self._users(samples),
        ))  # fmt: skip
        doubt = rated.items.get("log_sigma", torch.full_like(rated.score, torch.nan))
        return torch.cat([rated.score, doubt], -1).float().cpu()

    def _users(self, samples: Sequence[Sample]) -> Tensor | None:
        if not self.users:
            return None
        return torch.tensor([self.users[str(each.user)] for each in samples], device=self.device)
