"""EditReward: Wu et al., 2025 (arXiv 2509.26346); github.com/TIGER-AI-Lab/EditReward.

Qwen2.5-VL-7B (or MiMo-VL-7B, which is made alike) sees the picture before and after an edit and is asked twice: how
well the edit follows its instruction, and how good the picture is. Each question has a head of its own, which gives a
mean and the logarithm of a deviation, 1 … 4; the two are pooled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from PIL import Image
from torch import Tensor

from visalign import images
from visalign.scoring import Prefers, Sample, Scores, Spec, picture

from . import vlm
from .clip import PathLike
from .running import one_of, running

MARK = "<|Reward|>"
ASPECTS = {"following": "INSTRUCTION_EDIT_FOLLOWING", "quality": "INSTRUCTION_EDIT_QUALITY"}  # names in released code
ENDING = "prompt_with_special_token"
TOKENS = 256  # of each picture, about
Pooling = Literal["mean", "min", "sum"]


class EditReward(Prefers):
    """How good an edit is: `Sample.source` before, `Sample.image` after, the instruction as prompt.

    Args:
        weights: model.safetensors, model.pth, or the folder that holds one.
        base: the folder of the base model: config, tokenizer, processor. Its weights are not read.
        wording: the released Python code (a folder, not run), or {"following": a text file, "quality": another}.
        pooling: "mean" of both (as the released configuration; its deviation is the geometric mean), "min", or "sum".
    """

    def __init__(
        self,
        weights: PathLike,
        *,
        base: PathLike,
        wording: PathLike | Mapping[str, PathLike],
        pooling: Pooling = "mean",
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 4,
        name: str = "edit_reward",
    ) -> None:
        run = running(device, dtype, batch)
        self.pooling = one_of("pooling", pooling, get_args(Pooling))
        sources = wording if isinstance(wording, Mapping) else dict.fromkeys(ASPECTS, wording)
        if sources.keys() != ASPECTS.keys():
            raise ValueError(f"the wording is of {' and '.join(ASPECTS)}, got {', '.join(sources) or 'none'}")
        self.wordings = [vlm.wording(sources[each], (known, ENDING), [MARK]) for each, known in ASPECTS.items()]
        state = vlm.renamed(vlm.gathered(Path(weights).expanduser()))
        where = str(weights)
        self.model = vlm.Marked(base, state, where, marks=[MARK], tokens=TOKENS, run=run)
        self.heads = [
            vlm.load_head(vlm.ranked_head(self.model.width, 2), state, f"rm_heads.head_{place}.", where, run)
            for place in range(len(ASPECTS))
        ]
        self.batch, self.name = batch, name
        self.spec = replace(vlm.worded(self.describe(pooling), *self.wordings), name=name)

    @staticmethod
    def describe(pooling: str = "mean") -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name="edit_reward",
            scale=f"{pooling} of the means of two ratings",
            range=(float("-inf"), float("inf")),
            files=("TIGER-Lab, collection editreward: model.safetensors or model.pth",),
            license="MIT (code)",
            reads=("prompt", "image", "source"),
            preprocessing=f"about {TOKENS} tokens of 28 x 28 pixels each, bicubic in 8 bits (Pillow)",
            antialias=True,
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number an edit with its deviation; the two ratings are `aspects`."""
        found, reasons = vlm.table(samples, self._shown, self._numbers, 2 * len(ASPECTS), self.batch)
        means, logs = found[:, 0::2], found[:, 1::2]
        values, sigma = pooled(means, logs, self.pooling)
        aspects = {name: means[:, place] for place, name in enumerate(ASPECTS)}
        return Scores(values, aspects, sigma, values.isfinite(), reasons=reasons)

    def _shown(self, sample: Sample) -> tuple[list[str], list[Image.Image]]:
        if sample.source is None:
            raise vlm.Unjudged("the sample has no source, the picture before the edit")
        shown = [self.model.sized(each) for each in (images.load(sample.source), picture(sample))]
        prompt = self.model.clean(sample.prompt)
        return [self.model.text(["image"] * 2, each.replace(vlm.HOLE, prompt)) for each in self.wordings], shown

    def _numbers(self, shown: list[tuple[list[str], list[Image.Image]]]) -> Tensor:
        """(n, 4): mean and logarithm of the deviation, aspect by aspect."""
        pictures = [each for _, both in shown for each in both]
        found = [
            head(self.model.read([texts[place] for texts, _ in shown], pictures)[:, 0])
            for place, head in enumerate(self.heads)
        ]
        return torch.cat(found, -1)


def pooled(means: Tensor, logs: Tensor, how: Pooling) -> tuple[Tensor, Tensor]:
    """Mean and deviation (n,) of ratings (n, k): mean or least of means and of logarithms; or as a sum of normals."""
    if how == "sum":
        return means.sum(-1), (2 * logs).exp().sum(-1).sqrt()
    if how == "min":
        return means.amin(-1), logs.amin(-1).exp()
    return means.mean(-1), logs.mean(-1).exp()
