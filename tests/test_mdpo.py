"""mDPO: the published numbers, one crop for policy and reference, and the release's two."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from answered import FAMILIES, double, moved_on, of, pairs, seeing, watched, written

from visalign.batches import halves
from visalign.text import log_probs
from visalign.text.corruption import blank, cropped
from visalign.trainers import MDPO

SAID = [-12, -30.5, -8.25, -15, -29, -20, -16, -33, -8]  # winners, losers, winners about worse pictures
BEFORE = [-13, -30, -9, -14.5, -31, -18, -15, -33.5, -9.5]


def golden(**settings: Any) -> torch.Tensor:
    log = written(SAID, BEFORE)
    return MDPO(**settings).of(log, of(log, 3)).each


def test_the_golden_terms() -> None:
    assert golden().tolist() == pytest.approx([1.863492577245, 2.288795727966, 1.952770949343], abs=1e-11)
    assert float(golden().mean()) == pytest.approx(2.035019751518, abs=1e-11)
    assert float(golden(image=0, anchor=0).mean()) == pytest.approx(0.670655711786, abs=1e-11)
    image = golden(anchor=0) - golden(image=0, anchor=0)
    assert float(image.mean()) == pytest.approx(0.691295223427, abs=1e-11)
    anchor = golden(image=0) - golden(image=0, anchor=0)
    assert float(anchor.mean()) == pytest.approx(0.673068816305, abs=1e-11)
    assert torch.allclose(golden(image=0.5, anchor=2), golden(image=0, anchor=0) + 0.5 * image + 2 * anchor)


def test_the_anchor_asks_for_a_lead() -> None:
    anchor = golden(delta=0.7, image=0) - golden(image=0, anchor=0)
    expected = [math.log1p(math.exp(0.7 - 0.1 * ratio)) for ratio in (1.0, -0.5, 0.75)]
    assert anchor.tolist() == pytest.approx(expected, abs=1e-11)


def test_an_unsure_label_mixes_the_first_term_alone() -> None:
    log = written(SAID, BEFORE)
    half = of(log, 3, confidence=double([0.5] * 3))
    others = golden() - golden(image=0, anchor=0)
    swapped = written(SAID[3:6] + SAID[:3] + SAID[6:], BEFORE[3:6] + BEFORE[:3] + BEFORE[6:])
    turned = MDPO(image=0, anchor=0).of(swapped, of(log, 3)).each
    expected = others + (golden(image=0, anchor=0) + turned) / 2
    assert torch.allclose(MDPO().of(log, half).each, expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_policy_and_reference_see_one_crop_and_the_start_is_three_log_2(family: str) -> None:
    model, batch = seeing(family), pairs(family)
    with watched(model) as calls:
        loss = MDPO().loss(batch, model)
    assert loss.each.tolist() == pytest.approx([3 * math.log(2)] * 4, abs=1e-6)
    reference, policy = (call["pixel_values"] for call in calls)
    assert torch.equal(reference, policy)
    given = batch.answers.media["pixel_values"]
    worse = cropped(halves(batch.answers)[0], batch.draw, stream="picture").media["pixel_values"]
    assert torch.equal(policy, torch.cat([given, worse]))
    assert not torch.equal(worse, given[: len(worse)])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_release_shows_them_two_crops(family: str) -> None:
    model, batch = seeing(family), pairs(family)
    with watched(model) as calls:
        loss = MDPO(variant="release").loss(batch, model)
    reference, policy = (call["pixel_values"] for call in calls)
    size = len(batch.answers.media["pixel_values"])
    assert torch.equal(reference[:size], policy[:size])
    assert not torch.equal(reference[size:], policy[size:])
    assert float((loss.each - 3 * math.log(2)).abs().max()) > 1e-5
    assert float(loss.metrics["margin"].abs().max()) == 0.0


def test_a_cache_leaves_only_the_crops_to_the_reference() -> None:
    model, batch = moved_on("llava"), pairs("llava")
    cached = log_probs(model, batch.answers).reference
    with watched(model) as calls:
        loss = MDPO().loss(replace(batch, cached=cached), model)
    assert [len(call["input_ids"]) for call in calls] == [4, 12]
    assert torch.allclose(loss.each, MDPO().loss(batch, model).each, atol=1e-5)


def test_a_batch_of_four_is_four_batches_of_one() -> None:
    model = moved_on("qwen2_vl")
    together = MDPO().loss(pairs("qwen2_vl"), model).each
    alone = [MDPO().loss(pairs("qwen2_vl", (number,)), model).each.item() for number in range(4)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_any_corruption_serves() -> None:
    model, batch = seeing("llava"), pairs("llava")
    with watched(model) as calls:
        MDPO(picture="blank").loss(batch, model)
    assert torch.equal(calls[1]["pixel_values"][8:], blank(halves(batch.answers)[0]).media["pixel_values"])
    with pytest.raises(ValueError, match="not by 'fog'"):
        MDPO(picture="fog")


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="variant 'official' is not one of paper, release"):
        MDPO(variant="official")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anchor -1"):
        MDPO(anchor=-1)
