"""MM-DPO: a beta for each pair from its scores, and the release's one beta from its own gaps."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch
from answered import Speaker, double, of, written
from torch import Tensor

from visalign import needs
from visalign.batches import AnswerPairs
from visalign.draws import Draws
from visalign.records import DataError, Preference
from visalign.text import Log
from visalign.trainers import MMDPO
from visalign.trainers.mm_dpo import Window, drawn

GAPS = [-1, 0, 0.5, 1, 2, 5]
BETAS = [0.1, 0.1, 0.11105996, 0.11967347, 0.13160603, 0.14589575]
RELEASE = [2, -1, 0.5, 3, -0.5]


def with_gaps(z: list[float]) -> Log:
    """Pairs of one token each whose log-ratios differ by z; the losers' are 0."""
    count = len(z)
    return written([-10 + each for each in z] + [-10.0] * count, [-10.0] * 2 * count)


def scored(log: Log, gaps: list[float]) -> AnswerPairs:
    return of(log, len(gaps), scores=double([[3 + gap, 3] for gap in gaps]))


def test_the_golden_betas_and_losses() -> None:
    log = with_gaps([2.0] * 6)
    loss = MMDPO().loss(scored(log, GAPS), Speaker(log))
    assert loss.metrics["beta"].tolist() == pytest.approx(BETAS, abs=1e-8)
    expected = [0.59813887, 0.59813887, 0.58824174, 0.58061756, 0.57017634, 0.55785667]
    assert loss.each.tolist() == pytest.approx(expected, abs=1e-8)


def test_the_golden_batch() -> None:
    log = with_gaps([2, -1, 0.5, 3])
    loss = MMDPO().loss(scored(log, [0.5, 0, 2, 5]), Speaker(log))
    assert float(loss.each.mean()) == pytest.approx(0.622871579478, abs=1e-11)


def test_beta_rises_from_its_own_to_a_ceiling() -> None:
    log = with_gaps([2.0] * 3)
    loss = MMDPO(strength=0.1).loss(scored(log, [0, 1e9, -1e9]), Speaker(log))
    assert loss.metrics["beta"].tolist() == pytest.approx([0.1, 0.11, 0.1])


def test_scores_turn_no_gradient_and_each_pair_is_its_own() -> None:
    log = with_gaps([2, -1, 0.5])
    batch = scored(log, [0.5, 0, 2])
    assert batch.scores is not None
    batch.scores.requires_grad_()
    loss = MMDPO().loss(batch, Speaker(log))
    assert not loss.each.requires_grad
    single = with_gaps([-1])
    assert float(loss.each[1]) == pytest.approx(float(MMDPO().loss(scored(single, [0]), Speaker(single)).each))


def test_fine_tuning_beside_is_the_preferred_answers_mean() -> None:
    log = with_gaps([2, -1])
    plain, beside = (MMDPO(sft=each).loss(scored(log, [1, 1]), Speaker(log)).each for each in (0.0, 0.25))
    assert (beside - plain).tolist() == pytest.approx([0.25 * 8, 0.25 * 11])


def test_pairs_without_scores_are_named_before_training_and_in_it() -> None:
    record = Preference("why?", ("a", "b"), np.empty(0), verdict="first", key="voted")
    with pytest.raises(DataError, match=r"mm_dpo needs .*'voted' has none"):
        needs.check("mm_dpo", MMDPO(), [record])
    needs.check("mm_dpo", MMDPO(variant="release"), [record])
    log = with_gaps([1, 2])
    with pytest.raises(ValueError, match="mm_dpo needs a scorer's values of both items, and 2 of 2"):
        MMDPO().loss(of(log, 2), Speaker(log))


# The release ---------------------------------------------------------------------------------------------------------


def released(seed: int, **changes: Any) -> tuple[Any, set[int]]:
    """The release's loss of the golden gaps, and which were drawn."""
    log = with_gaps([float(each) for each in RELEASE])
    batch = of(log, 5, draw=Draws(seed, tuple("abcde"), (0,) * 5), **changes)
    method = MMDPO(variant="release")
    kept = drawn(method.over.weights(double(RELEASE)), batch.draw.uniform("kept"))
    return method.loss(batch, Speaker(log)), set(kept.tolist())


def test_the_releases_golden_weights() -> None:
    expected = [0.775019393, 0.563577028, 0.984196997, 0.424587544, 0.741474129]
    assert Window().weights(double(RELEASE)).tolist() == pytest.approx(expected, abs=1e-7)


def test_the_releases_golden_beta() -> None:
    found = next(loss for loss, kept in map(released, range(50)) if kept == {0, 1, 2, 4})
    assert found.metrics["beta"].tolist() == pytest.approx([0.0945] * 5, abs=1e-12)
    assert float(found.each.mean()) == pytest.approx(0.658576283763, abs=1e-11)


def test_what_is_drawn_follows_the_weights() -> None:
    """Against successive draws without replacement, every order of them written out."""
    weights = double([1.0, 2.0, 3.0, 4.0])
    wanted = torch.zeros(4, dtype=torch.float64)
    for order in permutations(range(4)):
        left, chance = 10.0, 1.0
        for each in order:
            chance *= float(weights[each]) / left
            left -= float(weights[each])
        wanted[list(order[:3])] += chance
    counts = torch.zeros(4, dtype=torch.float64)
    for seed in range(2000):
        counts[drawn(weights, Draws(seed, tuple("abcd"), (0,) * 4).uniform("kept"))] += 1 / 2000
    assert torch.allclose(counts, wanted, atol=0.03)
    assert float(wanted.max() - wanted.min()) > 0.2


def test_the_release_needs_a_batch_and_no_scores() -> None:
    log = with_gaps([1])
    with pytest.raises(ValueError, match="micro_batch of 2"):
        MMDPO(variant="release").loss(of(log, 1), Speaker(log))
    assert MMDPO(variant="release").needs == ()


def test_the_means_are_over_all_processes() -> None:
    """Another process holds one gap of 10: it tells its count, then its sum."""
    other = iter(double([1, 10]))

    def reduce(value: Tensor) -> Tensor:
        return torch.stack([value, next(other)]).mean()

    assert float(Window(reduce).mean(double([1, 2, 3]))) == 4.0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="rate 0"):
        MMDPO(rate=0)
    with pytest.raises(ValueError, match="variant 'code' is not one of paper, release"):
        MMDPO(variant="code")  # type: ignore[arg-type]
