"""VideoReward: Liu et al., "Improving Video Generation with Human Feedback", 2025 (arXiv 2501.13918).

github.com/KwaiVGI/VideoAlign. Qwen2-VL-2B reads a clip and then three sections, for visual quality (VQ), motion quality
(MQ) and text alignment (TA), each with a mark of its own. The prompt stands in the third, so VQ and MQ do not see it.
A linear head gives three numbers at every mark, of which the mark's own counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from visalign.models import states
from visalign.scoring import Prefers, Sample, Scores, Spec

from . import vlm
from .clip import PathLike
from .clips import timed
from .running import running

REPO = "KwaiVGI/VideoReward"
AXES = ("VQ", "MQ", "TA")
MARKS = tuple(f"<|{axis}_reward|>" for axis in AXES)  # in the order in which they were added
NAMES = ("DETAILED_PROMPT_WITH_SPECIAL_TOKEN",)  # of the wording in the released prompt_template.py
TOKENS = 256  # of a frame, at most; at least half of it
RATE, FEWEST = 2.0, 4  # frames a second that are read, and the fewest frames
CONFIG = "model_config.json"


class VideoReward(Prefers):
    """VQ + MQ + TA of clips, with the three as `aspects`.

    Args:
        weights: the released folder with its model_config.json; the newest checkpoint in it is read.
        base: the folder of Qwen2-VL-2B-Instruct: config, tokenizer, processor. Its weights are not read.
        wording: the released prompt_template.py (not run), or a text file; see `vlm.wording`.
        fps: frames a second of the clips that are given, to read two of each second; None: as films say of themselves,
            and of other clips every frame is read.
        normalized: whether each axis has mean 0 and deviation 1 over the authors' data, as the released code's default;
            numbers of a folder that knows neither stay as they are, and the spec says so.
    """

    def __init__(
        self,
        weights: PathLike,
        *,
        base: PathLike,
        wording: PathLike,
        fps: float | None = None,
        normalized: bool = True,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 2,
    ) -> None:
        if fps is not None and fps <= 0:
            raise ValueError(f"fps is above 0, or None for what films say of themselves; got {fps}")
        run = running(device, dtype, batch)
        folder = Path(weights).expanduser()
        config = released(folder)
        self.wording, self.fps, self.batch = vlm.wording(wording, NAMES, MARKS), fps, batch
        norms = config.get("inference_config") if normalized else None
        self.middle, self.spread = scales(norms)
        file = checkpoint(folder)
        state, where = vlm.renamed(merged(vlm.gathered(file), config.get("peft_lora_config") or {})), str(file)
        self.model = vlm.Marked(base, state, where, marks=MARKS, tokens=TOKENS, run=run)
        with torch.device("meta"):
            head = nn.Linear(self.model.width, len(AXES), bias=False)
        self.head = vlm.load_head(head, state, "rm_head.", where, run)
        self.spec = vlm.worded(self.describe(fps, norms is not None), self.wording)
        self.name = self.spec.name

    @staticmethod
    def describe(fps: float | None = None, normalized: bool = True) -> Spec:
        """What it is, before any weights are read."""
        rate = f"{RATE:g} frames a second of films, else all" if fps is None else f"{RATE:g} of {fps:g} frames a second"
        return Spec(
            name="video_reward",
            scale="sum of VQ, MQ and TA"
            + (", each of mean 0 and deviation 1 over the authors' data" if normalized else ""),
            range=(float("-inf"), float("inf")),
            typical=(-3.0, 3.0) if normalized else None,
            files=(f"{REPO}: a folder", "Qwen/Qwen2-VL-2B-Instruct: config and processor"),
            license="MIT (code and weights)",
            reads=("prompt", "video"),
            preprocessing=f"{rate}, each 128 … 256 tokens of 28 x 28 pixels, bicubic",
            antialias=True,
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a clip: `Sample.video`, as frames or as the path of a folder of frames or of a file."""
        found, reasons = vlm.table(samples, self._shown, self._numbers, len(AXES), self.batch)
        aspects = {axis: found[:, place] for place, axis in enumerate(AXES)}
        values = found.sum(-1)
        return Scores(values, aspects, valid=values.isfinite(), reasons=reasons)

    def _shown(self, sample: Sample) -> tuple[str, Tensor]:
        whole, own = timed(sample)
        if not whole:
            raise vlm.Unjudged("the sample has no video")
        fps = self.fps or own
        taken = whole if fps is None else [whole[place] for place in places(len(whole), fps)]
        words = self.wording.replace(vlm.HOLE, self.model.clean(sample.prompt))
        return self.model.text(["video"], words), self._clip(taken)

    def _clip(self, shown: Sequence[Image.Image]) -> Tensor:
        """(frames, 3, h, w) uint8 in the size that is read."""
        if len({each.size for each in shown}) > 1:
            raise vlm.Unjudged("the frames of the clip differ in size")
        width, height = self.model.size(*shown[0].size, least=self.model.pixels // 2)
        clip = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in shown])
        grown = F.interpolate(clip.float(), (height, width), mode="bicubic", antialias=True)
        return grown.clamp(0, 255).round().byte()

    def _numbers(self, shown: list[tuple[str, Tensor]]) -> Tensor:
        texts, clips = zip(*shown, strict=True)
        said = self.head(self.model.read(texts, clips=clips))  # (n, marks, axes)
        found: Tensor = (said.diagonal(dim1=1, dim2=2).cpu() - self.middle) / self.spread
        return found


