"""Texts as vectors by a transformers encoder, mean over tokens: all-mpnet-base-v2 and its kind (arXiv 1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize


class SentenceEncoder:
    """The cosine of two texts' embeddings; a batch is its members up to rounding.

    Args:
        folder: an encoder of transformers with its tokenizer, as sentence-transformers/all-mpnet-base-v2 is saved.
        longest: tokens that are read of a text (384 for all-mpnet-base-v2).
        batch: texts at a time.
    """

    def __init__(self, folder: str | Path, *, longest: int = 384, device: str = "cpu", batch: int = 32) -> None:
        self.folder, self.longest, self.device, self.batch = Path(folder).expanduser(), longest, device, batch
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"no config.json in {folder}: give the folder of a transformers encoder")

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.resolve().name

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModel, AutoTokenizer

        network = AutoModel.from_pretrained(self.folder, local_files_only=True, use_safetensors=True)
        return network.eval().to(self.device), AutoTokenizer.from_pretrained(self.folder, local_files_only=True)

    def alike(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """The cosine of each two texts, in [-1, 1]."""
        left, right = self.embedded(first), self.embedded(second)
        return [float(each) for each in (left * right).sum(-1)]

    def embedded(self, texts: Sequence[str]) -> Tensor:
        """(n, width) unit vectors, on the CPU."""
        parts = [self._some(texts[start : start + self.batch]) for start in range(0, len(texts), self.batch)]
        return torch.cat(parts) if parts else torch.zeros(0, 0)

    @torch.no_grad()
    def _some(self, texts: Sequence[str]) -> Tensor:
        network, tokenizer = self._parts
        given = tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.longest, return_tensors="pt"
        ).to(self.device)  # fmt: skip
        states = network(**given).last_hidden_state.float()
        mask = given["attention_mask"][..., None].float()
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1)
        return normalize(mean, dim=-1).cpu()
