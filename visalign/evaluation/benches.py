"""How well a scorer agrees with people, by the protocols that its field reports; one number has many protocols.

Every function reads, for each prompt, the scorer's values of its n pictures and the people's (higher is better in
both, ranks negated). Values that are NaN could not be judged: their pictures are left out, and `unjudged` counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from .calibration import reliability, tie_calibrated
from .statistics import Interval, mean

Floats = NDArray[np.float64]
THRESHOLDS = tuple(np.arange(11) / 10)  # of Pick-a-Pic's protocol


@dataclass(frozen=True)
class Ranked:
    """One prompt's pictures."""

    said: Floats  # (n,) by the scorer
    true: Floats  # (n,) by people

    def pairs(self) -> Floats:
        """(pairs, 2) gaps, the scorer's and the people's, of every two pictures that the scorer could judge."""
        seen = np.flatnonzero(~np.isnan(self.said) & ~np.isnan(self.true))
        gaps = [(self.said[i] - self.said[j], self.true[i] - self.true[j]) for i, j in combinations(seen.tolist(), 2)]
        return np.array(gaps, dtype=np.float64).reshape(-1, 2)


def hpd_v2(prompts: Sequence[Ranked]) -> Interval:
    """HPD v2's accuracy: 1 - the share of a prompt's pairs that are ordered against the people's, mean over prompts.

    Pairs that people tie are right whatever is said. Equal values of the scorer are ordered as argsort orders them, by
    their place, as tgxs002/HPSv2 does (evaluation.py, inversion_score).
    """
    return _by_prompt(prompts, _inversions)


def _inversions(one: Ranked) -> float | None:
    seen = np.flatnonzero(~np.isnan(one.said) & ~np.isnan(one.true))
    if len(seen) < 2:
        return None
    order = np.argsort(-one.said[seen], kind="stable")
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order))
    true, pairs = one.true[seen], list(combinations(range(len(seen)), 2))
    against = sum((place[i] - place[j]) * (true[j] - true[i]) < 0 for i, j in pairs)
    return float(1 - against / len(pairs))


def image_reward(prompts: Sequence[Ranked]) -> float:
    """ImageReward's accuracy: over all pairs of all prompts that people do not tie; a tie of the scorer is wrong."""
    gaps = _strict(np.concatenate([each.pairs() for each in prompts]))
    return float(_ordered(gaps).mean())


def image_reward_macro(prompts: Sequence[Ranked]) -> Interval:
    """The same by prompt and then averaged, as HPSv2's report has it; prompts that people tie throughout are left out.

    Not comparable with the pooled number: 65.1 for ImageReward is pooled, 65.7 and 66.8 for HPSv2 and v2.1 are this.
    """

    def one(each: Ranked) -> float | None:
        gaps = _strict(each.pairs())
        return float(_ordered(gaps).mean()) if len(gaps) else None

    return _by_prompt(prompts, one)


def _strict(gaps: Floats) -> Floats:
    """Pairs that people do not tie."""
    strict: Floats = gaps[gaps[:, 1] != 0]
    return strict


def _ordered(gaps: Floats) -> NDArray[np.bool_]:
    ordered: NDArray[np.bool_] = gaps[:, 0] * gaps[:, 1] > 0
    return ordered


@dataclass(frozen=True)
class PickAPic:
    """Pick-a-Pic's accuracy with ties, and the threshold that it was read at."""

    accuracy: float
    threshold: float  # probabilities that differ by at most this are a tie
    pairs: int

    def __str__(self) -> str:
        return f"{self.accuracy:.4f} at {self.threshold:g}"


def pick_a_pic(
    chance: Floats, label: Floats, *, threshold: float | None = None, thresholds: Sequence[float] = THRESHOLDS
) -> PickAPic:
    """Accuracy with ties (arXiv 2305.01569, section 5): 1 where both say the same, 1/2 where one alone says tie.

    `chance` is P(first is better) by the scorer, `label` 1, 0, or 1/2 for a tie. The threshold is the one that is best
    on these pairs, the first of equals, unless it is given: choose it on the validation pairs, then pass it here.
    """
    if chance.shape != label.shape or not len(chance):
        raise ValueError(f"each pair needs its label: got {chance.shape} and {label.shape}")
    tried = [threshold] if threshold is not None else list(thresholds)
    found = [_with_ties(chance, label, each) for each in tried]
    best = int(np.argmax(found))
    return PickAPic(found[best], float(tried[best]), len(chance))


