"""Votes as numbers: strengths, win rates, the side, agreement, and which pair tells most."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from visalign.evaluation import agreement, arena, statistics
from visalign.records import Preference

RNG = np.random.default_rng(0)


def vote(first: str, second: str, verdict: str, prompt: str = "a", user: str = "ada", left: int = 0) -> Preference:
    models = (first, second)
    return Preference(prompt, (f"{prompt}-{first}", f"{prompt}-{second}"), verdict=verdict, models=models, user=user,
                      shown_first=left, key=f"{prompt}{first}{second}{user}{RNG.integers(10**12)}")  # fmt: skip


def test_strengths_are_those_of_the_other_algorithm() -> None:
    wins = RNG.integers(1, 20, (5, 5)).astype(float)
    assert arena.strengths(wins, 0.0) == pytest.approx(statistics.strengths(wins), abs=1e-8)


def test_strengths_maximise_the_likelihood() -> None:
    wins = RNG.integers(0, 9, (4, 4)) * (1 - np.eye(4)) + 0.5 * (1 - np.eye(4))

    def loss(free: np.ndarray) -> float:
        power = np.append(free, -free.sum())
        return float((wins * np.log1p(np.exp(power[None, :] - power[:, None]))).sum())

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    assert arena.strengths(wins, 0.0)[:3] == pytest.approx(best, abs=1e-5)


def test_many_tables_at_once_are_each_alone() -> None:
    wins = RNG.integers(0, 9, (7, 3, 3)).astype(float)
    together = arena.strengths(wins)
    assert together == pytest.approx(np.stack([arena.strengths(each) for each in wins]), abs=1e-9)


def test_who_was_never_beaten_has_a_finite_strength_with_a_prior_and_none_without() -> None:
    wins = np.array([[0, 10.0], [0, 0]])
    assert arena.strengths(wins)[0] - arena.strengths(wins)[1] == pytest.approx(math.log(10.5 / 0.5), abs=1e-6)
    with pytest.raises(ValueError, match="never beaten"):
        arena.strengths(wins, 0.0)


def test_a_tie_is_half_a_win_and_both_bad_is_none() -> None:
    records = [vote("x", "y", "tie"), vote("x", "y", "first"), vote("y", "x", "second"), vote("x", "y", "both_bad")]
    bouts = arena.Bouts.of(records)
    assert bouts.wins().tolist() == [[0, 2.5], [0.5, 0]]
    assert arena.win_rates(bouts)["x"].value == pytest.approx(2.5 / 3)
    assert len(bouts) == 3


def test_only_known_models_count() -> None:
    records = [vote("x", "y", "first"), vote("x", "gone", "first")]
    assert len(arena.Bouts.of(records, ["x", "y"])) == 1
    assert len(arena.Bouts.of([], ["x", "y"])) == 0


def test_ratings_hold_the_truth_and_narrow_with_votes() -> None:
    truth = np.array([0.8, 0.0, -0.8])

    def drawn(count: int) -> list[Preference]:
        made = []
        for number in range(count):
            i, j = RNG.choice(3, 2, replace=False)
            won = RNG.random() < 1 / (1 + math.exp(truth[j] - truth[i]))
            made.append(vote(str(i), str(j), "first" if won else "second", prompt=str(number)))
        return made

    few, many = (arena.ratings(arena.Bouts.of(drawn(count)), resamples=300) for count in (60, 1500))
    for name, value in zip("012", truth, strict=True):
        assert many[name].low <= value * arena.ELO <= many[name].high
        assert many[name].high - many[name].low < 0.5 * (few[name].high - few[name].low)


def test_forty_votes_on_one_prompt_tell_about_that_prompt() -> None:
    """Copies of a prompt's votes narrow nothing: whole prompts are resampled."""
    once = [vote("x", "y", "first" if number % 3 else "second", prompt=str(number)) for number in range(30)]
    often = [each for each in once for _ in range(9)]
    one, other = (arena.ratings(arena.Bouts.of(each), resamples=400)["x"] for each in (once, often))
    width = one.high - one.low
    assert other.high - other.low > 0.8 * width


