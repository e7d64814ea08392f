"""The one training loop: any method, any model that is a module, any view of records; one process or many.

A step is: forwards and backwards over the accumulation window; one transfer to the host, which carries the losses, the
weights, the metrics, the gradient's norm and whether anybody asked to stop; then the update. Losses are summed with
their weights over the window and all ranks and divided once: the mean of micro-batch means is another loss.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..config import Run, plain
from ..contract import Denoiser, Method, View
from ..draws import Draws
from . import checkpoint, metrics
from .checkpoint import Snapshot
from .distributed import Ranks, Signals
from .learner import Learner, Measured
from .metrics import Collapse, Row
from .schedule import Order, Slice, learning_rate

NAMED = 8  # records that an error names at most


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not finite, with the records and times that it came from."""


@dataclass(frozen=True)
class Moment:
    """What a callback is told after each step, on every process."""

    step: int  # optimizer steps done
    row: Row
    main: bool  # whether this process writes files
    averaged: Callable[[], contextlib.AbstractContextManager[None]]  # the model with its averaged weights, for a while


@dataclass(frozen=True)
class Summary:
    """How a run ended."""

    out: Path
    steps: int  # optimizer steps done, over all resumptions
    resumed: int  # the step that this call started from
    stopped: str  # "finished", "signal", "collapse", or "validation"
    why: str  # the sentence of the alarm, or of who watched the validations
    seconds: float  # of this call
    records: int
    skipped: int  # steps left out because something was not finite
    idle: int  # steps without an update because every weight was 0, or fp16 overflowed
    last: Row
    notes: tuple[str, ...]  # what a resumption found or changed
    checkpoint: Path  # the newest


OnStep = Callable[[Moment], str | None]  # a reason to stop, the same on every process


def train(
    run: Run, method: Method, model: nn.Module, view: View, *, on_step: OnStep | None = None, resume: bool = True
) -> Summary:
    """Train `model` in place for `run.steps` optimizer steps, or go on from the newest checkpoint in `run.out`.

    Without `resume` a run that is there already is set aside in <out>/previous. `on_step` is called on every process.
    Every parameter that requires a gradient is trained. With `run.ema` the model holds the averaged weights at the end.
    Raises ConfigError for settings that cannot be, NonFiniteError, and CheckpointError.
    """
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), Signals().heard() as signals:
        return Training(run, method, model, view).go(signals, on_step, resume)