def places(count: int, fps: float) -> list[int]:
    """Which of `count` frames are read: an even number of them, about two a second, at least four, evenly spread."""
    taken = max(FEWEST, 2 * round(count / fps * RATE / 2))
    found: list[int] = torch.linspace(0, count - 1, taken).round().int().tolist()
    return found


def scales(config: Mapping[str, float] | None) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each axis over the authors' data, as the checkpoint's folder says; 0 and 1 without."""
    if config is None:
        return torch.zeros(len(AXES)), torch.ones(len(AXES))
    if missing := {f"{axis}_{kind}" for axis in AXES for kind in ("mean", "std")} - config.keys():
        raise states.WeightsError(f"inference_config of {CONFIG} lacks {', '.join(sorted(missing))}")
    return tuple(torch.tensor([config[f"{axis}_{kind}"] for axis in AXES]) for kind in ("mean", "std"))  # type: ignore[return-value]


def released(folder: Path) -> dict[str, Any]:
    """The model_config.json of a released folder."""
    if not (folder / CONFIG).is_file():
        raise states.WeightsError(f"{folder} holds no {CONFIG}: give the folder of {REPO}")
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise states.WeightsError(f"{folder / CONFIG} holds no JSON object ({error})") from error


def checkpoint(folder: Path) -> Path:
    """The newest checkpoint-STEP in a folder (or the folder itself): its model.pth, or the folder of its files."""
    steps = {int(each.name.removeprefix("checkpoint-")): each for each in folder.glob("checkpoint-[0-9]*")}
    newest = steps[max(steps)] if steps else folder
    return newest / "model.pth" if (newest / "model.pth").is_file() else newest


def merged(state: Mapping[str, Tensor], lora: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict as peft saves it (arXiv 2106.09685) with each W + alpha / r B A; any other stays as it is."""
    plain = {name.removeprefix("base_model.model.").replace(".default", ""): each for name, each in state.items()}
    found = {name.replace(".base_layer", ""): each for name, each in plain.items() if ".lora_" not in name}
    for name, down in plain.items():
        if name.endswith(".lora_A.weight"):
            place = name.removesuffix(".lora_A.weight")
            up, target = plain[f"{place}.lora_B.weight"], f"{place}.weight"
            scale = _scale(lora, len(down))
            found[target] = (found[target].float() + scale * up.float() @ down.float()).to(found[target].dtype)
    return found


def _scale(lora: Mapping[str, Any], rank: int) -> float:
    if lora.get("lora_r") != rank or "lora_alpha" not in lora:
        raise states.WeightsError(f"{CONFIG} should say lora_r {rank} and lora_alpha; it says {dict(lora)}")
    return float(lora["lora_alpha"]) / (math.sqrt(rank) if lora.get("use_rslora") else rank)
