"""What judges that talk have in common: questions with pictures, how they are to be answered, answers, and who answers.

A backend takes many questions at once and gives back each answer as it comes. An answer that never came is an `Answer`
too: it says why in `failure`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Protocol, runtime_checkable

from PIL import Image

FORMAT = 1  # of what `fingerprint` hashes; a new number makes everything be asked again
MOST_LOGPROBS = 20  # what OpenAI's interface allows


@dataclass(frozen=True)
class Question:
    """One turn of a user: texts and pictures in the order in which they are shown."""

    parts: tuple[str | bytes, ...]  # text, or a picture as PNG


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn."""

    tokens: int = 512  # at most
    temperature: float = 0.0  # 0: the likeliest token each time
    seed: int = 0  # also tells repetitions of one question apart
    top_logprobs: int = 0  # alternatives of each token that are asked for; 0: none

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.temperature < 0 or not 0 <= self.top_logprobs <= MOST_LOGPROBS:
            raise ValueError(
                f"an answer has at least 1 token, a temperature of 0 or more and 0 … {MOST_LOGPROBS} logprobs; "
                f"got {self.tokens}, {self.temperature} and {self.top_logprobs}"
            )


@dataclass(frozen=True)
class Token:
    """One token of an answer, and what else could have stood there."""

    text: str
    top: Mapping[str, float]  # text -> log-probability, the likeliest ones


@dataclass(frozen=True)
class Answer:
    """What came back."""

    text: str = ""
    tokens: tuple[Token, ...] = ()  # empty where the backend does not tell
    cut: bool = False  # whether it ended because `Sampling.tokens` were used up
    failure: str | None = None  # why there is no answer

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads back."""
        return {"text": self.text, "cut": self.cut, "tokens": [[each.text, dict(each.top)] for each in self.tokens]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        """An answer that came, from what `to_json` wrote."""
        tokens = [Token(str(text), {str(key): float(x) for key, x in top.items()}) for text, top in values["tokens"]]
        return cls(str(values["text"]), tuple(tokens), bool(values["cut"]))


@runtime_checkable
class Chat(Protocol):
    """Anything that answers questions about pictures."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that its answers depend on besides question and sampling: the model, for one. No secrets."""

    def chat(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """(place of the question, answer) once for every question, in whatever order they come."""


def png(image: Image.Image, longest: int) -> bytes:
    """A picture as PNG, made smaller (never larger) so that its longest side is at most `longest` pixels."""
    shown = image
    if max(image.size) > longest:
        factor = longest / max(image.size)
        width, height = (max(1, round(side * factor)) for side in image.size)
        shown = image.resize((width, height), Image.Resampling.LANCZOS)
    content = BytesIO()
    shown.save(content, "PNG")
    return content.getvalue()


def fingerprint(identity: Mapping[str, Any], question: Question, sampling: Sampling) -> str:
    """Names an answer by everything that changes it: sha256 in hexadecimal."""
    parts = [{"png": hashlib.sha256(each).hexdigest()} if isinstance(each, bytes) else each for each in question.parts]
    drawn = [sampling.tokens, sampling.temperature, sampling.seed, sampling.top_logprobs]
    text = json.dumps([FORMAT, dict(identity), parts, drawn], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
