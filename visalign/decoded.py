"""A latent scorer of any scorer: what the reference makes of a noisy picture, decoded and scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import registry
from .batches import Condition
from .contract import Denoiser
from .diffusion.sampling import to_uint8
from .evaluation.comparison import samples
from .models.encoders import Encoders
from .models.folder import Folder
from .scoring import Scorer, Specified


@dataclass
class Decoded:
    """Judges x_t by the picture that the reference believes it to become: one pass without guidance, then the VAE.

    A finished picture is decoded as it is, without asking. What is believed at noisy times is a blur, an average over
    all that x_t may still become, and a scorer that was made for finished pictures is out of its depth: SPO trains a
    step-aware one for that reason. Branch late, or at few noisy steps, with this. `temperature` turns gaps of scores
    into logits; None: the scorer's own, which must then be known.
    """

    scorer: str | Mapping[str, Any]  # a registered scorer
    folder: str  # the model folder whose VAE decodes
    temperature: float | None = None
    batch: int = 8  # latents at a time through the VAE
    asks = 1

    def __post_init__(self) -> None:
        self._judge: Scorer = registry.build("scorer", self.scorer)
        known = self._judge.spec.temperature if isinstance(self._judge, Specified) else None
        scale = known if self.temperature is None else self.temperature
        if scale is None:
            raise ValueError(f"the temperature of {self._judge.name}'s scores is not known: give scorer.temperature")
        if scale <= 0:
            raise ValueError(f"a temperature is above 0, got {scale}")
        self._scale = scale

    def of(self, model: Denoiser, texts: Sequence[str]) -> Finishing:
        """The judge of n noisy pictures whose prompts are these n, in this order."""
        return Finishing(self, model, tuple(texts))

    @cached_property
    def encoders(self) -> Encoders:
        """The folder's encoders, loaded when first asked for."""
        return Folder.open(self.folder).encoders(device="cuda" if torch.cuda.is_available() else "cpu")

    def scores(self, latents: Tensor, texts: Sequence[str]) -> Tensor:
        """(n,) scores of finished latents over the temperature, NaN where the scorer could not judge."""
        pictures = [to_uint8(self.encoders.decode(part)) for part in latents.split(self.batch)]
        found = self._judge.score(samples(texts, np.concatenate(pictures)))
        values = torch.where(found.judged, found.values, torch.nan) / self._scale
        return values.to(latents.device)


@dataclass(frozen=True)
class Finishing:
    """`Decoded` for one batch: a `LatentScorer`."""

    judge: Decoded
    model: Denoiser
    texts: tuple[str, ...]
    asks = 1

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """(n,) scores of what the reference makes of x_t (n, ...), or of a finished x_t itself."""
        process = self.model.process
        if bool((t <= process.grid(1)[0]).all()):
            return self.judge.scores(x_t, self.texts)
        x0, _ = process.split(self.model.reference(x_t, t, condition), x_t, t)
        return self.judge.scores(x0, self.texts)
