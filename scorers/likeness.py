"""Likeness to given pictures: the mean cosine to them under another scorer's image tower, whatever the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visalign import registry
from visalign.evaluation.sets import Embedder
from visalign.images import Misuse
from visalign.scoring import Prefers, Sample, Scores, Spec

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


class Likeness(Prefers):
    """(mean cosine + 1) / 2 to the pictures of a folder, in [0, 1]: how well a subject is met (RPO, arXiv 2407.12164).

    Args:
        exemplars: a folder of pictures.
        embedder: the name or settings of a scorer that embeds pictures, such as a CLIP one.
    """

    name = "likeness"
    spec = Spec(name, "(cosine + 1) / 2", (0.0, 1.0), reads=("image",))

    def __init__(self, exemplars: str, embedder: str | Mapping[str, Any] = "playground_hps") -> None:
        self.folder = Path(exemplars).expanduser()
        found: Any = registry.build("scorer", embedder)
        if not isinstance(found, Embedder):
            raise ValueError(f"{embedder} embeds no pictures; take a CLIP scorer, such as playground_hps")
        self.embedder = found

    @cached_property
    def exemplars(self) -> Tensor:
        """(m, d) unit vectors of the folder's pictures."""
        files = sorted(file for file in self.folder.glob("*") if file.suffix.lower() in ENDINGS)
        if not files:
            raise Misuse(f"{self.folder} holds no pictures to be like ({', '.join(ENDINGS)})")
        found = self.embedder.embed(files)
        if broken := [file for file, row in zip(files, found, strict=True) if row.isnan().any()]:
            raise Misuse(f"{broken[0]} cannot be read, and everything would be compared with it: take it out")
        return found

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), invalid where there is no picture that can be read."""
        rows = [row for row, each in enumerate(samples) if each.image is not None]
        table = torch.full((len(samples),), torch.nan)
        if rows:
            found = self.embedder.embed([each.image for each in samples if each.image is not None])
            table[rows] = ((found @ self.exemplars.T).mean(1) + 1) / 2
        reasons = dict.fromkeys(torch.nonzero(table.isnan()).flatten().tolist(), "no picture that can be read")
        return Scores(table, valid=~table.isnan(), reasons=reasons)
