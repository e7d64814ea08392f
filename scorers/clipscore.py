"""CLIPScore: Hessel et al., "CLIPScore", 2021 (arXiv 2104.08718), and CLIP-IQA: Wang et al., 2022 (arXiv 2207.12396).

Two numbers go by the name of CLIPScore. The paper's is 2.5 max(cos, 0) with ViT-B/32 and "A photo depicts " before the
caption. torchmetrics' is 100 cos with ViT-L/14 and no prefix, clamped at 0 only after the mean over a data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from visalign.models import states
from visalign.scoring import Spec

from . import reading
from .clip import Cosine, PathLike, Tokenizer, Unprompted
from .hf_clip import HfClip, hf_clip_network
from .preprocess import CROPPED, Crop
from .running import one_of, running

FILE = "model.safetensors"
WEIGHT = 2.5  # w of eq. 1
ANCHORS = ("Good photo.", "Bad photo.")


def paper(cosine: Tensor) -> Tensor:
    """2.5 max(cos, 0) (eq. 1)."""
    return WEIGHT * cosine.clamp(min=0)


def torchmetrics(cosine: Tensor) -> Tensor:
    """100 cos, which torchmetrics averages before it clamps."""
    return 100 * cosine


def with_references(score: Tensor, closest: Tensor) -> Tensor:
    """RefCLIPScore: harmonic mean of CLIPScore and max(0, the closest reference's cosine to the caption) (sec. 3)."""
    other = closest.clamp(min=0)
    total = score + other
    return torch.where(total > 0, 2 * score * other / torch.where(total > 0, total, 1), 0)


def good_of_pair(cosines: Tensor) -> Tensor:
    """CLIP-IQA: softmax of 100 cos over the two anchors of the last axis, the first one's share."""
    return (100 * cosines).softmax(-1)[..., 0]


@dataclass(frozen=True)
class Variant:
    """One of the numbers by that name."""

    shape: str
    repo: str
    template: str
    scale: str
    typical: tuple[float, float]


VARIANTS = {
    "paper": Variant(
        "ViT-B-32", "openai/clip-vit-base-patch32", "A photo depicts {}", "2.5 * max(cosine, 0)", (0.4, 1)
    ),
    "torchmetrics": Variant("ViT-L-14", "openai/clip-vit-large-patch14", "{}", "100 * cosine", (10, 35)),
    "cosine": Variant("ViT-L-14", "openai/clip-vit-large-patch14", "{}", "cosine", (0.1, 0.35)),
}
VALUES = {"paper": paper, "torchmetrics": torchmetrics, "cosine": None}


class CLIPScore(Cosine):
    """The paper's number, or torchmetrics' with `variant="torchmetrics"`, or its "cosine"; not trained on preferences.

    Args:
        weights: a file or a folder of the hub's repository for the variant, or None for the hub.
        config: another CLIP: a name, a mapping of `CLIPConfig`'s arguments, or a config.json.
        tokenizer: prompts to ids, for a model with a vocabulary of its own.
        allow_download: whether the hub may be asked where the file is not in its cache.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        variant: Literal["paper", "torchmetrics", "cosine"] = "paper",
        config: str | Mapping[str, Any] | None = None,
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        run, chosen = running(device, dtype, batch), VARIANTS[one_of("variant", variant, VARIANTS)]
        path = states.located(weights, chosen.repo, FILE, allow_download=allow_download)
        towers = HfClip(hf_clip_network(path, config or chosen.shape, run.dtype).to(run.device), tokenizer)
        size = towers.network.config.vision_config.image_size
        spec = replace(self.describe(variant), context=towers.context, preprocessing=CROPPED.format(size))
        super().__init__(spec, towers, Crop(size), value=VALUES[variant], template=chosen.template, batch=batch)

    @staticmethod
    def describe(variant: str = "paper") -> Spec:
        """What it is, before any weights are read."""
        chosen = VARIANTS[variant]
        return Spec(
            name="clipscore" if variant == "paper" else f"clipscore_{variant}",
            scale=chosen.scale,
            range={"paper": (0.0, WEIGHT), "torchmetrics": (-100.0, 100.0), "cosine": (-1.0, 1.0)}[variant],
            typical=chosen.typical,
            files=(f"{chosen.repo}: {FILE}",),
            license="MIT (code and weights)",
            preprocessing=CROPPED.format(224),
            antialias=True,
            context=77,
        )


class CLIPIQA(Unprompted):
    """CLIP-IQA: how much nearer a picture is to "Good photo." than to "Bad photo.", in (0, 1); reads no prompt.

    Here on ViT-L/14; the paper's is a ResNet-50 without position embeddings, so its numbers are others.

    Args: as of CLIPScore, and `anchors`, the good and the bad text.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        anchors: tuple[str, str] = ANCHORS,
        config: str | Mapping[str, Any] = "ViT-L-14",
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        run, repo = running(device, dtype, batch), VARIANTS["torchmetrics"].repo
        if isinstance(anchors, str) or len(anchors) != 2:
            raise ValueError(f"anchors are two texts, the good and the bad one; got {anchors!r}")
        path = states.located(weights, repo, FILE, allow_download=allow_download)
        towers = HfClip(hf_clip_network(path, config, run.dtype).to(run.device), tokenizer)
        size = towers.network.config.vision_config.image_size
        spec = replace(self.describe(), preprocessing=CROPPED.format(size))
        super().__init__(spec, towers, Crop(size), self._good, batch=batch)
        self.anchors = reading.Remembered(towers.texts)(anchors)

    @staticmethod
    def describe() -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name="clip_iqa",
            scale="softmax of 100 * cosine over two anchors",
            range=(0.0, 1.0),
            files=(f"{VARIANTS['torchmetrics'].repo}: {FILE}",),
            license="MIT (code and weights)",
            reads=("image",),
            preprocessing=CROPPED.format(224),
            antialias=True,
        )

    def _good(self, images: Tensor) -> Tensor:
        return good_of_pair(images @ self.anchors.T)
