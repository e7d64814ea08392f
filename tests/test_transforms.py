"""Scores on one scale and several as one: golden numbers, identities, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from visalign import transforms
from visalign.scorers import load
from visalign.scorers.ensemble import Ensemble, Member
from visalign.scoring import Sample, Scores
from visalign.transforms import (
    COMBINATIONS,
    Affine,
    LogSigmoid,
    Quantile,
    ZScore,
    fitted_temperature,
    group_rank,
    group_zscore,
    vote_nll,
)

NAN = math.nan


def d(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(found: Tensor, *expected: float) -> None:
    torch.testing.assert_close(found, d(*expected), rtol=0, atol=5e-8, equal_nan=True)


def test_a_z_score_has_the_constants_it_was_fitted_to() -> None:
    close(ZScore.fitted(d(1, 2, 4))(d(1, 2, 4)), -1.0690450, -0.2672612, 1.3363062)
    assert ZScore.fitted(d(1, NAN, 2, 4)) == ZScore.fitted(d(1, 2, 4))


@pytest.mark.parametrize("values", [d(), d(3), d(3, 3), d(NAN, 1)])
def test_a_z_score_of_no_spread_is_refused(values: Tensor) -> None:
    with pytest.raises(ValueError, match="without spread"):
        ZScore.fitted(values)


def test_group_advantages_are_those_of_grpo_and_skip_what_was_not_judged() -> None:
    close(group_zscore(d(1, 2, 4)), -0.8728144, -0.2182036, 1.0910180)
    close(group_zscore(torch.stack([d(1, 2, NAN, 4), d(3, 3, NAN, 3)]))[0], -0.8728144, -0.2182036, NAN, 1.0910180)
    close(group_zscore(d(3, 3, NAN, 3)), 0, 0, NAN, 0)
    close(group_zscore(d(5, NAN)), 0, NAN)


def test_ranks_in_a_group_count_ties_as_halves() -> None:
    close(group_rank(d(3, 1, 1, NAN, 2)), 1.0, 1 / 6, 1 / 6, NAN, 2 / 3)
    close(group_rank(d(NAN, 7)), NAN, 0.5)


def test_a_quantile_is_the_share_below_with_ties_as_halves() -> None:
    close(Quantile.fitted(d(4, 1, 2, 2))(d(0, 1, 2, 3, 9, NAN)), 0, 0.125, 0.5, 0.75, 1, NAN)


def test_log_sigmoid_is_worth_half_at_its_reference_and_sums_to_a_soft_and() -> None:
    close(LogSigmoid(1.5)(d(2)), -0.4740769842)
    close(LogSigmoid(0.5)(d(-1)), -1.7014132780)
    both = COMBINATIONS["total"](torch.stack([LogSigmoid(1.5)(d(2)), LogSigmoid(0.5)(d(-1))]))
    close(both, -2.1754902622)
    close(LogSigmoid(7.0)(d(7)).exp(), 0.5)


def test_combinations_of_one_two_and_four() -> None:
    table = d(1, 2, 4)[:, None]
    expected = {"mean": 7 / 3, "minimum": 1, "mean_minus_std": 1.0861142044, "mean_minus_variance": 7 / 9, "total": 7}
    for name, value in expected.items():
        torch.testing.assert_close(COMBINATIONS[name](table), d(value), rtol=0, atol=5e-8)
    close(COMBINATIONS["inverse_variance"](table, d(1, 0.5, 2)[:, None]), 1.9047619048)


def test_members_that_agree_leave_every_combination_at_their_word() -> None:
    table, sigma = torch.full((2, 3), 0.7, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    for name in COMBINATIONS.keys() - {"total"}:
        torch.testing.assert_close(COMBINATIONS[name](table, sigma), d(0.7, 0.7, 0.7), rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    ("balance", "value"), [(0.0, 0.65), (0.3, 0.7090909193), (0.5, 0.7548387199), (0.7, 0.8068965620), (1.0, 0.9)]
)
def test_the_harmonic_reward_leans_to_the_worse_of_two(balance: float, value: float) -> None:
    half = Affine(0.5, 0.5)  # cosines to [0, 1], as RPO's code does
    table = torch.stack([half(d(0.8)), half(d(0.3))])
    torch.testing.assert_close(transforms.harmonic(table, balance=balance), d(value), rtol=0, atol=2e-8)


def test_a_harmonic_reward_of_cosines_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="0 and more"):
        transforms.harmonic(d(0.5, -0.1)[:, None])
    with pytest.raises(ValueError, match="two scorers"):
        transforms.harmonic(d(1, 1, 1)[:, None])


def test_the_fitted_temperature_is_the_one_that_made_the_votes() -> None:
    draw = torch.Generator().manual_seed(0)
    gaps = torch.randn(40_000, generator=draw, dtype=torch.float64)
    votes = (torch.rand(40_000, generator=draw, dtype=torch.float64) < torch.sigmoid(gaps / 0.3)).double()
    assert fitted_temperature(gaps, votes) == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_no_other_temperature_has_a_smaller_nll(scale: float) -> None:
    gaps, votes = scale * d(1, 0.5, -0.3, 2, NAN, 0.1), d(1, 0, 0.5, 1, 1, 0)
    best = fitted_temperature(gaps, votes)
    seen = ~gaps.isnan()
    least = vote_nll(gaps[seen], votes[seen], best)
    assert all(vote_nll(gaps[seen], votes[seen], best * k) > least for k in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0))
    assert best == pytest.approx(scale * fitted_temperature(d(1, 0.5, -0.3, 2, 0.1), d(1, 0, 0.5, 1, 0)))


@pytest.mark.parametrize(
    ("gaps", "votes", "why"),
    [
        (d(), d(), "0 votes"),
        (d(0, 0), d(1, 0), "without a gap"),
        (d(1, 2), d(0, 0), "no better than chance"),
        (d(1, 2), d(1, 1), "never err"),
    ],
)
def test_a_temperature_that_does_not_exist_is_refused(gaps: Tensor, votes: Tensor, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        fitted_temperature(gaps, votes)


class Length:
    """A scorer of the prompt's length; it cannot judge the empty one."""

    name = "length"

    def score(self, samples: list[Sample]) -> Scores:
        values = torch.tensor([float(len(each.prompt)) or NAN for each in samples])
        return Scores(values, sigma=torch.full_like(values, 2.0), valid=~values.isnan(), reasons=self._why(samples))

    def _why(self, samples: list[Sample]) -> dict[int, str]:
        return {row: "no prompt" for row, each in enumerate(samples) if not each.prompt}