class Training:
    """A run under way."""

    def __init__(self, run: Run, method: Method, model: nn.Module, view: View) -> None:
        self.run, self.view = run, view
        self.ranks = Ranks(run.precision)
        self.order = Order(run.seed, len(view), run.batch, run.micro_batch, self.ranks.count)
        self.learner = Learner(run, method, model, self.ranks)
        self.alarm = Collapse(run.stop)
        self.done = self.skipped = self.idle = 0
        self.last: Row = {}
        self.folder = run.out / "checkpoints"
        settings = {"config": plain(run), "records": _fingerprint(view)}
        self.about = checkpoint.environment(self.ranks.count, self.ranks.device.type) | settings

    def go(self, signals: Signals, on_step: OnStep | None, resume: bool) -> Summary:
        """Steps until the end, a signal or the alarm; a checkpoint at the end, whichever it was."""
        began, notes = time.perf_counter(), self._start(resume)
        resumed, stopped, why = self.done, "finished", ""
        with self._writing() as writers, ThreadPoolExecutor(1) as pool:
            batches = self._batches(pool)
            while self.done < self.run.steps and stopped == "finished":
                asked = self._advance(batches, signals.asked)
                self._write(writers)
                moment = Moment(self.done, self.last, self.ranks.main, self.learner.averaged)
                reason = (on_step(moment) or "") if on_step is not None else ""
                alarm = self.alarm.sees(self.last) or ""
                stopped = "signal" if asked else "collapse" if alarm else "validation" if reason else "finished"
                why = alarm or reason
                if self._due() or stopped != "finished":
                    self._save(writers)
        self.learner.put(self.learner.average)
        newest = checkpoint.listed(self.folder)[-1]
        spent, counts = time.perf_counter() - began, (len(self.view), self.skipped, self.idle)
        return Summary(self.run.out, self.done, resumed, stopped, why, spent, *counts, self.last, notes, newest)

    # A step ----------------------------------------------------------------------------------------------------------

    def _batches(self, pool: Executor) -> Iterator[tuple[int, Any]]:
        """This rank's micro-batches to the end of the run with their places in the order, each read one ahead."""
        ahead: tuple[int, Future[Any]] | None = None
        for step in range(self.done, self.run.steps):
            for part in self.order.slices(step, self.ranks.index):
                reading = pool.submit(self.view.batch, part.indices, part.visits, self.run.seed)
                if ahead is not None:
                    yield ahead[0], ahead[1].result()
                ahead = part.first, reading
        if ahead is not None:
            yield ahead[0], ahead[1].result()

    def _advance(self, batches: Iterator[tuple[int, Any]], asked: bool) -> bool:
        """One optimizer step; whether some process was asked to stop."""
        began, forwards = time.perf_counter(), self.order.forwards
        rate = learning_rate(self.run.optimizer, self.done, self.run.steps)
        measured = self.learner.gradient(islice(batches, forwards), forwards, asked)
        if problem := self._problem(measured):
            self._skip(problem)
        elif measured.total == 0.0:
            self.learner.end()
            self.idle += 1
        elif not self.learner.update(measured, rate):
            self.idle += 1
        self.done += 1
        seconds = time.perf_counter() - began
        self.last = metrics.summarised({"loss": measured.loss, **measured.metrics}, measured.weight)
        self.last |= {"grad_norm": measured.norm, "lr": rate, "seconds": seconds}
        self.last |= {"records_per_second": self.run.batch / seconds}
        return measured.asked

    def _problem(self, measured: Measured) -> str:
        """What is not finite and where it came from; nothing is mended."""
        bad = np.flatnonzero(~np.isfinite(measured.loss))
        if len(bad):
            named = [self._named(int(column)) for column in bad[:NAMED]] + ["…"] * (len(bad) > NAMED)
            return f"the loss is not finite for {len(bad)} of {len(measured.loss)} records: {', '.join(named)}"
        if self.ranks.scaler is None and not math.isfinite(measured.norm):
            worst = np.argsort(-measured.loss)[:NAMED]
            named = [self._named(int(column)) for column in worst]
            return f"the gradient is not finite although every loss is; the highest losses: {', '.join(named)}"
        return ""

    def _named(self, column: int) -> str:
        """The key of a record of this step and the time that it was noised to; `column` counts rank by rank."""
        rank, rest = divmod(column, self.order.forwards * self.run.micro_batch)
        forward, place = divmod(rest, self.run.micro_batch)
        part: Slice = list(self.order.slices(self.done, rank))[forward]
        key = self.view.key(part.indices[place])
        model = self.learner.step.model
        if not isinstance(model, Denoiser):
            return key
        return f"{key} (t = {float(model.process.times(Draws(self.run.seed, (key,), (part.visits[place],))))})"

    def _skip(self, problem: str) -> None:
        """Leave the step out and count it, or raise when more than `skip_nonfinite` would be left out."""
        self.learner.end()
        self.skipped += 1
        if self.skipped > self.run.skip_nonfinite:
            mend = "lower optimizer.lr, use precision: no, or let skip_nonfinite steps be left out"
            raise NonFiniteError(f"step {self.done + 1}: {problem}. Checkpoints are as they were; {mend}")

    # Files -----------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[list[metrics.Writer]]:
        """Where rows go: nowhere on any process but the main one."""
        with contextlib.ExitStack() as stack:
            writers = metrics.writers(self.run, self.done) if self.ranks.main else []
            for writer in writers:
                stack.callback(writer.close)
            yield writers

    def _write(self, writers: list[metrics.Writer]) -> None:
        if self.done % self.run.log_every == 0 or self.done == self.run.steps:
            for writer in writers:
                writer.write(self.done, self.last)

    def _due(self) -> bool:
        every = self.run.save_every
        return self.done == self.run.steps or bool(every and self.done % every == 0)

    def _save(self, writers: list[metrics.Writer]) -> None:
        """A checkpoint, after the rows that it covers are on the disk."""
        for writer in writers:
            writer.flush()
        if self.ranks.main:
            checkpoint.save(self.folder, self._snapshot(), self.about, self.run.keep)
        self.ranks.wait()

    def _snapshot(self) -> Snapshot:
        counts = {name: getattr(self, name) for name in ("skipped", "idle", "last")}
        scaler = self.ranks.scaler.state_dict() if self.ranks.scaler is not None else None
        state = {"updates": self.learner.updates, "alarm": list(self.alarm.recent), "scaler": scaler, **counts}
        return Snapshot(self.done, self.learner.tensors(), state)

    def _start(self, resume: bool) -> tuple[str, ...]:
        """Go on from the newest whole checkpoint, if there is one; what a person should know about it."""
        if not resume:
            aside = self.ranks.told(checkpoint.start_over(self.run.out) if self.ranks.main else False)
            return (f"started over; the run that was here is in {self.run.out / 'previous'}",) * aside
        found = self.ranks.told(checkpoint.newest(self.folder) if self.ranks.main else None)
        if found is None:
            return ()
        changes = checkpoint.compare(found.manifest, self.run, self.about)
        self._restore(checkpoint.read(found.path))
        return (*found.damaged, f"resumed from {found.path}", *changes)

    def _restore(self, snapshot: Snapshot) -> None:
        self.learner.load(snapshot.tensors)
        self.done, state = snapshot.step, snapshot.state
        self.skipped, self.idle, self.last = state["skipped"], state["idle"], state["last"]
        self.learner.updates, self.alarm = state["updates"], Collapse(self.run.stop, state["alarm"])
        if self.ranks.scaler is not None:
            self.ranks.scaler.load_state_dict(state["scaler"])


def _fingerprint(view: View) -> dict[str, Any]:
    """Which records these are: their number, and a hash over their keys and weights."""
    digest = hashlib.sha256()
    for index in range(len(view)):
        digest.update(f"{view.key(index)}\x1f{view.weight(index)!r}\n".encode())
    return {"count": len(view), "sha256": digest.hexdigest()}
