"""Objectives of reward models: the numbers of their papers and of their released code, and their identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from visalign import losses
from visalign.losses.rewards import hedge, skew_score


def d(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def reward(spec: Any, win: Tensor, lose: Tensor, **columns: Any) -> Tensor:
    """A loss of scores by name."""
    feeds = frozenset(
        {*columns, "confidence", "heads_win", "heads_lose", "vector_win", "vector_lose", "rating", "score"}
    )
    bound = losses.resolve(spec, kinds=frozenset({"reward"}), feeds=feeds)
    return bound(win, lose, beta=1.0, **columns)


GAP = (d(0.9), d(0.0))
HPSV3 = {"log_sigma_win": d(-1), "log_sigma_lose": d(-0.5)}
MIXED = (d(1, -2)[None], d(0, 0)[None])
ROUTE = {"route": d(0.7, 0.3).log()[None]}

GOLDEN: dict[str, tuple[Callable[[], Tensor], float]] = {
    "Bradley-Terry": (lambda: reward("bradley_terry", *GAP), 0.3411538747),
    "a constant margin": (lambda: reward({"name": "bradley_terry", "margin": 0.57}, *GAP), 0.5416983586),
    "a margin of the data": (lambda: reward("bradley_terry_by_margin", *GAP, margin=d(2)), 1.3873353251),
    "a strength": (lambda: reward("scaled_bradley_terry", *GAP, strength=d(2)), 0.6823077495),
    "a soft label": (lambda: reward("hpsv2", *GAP, confidence=d(0.7)), 0.6111538747),
    "a soft label less its entropy": (lambda: reward("pickscore", *GAP, confidence=d(0.7)), 0.0002895727),
    "two pairs of HPS v2, summed": (
        lambda: reward("hpsv2", d(29, -0.4), d(27.5, 0), confidence=d(1, 0.5)).sum(), 0.9144285304
    ),
    "PickScore, right": (lambda: reward("pickscore", d(22), d(20), confidence=d(1)), 0.1269280110),
    "PickScore, wrong": (lambda: reward("pickscore", d(19), d(20.5), confidence=d(1)), 1.7014132780),
    "PickScore, a tie": (lambda: reward("pickscore", d(21), d(21.4), confidence=d(0.5)), 0.0198680718),
    "Gaussian scores": (lambda: reward("gaussian_bradley_terry", d(1), d(0.2), **HPSV3), 0.4230768344),
    "Gaussian scores with a margin": (
        lambda: reward({"name": "gaussian_bradley_terry", "margin": 0.57}, d(1), d(0.2), **HPSV3), 0.6435519637
    ),
    "the likelihood of Gaussian scores": (lambda: reward("gaussian_likelihood", d(1), d(0.2), **HPSV3), 0.3963539080),
    "Rao and Kupper, a win": (lambda: reward("bradley_terry_ties", d(1), d(0), tie=d(0)), 1.0435917782),
    "Rao and Kupper, a tie": (lambda: reward("bradley_terry_ties", d(1), d(0), tie=d(1)), 0.5459708885),
    "Davidson, a win": (lambda: reward("davidson_ties", d(1), d(0), tie=d(0)), -math.log(0.5064803911)),
    "Davidson, a loss": (lambda: reward("davidson_ties", d(0), d(1), tie=d(0)), -math.log(0.1863237232)),
    "Davidson, a tie": (lambda: reward("davidson_ties", d(1), d(0), tie=d(1)), -math.log(0.3071958857)),
    "ratings": (lambda: reward("squared_rating", d(3.2, 1.1, 2.5), d(4, 1, 3)).mean(), 0.3),
    "general preference": (
        lambda: reward(
            {"name": "general_preference", "temperature": 1.0}, d(0.6, 0.8)[None], d(0.8, -0.6)[None]
        ), 1.3132616875
    ),
    "MiCRo's likelihood": (
        lambda: reward({"name": "mixture_bradley_terry", "alpha": 0.0}, *MIXED, **ROUTE), 0.6023893805
    ),
    "MiCRo": (lambda: reward("mixture_bradley_terry", *MIXED, **ROUTE), 0.2969572295),
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN)
def test_an_objective_has_its_golden_number(name: str) -> None:
    made, value = GOLDEN[name]
    assert float(made()) == pytest.approx(value, abs=2e-10)


def test_image_reward_is_bradley_terry_over_the_pairs_of_a_ranking_that_are_no_tie() -> None:
    """Four images, ranks 1, 2, 2, 4: five pairs."""
    each = losses.all_pairs(d(0.8, 0.3, 0.5, -1)[None], -d(1, 2, 2, 4)[None], beta=1.0)
    assert float(each) == pytest.approx(0.3247663142, abs=1e-10)


def test_lists_have_their_golden_numbers() -> None:
    given = d(2, 1.2, 1.5, -0.3)[None], d(3, 2, 1, 0)[None]
    numbers = {
        "adjacent": 3 * losses.ranklist(*given, beta=1.0, skips=(1,)),
        "and every second": 5 * losses.ranklist(*given, beta=1.0, skips=(1, 2)),
        "all": 6 * losses.all_pairs(*given, beta=1.0),
        "Plackett-Luce": losses.plackett_luce(*given, beta=1.0),
        "ListNet": losses.infonca(*given, beta=1.0),
    }
    found = [float(each) for each in numbers.values()]
    assert found == pytest.approx([1.3784335209, 2.0539237831, 2.1494692477, 1.8663554555, 1.0751228008], abs=2e-9)


def test_quadrature_is_exact_where_scores_are_sure_and_near_it_where_they_are_not() -> None:
    sure = {"log_sigma_win": d(-20), "log_sigma_lose": d(-20)}
    assert float(reward("gaussian_bradley_terry", d(1), d(0.2), **sure)) == pytest.approx(0.3711006659, abs=1e-10)
    wide = {"log_sigma_win": d(math.log(3)), "log_sigma_lose": d(-20)}
    fine = reward({"name": "gaussian_bradley_terry", "nodes": 200}, d(1.5), d(0), **wide)
    torch.testing.assert_close(reward("gaussian_bradley_terry", d(1.5), d(0), **wide), fine, rtol=0, atol=3e-8)


def test_the_doubt_of_a_right_pair_is_pulled_down_and_of_a_wrong_one_up_by_the_likelihood() -> None:
    def pull(win: float, lose: float) -> float:
        doubt = d(0.0).requires_grad_()
        columns = {"log_sigma_win": doubt, "log_sigma_lose": d(0)}
        return float(torch.autograd.grad(reward("gaussian_likelihood", d(win), d(lose), **columns).sum(), doubt)[0])

    assert pull(3, 0) > 0 > pull(-3, 0)


def test_votes_with_ties_are_probabilities() -> None:
    for name in ("bradley_terry_ties", "davidson_ties"):
        for gap in (-3.0, 0.0, 1.7):
            chances = [reward(name, d(gap), d(0), tie=d(0)), reward(name, d(-gap), d(0), tie=d(0))]
            chances.append(reward(name, d(gap), d(0), tie=d(1)))
            assert float(sum((-each).exp() for each in chances)) == pytest.approx(1.0, abs=1e-12)


def test_hedge_moves_the_router_to_the_heads_that_were_right() -> None:
    share = hedge(d(0.7, 0.3).log(), -torch.nn.functional.logsigmoid(d(1, -2)))
    torch.testing.assert_close(share, d(0.9346836, 0.0653164), rtol=0, atol=1e-7)


def test_general_preferences_can_go_in_circles() -> None:
    corners = torch.stack([d(math.cos(a), math.sin(a)) for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    around = skew_score(corners, corners.roll(-1, 0))
    torch.testing.assert_close(around, d(*[math.sqrt(3) / 2] * 3))
    torch.testing.assert_close(skew_score(corners.roll(-1, 0), corners), -around)


def test_planes_weighted_by_the_prompt_are_vectors_scaled_by_the_roots() -> None:
    root = d(1.5, 1.5, 0.5, 0.5).sqrt()
    win, lose = (root * d(0.6, 0.8, 1, 0))[None], (root * d(0.8, -0.6, 0.5, 2))[None]
    spec = {"name": "general_preference", "temperature": 0.1}
    score = skew_score(win, lose)
    assert float(reward(spec, win, lose)) == pytest.approx(math.log1p(math.exp(-float(score) / 0.1)), abs=1e-10)
    assert abs(float(score)) == pytest.approx(0.5)
