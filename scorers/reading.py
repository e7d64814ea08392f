"""What scorers of pictures share: samples become batches while the model works, and prompts are encoded once."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor

from visalign.images import ImageError, Misuse, Picture
from visalign.scoring import Sample, Scores, picture

from .preprocess import Geometry
from .running import full_precision

READERS = min(8, os.cpu_count() or 1)  # threads that decode; Pillow and torch let go of Python's lock
AHEAD = 2  # batches that are read before their turn
TASK = 4  # pictures that a thread reads in one go: to hand one over costs as much as to decode a small one
KEPT = 8192  # prompts

Values = Callable[[Tensor, list[str]], Tensor]  # n pictures, normalized or as a tower sees them, and n prompts -> (n,)
Cut = Callable[[Sequence[str]], "Tensor | None"]  # prompts -> (n,) bool, which are cut; None: not known


@dataclass(frozen=True)
class Batch:
    """Some samples in order: those that could be read, as pixels, and why the others could not."""

    rows: list[int]
    pixels: Tensor  # (rows, 3, size, size) normalized; good until the next batch is asked for
    reasons: dict[int, str]


def batches(samples: Sequence[Sample], geometry: Geometry, batch: int, device: torch.device) -> Iterator[Batch]:
    """All samples, `batch` at a time; where none of a batch can be read, it has no pixels.

    Threads read AHEAD batches before their turn, into the same few tensors all the time: fresh memory for every picture
    costs as much as a small tower does. Raises Misuse for the caller's mistakes.
    """
    if len(samples) == 1:
        yield _alone(samples, geometry, device)
        return
    parts = [range(first, min(first + batch, len(samples))) for first in range(0, len(samples), batch)]
    rooms = [_room(len(part), geometry) for part in parts[: AHEAD + 1]]
    pool = ThreadPoolExecutor(READERS)
    try:
        reading = deque(_begun(pool, samples, rows, geometry, room) for rows, room in zip(parts, rooms, strict=False))
        for turn, rows in enumerate(parts):
            room = rooms[turn % len(rooms)]
            reasons = {row: why for each in reading.popleft() for row, why in each.result().items()}
            good = [row for row in rows if row not in reasons]
            pixels = room[: len(rows)] if not reasons else room[[row - rows.start for row in good]]
            yield Batch(good, pixels.to(device), reasons)
            reading.extend(_begun(pool, samples, late, geometry, room) for late in parts[turn + len(rooms) :][:1])
    finally:
        pool.shutdown(cancel_futures=True)


def _room(count: int, geometry: Geometry) -> Tensor:
    """Memory for so many pictures, which threads may write to, whatever mode the caller is in (threads have none)."""
    with torch.inference_mode(False):
        return torch.empty(count, 3, geometry.size, geometry.size)


def _alone(samples: Sequence[Sample], geometry: Geometry, device: torch.device) -> Batch:
    """A single picture: a thread would cost more than it saves."""
    room = _room(1, geometry)
    reasons = _read(samples, range(1), geometry, room)
    return Batch([], room[:0].to(device), reasons) if reasons else Batch([0], room.to(device), reasons)


def _begun(
    pool: ThreadPoolExecutor, samples: Sequence[Sample], rows: range, geometry: Geometry, room: Tensor
) -> list[Future[dict[int, str]]]:
    """The reading of these rows into a batch's room, a few a task."""
    tasks = [rows[start : start + TASK] for start in range(0, len(rows), TASK)]
    return [pool.submit(_read, samples, part, geometry, room[part.start - rows.start :]) for part in tasks]


def _read(samples: Sequence[Sample], rows: range, geometry: Geometry, room: Tensor) -> dict[int, str]:
    """Each row's picture in its place; row -> why it cannot be judged. Raises Misuse for the caller's mistakes."""
    reasons = {}
    for place, row in zip(room, rows, strict=False):
        try:
            geometry.image(picture(samples[row]), out=place)
        except Misuse:
            raise
        except ImageError as error:
            reasons[row] = str(error)
    return reasons


@torch.no_grad()
@full_precision()
def scores(
    samples: Sequence[Sample],
    geometry: Geometry,
    values: Values,
    *,
    batch: int,
    device: torch.device,
    cut: Cut | None = None,
) -> Scores:
    """Scores of samples, `batch` pictures at a time; a picture that cannot be read is invalid with its reason.

    `cut` is asked of each batch after its `values`, so that a prompt's features are still remembered.
    """
    rows: list[int] = []
    found = [torch.zeros(0)]
    reasons: dict[int, str] = {}
    shortened: list[Tensor | None] = []
    for start, each in zip(range(0, len(samples), batch), batches(samples, geometry, batch, device), strict=True):
        reasons |= each.reasons
        if each.rows:
            part = values(each.pixels, [samples[row].prompt for row in each.rows]).float().cpu()
            finite = part.isfinite().tolist()
            reasons |= {row: "its score is not finite" for row, good in zip(each.rows, finite, strict=True) if not good}
            rows += [row for row in each.rows if row not in reasons]
            found.append(part[part.isfinite()])
        shortened.append(cut([sample.prompt for sample in samples[start : start + batch]]) if cut else None)
    told = [each for each in shortened if each is not None]
    truncated = torch.cat(told) if told and len(told) == len(shortened) else None
    return Scores.scattered(len(samples), rows, torch.cat(found), reasons, truncated)


