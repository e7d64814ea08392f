"""PickScore: Kirstain et al., "Pick-a-Pic", 2023 (arXiv 2305.01569); github.com/yuvalkirstain/PickScore.

A CLIP ViT-H/14 of transformers. Three scales go by its name: exp(logit_scale) times the cosine (the paper's, about
16 … 26), the bare cosine, and the former divided by 26 (flow_grpo). The first two are here, and the spec says which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from visalign.models import states
from visalign.scoring import Spec

from .clip import Cosine, PathLike, Tokenizer
from .hf_clip import HfClip, hf_clip_network
from .preprocess import CROPPED, Crop
from .running import one_of, running

REPO = "yuvalkirstain/PickScore_v1"
FILE = "model.safetensors"


class PickScore(Cosine):
    """exp(logit_scale) * cosine, or the cosine; the softmax of the former over pictures is P(preferred).

    Args:
        weights: model.safetensors or pytorch_model.bin of the hub's repository, its folder, or None for the hub.
        scale: "logit" is the paper's number, "cosine" without its factor.
        config: another CLIP: "ViT-L-14" and such, a mapping of `CLIPConfig`'s arguments, or a config.json.
        tokenizer: prompts to ids, for a model with a vocabulary of its own.
        allow_download: whether the hub may be asked where the file is not in its cache.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        scale: Literal["logit", "cosine"] = "logit",
        config: str | Mapping[str, Any] = "ViT-H-14",
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        run, scaled = running(device, dtype, batch), one_of("scale", scale, ("logit", "cosine")) == "logit"
        path = states.located(weights, REPO, FILE, allow_download=allow_download)
        towers = HfClip(hf_clip_network(path, config, run.dtype).to(run.device), tokenizer)
        factor, size = float(towers.scale()), towers.network.config.vision_config.image_size
        spec = replace(
            self.describe(scale),
            range=(-factor, factor) if scaled else (-1.0, 1.0),
            temperature=1.0 if scaled else 1 / factor,
            preprocessing=CROPPED.format(size),
            context=towers.context,
        )
        value = (lambda cosine: factor * cosine) if scaled else None
        super().__init__(spec, towers, Crop(size), value=value, batch=batch)

    @staticmethod
    def describe(scale: str = "logit") -> Spec:
        """What it is, before any weights are read."""
        scaled = scale == "logit"
        return Spec(
            name="pickscore" if scaled else "pickscore_cosine",
            scale="exp(logit_scale) * cosine" if scaled else "cosine",
            range=(-100.0, 100.0) if scaled else (-1.0, 1.0),
            typical=(16.0, 26.0) if scaled else (0.16, 0.26),
            files=(f"{REPO}: {FILE}",),
            license="MIT (code and weights)",
            temperature=1.0 if scaled else 0.01,
            preprocessing=CROPPED.format(224),
            antialias=True,
            context=77,
        )