def _with_ties(chance: Floats, label: Floats, threshold: float) -> float:
    gap = 2 * chance - 1  # p0 - p1
    said = np.where(np.abs(gap) <= threshold + 1e-12, 0.0, np.sign(gap))
    true = np.sign(label - 0.5)
    one_ties = (said == 0) != (true == 0)
    return float(np.where(said == true, 1.0, np.where(one_ties, 0.5, 0.0)).mean())


@dataclass(frozen=True)
class Drawn:
    """What the HPS v2 benchmark says of one style."""

    mean: float  # of the groups' means
    deviation: float | None  # between the groups' means, ddof 0; None of what has no groups
    count: int


def hps_v2(values: Mapping[str, Floats], groups: int = 10) -> dict[str, Drawn]:
    """The HPS v2 benchmark of a model: 100 x cosine by style, in ten groups of consecutive prompts; and "averaged".

    What could not be judged is left out of its own group, and moves no other prompt into another one. ValueError where
    nothing of a whole group was judged, since the others' mean is of other prompts.
    """
    if empty := [style for style, each in values.items() if any(np.isnan(part).all() for part in _parts(each, groups))]:
        raise ValueError(f"of {', '.join(empty)} a whole group of prompts could not be judged")
    found = {style: _grouped(each, groups) for style, each in values.items()}
    every = np.concatenate(list(values.values()))
    return {**found, "averaged": Drawn(float(np.nanmean(every)), None, int((~np.isnan(every)).sum()))}


def _grouped(values: Floats, groups: int) -> Drawn:
    means = [float(np.nanmean(part)) for part in _parts(values, groups)]
    return Drawn(float(np.mean(means)), float(np.std(means)), int((~np.isnan(values)).sum()))


def _parts(values: Floats, groups: int) -> list[Floats]:
    """Groups of consecutive values, equally many in each but for the last."""
    size = -(-len(values) // groups)
    return [values[start : start + size] for start in range(0, len(values), size)]


def _by_prompt(prompts: Sequence[Ranked], score: Callable[[Ranked], float | None]) -> Interval:
    """The mean over prompts that have a score, with an interval over prompts."""
    found = [(number, value) for number, each in enumerate(prompts) if (value := score(each)) is not None]
    if not found:
        raise ValueError(f"none of {len(prompts)} prompts has two pictures that could be judged and are not tied")
    return mean([value for _, value in found], [number for number, _ in found])


def summary(prompts: Sequence[Ranked], temperature: float = 1.0) -> dict[str, float | int | Interval | None]:
    """Every protocol that ranked pictures allow, by name, and how many pictures could not be judged.

    None where people tie everything. ValueError where no prompt has two pictures that could be judged.
    """
    gaps = np.concatenate([each.pairs() for each in prompts])
    if not len(gaps):
        raise ValueError(f"none of {len(prompts)} prompts has two pictures that could be judged")
    outcomes = (np.sign(gaps[:, 1]) + 1) / 2
    calibrated = tie_calibrated(gaps[:, 0], outcomes)
    curve = reliability(gaps[:, 0], outcomes, temperature)
    strict = bool((outcomes != 0.5).any())
    return {
        "pairs": len(gaps),
        "ties among them": int((outcomes == 0.5).sum()),
        "HPD v2 (1 - inversions, by prompt)": hpd_v2(prompts),
        "ImageReward (pooled, ties of the scorer wrong)": image_reward(prompts) if strict else None,
        "ImageReward by prompt": image_reward_macro(prompts) if strict else None,
        "pairs without ties, ties of the scorer 1/2": curve.accuracy if strict else None,
        "with ties, calibrated (Deutsch et al.)": calibrated.accuracy,
        "calibration error": curve.error,
        "pictures not judged": int(sum(np.isnan(each.said).sum() for each in prompts)),
    }
