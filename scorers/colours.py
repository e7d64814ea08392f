"""What colour a thing is, by a CLIP: GenEval's classifier of crops (arXiv 2310.11513, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from visalign import registry

from .clip import Cosine, unit_vectors
from .detection import Detection

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {c} {label}", "a photo of a {c}-colored {label}", "a photo of a {c} object")
GROUND = (0x99, 0x99, 0x99)  # in place of what is around a thing


class ClipColours:
    """Names the colour of a thing as the one of COLOURS that its crop is likest to, each the mean of TEMPLATES.

    Args:
        scorer: a CLIP scorer, or its name and settings; GenEval's is OpenAI's ViT-L/14, here
            {name: clipscore, variant: torchmetrics}. Only its two towers are used.
    """

    def __init__(self, scorer: Cosine | Mapping[str, Any] | str) -> None:
        found: Any = scorer if isinstance(scorer, Cosine) else registry.build("scorer", scorer)
        if not isinstance(found, Cosine):
            raise ValueError(f"{scorer} has no two towers to name colours with; take a CLIP scorer, such as clipscore")
        self.scorer = found
        self._known: dict[str, Tensor] = {}

    def of(self, image: Image.Image, label: str, things: Sequence[Detection]) -> list[str]:
        """The colour of each thing in a picture."""
        shown = self.scorer.embed([crop(image, each) for each in things])
        likest = (shown @ self._classes(label).T).argmax(-1)
        return [COLOURS[place] for place in likest.tolist()]

    @torch.no_grad()
    def _classes(self, label: str) -> Tensor:
        """(colours, d) unit vectors."""
        if label not in self._known:
            asked = [each.format(c=colour, label=label) for colour in COLOURS for each in TEMPLATES]
            found = self.scorer.texts(asked).cpu().reshape(len(COLOURS), len(TEMPLATES), -1)
            self._known[label] = unit_vectors(found.mean(1))
        return self._known[label]


def crop(image: Image.Image, thing: Detection) -> Image.Image:
    """A thing cut out by its box, at least a pixel of it, grey around its mask where it has one."""
    shown = image
    if thing.mask is not None:
        shown = Image.composite(image, Image.new("RGB", image.size, GROUND), Image.fromarray(np.asarray(thing.mask)))
    left, top, right, bottom = (round(each) for each in thing.box)
    return shown.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
