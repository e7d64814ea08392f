"""Pairs of answers about pictures, as tiny real models read them; and models whose every word is written down."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_vlm
import torch
from PIL import Image
from torch import Tensor

from visalign.batches import AnswerPairs, Answers, Dialogues, halves
from visalign.contract import Spoken
from visalign.draws import Draws
from visalign.models.mllm import SeeingModel
from visalign.models.reading import Reader
from visalign.models.seeing import SeeingFolder
from visalign.text import Log, answer_places

FAMILIES = ("llava", "qwen2_vl")
SAID = (("a red box", "a blue box"), ("two dogs", "no"), ("left", "right of the tall tree"), ("yes", "no, it is a cat"))
_FOLDERS = tempfile.TemporaryDirectory(prefix="answered-")


def double(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


@cache
def folder(family: str) -> Path:
    """A tiny model's folder, made once."""
    made: Path = getattr(tiny_vlm, family)(Path(_FOLDERS.name) / family)
    return made


@cache
def reader(family: str) -> Reader:
    """What reads for it."""
    return Reader.open(folder(family))


def seeing(family: str, train: str = "full") -> SeeingModel:
    """The model, its policy and reference equal."""
    return SeeingFolder.open(folder(family)).model(train=train)


def moved_on(family: str, train: str = "full") -> SeeingModel:
    """The model after a training that never was: everything that is trained has moved a little."""
    model = seeing(family, train)
    noise = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for each in model.trainable().values():
            each.add_(torch.randn(each.shape, generator=noise), alpha=0.05)
    return model


def picture(number: int) -> Image.Image:
    """A small photograph of nothing; every family sees it in its own size."""
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32 + 8 * (number % 2), 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def pairs(family: str, records: tuple[int, ...] = (0, 1, 2, 3), **changes: Any) -> AnswerPairs:
    """The batch of these records."""
    eyes = reader(family)
    reads = [
        eyes.read(f"what is {number}?", [picture(number)], SAID[number][side]) for side in (0, 1) for number in records
    ]
    draw = Draws(3, tuple(f"record {each}" for each in records), (0,) * len(records))
    sure = torch.ones(len(records), dtype=torch.float64)
    return replace(AnswerPairs(eyes.collated(reads), draw, sure, sure), **changes)


def singles(family: str, records: tuple[int, ...] = (0, 1, 2, 3)) -> Answers:
    """The preferred answers alone."""
    batch = pairs(family, records)
    return Answers(halves(batch.answers)[0], batch.draw, batch.weight)


def swapped(batch: AnswerPairs) -> AnswerPairs:
    """The same pairs with winner and loser exchanged."""
    given = batch.answers
    ids, attention, answer = (torch.cat(each.chunk(2)[::-1]) for each in (given.ids, given.attention, given.answer))
    kinds = {name: torch.cat(each.chunk(2)[::-1]) for name, each in given.kinds.items()}
    return replace(batch, answers=replace(given, ids=ids, attention=attention, answer=answer, kinds=kinds, prompt=None))


def written(policy: Any, reference: Any | None = None) -> Log:
    """A log of these sums (n,) or tokens (n, A), every token counted."""
    table = double(policy)
    table = table if table.ndim == 2 else table[:, None]
    before = None if reference is None else double(reference).reshape(table.shape)
    return Log(table, torch.ones_like(table, dtype=torch.bool), before)


def of(log: Log, rows: int, **changes: Any) -> AnswerPairs:
    """A batch of `rows` pairs to go with a written log: dialogues of no more than its tokens."""
    length = log.mask.shape[1]
    ids = torch.arange(2 * rows * (length + 1)).reshape(2 * rows, length + 1)
    answer = torch.ones_like(ids, dtype=torch.bool)
    answer[:, 0] = False
    draw = Draws(0, tuple(str(each) for each in range(rows)), (0,) * rows)
    sure = torch.ones(rows, dtype=torch.float64)
    return replace(AnswerPairs(Dialogues(ids, answer | True, answer), draw, sure, sure), **changes)


@dataclass
class Speaker:
    """A model that gives each token of a log its log-probability, among two words: enough for what reads no more."""

    log: Log
    asked: list[str] = field(default_factory=list)

    def policy(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        self.asked.append("policy")
        return self._spoken(self.log.policy, dialogues)

    def reference(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        self.asked.append("reference")
        assert self.log.reference is not None
        return self._spoken(self.log.reference, dialogues)

    def _spoken(self, values: Tensor, dialogues: Dialogues) -> Spoken:
        places, mask = answer_places(dialogues.answer)
        other = (-values.exp()).log1p()
        return Spoken(torch.stack([values, other], -1), torch.zeros_like(places), mask)


@contextlib.contextmanager
def watched(model: SeeingModel) -> Iterator[list[dict[str, Tensor]]]:
    """Every call that reaches a network of the model, by name of its tensors."""
    calls: list[dict[str, Tensor]] = []

    def note(module: Any, args: Any, given: dict[str, Any]) -> None:
        calls.append({name: each.detach().clone() for name, each in given.items() if isinstance(each, Tensor)})

    networks = {id(each): each for each in (model.network, getattr(model.weights, "frozen", None)) if each is not None}
    hooks = [each.register_forward_pre_hook(note, with_kwargs=True) for each in networks.values()]
    try:
        yield calls
    finally:
        for hook in hooks:
            hook.remove()
