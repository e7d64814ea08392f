"""Many small requests, few large batches: what waits for one scorer is scored together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from visalign.scoring import Sample, Scorer, Scores

Noted = Callable[[int], None]  # told the size of every batch


class Overloaded(RuntimeError):
    """More samples wait than the server is willing to hold."""


@dataclass
class Waiting:
    """One request's samples, and where their scores go."""

    samples: Sequence[Sample]
    answer: asyncio.Future[Scores]


@dataclass
class Batcher:
    """Scores for concurrent callers, a batch at a time and in a thread, so that the event loop stays free.

    A batch takes what waits, at most `most` samples; the first to wait is given `wait` seconds for company. A request
    is never divided. Where a batch fails, each of its requests is scored alone: one caller's fault is not another's.
    """

    scorer: Scorer
    most: int = 64
    wait: float = 0.005
    held: int = 4096  # samples that may wait
    noted: Noted = lambda size: None
    _line: deque[Waiting] = field(default_factory=deque)
    _woken: asyncio.Event = field(default_factory=asyncio.Event)
    _task: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Samples in line."""
        return sum(len(each.samples) for each in self._line)

    async def score(self, samples: Sequence[Sample]) -> Scores:
        """The scores of these samples, in order; raises Overloaded, or what the scorer raised."""
        if self.waiting + len(samples) > self.held:
            raise Overloaded(f"{self.waiting} samples wait for {self.scorer.name} already, at most {self.held}")
        one = Waiting(samples, asyncio.get_running_loop().create_future())
        self._line.append(one)
        self._woken.set()
        return await one.answer

    def start(self) -> None:
        """Begin to serve the line; needs a running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def stop(self) -> None:
        """Serve no more; who still waits is told."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while self._line:
            _settle(self._line.popleft(), Overloaded("the server is stopping"))

    async def _serve(self) -> None:
        while True:
            await self._woken.wait()
            if self.waiting < self.most:
                await asyncio.sleep(self.wait)
            self._woken.clear()
            while batch := self._taken():
                await self._score(batch)

    def _taken(self) -> list[Waiting]:
        """The next requests that fit into a batch; one that is too large by itself goes alone."""
        batch: list[Waiting] = []
        while self._line and (not batch or _size([*batch, self._line[0]]) <= self.most):
            batch.append(self._line.popleft())
        return batch

    async def _score(self, batch: list[Waiting]) -> None:
        """Score a batch and answer everybody in it."""
        samples = [sample for each in batch for sample in each.samples]
        self.noted(len(samples))
        try:
            found = await asyncio.to_thread(self.scorer.score, samples)
        except Exception as error:  # whatever a scorer raises is the caller's to hear, and must not end the server
            if len(batch) == 1:
                _settle(batch[0], error)
            else:
                for each in batch:
                    await self._score([each])
            return
        start = 0
        for each in batch:
            _settle(each, part(found, slice(start, start + len(each.samples))))
            start += len(each.samples)


def _size(batch: Sequence[Waiting]) -> int:
    return sum(len(each.samples) for each in batch)


def _settle(waiting: Waiting, answer: Scores | Exception) -> None:
    """Answer, unless the caller has gone."""
    if waiting.answer.done():
        return
    if isinstance(answer, Exception):
        waiting.answer.set_exception(answer)
    else:
        waiting.answer.set_result(answer)


def part(scores: Scores, rows: slice) -> Scores:
    """The scores of some consecutive samples."""

    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[rows]

    places = range(len(scores))[rows]
    return Scores(
        scores.values[rows],
        {name: values[rows] for name, values in scores.aspects.items()},
        cut(scores.sigma),
        torch.as_tensor(scores.judged)[rows],
        cut(scores.right),
        cut(scores.truncated),
        {row - places.start: reason for row, reason in scores.reasons.items() if row in places},
    )
