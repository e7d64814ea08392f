"""Questions about pictures, answered by a model, one line an answer as they come: what `visalign answer` does.

Generating is transformers' own. What is sampled is drawn by numbers of (seed, question, place in the answer) alone, so
that an answer depends neither on what shares its batch nor on where an interrupted run was taken up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import __version__
from ..config import ConfigError
from ..data import quarantine
from ..data.answers import Writer
from ..data.quarantine import Bad
from ..data.questions import Question
from ..data.shards import replace_file
from ..draws import generator
from ..images import ImageError
from ..models.reading import Asked, Reader, Unreadable
from ..records import DataError


@dataclass(frozen=True)
class Settings:
    """How answers are generated: everything that changes them."""

    max_new_tokens: int = 512
    temperature: float = 0.0  # 0: the likeliest token at each place
    top_p: float = 1.0  # sampled are the likeliest tokens that have this probability together
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"a temperature is at least 0 and top_p in 0 … 1 (not 0), got {self.temperature} and {self.top_p}"
            )


@dataclass(frozen=True)
class Answered:
    """An answer."""

    id: str
    text: str
    ended: bool  # whether the model ended it, rather than max_new_tokens


class Answerer:
    """A transformers image-text-to-text network with its reader, asked in batches."""

    def __init__(self, network: Any, reader: Reader, how: Settings) -> None:
        self.network, self.reader, self.how = network.eval(), reader, how
        ends = network.generation_config.eos_token_id
        known = ends if isinstance(ends, list) else [ends]
        self.ends = torch.tensor([each for each in (*known, reader.tokenizer.eos_token_id) if each is not None])

    @torch.no_grad()
    def answer(self, ids: Sequence[str], questions: Sequence[Asked]) -> list[Answered]:
        """An answer to each question."""
        device = self.network.device
        given = {name: self._placed(each, device) for name, each in self.reader.generation(questions).items()}
        before = given["input_ids"].shape[1]
        drawn = [Sampler(self.how, tuple(ids), before)] if self.how.temperature else None
        made = self.network.generate(
            **given, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
            max_new_tokens=self.how.max_new_tokens, logits_processor=drawn,
        )  # fmt: skip
        said = made[:, before:].cpu()
        return [
            Answered(key, self.reader.tokenizer.decode(row, skip_special_tokens=True).strip(), self._ended(row))
            for key, row in zip(ids, said, strict=True)
        ]

    def _placed(self, value: Tensor, device: torch.device) -> Tensor:
        return value.to(device, self.network.dtype if value.is_floating_point() else value.dtype)

    def _ended(self, row: Tensor) -> bool:
        return bool(torch.isin(row, self.ends).any())


@dataclass(frozen=True)
class Sampler:
    """A logits processor that leaves one token to each row: the one that its own random number falls on."""

    how: Settings
    keys: tuple[str, ...]  # of the rows' questions
    before: int  # tokens of the questions, padding included

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """(n, V) scores, -inf but for one token a row."""
        place = ids.shape[1] - self.before
        numbers = [generator(self.how.seed, key, place, "answer").random() for key in self.keys]
        chances, order = (scores.double() / self.how.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        below = chances.cumsum(-1) - chances
        chances = chances.where(below < self.how.top_p, 0.0)
        reached = torch.tensor(numbers, dtype=torch.float64, device=scores.device)[:, None] * chances.sum(-1, True)
        picked = (chances.cumsum(-1) <= reached).sum(-1, keepdim=True).clamp(max=chances.shape[-1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, order.gather(1, picked), 0.0)


def answer_all(
    answerer: Answerer,
    questions: Sequence[Question],
    out: Path,
    *,
    model: str,
    fingerprint: str,
    batch: int = 8,
    progress: Callable[[int], None] | None = None,
) -> tuple[int, list[Bad]]:
    """Answer what has no answer in `out` yet; how many were answered now, and the questions that cannot be asked.

    Beside `out` stands what made it (`about_of`). DataError if it holds another model's answers, or others' settings.
    """
    about = {"fingerprint": fingerprint, **asdict(answerer.how)}
    claim(out, model, about)
    bad: list[Bad] = []
    with Writer(out) as writer:
        left = [each for each in questions if each.id not in writer.done]
        done = len(questions) - len(left)
        for chosen in batched(left, batch):
            asked = {each.id: found for each in chosen if (found := _asked(answerer.reader, each, bad)) is not None}
            for each in answerer.answer(list(asked), list(asked.values())) if asked else []:
                writer.add(each.id, each.text, ended=each.ended)
            done += len(chosen)
            if progress is not None:
                progress(done)
    return len(left) - len(bad), bad


def batched(questions: Sequence[Question], size: int) -> Iterator[list[Question]]:
    """The questions in lists of at most so many."""
    rest = iter(questions)
    while chosen := list(islice(rest, size)):
        yield chosen


def _asked(reader: Reader, question: Question, bad: list[Bad]) -> Asked | None:
    try:
        return reader.ask(question.text, question.pictures())
    except (ImageError, Unreadable) as error:
        bad.append(Bad(question.id, str(error), ""))
        return None


def weights_of(model: str) -> str:
    """The MODEL itself, or where a run's folder has its weights."""
    inside = Path(model).expanduser() / "weights"
    return str(inside) if inside.is_dir() else model


def about_of(out: Path) -> Path:
    """Where it is written what made a file of answers."""
    return out.with_name(f"{out.name}.about.json")


def claim(out: Path, model: str, about: dict[str, Any]) -> None:
    """Write beside `out` what makes it; DataError if what is there was made by something else."""
    place = about_of(out)
    if out.exists() and out.stat().st_size and not place.is_file():
        raise DataError(f"{out} has answers, and {place.name} that would say whose they are is gone: give another file")
    known = json.loads(place.read_text(encoding="utf-8")) if place.is_file() and out.exists() else None
    if known is None:
        out.parent.mkdir(parents=True, exist_ok=True)
        said = {"model": model, **about, "visalign": __version__}
        replace_file(place, (json.dumps(said, indent=1, ensure_ascii=False) + "\n").encode())
        return
    differing = [
        f"{name}: {known.get(name)!r} -> {value!r}" for name, value in about.items() if known.get(name) != value
    ]
    if differing:
        raise DataError(
            f"{out} has answers of {known.get('model')!r} made otherwise ({'; '.join(differing)}): "
            "give another file, or delete this one and ask again"
        )


def warned(bad: Sequence[Bad]) -> str:
    """Questions that cannot be asked, in words; "" if all can."""
    return f"{len(bad)} questions cannot be asked: {quarantine.named(bad)}" if bad else ""
