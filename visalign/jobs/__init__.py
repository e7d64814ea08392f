"""Which job does a run: told by what its method is fed. The one place that knows all of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import registry
from ..config import Run

if TYPE_CHECKING:
    from ..data.quarantine import Bad
    from ..training.engine import Summary
    from .denoising import Screen


class Outcome(Protocol):
    """What a run left behind."""

    @property
    def summary(self) -> Summary:
        """How it ended."""

    @property
    def weights(self) -> Path:
        """Where the model is."""

    @property
    def quarantine(self) -> tuple[Bad, ...]:
        """Records that were set aside."""

    @property
    def left_out(self) -> dict[str, int]:
        """Records that no batch is made of, by reason."""

    @property
    def attention(self) -> Any:
        """Which kernel ran, where that was chosen."""


@dataclass(frozen=True)
class Plan:
    """What a run would do, and what of: told before a weight is loaded."""

    title: str
    rows: list[list[str]]  # what, and how much
    note: str = ""


class Job(Protocol):
    """A module that does whole runs of one kind."""

    def train(self, run: Run, screen: Screen, *, resume: bool = True) -> Outcome:
        """Open, train, publish."""

    def plan(self, run: Run) -> Plan:
        """What that would cost."""


def of(run: Run) -> Job:
    """The job of a run; what is fed neither answers nor comparisons trains a denoiser."""
    from . import denoising, dialogues, rewards

    kind = registry.load("method", str(run.method["name"])).batch_type
    jobs: tuple[Any, ...] = (rewards, dialogues)
    made: Job = next((each for each in jobs if kind in each.KINDS), denoising)
    return made
