"""Which job does a run: told by what its method is fed. The one place that knows all of them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from .. import registry
from ..config import Run

if TYPE_CHECKING:
    from ..data.quarantine import Bad
    from ..models.attention import Resolution
    from ..training.engine import Summary


class Progress(Protocol):
    """A stage under way, told of each step of its work."""

    def __call__(self, done: int | None = None, note: str = "", *, total: int | None = None) -> None:
        """So much is done (None: one more), of so much in total; `note` says how it goes."""


class Screen(Protocol):
    """Whoever watches."""

    def stage(self, title: str, total: int | None = None) -> AbstractContextManager[Progress]:
        """Show that this stage runs and how far it is."""

    def say(self, text: str) -> None:
        """A line."""

    def warn(self, text: str) -> None:
        """A line that should be read."""


@dataclass(frozen=True)
class Outcome:
    """What a run left behind."""

    run: Run
    summary: Summary
    weights: Path  # where the model is
    quarantine: tuple[Bad, ...]  # records that were set aside
    left_out: dict[str, int]  # records that no batch is made of, by reason
    attention: Resolution | None = None  # which kernel ran, where that was chosen
    next: str = ""  # the command that looks at what was trained; "": none does by itself


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
