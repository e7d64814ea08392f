"""LAION's aesthetic predictors: how good a picture looks, about 1 … 10, whatever the prompt.

v1 (github.com/LAION-AI/aesthetic-predictor) is one linear map of the CLIP embedding, v2 (christophschuhmann/
improved-aesthetic-predictor) five in a row without anything between, which is one linear map as well. Both need the
embedding at length 1; without that they say 20 … 30.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from visalign.models import states
from visalign.scoring import Spec

from .affine import Affine, collapsed
from .clip import PathLike, Unprompted
from .hf_clip import SHAPES, HfClip, hf_clip_network
from .preprocess import CROPPED, Crop
from .running import one_of, running

FILE = "model.safetensors"
V2_LAYERS = tuple(f"layers.{number}" for number in (0, 2, 4, 6, 7))
CLIPS = {
    "ViT-L-14": "openai/clip-vit-large-patch14",
    "ViT-B-32": "openai/clip-vit-base-patch32",
    "ViT-B-16": "openai/clip-vit-base-patch16",
}


@dataclass(frozen=True)
class Version:
    """One of the two predictors."""

    layers: tuple[str, ...]  # of its head's file; "" is a bare weight and bias
    source: str
    license: str
    typical: tuple[float, float]


VERSIONS = {
    "1": Version(("",), "github.com/LAION-AI/aesthetic-predictor: sa_0_4_vit_l_14_linear.pth", "MIT", (3, 8)),
    "2": Version(
        V2_LAYERS,
        "github.com/christophschuhmann/improved-aesthetic-predictor: sac+logos+ava1-l14-linearMSE.pth",
        "Apache-2.0",
        (4, 7.5),
    ),
}


class Aesthetic(Unprompted):
    """An affine map of the unit image embedding of an OpenAI CLIP; reads no prompt.

    Args:
        weights: the predictor's own file (3 kB, 4 MB), which is on GitHub and not on the hub.
        clip: file or folder of OpenAI's CLIP in transformers' layout; None is the hub's.
        version: "1" or "2".
        model: which CLIP; v1 has heads for ViT-B-32 and ViT-B-16 too.
        config: another shape of CLIP, where it is none of these.
        allow_download: whether the hub may be asked for the CLIP.
    """

    def __init__(
        self,
        weights: PathLike,
        *,
        clip: PathLike | None = None,
        version: Literal["1", "2"] = "2",
        model: Literal["ViT-L-14", "ViT-B-32", "ViT-B-16"] = "ViT-L-14",
        config: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        run, chosen = running(device, dtype, batch), VERSIONS[one_of("version", version, VERSIONS)]
        repo = CLIPS[one_of("model", model, CLIPS)]
        rating = head(Path(weights).expanduser(), chosen.layers, chosen.source).to(run.device)
        path = states.located(clip, repo, FILE, allow_download=allow_download)
        towers = HfClip(hf_clip_network(path, config or SHAPES[model], run.dtype).to(run.device))
        size = towers.network.config.vision_config.image_size
        spec = replace(self.describe(version, model), preprocessing=CROPPED.format(size))
        super().__init__(spec, towers, Crop(size), rating, batch=batch)

    @staticmethod
    def describe(version: str = "2", model: str = "ViT-L-14") -> Spec:
        """What it is, before any weights are read."""
        chosen = VERSIONS[version]
        return Spec(
            name=f"aesthetic_v{version}",
            scale="mean of human ratings of 1 … 10",
            range=(float("-inf"), float("inf")),
            typical=chosen.typical,
            files=(chosen.source, f"{CLIPS[model]}: {FILE}"),
            license=f"{chosen.license} (head), MIT (CLIP)",
            reads=("image",),
            preprocessing=CROPPED.format(224),
            antialias=True,
        )


def head(path: Path, layers: Sequence[str], source: str) -> Affine:
    """The affine map of a predictor's file, which `source` offers."""
    if not path.is_file():
        raise states.WeightsError(f"no weights at {path}: give the predictor's own file, {source}")
    return collapsed(states.read(path), layers, str(path))
