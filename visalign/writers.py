"""Who writes texts about pictures: captioners say what one shows, rewriters say a text again in other words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .scoring import Sample


@runtime_checkable
class Captioner(Protocol):
    """Anything that says what a picture shows."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def caption(self, samples: Sequence[Sample]) -> list[str | None]:
        """A caption of each sample's image, None where it has none; a batch is captioned as its samples one by one."""


@runtime_checkable
class Rewriter(Protocol):
    """Anything that says a text again, with its meaning kept or moved."""

    @property
    def name(self) -> str:
        """What reports call it."""

    def rewrite(self, texts: Sequence[str], keys: Sequence[str]) -> list[str | None]:
        """Each text in other words, None where it could not; a pure function of the text and of its key."""