def test_the_side_is_counted_whoever_stands_there() -> None:
    records = [vote("x", "y", "first", left=0), vote("x", "y", "second", left=1), vote("x", "y", "first", left=1),
               vote("x", "y", "tie")]  # fmt: skip
    found = arena.left_wins(records)
    assert found is not None
    assert found.value == pytest.approx(2 / 3)
    assert found.count == 3
    assert (found.low, found.high) == pytest.approx(statistics.wilson(2 / 3, 3))
    assert arena.left_wins([vote("x", "y", "tie")]) is None


def test_a_vote_on_what_nobody_compared_tells_most() -> None:
    wins = np.zeros((3, 3))
    wins[0, 1] = wins[1, 0] = 20
    worth = arena.worth(wins)
    assert worth[0, 2] == pytest.approx(worth[1, 2]) and worth[0, 2] > 3 * worth[0, 1]
    assert np.allclose(worth, worth.T) and np.allclose(np.diag(worth), 0)


def test_worth_is_what_one_more_vote_adds_to_the_information() -> None:
    """log det of the information, before and after a vote whose chance is held."""
    wins = RNG.integers(1, 9, (4, 4)).astype(float)
    power = arena.strengths(wins)
    chance = 1 / (1 + np.exp(power[None, :] - power[:, None]))
    games = (wins + wins.T + 2 * arena.PRIOR) * (1 - np.eye(4))

    def information(games: np.ndarray) -> float:
        weight = games * chance * (1 - chance)
        laplacian = np.diag(weight.sum(1)) - weight
        return float(np.linalg.slogdet(laplacian + 1 / 4)[1])

    more = games.copy()
    more[0, 2] += 1
    more[2, 0] += 1
    assert arena.worth(wins)[0, 2] == pytest.approx(information(more) - information(games), abs=1e-9)


def test_krippendorff_s_own_example() -> None:
    """Example C of "Computing Krippendorff's Alpha-Reliability" (2011): alpha 0.743."""
    said = ["1 2 3 3 2 1 4 1 2 * * *", "1 2 3 3 2 2 4 1 2 5 * 3", "* 3 3 3 2 3 4 2 2 5 1 *", "1 2 3 3 2 4 4 1 2 5 1 *"]
    units = [[row for row in column if row != "*"] for column in zip(*(each.split() for each in said), strict=True)]
    assert agreement.krippendorff(units) == pytest.approx(0.743, abs=5e-4)


@settings(max_examples=30)
@given(st.lists(st.sampled_from(["first", "second", "tie"]), min_size=2, max_size=20))
def test_raters_who_copy_each_other_agree(words: list[str]) -> None:
    alpha = agreement.krippendorff([[word, word] for word in words])
    assert math.isnan(alpha) if len(set(words)) == 1 else alpha == pytest.approx(1.0)


def test_raters_by_chance_are_near_zero() -> None:
    units = [list(RNG.choice(["a", "b"], 3)) for _ in range(4000)]
    assert abs(agreement.krippendorff(units)) < 0.03


def test_agreement_is_over_what_two_or_more_rated() -> None:
    said = [
        ("first", "p", "ada"),
        ("first", "p", "bo"),
        ("tie", "q", "ada"),
        ("second", "q", "bo"),
        ("first", "r", "ada"),
    ]
    records = [vote("x", "y", *each) for each in said]
    found = agreement.between_raters(records)
    assert found is not None
    assert (found.share, found.units, found.raters) == (0.5, 2, 2)
    assert agreement.between_raters(records[:1]) is None


def test_a_scorer_agrees_where_its_higher_score_was_voted_for() -> None:
    records = [
        vote("x", "y", "first", "p"),
        vote("x", "y", "second", "q"),
        vote("x", "y", "tie", "r"),
        vote("x", "y", "first", "s"),
    ]
    scores = {"p-x": 1.0, "p-y": 0.0, "q-x": 1.0, "q-y": 0.0, "r-x": 1.0, "r-y": 0.0, "s-x": 1.0}
    found = agreement.with_scores(records, scores)
    assert found is not None
    share, silent = found
    assert (share.value, share.count, silent) == (0.5, 2, 2)
    assert agreement.with_scores(records, {}) is None
