"""Texts to a chat, and what it replied: the judge of measures that ask in words of their own.

Replies are kept in a book, so that nothing is asked twice; a question whose answer never came is asked again next time.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from visalign import registry
from visalign.evaluation.asking import Reply

from .answer_book import Book
from .answers import THOUGHT
from .chat import Answer, Chat, Question, Sampling


class ChatAsker:
    """Asks a backend, one text a question.

    Args:
        backend: a `Chat`, or its name and settings: {name: endpoint, url: …, model: …}, {name: local, folder: …}.
        tokens: of a reply, at most; what is cut off there is a failure.
        temperature: 0 for the likeliest reply.
        book: a file that keeps every reply.
    """

    def __init__(
        self,
        backend: Chat | Mapping[str, Any] | str,
        *,
        tokens: int = 1024,
        temperature: float = 0.0,
        book: str | os.PathLike[str] | None = None,
    ) -> None:
        self.backend: Chat = backend if isinstance(backend, Chat) else registry.build("chat", backend)
        self.sampling = Sampling(tokens=tokens, temperature=temperature)
        self.book = Book(book)

    @property
    def name(self) -> str:
        """The model's name."""
        return Path(str(self.backend.identity.get("model", "chat"))).name

    def ask(self, texts: Sequence[str]) -> list[Reply]:
        """One reply a text, without what the model thought aloud."""
        return [
            _reply(each) for each in self.book.ask(self.backend, [Question((text,)) for text in texts], self.sampling)
        ]

    def close(self) -> None:
        """Let go of the book."""
        self.book.close()


def _reply(answer: Answer) -> Reply:
    if answer.failure is not None:
        return Reply(failure=answer.failure)
    if answer.cut:
        return Reply(failure=f"cut off at the greatest number of tokens: {answer.text[-80:]!r}")
    return Reply(THOUGHT.sub("", answer.text).strip())
