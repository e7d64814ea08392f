"""The playground's two judges as scorers: the rule checker, and the one that draws the caption and compares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from visalign.scoring import Sample, Scores


@dataclass(frozen=True)
class Rules:
    """Reads a playground picture and says how well it shows its prompt, each aspect in [0, 1], overall their product.

    It cannot judge what is no 32 x 32 picture, nor a prompt that is not the playground's language: such samples are
    marked invalid.
    """

    name = "rules"

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Overall values (n,), each aspect (n,), and whether a picture counts as clean and right."""
        from visalign.playground import checker

        found = [_verdict(sample) for sample in samples]
        names = (*checker.ASPECTS, "overall")
        table = {
            name: torch.tensor([each.get(name, torch.nan) for each in found], dtype=torch.float64) for name in names
        }
        overall = table.pop("overall")
        return Scores(overall, table, valid=~overall.isnan(), right=overall > checker.CLEAN_AND_RIGHT)


def _pixels(sample: Sample) -> NDArray[np.uint8]:
    assert sample.image is not None
    return np.asarray(sample.image.convert("RGB"))


def _verdict(sample: Sample) -> dict[str, float]:
    """What the checker says of a sample by aspect; nothing where it cannot read it."""
    from visalign.playground import checker

    if sample.image is None:
        return {}
    try:
        verdict = checker.check(_pixels(sample), sample.prompt)
    except ValueError:
        return {}
    return {name: float(getattr(verdict, name)) for name in (*checker.ASPECTS, "overall")}


@dataclass(frozen=True)
class Taste:
    """What the playground's simulated voters vote by: half the checker's overall score, half the mean of its aspects.

    It tells two wrong pictures apart, which the overall score, a product, does not.
    """

    name = "voters"

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Utilities (n,) in [0, 1], the checker's aspects, and whether a picture counts as clean and right."""
        from visalign.playground.voters import Voters

        found = Rules().score(samples)
        read = [sample for sample, known in zip(samples, found.judged.tolist(), strict=True) if known]
        values = found.values.clone()
        if read:
            liked = Voters().utility([_pixels(each) for each in read], [each.prompt for each in read])
            values[found.judged] = torch.from_numpy(liked)
        return replace(found, values=values)


@dataclass(frozen=True)
class Redrawing:
    """Draws what the prompt asks for where it explains the picture best, and scores what is left over, in [0, 1].

    It shares no rule with the checker and makes no votes: gains that it does not see are gains on paper.
    """

    name = "redrawing"

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), and whether a picture counts as right."""
        from visalign.playground import second_judge

        values = torch.tensor([_redrawn(sample) for sample in samples], dtype=torch.float64)
        return Scores(values, valid=~values.isnan(), right=values > second_judge.RIGHT)


def _redrawn(sample: Sample) -> float:
    from visalign.playground import second_judge

    try:
        return (
            float("nan") if sample.image is None else float(second_judge.scores([_pixels(sample)], [sample.prompt])[0])
        )
    except ValueError:
        return float("nan")
