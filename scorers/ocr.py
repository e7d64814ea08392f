"""OCR: how well a picture shows the text that its prompt puts in quotes.

The rule is that of github.com/yifan123/flow_grpo, flow_grpo/ocr.py: 1 where the text is in what was read, else
1 - min(d, n) / n, where d is Levenshtein's distance between the two and n the length of the text, both in lower case
and without spaces.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from PIL import Image

from visalign import registry
from visalign.images import ImageError
from visalign.scoring import Prefers, Sample, Scores, Spec, opened

from .detection import Box

QUOTED = re.compile(
    r'"([^"]+)"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|「([^」]+)」'
)  # no single ones: they are apostrophes too
RELEASED = re.compile(r'"([^"]+)"')
ASPECTS = ("exact", "words")


@dataclass(frozen=True)
class Word:
    """Some text in a picture: a word, or as much as the reader tells in one."""

    text: str
    box: Box
    confidence: float  # in [0, 1]


Read: TypeAlias = "list[Word] | ImageError"


@runtime_checkable
class TextReader(Protocol):
    """Anything that reads text in pictures."""

    def read(self, images: Sequence[Image.Image]) -> list[Read]:
        """For each RGB picture its words in any order, or why it cannot be read."""


class OCR(Prefers):
    """In [0, 1]. Aspects: "exact", whether nothing but the text was read, and "words", the share of its words there.

    A prompt without text in quotes is invalid, and so is a picture that cannot be read; one in which nothing was
    found shows nothing, which is 0.

    Args:
        reader: a `TextReader`, or its name and settings: {name: trocr, folder: …}.
        texts: "all" texts in quotes, of any kind, must be there, in their order; "first" is the released rule, the
            first one in straight quotes.
        least: words of this confidence and less do not count.
    """

    name = "ocr"
    spec = Spec(name, "1 - edit distance / length", (0.0, 1.0), license="MIT (rule)")

    def __init__(
        self,
        reader: TextReader | Mapping[str, Any] | str,
        *,
        texts: Literal["all", "first"] = "all",
        least: float = 0.0,
    ) -> None:
        if texts not in ("all", "first") or not 0 <= least < 1:
            raise ValueError(f"texts is all or first and least lies in [0, 1), got {texts!r} and {least}")
        made: Any = registry.build("text_reader", reader) if isinstance(reader, Mapping | str) else reader
        self.reader: TextReader = made
        self.texts, self.least = texts, least

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), both aspects, and why some could not be judged; right where all of the text is there."""
        found = self._read(samples)
        rows = [[torch.nan] * 3 if isinstance(each, str) else judged(*each) for each in found]
        table = torch.tensor(rows, dtype=torch.float64).reshape(len(samples), 3)
        values = table[:, 0].clone()
        reasons = {row: each for row, each in enumerate(found) if isinstance(each, str)}
        aspects = {name: table[:, place] for place, name in enumerate(ASPECTS, start=1)}
        return Scores(values, aspects, valid=~values.isnan(), right=values == 1, reasons=reasons)

    def _read(self, samples: Sequence[Sample]) -> list[tuple[list[str], str] | str]:
        """For each sample the texts that are asked for and what was read, or why there is nothing to compare."""
        asked = [quoted(each.prompt, self.texts) for each in samples]
        pictures = list(opened(samples))
        shown = [
            image for image, texts in zip(pictures, asked, strict=True) if texts and isinstance(image, Image.Image)
        ]
        said = iter(self.reader.read(shown) if shown else [])
        return [self._one(texts, image, said) for texts, image in zip(asked, pictures, strict=True)]

    def _one(self, texts: list[str], image: Image.Image | ImageError, said: Any) -> tuple[list[str], str] | str:
        if not texts:
            return 'the prompt has no text in quotes: write it as "text"'
        read: Read = image if isinstance(image, ImageError) else next(said)
        if isinstance(read, ImageError):
            return str(read)
        return texts, " ".join(each.text for each in in_order([each for each in read if each.confidence > self.least]))


def quoted(prompt: str, texts: Literal["all", "first"] = "all") -> list[str]:
    """The texts in quotes that hold anything but white space."""
    if texts == "first":
        return [each for each in RELEASED.findall(prompt)[:1] if bare(each)]
    found = ["".join(each) for each in QUOTED.findall(prompt)]
    return [each for each in found if bare(each)]


def judged(texts: Sequence[str], read: str) -> tuple[float, float, float]:
    """(similarity, whether nothing else was read, share of the words that were read, each as often as it is asked)."""
    whole, wanted = bare(read), bare("".join(texts))
    there = all(bare(each) in whole for each in texts)
    near = 1.0 if there else 1 - min(distance(whole, wanted), len(wanted)) / len(wanted)
    words = Counter(plain(" ".join(texts)).split())
    return near, float(whole == wanted), (words & Counter(plain(read).split())).total() / words.total()


def plain(text: str) -> str:
    """Lower case, in one form of Unicode."""
    return unicodedata.normalize("NFC", text).lower()


def bare(text: str) -> str:
    """Lower case without white space."""
    return "".join(plain(text).split())


def distance(one: str, other: str) -> int:
    """Levenshtein's: the least number of letters to put in, take out or exchange."""
    before = list(range(len(other) + 1))
    for row, letter in enumerate(one, start=1):
        here = [row]
        for column, wanted in enumerate(other, start=1):
            here.append(min(before[column] + 1, here[-1] + 1, before[column - 1] + (letter != wanted)))
        before = here
    return before[-1]


def in_order(words: Sequence[Word]) -> list[Word]:
    """As one reads: lines from the top, words from the left. A word whose middle is within a line belongs to it."""
    lines: list[list[Word]] = []
    for word in sorted(words, key=lambda each: each.box[1] + each.box[3]):
        middle = (word.box[1] + word.box[3]) / 2
        if lines and lines[-1][0].box[1] <= middle <= lines[-1][0].box[3]:
            lines[-1].append(word)
        else:
            lines.append([word])
    return [word for line in lines for word in sorted(line, key=lambda each: each.box[0])]