class Vowels(Length):
    """A scorer of vowels, which can judge everything."""

    name = "vowels"

    def score(self, samples: list[Sample]) -> Scores:
        return Scores(torch.tensor([float(sum(letter in "aeiou" for letter in each.prompt)) for each in samples]))


SAMPLES = [Sample("a ring"), Sample("a red circle"), Sample(""), Sample("two diamonds")]


def test_an_ensemble_is_invalid_where_a_member_is_and_says_which() -> None:
    found = Ensemble([Length(), Vowels()]).score(SAMPLES)
    close(found.values, (6 + 2) / 2, (12 + 4) / 2, NAN, (12 + 4) / 2)
    assert found.judged.tolist() == [True, True, False, True]
    assert found.reasons == {2: "length: no prompt"}
    close(found.aspects["vowels"], 2, 4, 0, 4)
    assert found.sigma is not None
    close(found.sigma[:2], 2, 4)


def test_an_ensembles_batch_is_its_singletons() -> None:
    made = Ensemble([Length(), Vowels()], combine="mean_minus_std", settings={"strength": 0.5}).calibrated(SAMPLES)
    together = made.score(SAMPLES).values
    apart = torch.cat([made.score([each]).values for each in SAMPLES])
    torch.testing.assert_close(together, apart, rtol=0, atol=2e-6, equal_nan=True)


