"""CHiP: one sigmoid on three levels, each as it is written, and the release's slip where it can be said exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from answered import FAMILIES, double, moved_on, of, pairs, seeing, watched, written
from torch import Tensor

from visalign.batches import halves, stacked
from visalign.contract import Spoken
from visalign.text import Log, answer_places, token_weights
from visalign.text.corruption import noised
from visalign.trainers import CHiP
from visalign.trainers.chip import divergence

WEIGHTS = double([[1, 4, 4, 1, 0], [1, 1, 1, 1, 1]])


def log_of(worse: list[float], worse_before: list[float]) -> Log:
    """A pair of five tokens whose winner and loser are as likely as ever, and the winner about a worse picture."""
    same = [[-1.0] * 5, [-2.0] * 5]
    return written([*same, worse], [*same, worse_before])


def test_the_golden_slip_of_the_release() -> None:
    """-100 at weights 1, 4, 4, 1, 0 becomes -1000."""
    log = log_of([0.0] * 5, [-20.0] * 5)
    worse = CHiP(variant="release").ratios(log, WEIGHTS)[2]
    assert worse.tolist() == [1000]
    assert CHiP().ratios(log, WEIGHTS)[2].tolist() == [200]  # each token with its own weight
    assert CHiP(variant="release").ratios(log, None)[2].tolist() == [100] == CHiP().ratios(log, None)[2].tolist()
    saturated = CHiP(variant="release").of(log, torch.zeros(3), WEIGHTS, of(log, 1, confidence=double([1.0])))
    assert float(saturated.each) == pytest.approx(100, abs=1e-9)  # beta 0.1 x 1000, where log s is a line


def test_segments_weigh_the_two_models_alike() -> None:
    log = log_of([-3, -1, -2, -1, -5], [-2, -2, -2, -2, -2])
    worse = CHiP().ratios(log, WEIGHTS)[2]
    assert worse.tolist() == [1 * -1 + 4 * 1 + 4 * 0 + 1 * 1 + 0]


def test_one_sigmoid_on_three_levels() -> None:
    log = written([-12, -15, -16], [-13, -14.5, -15])
    kl = double([0.4, 1.5, 9.0])  # the third is not part of it
    z = (1.0 - -0.5) + (1.0 - -1.0) - 0.1 * (1.5 - 0.4)
    loss = CHiP().of(log, kl, None, of(log, 1))
    assert float(loss.each) == pytest.approx(math.log1p(math.exp(-0.1 * z)), abs=1e-12)
    assert loss.metrics["image_margin"].tolist() == pytest.approx([0.2])
    assert loss.metrics["kl_lose"].tolist() == [1.5]
    plain = CHiP(alpha=0).of(log, kl, None, of(log, 1)).each
    assert float(plain) == pytest.approx(math.log1p(math.exp(-0.35)), abs=1e-12)


def test_no_gradient_goes_through_the_preferred_answers_divergence() -> None:
    log = written([-12, -15, -16], [-13, -14.5, -15])
    kl = double([0.4, 1.5, 9.0]).requires_grad_()
    (slope,) = torch.autograd.grad(CHiP().of(log, kl, None, of(log, 1)).each.sum(), kl)
    assert slope[0] == slope[2] == 0
    assert float(slope[1]) > 0


def test_divergence_is_the_vocabularys_from_reference_to_policy() -> None:
    mask = torch.tensor([[True, True], [True, False]])
    policy, reference = torch.randn(2, 2, 2, 7, dtype=torch.float64).unbind(0)
    spoken = [Spoken(each, torch.zeros(2, 2, dtype=torch.int64), mask) for each in (reference, policy)]
    p, q = reference.softmax(-1), policy.softmax(-1)
    each = (p * (p / q).log()).sum(-1)
    assert torch.allclose(divergence(*spoken), torch.stack([each[0].sum(), each[1, 0]]))


def by_hand(model: Any, batch: Any, emphasis: float) -> Tensor:
    """The loss (b,), from the networks' logits alone."""
    rows = stacked(batch.answers, noised(halves(batch.answers)[0], batch.draw, step=500, stream="picture"))
    places, mask = answer_places(rows.answer)
    ids = rows.ids.gather(1, places)
    weight = token_weights(batch.answers, emphasis)
    assert weight is not None
    policy, reference = (each(rows).logits.log_softmax(-1) for each in (model.policy, model.reference))
    total = []
    for pair in range(len(batch)):
        win, lose, worse = pair, pair + len(batch), pair + 2 * len(batch)
        z = 0.0
        for row, weights, sign in ((win, win, 2), (lose, lose, -1), (worse, win, -1)):
            for place in range(int(mask[row].sum())):
                token = ids[row, place]
                gap = policy[row, place, token] - reference[row, place, token]
                z = z + sign * weight[weights, place] * gap
        for row, sign in ((win, 1), (lose, -1)):
            p, q = (each[row, : int(mask[row].sum())] for each in (reference, policy))
            z = z + sign * 0.1 * (p.exp() * (p - q)).sum()
        total.append(torch.nn.functional.softplus(-0.1 * torch.as_tensor(z)))
    return torch.stack(total)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_formula_written_out_on_real_networks(family: str) -> None:
    model, batch = moved_on(family), pairs(family)
    found = CHiP().loss(batch, model).each
    assert torch.allclose(found, by_hand(model, batch, 4.0), atol=1e-5)
    assert not torch.allclose(found, CHiP(emphasis=1.0).loss(batch, model).each, atol=1e-4)
    alone = CHiP().loss(pairs(family, (2,)), model).each
    assert float(alone.detach()) == pytest.approx(found[2].item(), abs=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_and_reference_see_one_noise_and_the_start_is_log_2(family: str) -> None:
    model, batch = seeing(family), pairs(family)
    with watched(model) as calls:
        loss = CHiP().loss(batch, model)
    assert loss.each.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)
    assert torch.equal(calls[0]["pixel_values"], calls[1]["pixel_values"])
    noisy = noised(halves(batch.answers)[0], batch.draw, stream="picture").media["pixel_values"]
    assert torch.equal(calls[0]["pixel_values"][-len(noisy) :], noisy)
    assert float(loss.metrics["kl_win"].abs().max()) < 1e-5


def test_an_unsure_label_mixes_the_pair_turned_round() -> None:
    log = written([-12, -15, -16], [-13, -14.5, -15])
    kl = double([0.4, 1.5, 0.0])
    half = CHiP().of(log, kl, None, of(log, 1, confidence=double([0.5]))).each
    z = (3.0 + 0.5) - 0.1 * (1.5 - 0.4)
    expected = (math.log1p(math.exp(-0.1 * z)) + math.log1p(math.exp(0.1 * z))) / 2
    assert float(half) == pytest.approx(expected, abs=1e-12)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="alpha -1"):
        CHiP(alpha=-1)
    with pytest.raises(ValueError, match="not by 'fog'"):
        CHiP(picture="fog")
    assert not hasattr(CHiP(), "recalls")  # whole distributions are in no cache
    assert replace(CHiP(), beta=0.5).beta == 0.5
