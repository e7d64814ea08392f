"""The judge of noisy pictures that a method's setting asks for: a name, settings, or the judge itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from . import registry
from .contract import Denoiser, LatentScorer, Reading

Given = str | Mapping[str, Any] | LatentScorer | Reading


class LatentJudge:
    """A registered latent scorer, made when it first judges: what a step costs can be told without its weights.

    Raises `registry.UnknownName` at once for a name that is not registered.
    """

    def __init__(self, given: Given) -> None:
        self._given = {"name": given} if isinstance(given, str) else given
        judge = self._given
        kind: Any = registry.load("latent_scorer", judge.get("name", "")) if isinstance(judge, Mapping) else judge
        self.asks: int = kind.asks

    @cached_property
    def made(self) -> LatentScorer | Reading:
        """The scorer, with its weights."""
        if not isinstance(self._given, Mapping):
            return self._given
        built: LatentScorer | Reading = registry.build("latent_scorer", self._given)
        return built

    def of(self, model: Denoiser, texts: Sequence[str]) -> LatentScorer:
        """The judge of n noisy pictures whose prompts are these n, in this order."""
        return self.made.of(model, texts) if isinstance(self.made, Reading) else self.made