def test_calibrated_members_stand_on_one_scale() -> None:
    found = Ensemble([Length(), Vowels()]).calibrated(SAMPLES).score(SAMPLES)
    for values in found.aspects.values():
        seen = values[~values.isnan()]
        close(seen.mean()[None], 0.0)
    assert float(found.aspects["length"][[0, 1, 3]].std(correction=0)) == pytest.approx(1.0)


def test_an_ensemble_of_names_with_transforms_comes_from_the_registry() -> None:
    made = load(
        "ensemble",
        members=["rules", {"scorer": "voters", "transform": {"name": "affine", "scale": 2}, "weight": 3}],
        combine="total",
    )
    import numpy as np

    from visalign.playground import corpus, world
    from visalign.playground.captions import parse

    prompt = corpus.prompts("heldout", 1)[0]
    sample = Sample(prompt, image=world.draw(world.place(parse(prompt), np.random.default_rng(0))))
    found, rules, voters = (load_or(each).score([sample]).values for each in (made, "rules", "voters"))
    close(found, float(rules + 6 * voters))


def load_or(scorer: object) -> Ensemble:
    return load(scorer) if isinstance(scorer, str) else scorer


def test_inverse_variance_weighs_by_each_members_own_doubt() -> None:
    twice = Ensemble(
        [Member(Length(), Affine(2.0)), Member(Named(Length(), "other"), ZScore(0.0, 4.0))], combine="inverse_variance"
    )
    close(twice.score(SAMPLES[:1]).values, (12 / 16 + 1.5 / 0.25) / (1 / 16 + 1 / 0.25))
    found = Ensemble([Length(), Vowels()], combine="inverse_variance").score(SAMPLES[:1])
    assert not found.judged.any() and "positive sigma" in found.reasons[0]


class Fixed:
    """A scorer that says what it was told to."""

    def __init__(self, name: str, *values: float) -> None:
        self.name, self.values = name, values

    def score(self, samples: list[Sample]) -> Scores:
        cut = torch.tensor([value > 0.5 for value in self.values])
        return Scores(d(*self.values), truncated=cut)


def test_what_does_not_combine_is_one_sample_s_fault_and_cut_prompts_are_passed_on() -> None:
    both = Ensemble([Fixed("one", 0.5, -0.1, 1.0), Fixed("other", 0.5, 0.4, 0.2)], combine="harmonic")
    found = both.score([Sample("a")] * 3)
    assert found.judged.tolist() == [True, False, True]
    assert "rewards of 0 and more" in found.reasons[1]
    assert found.truncated is not None and found.truncated.tolist() == [False, False, True]
    close(found.values[:1], 0.5)


class Named:
    """A scorer under another name."""

    def __init__(self, scorer: Length, name: str) -> None:
        self.scorer, self.name = scorer, name

    def score(self, samples: list[Sample]) -> Scores:
        return self.scorer.score(samples)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"members": []}, "needs a list of members"),
        ({"members": "rules"}, "needs a list of members, .* got 'rules'"),
        ({"members": ["rules"], "settings": {"strenght": 1}}, "mean does not take {'strenght': 1}"),
        ({"members": ["rules"], "combine": "harmonic"}, "balances two scorers, got 1"),
        ({"members": ["rules", "rules"]}, "two members are named 'rules'"),
        ({"members": ["rules"], "combine": "men"}, "did you mean mean"),
        ({"members": [{"scorer": "rules", "transform": "zscor"}]}, "did you mean zscore"),
        ({"members": [{"scorer": "rules", "wait": 2}]}, "did you mean weight"),
    ],
)
def test_what_an_ensemble_cannot_be_is_said(settings: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        load("ensemble", **settings)
