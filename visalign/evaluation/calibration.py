"""Whether a scorer's probabilities are true, how well it does with ties counted, and what it does not see.

Everything reads gaps, the score of the first of a pair less that of the second, and outcomes: 1 the first was
preferred, 0 the second, 1/2 a tie. Pairs that a scorer could not judge are NaN and are left out and counted.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .curves import COLORS, INK
from .statistics import wilson

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Votes of about the same said probability."""

    said: float  # mean probability of what was called likelier
    happened: float  # the share of them that went that way, ties as halves
    low: float  # Wilson's 95 % interval of that share
    high: float
    count: int


@dataclass(frozen=True)
class Reliability:
    """A reliability curve; probabilities are folded to [1/2, 1], since which of a pair is first means nothing."""

    bins: tuple[Bin, ...]
    error: float  # expected calibration error: mean |said - happened|, bins by their counts
    accuracy: float  # of votes that are no tie; a tie of the scorer is 1/2
    nll: float  # mean negative log-likelihood of the votes, nats
    votes: int
    unjudged: int


def reliability(gaps: ArrayLike, outcomes: ArrayLike, temperature: float = 1.0, *, bins: int = 8) -> Reliability:
    """The curve of P = sigmoid(gap / temperature), in `bins` bins of equally many votes."""
    gap, outcome, unjudged = _judged(gaps, outcomes)
    chance = 1 / (1 + np.exp(-np.abs(gap) / temperature))
    agreed = np.where(gap >= 0, outcome, 1 - outcome)
    agreed = np.where(gap == 0, 0.5, agreed)
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    found = tuple(_bin(chance[part], agreed[part]) for part in parts)
    error = sum(each.count * abs(each.said - each.happened) for each in found) / len(gap)
    told = outcome != 0.5
    nll = float(np.mean(-agreed * np.log(chance) - (1 - agreed) * np.log1p(-np.minimum(chance, 1 - 1e-16))))
    accuracy = float(agreed[told].mean()) if told.any() else float("nan")
    return Reliability(found, float(error), accuracy, nll, len(gap), unjudged)


def _bin(chance: Floats, agreed: Floats) -> Bin:
    share = float(agreed.mean())
    low, high = wilson(share, len(agreed), 0.95)
    return Bin(float(chance.mean()), share, low, high, len(agreed))


