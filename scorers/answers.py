"""From a judge's words to what it said: a letter, a rating, or a JSON object; else `Unreadable`, never a guess."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from .chat import Answer, Token

MARKUP = " \t\r\n*_`'\"()[]{}.,:;!▁Ġ"  # around a letter or a number; the last two are how tokenizers write a space
THOUGHT = re.compile(  # also one that the chat template opened, and one that was cut off
    r"\A(?:(?!<think>).)*?</think>|<think>.*?(?:</think>|\Z)", re.DOTALL | re.IGNORECASE
)
NAMED = r"\b(?:answer|verdict|rating|score)\b(?:\s+is)?[\s:=*]+(LABEL)\b(?![.,]?\d)"
QUOTED = 80  # characters of an answer in a reason


class Unreadable(ValueError):
    """An answer that cannot be read; says why in a few words."""


@dataclass(frozen=True)
class Choice:
    """Which of the labels was answered."""

    chances: Mapping[str, float]  # label -> probability among the labels, together 1
    mass: float | None  # probability that it was one of the labels at all; None: read from the text

    def mean(self, values: Mapping[str, float]) -> float:
        """The expectation of the labels' values."""
        return sum(chance * values[label] for label, chance in self.chances.items())

    def deviation(self, values: Mapping[str, float]) -> float:
        """Their standard deviation; NaN where the answer was read from its text, which has no distribution."""
        if self.mass is None:
            return math.nan
        middle = self.mean(values)
        return math.sqrt(sum(chance * (values[label] - middle) ** 2 for label, chance in self.chances.items()))


def choice(answer: Answer, labels: Sequence[str], least_mass: float) -> Choice:
    """Which label (upper case, one token each) an answer gives.

    Where the backend tells the alternatives of tokens, by their probabilities at the first word of the answer, behind
    what was thought aloud: "A", " A" and "a" count together, and less than `least_mass` on all labels is unreadable.
    Elsewhere by the text, which must be the label, or name exactly one as its answer.
    """
    refused(answer)
    word = next((each for each in _said(answer.tokens) if bare(each.text)), None)
    return _likeliest(word, labels, least_mass) if word else _spoken(answer, labels)


def _said(tokens: Sequence[Token]) -> Sequence[Token]:
    """The tokens behind the last thought."""
    ends = [found.end() for found in THOUGHT.finditer("".join(each.text for each in tokens))]
    starts = accumulate((len(each.text) for each in tokens), initial=0)
    return [each for each, start in zip(tokens, starts, strict=False) if start >= max(ends, default=0)]


def _likeliest(word: Token, labels: Sequence[str], least_mass: float) -> Choice:
    sums = dict.fromkeys(labels, 0.0)
    for text, logprob in word.top.items():
        if bare(text) in sums:
            sums[bare(text)] += math.exp(logprob)
    mass = min(sum(sums.values()), 1.0)  # rounded logarithms may pass 1 by an ulp
    if mass < least_mass or mass == 0:
        raise Unreadable(f"{mass:.2f} of the probability is on {', '.join(labels)}, less than {least_mass:g}")
    whole = sum(sums.values())
    return Choice({label: each / whole for label, each in sums.items()}, mass)


def _spoken(answer: Answer, labels: Sequence[str]) -> Choice:
    text = THOUGHT.sub("", answer.text).strip()
    named = re.findall(NAMED.replace("LABEL", "|".join(map(re.escape, labels))), text, re.IGNORECASE)
    found = {bare(text)} & set(labels) or {each.upper() for each in named}
    if len(found) != 1:
        raise Unreadable(_why(answer, text, f"names {len(found) or 'none'} of {', '.join(labels)}"))
    return Choice({label: float(label in found) for label in labels}, None)


def objects(answer: Answer) -> dict[str, Any]:
    """The one JSON object in an answer, with whatever is around it; a key that stands twice is unreadable."""
    refused(answer)
    text, found, start = THOUGHT.sub("", answer.text), [], 0
    decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
    while (start := text.find("{", start)) >= 0:
        try:
            made, start = decoder.raw_decode(text, start)
            found.append(made)
        except json.JSONDecodeError:
            break  # what follows a broken object may be its parts
        except RecursionError:
            raise Unreadable("the JSON is nested too deeply") from None
    if len(found) != 1 or start >= 0:
        many = "several JSON objects" if len(found) > 1 else "no whole JSON object"
        raise Unreadable(_why(answer, text, f"holds {many}"))
    whole: dict[str, Any] = found[0]
    return whole


def said(values: Mapping[str, Any], name: str) -> Any:
    """What stands for an aspect: {"NAME": x}, or {"NAME": {"answer": x, …}}."""
    if name not in values:
        raise Unreadable(f"says nothing of {name}, but of {', '.join(map(repr, values)) or 'nothing'}"[:QUOTED])
    value = values[name]
    return value.get("answer") if isinstance(value, dict) else value


def label(value: Any, labels: Sequence[str]) -> str:
    """A label, however it is decorated."""
    if isinstance(value, str) and bare(value) in labels:
        return bare(value)
    raise Unreadable(f"{str(value)[:QUOTED]!r} is none of {', '.join(labels)}")


def rating(value: Any, lowest: int, highest: int) -> float:
    """A number in lowest … highest, as a number or as text; others are not brought into the range."""
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not lowest <= number <= highest:
        raise Unreadable(f"{str(value)[:QUOTED]!r} is no rating of {lowest} … {highest}")
    return number


def refused(answer: Answer) -> None:
    """Raise for an answer that never came."""
    if answer.failure is not None:
        raise Unreadable(answer.failure)


def bare(text: str) -> str:
    """A word without what decorates it, in upper case."""
    return text.strip(MARKUP).upper()


def _why(answer: Answer, text: str, what: str) -> str:
    if answer.cut:
        return f"cut off at the greatest number of tokens, and {what}: {text[:QUOTED]!r}"
    return f"{what}: {text[:QUOTED]!r}" if text.strip() else "empty"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise Unreadable("a key of the JSON stands twice")
    return values


def _no_constant(name: str) -> Any:
    raise Unreadable(f"the JSON holds {name}")
