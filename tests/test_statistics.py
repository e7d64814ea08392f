"""Evaluation's arithmetic: win rates, intervals, strengths, scores to chances, image statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from visalign.evaluation import pictures, statistics
from visalign.scoring import BothOrders, ByScore, Sample, Scores, bradley_terry, from_votes, thurstone

RNG = np.random.default_rng(0)


def test_the_interval_agrees_with_scipy_when_every_group_has_one_value() -> None:
    values = RNG.beta(2, 1, 200)
    ours = statistics.mean(values, range(200), resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", random_state=0).confidence_interval
    assert ours.value == pytest.approx(values.mean(), abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1.5e-3)


def test_copies_of_a_prompt_s_picture_narrow_nothing() -> None:
    values = RNG.random(100)
    once = statistics.mean(values, range(100))
    often = statistics.mean(np.repeat(values, 7), np.repeat(np.arange(100), 7).tolist())
    assert (often.low, often.high) == pytest.approx((once.low, once.high), abs=1e-12)
    assert (often.count, often.groups) == (700, 100)


def test_uneven_groups_are_weighted_by_their_pictures() -> None:
    found = statistics.mean([1.0, 0.0, 0.0], ["a", "b", "b"])
    assert found.value == pytest.approx(1 / 3)


@pytest.mark.parametrize("truth", [0.5, 0.75])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(truth: float) -> None:
    """400 worlds of 150 prompts with 2 correlated pictures each: 95 % intervals, so 380 ± 3 sigma hits of 13."""
    hits = 0
    for world in range(400):
        rng = np.random.default_rng(world)
        hard = rng.beta(4 * truth, 4 * (1 - truth), 150)
        won = rng.random((150, 2)) < hard[:, None]
        found = statistics.win_rate(won.ravel(), np.repeat(np.arange(150), 2).tolist(), resamples=400, seed=world)
        hits += found.low <= truth <= found.high
    assert 363 <= hits <= 396


def test_exchanging_the_sides_mirrors_the_win_rate() -> None:
    chances = RNG.random(80)
    ours, theirs = statistics.win_rate(chances, range(80)), statistics.win_rate(1 - chances, range(80))
    assert (ours.value, ours.low, ours.high) == pytest.approx((1 - theirs.value, 1 - theirs.high, 1 - theirs.low))


def test_a_clean_sweep_still_has_an_interval() -> None:
    found = statistics.win_rate(np.ones(20), range(20))
    z2 = 1.959963984540054**2
    assert found.method == "Wilson"
    assert (found.low, found.high) == pytest.approx((20 / (20 + z2), 1.0))


def test_wilson_s_interval_solves_its_own_equation() -> None:
    """Its ends are the shares p with |share - p| = z sqrt(p (1 - p) / n)."""
    for end in statistics.wilson(0.3, 50):
        assert abs(0.3 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 50), rel=1e-9)


def test_unjudged_and_empty_comparisons_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2 values are not finite"):
        statistics.mean([0.5, math.nan], [0, 1])
    with pytest.raises(ValueError, match="evaluation is empty"):
        statistics.win_rate([], [])
    with pytest.raises(ValueError, match="chances lie in"):
        statistics.win_rate([1.5], [0])


def test_strengths_give_back_the_world_that_made_the_wins() -> None:
    truth = np.array([0.9, 0.1, -0.3, -0.7])
    wins = 1000 / (1 + np.exp(truth[None, :] - truth[:, None]))
    assert statistics.strengths(wins) == pytest.approx(truth, abs=1e-8)


def test_two_models_differ_by_the_logit_of_their_win_rate() -> None:
    first, second = statistics.strengths([[0, 30], [10, 0]])
    assert first - second == pytest.approx(math.log(3), abs=1e-8)


def test_an_unbeaten_model_has_no_finite_strength() -> None:
    with pytest.raises(ValueError, match="never beaten"):
        statistics.strengths([[0, 5, 5], [0, 0, 2], [0, 3, 0]])


def test_chances_of_the_two_sides_add_up_to_one() -> None:
    first, second = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    for temperature in (0.0, 0.1, 1.0, 7.0):
        both = bradley_terry(first, second, temperature) + bradley_terry(second, first, temperature)
        assert torch.allclose(both, torch.ones(50, dtype=torch.float64), atol=1e-15)


def test_the_logit_of_bradley_terry_is_the_gap_over_the_temperature() -> None:
    chance = bradley_terry(torch.tensor(1.5, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64), 0.25)
    assert torch.logit(chance).item() == pytest.approx(2.0)


def test_thurstone_with_one_sigma_each_is_the_normal_of_the_gap() -> None:
    one = torch.ones(1, dtype=torch.float64)
    chance = thurstone(one * math.sqrt(2), one * 0, one, one)
    assert chance.item() == pytest.approx(0.8413447460685429)  # Phi(1)


def test_votes_are_shares_and_silence_is_a_half() -> None:
    assert (from_votes(3, 1), from_votes(0, 0)) == (0.75, 0.5)
    assert from_votes(1, 0, prior=1) == pytest.approx(2 / 3)


class Length:
    """A scorer for these tests: the number of words of an answer; it cannot judge an empty one."""

    name = "length"

    def score(self, samples: Sequence[Sample]) -> Scores:
        counts = torch.tensor([float(len((sample.answer or "").split())) for sample in samples])
        return Scores(torch.where(counts > 0, counts, torch.nan), valid=counts > 0)


def answers(*texts: str) -> list[Sample]:
    return [Sample("say something", answer=text) for text in texts]


def test_what_a_scorer_cannot_judge_has_no_chance_rather_than_a_zero() -> None:
    found = ByScore(Length()).prefer(answers("a b", "a", ""), answers("a", "a", "a"))
    assert found[:2].tolist() == [1.0, 0.5]
    assert math.isnan(found[2])


def test_scores_must_say_that_they_are_missing() -> None:
    with pytest.raises(ValueError, match="mark it in `valid`"):
        Scores(torch.tensor([1.0, math.nan]))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        Scores(torch.zeros(2), aspects={"color": torch.zeros(3)})


class FirstPlace:
    """A judge that only likes the first place."""

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> torch.Tensor:
        return torch.full((len(first),), 0.9)


def test_asking_in_both_orders_takes_out_the_love_of_the_first_place() -> None:
    found = BothOrders(FirstPlace()).prefer(answers("a", "b"), answers("c", "d"))
    assert found.tolist() == pytest.approx([0.5, 0.5])


def flat(color: tuple[int, int, int], n: int = 1) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (n, 32, 32, 3)).copy()


def checkerboard() -> np.ndarray:
    grey = np.indices((32, 32)).sum(0) % 2 * 255
    return np.repeat(grey[None, :, :, None], 3, axis=3).astype(np.uint8)


def test_statistics_of_pictures_that_one_can_work_out_by_hand() -> None:
    assert pictures.saturation(flat((255, 0, 0)))[0] == 1.0
    assert pictures.saturation(flat((90, 90, 90)))[0] == 0.0
    assert pictures.saturation(flat((0, 0, 0)))[0] == 0.0
    assert pictures.brightness(flat((255, 255, 255)))[0] == pytest.approx(1.0)
    assert (pictures.edge_density(flat((7, 8, 9)))[0], pictures.edge_density(checkerboard())[0]) == (0.0, 1.0)
    assert (pictures.entropy(flat((7, 8, 9)))[0], pictures.entropy(checkerboard())[0]) == (0.0, 1.0)


def test_saturation_is_that_of_hsv() -> None:
    noise = RNG.integers(0, 256, (1, 24, 24, 3), dtype=np.uint8)
    hsv = np.asarray(Image.fromarray(noise[0]).convert("HSV"))[..., 1].mean() / 255
    assert pictures.saturation(noise)[0] == pytest.approx(hsv, abs=3e-3)


def test_diversity_is_the_distance_within_a_prompt() -> None:
    black, white = flat((0, 0, 0)), flat((255, 255, 255))
    both = np.concatenate([black, white])
    assert pictures.diversity(both, ["a", "a"]) == pytest.approx(1.0)
    assert pictures.diversity(np.concatenate([black, black, white, white]), ["a", "a", "b", "b"]) == 0.0
    assert pictures.diversity(both, ["a", "b"]) == pytest.approx(1.0)  # one picture a prompt: across prompts
    with pytest.raises(ValueError, match="at least two"):
        pictures.diversity(black, ["a"])


def test_one_picture_for_every_prompt_leaves_the_band() -> None:
    noise = RNG.integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    base = pictures.statistics(noise, range(8))
    collapsed = pictures.statistics(np.repeat(noise[:1], 8, axis=0), range(8))
    left = {found.name for found in pictures.drift(base, collapsed) if not found.holds}
    assert left == {"diversity"}
    assert all(found.holds for found in pictures.drift(base, base))


def test_of_clips_every_frame_counts_and_so_does_what_moves() -> None:
    clips = RNG.integers(0, 256, (4, 5, 32, 32, 3), dtype=np.uint8)
    found, frames = pictures.statistics(clips, range(4)), pictures.statistics(pictures.frames(clips), range(20))
    for name in ("saturation", "brightness", "edge density", "entropy"):
        assert found[name] == pytest.approx(frames[name])
    flashing = np.stack([flat((0, 0, 0)), flat((255, 255, 255)), flat((255, 255, 255))], axis=1)
    assert pictures.motion(flashing)[0] == pytest.approx(0.5)
    assert "motion" not in frames


def test_clips_that_stand_still_leave_the_band() -> None:
    clips = RNG.integers(0, 256, (4, 5, 32, 32, 3), dtype=np.uint8)
    still = np.repeat(clips[:, :1], 5, axis=1)
    base, found = pictures.statistics(clips, range(4)), pictures.statistics(still, range(4))
    assert {each.name for each in pictures.drift(base, found) if not each.holds} == {"motion"}


def test_pictures_of_another_type_are_refused() -> None:
    with pytest.raises(ValueError, match="float64"):
        pictures.statistics(np.zeros((2, 8, 8, 3)), [0, 1])  # type: ignore[arg-type]
