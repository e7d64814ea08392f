"""Pairs of a true answer and one that the same model makes up when it hardly sees: BDHS, arXiv 2407.02477, section 4.

Each sentence of the true answer is broken off somewhere and ended by the model with the picture masked out, always
behind the true sentences before it: what the model expects takes the place of what is there, length and manner stay.
An answer that still says the same is tried again with another mask and other breaks; the last time the model answers
freely, and whatever it says is taken.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from .. import images
from ..config import ConfigError
from ..data import media
from ..data.answers import Writer
from ..data.pairing import paired
from ..data.truth import Unusable, true_answer
from ..draws import generator
from ..images import ImageError
from ..models.reading import Asked, Unreadable
from ..records import Preference
from . import Settings as Sampling
from . import claim
from .blinded import Blinded, Blindfold
from .sentences import broken_off, sentences, swapped
from .similarity import Similarity

JUDGE = "bdhs"
Done = Callable[[int, int], None]  # so many records of so many


@dataclass(frozen=True)
class Settings:
    """How answers are made up: everything that changes them, the model and the similarity aside."""

    blindfold: Blindfold = field(default_factory=Blindfold)
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))
    iterations: int = 5  # the last one answers freely; 1: every answer is a free one
    alike: float = 0.97  # an answer is taken if its similarity to the true one is below this
    swap: float = 0.5  # how often a sentence that begins with yes or no begins with the other

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 <= self.swap <= 1:
            raise ConfigError(f"iterations are 1 or more and swap lies in 0 … 1, got {self.iterations}, {self.swap}")


@dataclass(frozen=True)
class MadeUp:
    """An answer that the model made up."""

    text: str
    iteration: int  # in which it was taken, from 1


@dataclass(frozen=True)
class Head:
    """What is kept of a sentence."""

    text: str
    open: bool  # whether anything of it is missing


@dataclass
class Hallucinated:
    """Records of a true answer each and one that was made up, in the order of their sources."""

    records: list[Preference] = field(default_factory=list)
    accepted: Counter[int] = field(default_factory=Counter)  # iteration -> answers taken in it
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> records

    def take(self, source: Preference, true: str, made: MadeUp, model: str, shown: tuple[str, ...]) -> None:
        """Add the pair of a true answer and one of `model`; raises Unusable if that is no other answer."""
        if not made.text or made.text == true:
            raise Unusable("the model made nothing up" if made.text else "the model said nothing")
        self.accepted[made.iteration] += 1
        self.records.append(
            Preference(
                source.prompt, (true, made.text), media=shown, user=source.user, answers=True, judge=JUDGE,
                verdict="first", models=("", model), key=f"{source.key}/{JUDGE}",
            )
        )  # fmt: skip


class Maker:
    """Makes answers up, each a function of (seed, key, question, pictures, true answer) alone."""

    def __init__(self, blinded: Blinded, similarity: Similarity, how: Settings) -> None:
        self.blinded, self.similarity, self.how = blinded, similarity, how

    def made_up(self, key: str, asked: Asked, answer: str) -> MadeUp:
        """An answer unlike the true one; raises Unreadable."""
        for visit in range(self.how.iterations - 1):
            text = self.guided(key, asked, answer, visit)
            if self.similarity.alike([answer], [text])[0] < self.how.alike:
                return MadeUp(text, visit + 1)
        last = self.how.iterations - 1
        free = self.blinded.completed(key, asked, [""], visit=last, whole=True)[0]
        return MadeUp(free.strip(), self.how.iterations)

    def guided(self, key: str, asked: Asked, answer: str, visit: int) -> str:
        """The true answer, every sentence broken off and ended anew; blanks between sentences stay."""
        found = sentences(answer)
        heads = [self._head(key, each.text, place, visit) for place, each in enumerate(found)]
        behind = [
            (answer[: one.start] + head.text).rstrip() for one, head in zip(found, heads, strict=True) if head.open
        ]
        tails = iter(self.blinded.completed(key, asked, behind, visit=visit) if behind else [])
        said = [(head.text + next(tails) if head.open else head.text).strip() for head in heads]
        blanks = [answer[left.end : right.start] for left, right in pairwise(found)]
        return "".join(part for each in zip(said, [*blanks, ""], strict=True) for part in each).strip()

    def _head(self, key: str, sentence: str, place: int, visit: int) -> Head:
        """What is kept of a sentence; a word that was swapped is kept in any case."""
        random = generator(self.how.sampling.seed, key, visit, f"sentence {place}")
        other = swapped(sentence) if random.random() < self.how.swap else None
        text = broken_off(other or sentence, random, least=1 if other else 0)
        return Head(text, text != (other or sentence))


def hallucinate(
    maker: Maker,
    records: Sequence[Preference],
    root: Path,
    out: Path,
    *,
    model: str,
    fingerprint: str,
    done: Done | None = None,
) -> Hallucinated:
    """Make an answer up for each record that has a true one; what `out` will hold, media as seen from its folder.

    Answers are kept as they come in a hidden file beside `out`, from which an interrupted call goes on; DataError if
    another model or other settings made them.
    """
    journal = out.with_name(f".{out.stem}.answers.jsonl")
    about = {"fingerprint": fingerprint, "similarity": maker.similarity.name, **asdict(maker.how)}
    claim(journal, model, json.loads(json.dumps(about)))
    found, seen = Hallucinated(), set[str]()
    with Writer(journal) as writer:
        known = {row["question_id"]: MadeUp(row["answer"], row["iteration"]) for row in _lines(journal)}
        for count, record in enumerate(records, start=1):
            try:
                true = true_answer(_first(record, seen))
                made = known[record.key] if record.key in known else _made_up(maker, record, true, root, writer)
                found.take(record, true, made, model, media.seen_from(record.media, root, out.parent))
            except (Unusable, ImageError, Unreadable) as error:
                found.left_out[str(error)] += 1
            if done is not None:
                done(count, len(records))
    media.forget()
    return found


def _first(record: Preference, seen: set[str]) -> Preference:
    """The record itself, its key added to those seen before; raises Unusable if it is among them."""
    if record.key in seen:
        raise Unusable("the key occurs twice: the first stays")
    seen.add(record.key)
    return record


def _made_up(maker: Maker, record: Preference, true: str, root: Path, writer: Writer) -> MadeUp:
    """An answer that is made up now, and then kept."""
    asked = maker.blinded.reader.ask(record.prompt, [images.load(media.fetch(each, root)) for each in record.media])
    made = maker.made_up(record.key, asked, true)
    writer.add(record.key, made.text, iteration=made.iteration)
    return made


def beside(records: Iterable[Preference], made: Iterable[Preference], root: Path, folder: Path) -> list[Preference]:
    """The records' own pairs as seen from `folder`, and those made: their mean loss is gamma = 1/2 of both."""
    own = [replace(each, media=media.seen_from(each.media, root, folder)) for each in records]
    return [*(each for each in own if not isinstance(paired(each), str)), *made]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
