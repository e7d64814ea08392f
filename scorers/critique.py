"""A critic that `visalign train` published, as a scorer: it writes a critique, then gives the answer its score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from visalign import images
from visalign.answering import Answerer, Settings, weights_of
from visalign.batches import moved
from visalign.images import ImageError
from visalign.models.critic import criticism, with_head
from visalign.models.reading import Asked, Unreadable
from visalign.models.seeing import SeeingFolder
from visalign.scoring import Prefers, Sample, Scores, Spec

from . import vlm
from .clip import PathLike
from .running import running


class Critique(Prefers):
    """How good an answer about a picture is, by a model that says first what it makes of it (arXiv 2502.10391).

    The critique is written greedily and then read with the answer, its end mark behind it, whether the model came to an
    end or to `max_new_tokens`. A gap's sigmoid is P(first is better).

    Args:
        weights: a run's folder, or its `weights/`.
    """

    def __init__(
        self,
        weights: PathLike,
        *,
        max_new_tokens: int = 256,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 8,
        name: str = "critique",
    ) -> None:
        running(device, dtype, batch)
        path = Path(weights_of(str(weights))).expanduser()
        folder = SeeingFolder.open(path)
        self.model = with_head(folder.model(train="none", dtype=dtype, device=device), path).eval()
        self.reader, self.batch, self.name = folder.reader(), batch, name
        self.answerer = Answerer(self.model.network, self.reader, Settings(max_new_tokens))

    @property
    def spec(self) -> Spec:
        """What it is."""
        return Spec(
            name=self.name,
            scale="a reward, its zero free",
            range=(float("-inf"), float("inf")),
            temperature=1.0,
            reads=("prompt", "answer", "source"),
            preprocessing="the model's own",
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample: of its answer to its prompt about its source."""
        found, reasons = vlm.table(samples, self._asked, self._rated, 1, self.batch)
        return Scores(found[:, 0], valid=found[:, 0].isfinite(), reasons=reasons)

    def critiques(self, samples: Sequence[Sample]) -> list[str]:
        """What it says of each sample's answer; raises ImageError or `vlm.Unjudged` for one that it cannot read."""
        return self._written([self._asked(each) for each in samples])

    def after(self, samples: Sequence[Sample], critiques: Sequence[str]) -> Tensor:
        """(n,) scores behind critiques that somebody else wrote, a person say; raises as `critiques` does."""
        return self._behind([self._asked(each) for each in samples], critiques)

    def _asked(self, sample: Sample) -> Asked:
        if sample.answer is None or sample.source is None:
            raise ImageError(f"the sample has no {'answer' if sample.answer is None else 'source'} to judge")
        question = criticism(self.model.wording, sample.prompt, sample.answer)
        try:
            return self.reader.ask(question, [images.load(sample.source)])
        except Unreadable as error:
            raise vlm.Unjudged(str(error)) from error

    def _written(self, asked: Sequence[Asked]) -> list[str]:
        said = self.answerer.answer([str(row) for row in range(len(asked))], asked)
        return [each.text for each in said]

    def _rated(self, asked: list[Asked]) -> Tensor:
        """(n, 1): the scores behind its own critiques."""
        return self._behind(asked, self._written(asked))[:, None]

    @torch.no_grad()
    def _behind(self, asked: Sequence[Asked], critiques: Sequence[str]) -> Tensor:
        """(n,) scores once the critiques were read, as in training."""
        reads = [self.reader.answered(one, text) for one, text in zip(asked, critiques, strict=True)]
        return self.model.criticise(moved(self.reader.collated(reads), self.model.network.device)).score
