"""Reliability, accuracy with ties calibrated, and what a scorer does not see, by hand-made cases and brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from visalign.evaluation.calibration import Row, by_aspect, picture, reliability, tie_calibrated

NAN = math.nan


def outcomes(*said: int) -> list[float]:
    """1, 0 and -1 as outcomes."""
    return [(each + 1) / 2 for each in said]


@pytest.mark.parametrize(
    ("said", "gaps", "accuracy", "threshold"),
    [
        ((1, 1, -1, 0, 0, 1), (0.9, 0.1, 0.1, 0.1, 0.05, 0.5), 2 / 3, 0.05),
        ((1, -1), (0.3, -0.1), 1.0, 0.0),  # a search that leaves 0 out says 1/2
        ((1, -1), (0.2, 0.2), 0.5, 0.0),
        ((0, 1, 0), (0.2, 0.2, 0.2), 2 / 3, 0.2),
        ((0, 0, 1, 1), (0.2, 0.2, 0.2, 0.2), 0.5, 0.0),  # one that turns equal gaps one by one says 1
        ((0, 1), (0.0, 0.4), 1.0, 0.0),
    ],
)
def test_tie_calibration_has_its_golden_numbers(
    said: tuple[int, ...], gaps: tuple[float, ...], accuracy: float, threshold: float
) -> None:
    found = tie_calibrated(gaps, outcomes(*said))
    assert [found.accuracy, found.threshold] == pytest.approx([accuracy, threshold])


def test_tie_calibration_is_the_best_of_all_thresholds() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        gaps = random.integers(-4, 5, 12) / 4
        said = random.integers(-1, 2, 12)

        def right(threshold: float, gaps: np.ndarray = gaps, said: np.ndarray = said) -> float:
            return float(np.mean(np.where(np.abs(gaps) <= threshold, 0, np.sign(gaps)) == said))

        levels = sorted({0.0, *np.abs(gaps).tolist()})
        found = tie_calibrated(gaps, outcomes(*said.tolist()))
        assert found.accuracy == pytest.approx(max(map(right, levels)))
        assert found.threshold == next(level for level in levels if right(level) == max(map(right, levels)))


def test_votes_cast_at_a_temperature_are_reliable_at_it_and_overtrusted_below_it() -> None:
    random = np.random.default_rng(0)
    gaps = random.normal(size=40_000)
    votes = (random.random(40_000) < 1 / (1 + np.exp(-gaps / 0.5))).astype(float)
    true, hot, cold = (reliability(gaps, votes, temperature) for temperature in (0.5, 2.0, 0.1))
    assert true.error < 0.01 < min(hot.error, cold.error)
    assert true.nll < min(hot.nll, cold.nll)
    assert true.accuracy == hot.accuracy == cold.accuracy
    assert all(each.low <= each.said <= each.high for each in true.bins[1:-1])
    assert all(each.said > each.happened for each in cold.bins)


def test_a_swap_of_every_pair_changes_nothing() -> None:
    gaps, votes = np.array([0.4, -1.0, 0.2, 0.0]), np.array([1.0, 1.0, 0.5, 0.0])
    assert reliability(gaps, votes, bins=2) == reliability(-gaps, 1 - votes, bins=2)
    assert tie_calibrated(gaps, votes) == tie_calibrated(-gaps, 1 - votes)


def test_a_scorer_that_cannot_tell_has_half_the_votes_and_log_2() -> None:
    found = reliability([0.0, 0.0, 0.0], [1.0, 0.0, 0.5])
    assert [found.accuracy, found.nll, found.error] == pytest.approx([0.5, math.log(2), 0.0])


def test_what_was_not_judged_is_left_out_and_counted() -> None:
    found = reliability([1.0, NAN, -1.0], [1.0, 1.0, NAN])
    assert (found.votes, found.unjudged, found.accuracy) == (1, 2, 1.0)
    with pytest.raises(ValueError, match="none of 1 votes was judged"):
        reliability([NAN], [1.0])
    with pytest.raises(ValueError, match="1/2"):
        tie_calibrated([1.0], [0.7])


def test_a_row_holds_the_pairs_that_one_aspect_decides() -> None:
    aspects = {"colours": [0.9, -0.8, 0.9, 0.1, 0.6], "clutter": [0.0, 0.1, -0.9, 0.2, 0.4]}
    found = by_aspect([0.2, 0.3, 1.0, 1.0, 0.0], aspects)
    assert found == {"colours": Row(right=1, tied=1, wrong=1), "clutter": Row(0, 0, 0)}
    assert found["colours"].accuracy == 0.5
    assert math.isnan(found["clutter"].accuracy)


def test_the_picture_is_drawn() -> None:
    from io import BytesIO

    from PIL import Image

    random = np.random.default_rng(0)
    gaps = random.normal(size=300)
    found = reliability(gaps, (random.random(300) < 1 / (1 + np.exp(-gaps))).astype(float))
    with Image.open(BytesIO(picture({"one": found}, {"colours": Row(3, 1, 1)}))) as drawn:
        assert drawn.width > 1.8 * drawn.height
