"""A page of text, read by a model that sees and talks: any chat backend, in a folder or behind an address."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from visalign import registry
from visalign.images import ImageError

from .answer_book import Book
from .answers import THOUGHT
from .chat import Answer, Chat, Question, Sampling, png
from .ocr import Read, Word

ASKED = (
    "Write down all text in this picture as it stands there, letter by letter, mistakes included, line by line from "
    "the top. Write nothing else; where there is no text, answer with nothing."
)


class PageReader:
    """Reads each picture as one page; its confidence is the mean one of the tokens, 1 where the backend tells none.

    A page that is longer than `tokens`, and one that nobody answered for, could not be read.

    Args:
        backend: a `Chat`, or its name and settings: {name: local, folder: …}, {name: endpoint, url: …, model: …}.
        asked: in what words; models that were made for reading have words of their own.
        tokens: of a page, at most.
        longest: side in pixels of the pictures that are shown.
        book: a file that keeps every answer; what is in it is not asked again.
    """

    def __init__(
        self,
        backend: Chat | Mapping[str, Any] | str,
        *,
        asked: str = ASKED,
        tokens: int = 1024,
        longest: int = 1536,
        book: str | os.PathLike[str] | None = None,
    ) -> None:
        if longest < 1 or not asked.strip():
            raise ValueError(f"longest is at least 1 and asked holds words, got {longest} and {asked!r}")
        self.backend: Chat = backend if isinstance(backend, Chat) else registry.build("chat", backend)
        self.asked, self.longest, self.book = asked, longest, Book(book)
        self.sampling = Sampling(tokens=tokens, top_logprobs=1)

    def read(self, images: Sequence[Image.Image]) -> list[Read]:
        """The page of each picture, its box the whole picture; nothing where there is no text."""
        questions = [Question((self.asked, png(each, self.longest))) for each in images]
        answers = self.book.ask(self.backend, questions, self.sampling)
        return [_page(answer, image) for answer, image in zip(answers, images, strict=True)]


def _page(answer: Answer, image: Image.Image) -> Read:
    if answer.failure is not None or answer.cut:
        return ImageError(answer.failure or "the page is longer than the tokens that an answer may have")
    text = THOUGHT.sub("", answer.text).strip()
    sure = [math.exp(each.top[each.text]) for each in answer.tokens]
    box = (0.0, 0.0, float(image.width), float(image.height))
    return [Word(text, box, sum(sure) / len(sure) if sure else 1.0)] if text else []
