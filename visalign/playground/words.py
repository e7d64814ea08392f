"""A CLIP tokenizer for a small vocabulary: every word of the playground is one token."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"
WORD = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")  # as CLIP cuts text up


def byte_pairs(words: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces and merges under which each word becomes a single piece.

    A word is first split by the merges so far and then joined from the left. What is added later has the lowest
    priority, so it never breaks a word that already is one piece.
    """
    letters = sorted({letter for word in words for letter in word})
    pieces = [*letters, *(f"{letter}</w>" for letter in letters)]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = split(word, merges)
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            pieces.append(parts[0])
    return [*dict.fromkeys(pieces)], merges


def split(word: str, merges: Sequence[tuple[str, str]]) -> list[str]:
    """Byte-pair encoding of one word: the earliest merge that applies is applied, until none does."""
    parts, rank = [*word[:-1], f"{word[-1]}</w>"], {pair: i for i, pair in enumerate(merges)}
    while True:
        pairs = [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in rank]
        if not pairs:
            return parts
        _, at = min(pairs)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


class Tokenizer:
    """What `transformers.CLIPTokenizer` says of such a folder, for texts of words and spaces, without that library."""

    def __init__(self, folder: Path, context: int) -> None:
        self.pieces: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
        self.merges = [(left, right) for left, right in (line.split() for line in lines)]
        self.context, self.end = context, self.pieces[END]
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of the words, without the marks at the ends; what is not in the vocabulary becomes the end mark."""
        return [index for word in WORD.findall(text.lower()) for index in self._word(word)]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(n, context) ids with both marks, cut to the context, the rest filled with the end mark."""
        rows = [[self.pieces[START], *self.encode(text)[: self.context - 2], self.end] for text in texts]
        return torch.tensor([row + [self.end] * (self.context - len(row)) for row in rows]).view(-1, self.context)

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            self._known[word] = [self.pieces.get(piece, self.end) for piece in split(word, self.merges)]
        return self._known[word]


def write(folder: Path, words: Sequence[str]) -> None:
    """vocab.json and merges.txt of a CLIP tokenizer for these words."""
    pieces, merges = byte_pairs(words)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {piece: index for index, piece in enumerate([*pieces, START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
