"""Tiny models that see, records of answers to ask them about, and methods for language models set small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_vlm
import torch
from PIL import Image
from torch import Tensor, nn

from visalign import registry
from visalign.batches import AnswerPairs, Answers, Dialogues
from visalign.contract import LanguageModel, Method, Spoken
from visalign.data.dialogues import VIEWS, RecordsView, Settings
from visalign.models.mllm import SeeingModel
from visalign.models.seeing import SeeingFolder
from visalign.records import Preference

KINDS = (AnswerPairs, Answers)
METHODS = [name for name in registry.TABLE["method"] if registry.load("method", name).batch_type in KINDS]
# Other settings of a method under which the same laws must hold, by what a test calls them.
VARIANTS: dict[str, dict[str, Any]] = {
    "mllm_dpo without a reference": {"name": "mllm_dpo", "preference": "simpo", "beta": 2.0},
    "mllm_dpo by means": {"name": "mllm_dpo", "preference": "ipo_mean"},
    "mllm_dpo, dense": {"name": "mllm_dpo", "emphasis": 5.0, "reduce": "mean", "beta": 0.5},
    "mllm_dpo, desensitised, with sft": {"name": "mllm_dpo", "reduce": "ld", "sft": 0.1},
    "mdpo as released": {"name": "mdpo", "variant": "release"},
    "tars by replacing": {"name": "tars", "by": "replace"},
}
EVERY = sorted([*METHODS, *(name for name, each in VARIANTS.items() if each["name"] in METHODS)])


def method(name: str, **settings: Any) -> Method:
    """The registered method, or variant of one, of that name."""
    made: Method = registry.build("method", {**VARIANTS.get(name, {"name": name}), **settings})
    return made


def records(folder: Path, count: int = 8) -> list[Preference]:
    """Pairs of answers of different lengths about random pictures, with a scorer's values."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for row in range(count):
        picture = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        if not (folder / f"{row}.png").is_file():  # other processes may be reading it
            Image.fromarray(picture).save(folder / f"{row}.png")
        answers = (f"a red ring{' and a dot' * (row % 3)}", f"a cup no {row}")
        scores = np.array([0.9 - 0.05 * row, 0.1 + 0.05 * (row % 4)])
        question = f"what is {'there' if row % 2 else 'in this picture'}"
        made.append(Preference(question, answers, scores, media=(f"{row}.png",), answers=True, key=f"record {row}"))
    return made


def likeness(words: Sequence[str], pictures: Sequence[Image.Image]) -> list[float]:
    """A cosine for each word: its letters'."""
    return [float(np.cos(sum(map(ord, word)))) for word in words]


@cache
def folder(root: Path, family: str = "llava") -> SeeingFolder:
    """A tiny model's folder, made once."""
    if not (root / family / "config.json").is_file():
        getattr(tiny_vlm, family)(root / family)
    return SeeingFolder.open(root / family)


@cache
def view(root: Path, kind: type, family: str = "llava") -> RecordsView:
    """Eight records as a view that makes batches of this type."""
    how = Settings(likeness=likeness)
    return VIEWS[kind](records(root / "data"), root / "data", folder(root, family).reader(), how)


def model(
    root: Path, name: str, *, family: str = "llava", dtype: torch.dtype = torch.float64, start: bool = False
) -> SeeingModel:
    """A tiny model with adapters, off their start unless `start`, so that policy and reference differ."""
    reference = method(name).reference
    made = folder(root, family).model(train="lora", rank=2, reference=reference).to(dtype)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in made.trainable().values():
            each.data = each.data.to(dtype)
            if not start:
                each.add_(0.05 * torch.randn(each.shape, generator=draw).to(dtype))
    return made


def batch(shown: RecordsView, rows: Sequence[int] = range(4), visit: int = 0) -> Any:
    """A batch of these records, its pixels and numbers in float64."""
    return wider(shown.batch(list(rows), [visit] * len(rows), 3))


def wider(made: Any) -> Any:
    """The same with every floating-point part in float64."""

    def of(value: Any) -> Any:
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    answers = made.answers
    media = {name: of(each) for name, each in answers.media.items()}
    answers = replace(answers, media=media, relevance=of(answers.relevance), importance=of(answers.importance))
    return replace(made, answers=answers, **{name: of(each) for name, each in vars(made).items() if name != "answers"})


class Counted(nn.Module):
    """A model that counts the dialogues that go through its networks, with gradient and without."""

    def __init__(self, inner: LanguageModel) -> None:
        super().__init__()
        self.inner, self.with_gradient, self.free = inner, 0, 0

    def policy(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        if torch.is_grad_enabled():
            self.with_gradient += len(dialogues)
        else:
            self.free += len(dialogues)
        return self.inner.policy(dialogues, hidden=hidden)

    def reference(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        self.free += len(dialogues)
        return self.inner.reference(dialogues, hidden=hidden)