@torch.no_grad()
@full_precision()
def features(
    pictures: Sequence[Picture],
    geometry: Geometry,
    encode: Callable[[Tensor], Tensor],
    *,
    batch: int,
    device: torch.device,
) -> tuple[list[int], Tensor]:
    """Which pictures can be read, and their embeddings (of those, d)."""
    samples = [Sample("", image=each) for each in pictures]
    rows: list[int] = []
    found = []
    for each in batches(samples, geometry, batch, device):
        if each.rows:
            rows += each.rows
            found.append(encode(each.pixels).float())
    return rows, torch.cat(found) if found else torch.zeros(0)


@torch.no_grad()
@full_precision()
def crossed(
    pictures: Sequence[Picture],
    prompts: Sequence[str],
    geometry: Geometry,
    seen: Callable[[Tensor], Tensor],
    values: Values,
    *,
    batch: int,
    device: torch.device,
) -> Tensor:
    """(pictures, prompts): what `seen` makes of a picture once meets each prompt in `values`, `batch` pairs at a time.

    NaN in the row of a picture that cannot be read, and where a score is not finite.
    """
    table = torch.full((len(pictures), len(prompts)), torch.nan)
    for each in batches([Sample("", image=one) for one in pictures], geometry, batch, device):
        if each.rows and prompts:
            table[each.rows] = _met(seen(each.pixels), prompts, values, batch)
    return table


def _met(features: Tensor, prompts: Sequence[str], values: Values, batch: int) -> Tensor:
    """(features, prompts) on the CPU."""
    pairs = [(row, each) for row in range(len(features)) for each in prompts]
    parts = [pairs[start : start + batch] for start in range(0, len(pairs), batch)]
    found = [values(features[[row for row, _ in part]], [each for _, each in part]) for part in parts]
    table = torch.cat(found).float().cpu().reshape(len(features), len(prompts))
    return table.where(table.isfinite(), torch.nan)


def told(prompt: str) -> str:
    """The prompt as tokenizers can read it: half a character, as damaged text may hold (a lone surrogate), is a "?"."""
    return prompt.encode("utf-8", "replace").decode()


class Remembered:
    """What a text tower says of prompts, each asked once; the least recently used are forgotten first.

    `compute` takes prompts and gives their features (n, d), and for each whether it was cut (None: not known). Threads
    take turns.
    """

    def __init__(self, compute: Callable[[list[str]], tuple[Tensor, Sequence[bool | None]]], kept: int = KEPT) -> None:
        self.compute, self.kept = compute, kept
        self._known: OrderedDict[str, tuple[Tensor, bool | None]] = OrderedDict()
        self._turn = RLock()

    def __call__(self, prompts: Sequence[str], batch: int = 64) -> Tensor:
        """(n, d), row i for prompt i, of at least one prompt."""
        return torch.stack([feature for feature, _ in self._of(prompts, batch)])

    def cut(self, prompts: Sequence[str]) -> Tensor | None:
        """(n,) bool: which prompts are longer than what is read; None where the tokenizer does not tell."""
        found = [each for _, each in self._of(prompts, 64)]
        return None if None in found else torch.tensor(found, dtype=torch.bool)

    def forget(self) -> None:
        """Let go of everything: for a tower whose weights have changed."""
        with self._turn:
            self._known.clear()

    @torch.no_grad()
    @full_precision()
    def _of(self, prompts: Sequence[str], batch: int) -> list[tuple[Tensor, bool | None]]:
        wanted = dict.fromkeys(prompts)
        with self._turn:
            known = {each: self._known[each] for each in wanted if each in self._known}
            missing = [each for each in wanted if each not in known]
            for start in range(0, len(missing), batch):
                part = missing[start : start + batch]
                features, cut = self.compute([told(each) for each in part])
                alone = (each.clone() for each in features)  # a row of a batch would keep all of it in memory
                known |= dict(zip(part, zip(alone, cut, strict=True), strict=True))
            for each in wanted:
                self._known[each] = known[each]
                self._known.move_to_end(each)
            while len(self._known) > self.kept:
                self._known.popitem(last=False)
        return [known[each] for each in prompts]
