"""OPA-DPO: whole answers, the release's token by token, the picture with speckles, and the anchors' signs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from answered import FAMILIES, double, moved_on, of, pairs, seeing, watched, written

from visalign.batches import AnswerPairs, halves
from visalign.text import Log, token_weights
from visalign.text.corruption import speckled
from visalign.trainers import OPADPO

RATIOS = [[0.2, -0.1, 0, 0], [-0.3, 0.1, 0.05, 0], [0.5, 0, 0, 0]]  # winner, loser, winner about the worse picture
LOG2 = math.log(2)


def log_of(rows: list[list[float]] = RATIOS) -> Log:
    return written(rows, [[0.0] * len(rows[0])] * 3)


def each_of(**settings: Any) -> float:
    return float(OPADPO(**settings).of(log_of(), None, of(log_of(), 1)).each)


def test_the_golden_forms() -> None:
    assert each_of(image=0, anchor=0) == pytest.approx(0.680725303526, abs=1e-11)
    released = each_of(image=0, anchor=0, variant="release", positions=4)
    assert released == pytest.approx(0.690113578464, abs=1e-11)


def test_places_without_tokens_add_log_2() -> None:
    short, long = (each_of(image=0, anchor=0, variant="release", positions=each) for each in (4, 896))
    assert long == pytest.approx((4 * short + 892 * LOG2) / 896, abs=1e-12)
    padded = log_of([[*row, 0.0, 0.0] for row in RATIOS])
    same = OPADPO(image=0, anchor=0, variant="release").of(padded, None, of(padded, 1)).each
    assert float(same) == pytest.approx(long, abs=1e-12)
    with pytest.raises(ValueError, match="4 tokens does not fit into positions=3"):
        each_of(variant="release", positions=3)


def test_the_terms_and_their_weights() -> None:
    sums = [0.1, -0.15, 0.5]
    image, anchor = (math.log1p(math.exp(-0.1 * gap)) for gap in (sums[0] - sums[2], sums[0]))
    assert each_of() == pytest.approx(0.680725303526 + 0.2 * image + anchor, abs=1e-11)
    assert each_of(image=2, anchor=0) == pytest.approx(0.680725303526 + 2 * image, abs=1e-11)


def test_the_releases_sign_pushes_revised_answers_down() -> None:
    up, down = (each_of(sign=sign) - each_of(anchor=0) for sign in (1, -1))
    assert up == pytest.approx(math.log1p(math.exp(-0.01)), abs=1e-12)
    assert down == pytest.approx(math.log1p(math.exp(0.01)), abs=1e-12)


def test_tokens_weigh_as_the_record_says_in_every_term() -> None:
    log = log_of()
    batch = of(log, 1)
    weighed = replace(batch.answers, importance=double([[0, 2, 1, 1, 1], [0, 1, 1, 4, 1]]))
    found = OPADPO().of(log, token_weights(weighed), batch).each
    rows = [[0.4, -0.1, 0, 0], [-0.3, 0.1, 0.2, 0], [1.0, 0, 0, 0]]
    assert torch.allclose(found, OPADPO().of(log_of(rows), None, batch).each)


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_an_unsure_label_mixes_the_first_term_alone(variant: Any) -> None:
    log, method = log_of(), OPADPO(variant=variant)
    turned = log_of([RATIOS[1], RATIOS[0], RATIOS[2]])
    first = OPADPO(variant=variant, image=0, anchor=0)
    given, other = (first.of(each, None, of(each, 1)).each for each in (log, turned))
    rest = method.of(log, None, of(log, 1)).each - given
    half: AnswerPairs = of(log, 1, confidence=double([0.5]))
    assert torch.allclose(method.of(log, None, half).each, rest + (given + other) / 2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_policy_and_reference_see_the_same_speckles_and_the_start_is_known(family: str, variant: Any) -> None:
    model, batch = seeing(family), pairs(family)
    with watched(model) as calls:
        loss = OPADPO(variant=variant).loss(batch, model)
    assert loss.each.tolist() == pytest.approx([2.2 * LOG2] * 4, abs=1e-6)
    reference, policy = (call["pixel_values"] for call in calls)
    assert torch.equal(reference, policy)
    worse = speckled(halves(batch.answers)[0], batch.draw, share=0.3, stream="picture").media["pixel_values"]
    assert torch.equal(policy[-len(worse) :], worse)


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_a_batch_of_four_is_four_batches_of_one(variant: Any) -> None:
    model, method = moved_on("llava"), OPADPO(variant=variant, positions=64)
    together = method.loss(pairs("llava"), model).each
    alone = [method.loss(pairs("llava", (number,)), model).each.item() for number in range(4)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="sign 2 is not one of 1, -1"):
        OPADPO(sign=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"share 1\.5"):
        OPADPO(share=1.5)
