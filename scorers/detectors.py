"""Detectors of transformers, from a folder: DETR and its kin, OWL-ViT by words, and Mask2Former with outlines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .clip import PathLike
from .detection import Box, Detection, Seen
from .running import running

WORDS = ("owlvit", "owlv2")  # model types that look for what they are told
OUTLINES = ("mask2former",)
MOST = 100  # detections of a picture that Mask2Former keeps, as mmdet's max_per_image
NONE = 1e-6  # keeps the mean over an empty mask finite, as in mmdet


class TransformersDetector:
    """Finds things with an object detector, one picture at a time, so that its neighbours change nothing.

    Args:
        folder: the model's folder, weights in safetensors, with its processor: any `AutoModelForObjectDetection`
            (DETR, RT-DETR, YOLOS, …), OWL-ViT and OWLv2, or Mask2Former, which GenEval's numbers are by.
        words: what OWL-ViT looks for, as "a photo of a WORD".
        names: the model's label -> the label to give it, where the two vocabularies differ: GenEval says "computer
            mouse", "computer keyboard" and "tv remote" where COCO says "mouse", "keyboard" and "remote".
        least: detections of less confidence are not told.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        words: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
        least: float = 0.05,
        device: str = "cpu",
        dtype: str = "fp32",
    ) -> None:
        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"no detector at {folder}: give the folder of a transformers model")
        run = running(device, dtype)
        self.least, self.words, self.kind = least, list(words), _kind(self.folder, words)
        self.network, self.processor = _loaded(self.folder, self.kind, run.dtype)
        self.network.to(run.device).eval().requires_grad_(False)
        known = self.words or [name for _, name in sorted(self.network.config.id2label.items())]
        if unknown := set(names or {}) - set(known):
            raise ValueError(f"names speaks of {sorted(unknown)[0]!r}; the detector knows {', '.join(known)}")
        self.names = [(names or {}).get(each, each) for each in known]

    @property
    def labels(self) -> frozenset[str]:
        """Everything that it can find."""
        return frozenset(self.names)

    @torch.no_grad()
    def detect(self, images: Sequence[Image.Image]) -> list[Seen]:
        """For each RGB picture its things, surest first."""
        find = {"boxes": self._boxes, "words": self._worded, "outlines": self._outlined}[self.kind]
        return [sorted(find(each), key=lambda thing: -thing.confidence) for each in images]

    def _boxes(self, image: Image.Image) -> list[Detection]:
        answer = self.network(**self._inputs(images=image))
        (found,) = self.processor.post_process_object_detection(answer, self.least, target_sizes=[image.size[::-1]])
        return self._told(found)

    def _worded(self, image: Image.Image) -> list[Detection]:
        asked = [[f"a photo of a {each}" for each in self.words]]
        answer = self.network(**self._inputs(images=image, text=asked))
        (found,) = self.processor.post_process_grounded_object_detection(
            answer, threshold=self.least, target_sizes=[image.size[::-1]]
        )
        return self._told(found)

    def _told(self, found: Mapping[str, Tensor]) -> list[Detection]:
        parts = (found[name].tolist() for name in ("labels", "boxes", "scores"))
        return [Detection(self.names[label], tuple(box), score) for label, box, score in zip(*parts, strict=True)]

    def _outlined(self, image: Image.Image) -> list[Detection]:
        inputs = self._inputs(images=image)
        answer = self.network(**inputs)
        masks = spread(answer.masks_queries_logits, inputs["pixel_mask"][0].bool(), image.size)
        return [
            Detection(self.names[label], boxed(mask), score, mask)
            for label, score, mask in instances(answer.class_queries_logits[0].float(), masks)
            if score > self.least
        ]

    def _inputs(self, **given: Any) -> Any:
        made = self.processor(**given, return_tensors="pt").to(self.network.device)
        made["pixel_values"] = made["pixel_values"].to(self.network.dtype)
        return made


def spread(logits: Tensor, shown: Tensor, size: tuple[int, int]) -> Tensor:
    """Masks (queries, h, w) of the picture of that width and height, of logits (1, queries, _, _) on the padded input.

    `shown` (H, W) says which pixels of the input are the picture and not padding.
    """
    whole = torch.nn.functional.interpolate(logits.float(), shown.shape, mode="bilinear", align_corners=False)
    tall, wide = (int(shown.any(axis).sum()) for axis in (1, 0))
    picture = whole[..., :tall, :wide]
    return torch.nn.functional.interpolate(picture, size[::-1], mode="bilinear", align_corners=False)[0]


def instances(classes: Tensor, masks: Tensor) -> list[tuple[int, float, np.ndarray]]:
    """(label, confidence, mask (h, w)) from class logits (queries, labels + 1) and mask logits (queries, h, w).

    The confidence is P(label) times the mean of the mask's probability where it is above 1/2, as in
    github.com/open-mmlab/mmdetection, maskformer_fusion_head.py: one query may be several things.
    """
    chances = classes.softmax(-1)[:, :-1]
    best, places = chances.flatten().topk(min(MOST, chances.numel()))
    inside = masks > 0
    sureness = (masks.sigmoid() * inside).sum((1, 2)) / (inside.sum((1, 2)) + NONE)
    made = []
    for place, chance in zip(places.tolist(), best.tolist(), strict=True):
        query, label = divmod(place, chances.shape[1])
        if inside[query].any():
            made.append((label, chance * float(sureness[query]), inside[query].cpu().numpy()))
    return made


def boxed(mask: np.ndarray) -> Box:
    """The box around a mask (h, w) that is not empty, its far sides one past the last pixel."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def _kind(folder: Path, words: Sequence[str]) -> str:
    """Which of the three a model is, by its type."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES

    told = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
    if bool(words) != (told in WORDS):
        raise ValueError(f"words are for {' and '.join(WORDS)}, which need them; {folder} holds {told}")
    if told in WORDS + OUTLINES:
        return "words" if told in WORDS else "outlines"
    if told not in MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES:
        raise ValueError(f"{folder} holds {told}, which finds no objects; known are DETR and its kin, OWL, Mask2Former")
    return "boxes"


def _loaded(folder: Path, kind: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Network and processor."""
    import transformers

    networks: dict[str, Any] = {
        "boxes": transformers.AutoModelForObjectDetection,
        "words": transformers.AutoModelForZeroShotObjectDetection,
        "outlines": transformers.AutoModelForUniversalSegmentation,
    }
    reader: Any = transformers.AutoProcessor if kind == "words" else transformers.AutoImageProcessor
    network = networks[kind].from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    return network, reader.from_pretrained(folder, local_files_only=True)
