"""HPS v2 and v2.1: Wu et al., "Human Preference Score v2", 2023 (arXiv 2306.09341).

The official package (github.com/tgxs002/HPSv2) carries a copy of open_clip; its checkpoints have open_clip's own names
and load into the stock ViT-H-14. Traps of that code: it letterboxes and does not crop; under CUDA autocast its cosines
are float16, spaced by 2.4e-4, so ties appear that are none; scores of 2.0 and 2.1 are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from visalign.models import states
from visalign.scoring import Spec

from .clip import Cosine, OpenClip, PathLike, Tokenizer, open_clip_config, open_clip_network
from .preprocess import Letterbox
from .running import one_of, running

REPO = "xswu/HPSv2"
FILES = {"2.0": "HPS_v2_compressed.pt", "2.1": "HPS_v2.1_compressed.pt"}


def preprocessing(size: int) -> str:
    """What happens to a picture, in words."""
    return f"longest side {size}, bicubic on the tensor, black bars, CLIP's normalization"


class HPSv2(Cosine):
    """Cosine of ViT-H-14, higher is better; ordinary pictures lie around .2 … .36 (the paper's tables are times 100).

    Args:
        weights: the official file, one that `visalign scorers convert` made of it, or None for the hub's.
        version: which of the two official files, where `weights` is None; also the name.
        config: another open_clip model: a name, a mapping of its arguments, or a JSON file.
        tokenizer: prompts to ids, for a model with a vocabulary of its own.
        antialias: of the resize. The published tables are very likely from before torchvision antialiased (0.17).
        name: what records call it; None is "hpsv" and the version.
        allow_download: whether the hub may be asked where the file is not in its cache.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        version: Literal["2.0", "2.1"] = "2.1",
        config: str | Mapping[str, Any] = "ViT-H-14",
        tokenizer: Tokenizer | None = None,
        antialias: bool = True,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        name: str | None = None,
        allow_download: bool = False,
    ) -> None:
        run, file = running(device, dtype, batch), FILES[one_of("version", version, FILES)]
        path = states.located(weights, REPO, file, allow_download=allow_download)
        network = open_clip_network(config, path, run.dtype).to(run.device)
        towers = OpenClip(network, tokenizer)
        size = open_clip_config(config)["vision_cfg"].get("image_size", 224)
        spec = replace(
            self.describe(version),
            name=name or f"hpsv{version}",
            temperature=1 / float(towers.scale()),
            preprocessing=preprocessing(size),
            antialias=antialias,
            context=towers.context,
        )
        super().__init__(spec, towers, Letterbox(size, antialias), batch=batch)

    @staticmethod
    def describe(version: str = "2.1") -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name=f"hpsv{version}",
            scale="cosine",
            range=(-1.0, 1.0),
            typical=(0.2, 0.36),
            files=(f"{REPO}: {FILES[version]}",),
            license="Apache-2.0 (code and weights)",
            temperature=0.01,
            preprocessing=preprocessing(224),
            antialias=True,
            context=77,
        )
