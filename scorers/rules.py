"""The playground's rule checker as a scorer: objects, colours, relations and cleanliness, and their product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

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


def _verdict(sample: Sample) -> dict[str, float]:
    """What the checker says of a sample by aspect; nothing where it cannot read it."""
    from visalign.playground import checker

    if sample.image is None:
        return {}
    try:
        verdict = checker.check(np.asarray(sample.image.convert("RGB")), sample.prompt)
    except ValueError:
        return {}
    return {name: float(getattr(verdict, name)) for name in (*checker.ASPECTS, "overall")}
