"""What pictures look like beside what scorers say of them: a rising score with rising saturation is a warning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image

from visalign.evaluation import pictures
from visalign.images import ImageError
from visalign.scoring import Prefers, Sample, Scores, Spec, opened

STATISTICS: Mapping[str, Callable[[pictures.Pictures], pictures.Floats]] = {
    "saturation": pictures.saturation,
    "brightness": pictures.brightness,
    "edge density": pictures.edge_density,
    "entropy": pictures.entropy,
}


@dataclass(frozen=True)
class Looks(Prefers):
    """Saturation, brightness, edge density and entropy of each picture, as aspects; one of them is the value.

    A measure and no judgement: higher is not better. Diversity is of a set of pictures and not of one, so it is not
    here but in `visalign.evaluation.pictures`, with the bands that a model should stay in.
    """

    value: Literal["saturation", "brightness", "edge density", "entropy"] = "saturation"

    name = "looks"

    @property
    def spec(self) -> Spec:
        """It reads the picture alone."""
        return Spec(self.name, scale=self.value, range=(0.0, 8.0 if self.value == "entropy" else 1.0), reads=("image",))

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number and all aspects a picture."""
        found = [_measured(image) for image in opened(samples)]
        reasons = {row: each for row, each in enumerate(found) if isinstance(each, str)}
        rows = [[torch.nan if isinstance(each, str) else each[name] for each in found] for name in STATISTICS]
        table = dict(zip(STATISTICS, torch.tensor(rows, dtype=torch.float64), strict=True))
        values = table[self.value]
        return Scores(values.clone(), table, valid=~values.isnan(), reasons=reasons)


def _measured(image: Image.Image | ImageError) -> dict[str, float] | str:
    """Every statistic of a picture, or why there is none."""
    if isinstance(image, ImageError):
        return str(image)
    if min(image.size) < 2:
        return f"too small to have edges: {image.width} x {image.height}"
    one = np.asarray(image)[None]
    return {name: float(measure(one)[0]) for name, measure in STATISTICS.items()}
