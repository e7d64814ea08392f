"""Pairs of right answers that differ in form alone, from what a model itself answered: SPECS, arXiv 2510.25801.

Preferred is an answer in the form that is asked for, rejected one of the same model that is as right and not in it. So
`mllm_dpo` with `sft: 1` teaches the form before reinforcement learning, and nothing about what is true.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..config import ConfigError
from ..data import media
from ..data.truth import Unusable, true_answer
from ..records import Preference

JUDGE = "form"
FORMS: Mapping[str, str] = {
    "think": r"\s*<think>(?:(?!</?think>).)+</think>\s*<answer>(?P<answer>(?:(?!</?answer>).)+)</answer>\s*",
    "stop": r"(?P<answer>.*\S)\s*\.\s*",
}
"""Forms by name: thoughts and an answer in tags, once each; and an answer that ends with a full stop."""


@dataclass(frozen=True)
class Form:
    """What an answer should look like, and where in it the result stands.

    `pattern` is one of FORMS or a regular expression that a whole answer must match; its group "answer" is the result,
    the whole text if it has none. `loose` finds the result in any other answer, its last occurrence counting: its group
    "answer", or all of it. Without, the whole text is the result.
    """

    pattern: str
    loose: str = ""

    def __post_init__(self) -> None:
        _ = self._strict, self._loose

    def fits(self, text: str) -> bool:
        """Whether an answer is in the form."""
        return self._strict.fullmatch(text) is not None

    def result(self, text: str) -> str | None:
        """What an answer comes to; None if nothing is found in it."""
        found = self._strict.fullmatch(text)
        if found is None and self._loose is None:
            return text
        if found is None and self._loose is not None:
            found = max(self._loose.finditer(text), key=re.Match.start, default=None)
        return None if found is None else found.groupdict().get("answer", found[0])

    @cached_property
    def _strict(self) -> re.Pattern[str]:
        return _compiled(FORMS.get(self.pattern, self.pattern))

    @cached_property
    def _loose(self) -> re.Pattern[str] | None:
        return _compiled(self.loose) if self.loose else None


def same(first: str | None, second: str | None) -> bool:
    """Whether two results say the same: as numbers, or as words without case, blanks and a full stop at the end."""
    if first is None or second is None:
        return False
    left, right = (" ".join(each.casefold().split()).rstrip(" .") for each in (first, second))
    numbers = _number(left), _number(right)
    return left == right or (None not in numbers and numbers[0] == numbers[1])


@dataclass
class Distilled:
    """Records of two right answers each, and how many questions had none for which reason."""

    records: list[Preference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def distilled(
    records: Sequence[Preference],
    answers: Mapping[str, Sequence[str]],
    form: Form,
    root: Path,
    folder: Path,
    *,
    most: int = 1,
) -> Distilled:
    """At most `most` pairs of each question, media as seen from `folder`.

    `records` hold each question with an answer that is true; `answers` are the model's own, by the record's key.
    """
    found = Distilled()
    for record in records:
        try:
            pairs = paired_by_form(answers.get(record.key, ()), true_answer(record), form)[:most]
        except Unusable as error:
            found.left_out[str(error)] += 1
            continue
        shown = media.seen_from(record.media, root, folder)
        found.records += [
            Preference(
                record.prompt, pair, media=shown, answers=True, judge=JUDGE, verdict="first", user=record.user,
                key=f"{record.key}/{JUDGE}/{number}",
            )
            for number, pair in enumerate(pairs)
        ]  # fmt: skip
    return found


def paired_by_form(answers: Sequence[str], truth: str, form: Form) -> list[tuple[str, str]]:
    """Right answers in the form, each with one that is not, in the order of the answers and each used once.

    Raises Unusable if there is no such pair.
    """
    right = [each for each in dict.fromkeys(answers) if same(form.result(each), form.result(truth))]
    well = [each for each in right if form.fits(each)]
    ill = [each for each in right if not form.fits(each)]
    if not right:
        raise Unusable("no right answer" if answers else "no answer of the model")
    if not well or not ill:
        raise Unusable(f"every right answer is {'out of' if ill else 'in'} the form")
    return list(zip(well, ill, strict=False))


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression ({error}); forms are {', '.join(FORMS)}") from None


def _number(text: str) -> float | None:
    """What a text says if it is a number: "1,200" is 1200."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None
