"""HPSv3: Ma et al., 2025 (arXiv 2508.03789); github.com/MizzenAI/HPSv3.

Qwen2-VL-7B asked for an overall rating of a picture, and a head at one mark that gives the mean and the logarithm of
the deviation of a normal distribution; the mean is the score. The wording was a part of training and is not in the
checkpoint, so it is asked for: the released code's folder will do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from PIL import Image
from torch import Tensor

from visalign.losses.rewards import gaussian_likelihood
from visalign.models import states
from visalign.scoring import Sample, Scores, Spec, compared, picture

from . import vlm
from .clip import PathLike
from .running import running

REPO, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
MARK = "<|Reward|>"
NAMES = ("INSTRUCTION", "prompt_with_special_token")  # of the wording in the released code
TOKENS = 256  # of a picture, about


class HPSv3:
    """Mean of the reward, with its deviation in `sigma`.

    Args:
        weights: HPSv3.safetensors, under old or new names, or None for the hub's.
        base: the folder of Qwen2-VL-7B-Instruct: config, tokenizer, processor. Its weights are not read.
        wording: a text file, or the released Python code (a folder, not run); see `vlm.wording`.
        allow_download: whether the hub may be asked for what is not in its cache.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        base: PathLike,
        wording: PathLike,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 8,
        allow_download: bool = False,
    ) -> None:
        run = running(device, dtype, batch)
        self.wording, self.batch = vlm.wording(wording, NAMES, [MARK]), batch
        path = states.located(weights, REPO, FILE, allow_download=allow_download)
        state, where = vlm.renamed(vlm.gathered(path)), str(path)
        self.model = vlm.Marked(base, state, where, marks=[MARK], tokens=TOKENS, run=run)
        self.head = vlm.load_head(vlm.ranked_head(self.model.width, 2), state, "rm_head.", where, run)
        self.spec = vlm.worded(self.describe(), self.wording)
        self.name = self.spec.name

    @staticmethod
    def describe() -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name="hpsv3",
            scale="mean of the reward",
            range=(float("-inf"), float("inf")),
            typical=(-2.0, 15.0),
            files=(f"{REPO}: {FILE}", "Qwen/Qwen2-VL-7B-Instruct: config and processor"),
            license="MIT (code), Apache-2.0 (weights)",
            preprocessing=f"about {TOKENS} tokens of 28 x 28 pixels, bicubic in 8 bits (Pillow)",
            antialias=True,
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample, with its standard deviation."""
        found, reasons = self._table(samples)
        values, sigma = found[:, 0], found[:, 1].exp()
        return Scores(values, sigma=sigma, valid=values.isfinite(), reasons=reasons)

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,): the logistic of the gap, averaged over both rewards' distributions."""
        compared(first, second)
        left, right = self._table(first)[0], self._table(second)[0]
        return (-gaussian_likelihood(left[:, 0], right[:, 0], left[:, 1], right[:, 1])).exp()

    def _table(self, samples: Sequence[Sample]) -> tuple[Tensor, dict[int, str]]:
        """Means and logarithms of deviations, (n, 2), and why some could not be judged."""
        return vlm.table(samples, self._shown, self._numbers, 2, self.batch)

    def _shown(self, sample: Sample) -> tuple[str, Image.Image]:
        image = self.model.sized(picture(sample))
        words = self.wording.replace(vlm.HOLE, self.model.clean(sample.prompt))
        return self.model.text(["image"], words), image

    def _numbers(self, shown: list[tuple[str, Image.Image]]) -> Tensor:
        texts, pictures = zip(*shown, strict=True)
        found: Tensor = self.head(self.model.read(texts, pictures)[:, 0])
        return found
