"""V-DPO: guidance of what is seen, the setting that trains nothing, and the part without a gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from answered import FAMILIES, double, moved_on, pairs, seeing, watched, written

from visalign.batches import Dialogues
from visalign.text import token_log_probs
from visalign.text.corruption import blank
from visalign.trainers import MLLMDPO, VDPO
from visalign.trainers.v_dpo import since_change


def test_the_golden_guidance_and_where_its_gradient_goes() -> None:
    seen, unseen = double([[-12.0]]).requires_grad_(), double([[-16.0]]).requires_grad_()
    guided = VDPO(guidance=1.5).guided(replace(written([-12], [-12]), policy=seen), unseen)
    assert guided.policy.item() == -10
    guided.policy.sum().backward()
    assert seen.grad is not None
    assert seen.grad.item() == 1.5
    assert unseen.grad is None


@pytest.mark.parametrize("guidance", [0, -1.5])
def test_guidance_that_trains_nothing_is_refused_with_the_reason(guidance: float) -> None:
    with pytest.raises(ValueError, match=r"trains nothing, or the wrong way: .* no gradient"):
        VDPO(guidance=guidance)


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_1_is_plain_dpo(family: str) -> None:
    model, batch = moved_on(family), pairs(family)
    guided, plain = (method.loss(batch, model).each for method in (VDPO(guidance=1.0), MLLMDPO()))
    assert torch.allclose(guided, plain, atol=1e-6)
    start = VDPO(guidance=1.0).loss(batch, seeing(family)).each
    assert start.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_the_formula_on_real_networks(family: str) -> None:
    model, batch = moved_on(family), pairs(family)
    with watched(model) as calls:
        loss = VDPO(guidance=2.0).loss(batch, model)
    empty, reference, policy = (call["pixel_values"] for call in calls)
    assert float(empty.abs().max()) == 0.0
    assert torch.equal(reference, policy)
    assert torch.equal(policy, batch.answers.media["pixel_values"])
    seen, unseen = (token_log_probs(model.policy(each)).sum(-1) for each in (batch.answers, blank(batch.answers)))
    before = token_log_probs(model.reference(batch.answers)).sum(-1)
    win, lose = (2 * seen - unseen - before).chunk(2)
    assert torch.allclose(loss.each, torch.nn.functional.softplus(-0.1 * (win - lose)), atol=1e-5)
    assert torch.allclose(loss.metrics["win_seen"], (seen - unseen)[:4], atol=1e-5)


def test_without_a_picture_nothing_is_learnt() -> None:
    """The gradient is that of DPO at guidance times beta, at the place of guided log-ratios: none comes from blanks."""
    model, batch = seeing("llava"), pairs("llava", (0,))
    with watched(model) as calls:
        loss = VDPO(guidance=2.0).loss(batch, model)
    assert len(calls) == 3
    (margin,) = loss.metrics["margin"]
    parts = list(model.trainable().values())
    slopes = torch.autograd.grad(loss.each.sum(), parts, allow_unused=True)
    plain = torch.autograd.grad(MLLMDPO().loss(batch, model).each.sum(), parts, allow_unused=True)
    factor = 2 * float(torch.sigmoid(-margin)) / 0.5
    for slope, own in zip(slopes, plain, strict=True):
        assert (slope is None) == (own is None)
        assert slope is None or torch.allclose(slope, factor * own, atol=1e-6)


def test_the_window_begins_where_the_two_part() -> None:
    ids = torch.tensor(
        [[0, 5, 6, 7, 8], [0, 5, 6, 9, 0], [0, 1, 1, 0, 0], [0, 5, 6, 3, 8], [0, 5, 6, 0, 0], [0, 1, 1, 0, 0]]
    )
    answer = torch.tensor(
        [[0, 1, 1, 1, 1], [0, 1, 1, 1, 0], [0, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 1, 1, 0, 0], [0, 1, 1, 0, 0]]
    )
    found = since_change(Dialogues(ids, ids >= 0, answer.bool())).int()
    assert found.tolist() == [[0, 0, 1, 1], [0, 0, 1, 0], [0] * 4, [0, 0, 1, 1], [0] * 4, [0] * 4]


def test_the_window_is_one_to_dpo_and_not_to_a_loss_that_reads_each_for_itself() -> None:
    model, batch = moved_on("llava"), pairs("llava")
    whole, windowed = (VDPO(window=each).loss(batch, model).each for each in ("answer", "change"))
    assert torch.allclose(whole, windowed, atol=1e-5)
    whole, windowed = (VDPO(window=at, preference="dpop").loss(batch, model).each for at in ("answer", "change"))
    assert not torch.allclose(whole, windowed, atol=1e-4)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        VDPO(beta=0)
    with pytest.raises(ValueError, match="window 'all' is not one of answer, change"):
        VDPO(window="all")  # type: ignore[arg-type]
