"""What scorers of pictures share: samples become batches while the model works, and prompts are encoded once."""

from __future__ import annotations

import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from threading import RLock

import torch
from torch import Tensor

from visalign.images import ImageError, Misuse, Picture
from visalign.scoring import Sample, Scores, picture

from .preprocess import Geometry
from .running import full_precision

READERS = min(8, os.cpu_count() or 1)  # threads that decode; Pillow and torch let go of Python's lock
AHEAD = 2  # batches that are read before their turn
KEPT = 8192  # prompts

Values = Callable[[Tensor, list[str]], Tensor]  # (n, 3, size, size) normalized and n prompts -> (n,)
Cut = Callable[[Sequence[str]], "Tensor | None"]  # prompts -> (n,) bool, which are cut; None: not known


def prepared(sample: Sample, geometry: Geometry) -> Tensor | ImageError:
    """The picture as the tower reads it, or why it cannot be judged; raises Misuse for the caller's mistakes."""
    try:
        return geometry.image(picture(sample))
    except Misuse:
        raise
    except ImageError as error:
        return error


def ahead(samples: Sequence[Sample], geometry: Geometry, batch: int) -> Iterator[Tensor | ImageError]:
    """Every sample prepared, in order; more than one are read on threads, up to AHEAD batches before their turn."""
    if len(samples) < 2:
        yield from (prepared(sample, geometry) for sample in samples)
        return
    pool = ThreadPoolExecutor(READERS)
    try:
        rest = iter(samples)
        waiting = deque(pool.submit(prepared, each, geometry) for each in islice(rest, AHEAD * batch))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(prepared, each, geometry) for each in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class Batch:
    """Some samples in order: those that could be read, as pixels, and why the others could not."""

    rows: list[int]
    pixels: Tensor  # (rows, 3, size, size) normalized
    reasons: dict[int, str]


def batches(samples: Sequence[Sample], geometry: Geometry, batch: int, device: torch.device) -> Iterator[Batch]:
    """All samples, `batch` at a time; where none of a batch can be read, it has no pixels."""
    read = ahead(samples, geometry, batch)
    for start in range(0, len(samples), batch):
        part = dict(enumerate(islice(read, batch), start))
        good = {row: each for row, each in part.items() if isinstance(each, Tensor)}
        pixels = torch.stack(list(good.values())).to(device) if good else torch.zeros(0)
        yield Batch(list(good), pixels, {row: str(each) for row, each in part.items() if row not in good})


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
    found = [each for each in batches(samples, geometry, batch, device) if each.rows]
    rows = [row for each in found for row in each.rows]
    return rows, torch.cat([encode(each.pixels).float() for each in found]) if found else torch.zeros(0)


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