def _judged(gaps: ArrayLike, outcomes: ArrayLike) -> tuple[Floats, Floats, int]:
    gap, outcome = np.asarray(gaps, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if gap.ndim != 1 or gap.shape != outcome.shape:
        raise ValueError(f"each gap needs its outcome: got shapes {gap.shape} and {outcome.shape}")
    if not np.isin(outcome[~np.isnan(outcome)], (0.0, 0.5, 1.0)).all():
        raise ValueError("outcomes are 1 (the first), 0 (the second) or 1/2 (a tie)")
    seen = ~(np.isnan(gap) | np.isnan(outcome))
    if not seen.any():
        raise ValueError(f"none of {len(gap)} votes was judged: there is nothing to compare")
    return gap[seen], outcome[seen], int((~seen).sum())


@dataclass(frozen=True)
class TieCalibrated:
    """The best accuracy over all thresholds below which a gap is called a tie."""

    accuracy: float  # of all pairs, the tied ones included
    threshold: float  # gaps of at most this are ties; the smallest that is best
    pairs: int


def tie_calibrated(gaps: ArrayLike, outcomes: ArrayLike) -> TieCalibrated:
    """Pairwise accuracy with tie calibration (Deutsch et al., arXiv 2305.14324).

    Thresholds are 0 and every |gap|, and pairs of one |gap| become ties together: implementations that leave out 0, or
    turn such pairs one by one, overrate scorers whose values are coarse.
    """
    gap, outcome, _ = _judged(gaps, outcomes)
    size = np.abs(gap)
    levels, place = np.unique(np.concatenate([[0.0], size]), return_inverse=True)
    own = place[1:]
    right = (np.sign(gap) == np.sign(outcome - 0.5)) & (outcome != 0.5) & (gap != 0)
    ordered = np.bincount(own, weights=right, minlength=len(levels))
    tied = np.bincount(own, weights=outcome == 0.5, minlength=len(levels))
    accuracy = (np.cumsum(tied) + ordered.sum() - np.cumsum(ordered)) / len(gap)
    best = int(np.argmax(accuracy))
    return TieCalibrated(float(accuracy[best]), float(levels[best]), len(gap))


@dataclass(frozen=True)
class Row:
    """Pairs of which one aspect tells the two apart the most."""

    right: int
    tied: int  # the scorer gave both the same
    wrong: int

    @property
    def accuracy(self) -> float:
        """Of them all, ties as halves; NaN where there are none."""
        count = self.right + self.tied + self.wrong
        return (self.right + self.tied / 2) / count if count else float("nan")


def counted(gaps: ArrayLike, true: ArrayLike) -> Row:
    """What a scorer makes of the pairs that people do not tie, by its gaps and theirs; NaN gaps are left out."""
    gap, wanted = np.asarray(gaps, dtype=np.float64), np.asarray(true, dtype=np.float64)
    return _row(gap, wanted, (wanted != 0) & ~np.isnan(gap) & ~np.isnan(wanted))


def by_aspect(gaps: ArrayLike, aspects: Mapping[str, ArrayLike], *, least: float = 0.5) -> dict[str, Row]:
    """What a scorer makes of pairs that differ by `least` or more in one aspect and by less than that in every other.

    `aspects` holds the true gaps, first less second, of each aspect. A scorer that is blind to an aspect is right in
    half of its row.
    """
    gap = np.asarray(gaps, dtype=np.float64)
    true = {name: np.asarray(values, dtype=np.float64) for name, values in aspects.items()}
    large = {name: np.abs(values) >= least for name, values in true.items()}
    alone = sum((each.astype(int) for each in large.values()), np.zeros(len(gap), dtype=int)) == 1
    return {name: _row(gap, true[name], large[name] & alone & ~np.isnan(gap)) for name in true}


def _row(gap: Floats, true: Floats, where: NDArray[np.bool_]) -> Row:
    agrees = np.sign(gap[where]) * np.sign(true[where])
    return Row(*(int((agrees == value).sum()) for value in (1, 0, -1)))


def picture(found: Mapping[str, Reliability], rows: Mapping[str, Row] | None = None) -> bytes:
    """A PNG: reliability curves, one color a scorer, and beside them the accuracy by aspect, where it is given."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(4.4 * (1 + bool(rows)), 3.6), layout="constrained")
    axes = drawing.add_subplot(1, 1 + bool(rows), 1)
    axes.plot([0.5, 1], [0.5, 1], color=INK, lw=0.8, alpha=0.6)
    for color, (name, each) in zip(COLORS, found.items(), strict=False):
        said, happened = [one.said for one in each.bins], [one.happened for one in each.bins]
        reach = [[one.happened - one.low for one in each.bins], [one.high - one.happened for one in each.bins]]
        label = f"{name}: agrees {each.accuracy:.0%}, error {each.error:.3f}"
        axes.errorbar(said, happened, reach, color=color, marker="o", ms=3.5, lw=1.4, capsize=2, label=label)
    _dressed(axes, "reliability", "probability that the scorer gives", "share of votes")
    axes.legend(fontsize=7, framealpha=0, labelcolor=INK, loc="upper left")
    if rows:
        _bars(drawing.add_subplot(1, 2, 2), rows)
    png = io.BytesIO()
    drawing.savefig(png, format="png", dpi=110, transparent=True)
    return png.getvalue()


def _bars(axes: object, rows: Mapping[str, Row]) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    names = [f"{name} ({each.right + each.tied + each.wrong})" for name, each in rows.items()][::-1]
    values = [each.accuracy for each in rows.values()][::-1]
    axes.barh(names, values, color=COLORS[0], height=0.6)
    axes.axvline(0.5, color=INK, lw=0.8, alpha=0.6)
    axes.set_xlim(0, 1)
    _dressed(axes, "agreement where one aspect decides (pairs)", "share that the scorer orders rightly", "")


def _dressed(axes: object, title: str, across: str, up: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axes, Axes)
    axes.set_title(title, color=INK, fontsize=10)
    axes.set_xlabel(across, color=INK, fontsize=8)
    axes.set_ylabel(up, color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_alpha(0.5)
