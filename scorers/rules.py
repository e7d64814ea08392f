"""The playground's two judges as scorers: the rule checker, and the one that draws the caption and compares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visalign.images import ImageError
from visalign.scoring import Prefers, Sample, Scores, Spec, opened, picture

T = TypeVar("T")
NONE = "none: 32 x 32 pixels as they are"


@dataclass(frozen=True)
class Rules(Prefers):
    """Reads a playground picture and says how well it shows its prompt, each aspect in [0, 1], overall their product.

    It cannot judge what is no 32 x 32 picture, nor a prompt that is not the playground's language: such samples are
    marked invalid.
    """

    name = "rules"
    spec = Spec(name, "product of the checker's aspects", (0.0, 1.0), preprocessing=NONE)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Overall values (n,), each aspect (n,), and whether a picture counts as clean and right."""
        from visalign.playground import checker

        found, reasons = _read(samples, checker.check)
        names = (*checker.ASPECTS, "overall")
        rows = [[torch.nan if each is None else getattr(each, name) for each in found] for name in names]
        table = dict(zip(names, torch.tensor(rows, dtype=torch.float64), strict=True))
        overall = table.pop("overall")
        right = overall > checker.CLEAN_AND_RIGHT
        return Scores(overall, table, valid=~overall.isnan(), right=right, reasons=reasons)


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(image)


def _read(
    samples: Sequence[Sample], check: Callable[[NDArray[np.uint8], str], T]
) -> tuple[list[T | None], dict[int, str]]:
    """What `check` says of each sample's pixels and prompt, None where it cannot, and why it cannot by row."""
    found: list[T | None] = []
    reasons: dict[int, str] = {}
    for row, (sample, image) in enumerate(zip(samples, opened(samples), strict=True)):
        try:
            if isinstance(image, ImageError):
                raise image
            found.append(check(_pixels(image), sample.prompt))
        except ValueError as error:
            found.append(None)
            reasons[row] = str(error)
    return found, reasons


@dataclass(frozen=True)
class Taste(Prefers):
    """What the playground's simulated voters vote by: half the checker's overall score, half the mean of its aspects.

    It tells two wrong pictures apart, which the overall score, a product, does not.
    """

    name = "voters"
    spec = Spec(name, "half the product and half the mean of the checker's aspects", (0.0, 1.0), preprocessing=NONE)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Utilities (n,) in [0, 1], the checker's aspects, and whether a picture counts as clean and right."""
        from visalign.playground.voters import Voters

        found = Rules().score(samples)
        read = [sample for sample, known in zip(samples, found.judged.tolist(), strict=True) if known]
        values = found.values.clone()
        if read:
            liked = Voters().utility([_pixels(picture(each)) for each in read], [each.prompt for each in read])
            values[found.judged] = torch.from_numpy(liked)
        return replace(found, values=values)


@dataclass(frozen=True)
class Redrawing(Prefers):
    """Draws what the prompt asks for where it explains the picture best, and scores what is left over, in [0, 1].

    It shares no rule with the checker and makes no votes: gains that it does not see are gains on paper.
    """

    name = "redrawing"
    spec = Spec(name, "how well the best drawing of the caption explains the picture", (0.0, 1.0), preprocessing=NONE)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), and whether a picture counts as right."""
        from visalign.playground import second_judge

        found, reasons = _read(samples, lambda pixels, prompt: float(second_judge.scores([pixels], [prompt])[0]))
        values = torch.tensor([torch.nan if each is None else each for each in found], dtype=torch.float64)
        return Scores(values, valid=~values.isnan(), right=values > second_judge.RIGHT, reasons=reasons)
