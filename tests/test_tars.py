"""TARS: which words it changes, what its spectral terms say, and what no padding can move."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import answered
import language
import numpy as np
import pytest
import torch
from torch import Tensor

from visalign.batches import AnswerPairs, Dialogues, Vocabulary
from visalign.losses import dpo
from visalign.text import perturbation, spectral
from visalign.trainers import TARS

ALL = torch.ones(1, 5, dtype=torch.bool)
COSINES = torch.tensor([[0.2, 0.25, 0.125, 0.31, 0.1875]], dtype=torch.float64)  # P is their negative


def wave(shift: float, length: int = 4) -> Tensor:
    """sin(l + d / 2 + shift), (1, length, 2)."""
    place, width = torch.meshgrid(torch.arange(length).double(), torch.arange(2).double(), indexing="ij")
    return torch.sin(place + 0.5 * width + shift)[None]


@pytest.mark.parametrize(("omega", "chosen"), [(0.1, {2, 4}), (0.2, {0, 1, 2, 4}), (1e-3, {2})])
def test_the_words_least_like_the_picture_are_chosen(omega: float, chosen: set[int]) -> None:
    """The gap of the two least similar is 0.0625: floor(omega / gap) + 1 words."""
    found = perturbation.least_relevant(COSINES, ALL, omega)
    assert set(found[0].nonzero().flatten().tolist()) == chosen


def test_without_a_gap_every_word_is_chosen_and_no_other_token() -> None:
    same = torch.tensor([[0.3, 0.1, math.nan, 0.1, 0.2]])
    words = torch.tensor([[True, True, True, True, False]])
    assert perturbation.least_relevant(same, words, 0.1).tolist() == [[True, True, False, True, False]]
    alone = torch.tensor([[True, False, False, False, False]])
    assert perturbation.least_relevant(same, alone, 0.1).tolist() == alone.tolist()
    none = torch.zeros(1, 5, dtype=torch.bool)
    assert not perturbation.least_relevant(same, none, 0.1).any()


def test_the_released_similarity() -> None:
    cosines = torch.tensor([[0.18, 0.20, math.nan, 0.22, 0.25, 0.27, 0.21]], dtype=torch.float64)
    found = perturbation.attention_to_words(cosines)[0]
    assert found[~found.isnan()].tolist() == pytest.approx(
        [0.000108, 0.000796, 0.005882, 0.118136, 0.872915, 0.002164], abs=5e-7
    )
    assert bool(found[2].isnan())


def test_the_release_draws_by_how_little_a_word_shows() -> None:
    """Draw probabilities of one word: (1 - similarity) / their sum."""
    similarity = torch.tensor([[0.02, 0.9, 0.03, 0.05, 0.0, 0.0]], dtype=torch.float64)
    keys = torch.from_numpy(np.random.default_rng(0).random((40_000, 6)))
    drawn = perturbation.drawn_words(similarity.expand(40_000, 6), torch.ones(40_000, 6, dtype=torch.bool), 0.05, keys)
    assert drawn.sum(1).unique().tolist() == [1]
    assert drawn.double().mean(0).tolist() == pytest.approx([0.196, 0.02, 0.194, 0.19, 0.2, 0.2], abs=0.008)


def test_the_release_draws_a_flat_share_and_never_a_picture() -> None:
    similarity = torch.zeros(1, 120)
    similarity[0, 10:30] = math.nan
    keys = torch.from_numpy(np.random.default_rng(1).random((1, 120)))
    drawn = perturbation.drawn_words(similarity, torch.ones(1, 120, dtype=torch.bool), 0.05, keys)
    assert int(drawn.sum()) == 6
    assert not drawn[0, 10:30].any()


def dialogues() -> Dialogues:
    """Two rows of eight tokens: a picture's, words, an answer, padding."""
    ids = torch.arange(16).reshape(2, 8)
    attention = torch.ones(2, 8, dtype=torch.bool)
    attention[1, 6:] = False
    answer = torch.zeros(2, 8, dtype=torch.bool)
    answer[:, 4:6] = True
    vocabulary = Vocabulary(torch.tensor([50, 51, 52]), torch.tensor(99))
    return Dialogues(ids, attention, answer, kinds={"token_type_ids": ids}, vocabulary=vocabulary)


def test_words_are_masked_or_replaced_where_they_are_chosen() -> None:
    chosen = torch.zeros(2, 8, dtype=torch.bool)
    chosen[:, 2] = True
    keys = torch.full((2, 8), 0.5, dtype=torch.float64)
    masked = perturbation.other_words(dialogues(), chosen, "mask", keys).ids
    replaced = perturbation.other_words(dialogues(), chosen, "replace", keys).ids
    for found, new in ((masked, 99), (replaced, 51)):
        assert found[:, 2].tolist() == [new, new]
        assert torch.equal(found[~chosen], dialogues().ids[~chosen])


def test_what_is_taken_out_moves_the_rest_up() -> None:
    chosen = torch.zeros(2, 8, dtype=torch.bool)
    chosen[0, 2] = chosen[1, 4] = True
    found = perturbation.without(dialogues(), chosen)
    assert found.ids[0, :7].tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert found.attention.sum(1).tolist() == [7, 5]
    assert found.answer.nonzero().tolist() == [[0, 3], [0, 4], [1, 4]]
    assert torch.equal(found.kinds["token_type_ids"], found.ids)


def test_the_golden_powers() -> None:
    mask = torch.ones(1, 4, dtype=torch.bool)
    found = [float(spectral.power(wave(shift), mask)) for shift in (0.0, 0.1, 0.3, 0.8)]
    assert found == pytest.approx([8.426800575831, 7.719443070832, 6.641641797456, 6.640766471284], abs=1e-11)
    win = spectral.log_power_ratio(wave(0.0), wave(0.1), mask)
    lose = spectral.log_power_ratio(wave(0.3), wave(0.8), mask)
    assert float(dpo(win, lose, beta=1.0)) == pytest.approx(0.650333275714, abs=1e-11)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8])
def test_the_power_is_what_a_transform_gives(length: int) -> None:
    z = torch.randn(1, length, 3, generator=torch.Generator().manual_seed(length), dtype=torch.float64)
    by_transform = torch.fft.fft(z, dim=1).real.square().sum()
    mask = torch.ones(1, length, dtype=torch.bool)
    assert float(spectral.power(z, mask)) == pytest.approx(float(by_transform), rel=1e-12)


def test_padding_moves_no_spectral_term() -> None:
    mask = torch.tensor([[True] * 4 + [False] * 3])
    padded = torch.cat([wave(0.0), torch.full((1, 3, 2), 7.0, dtype=torch.float64)], dim=1)
    assert float(spectral.power(padded, mask)) == pytest.approx(8.426800575831, abs=1e-11)


def test_the_golden_hinge() -> None:
    pw, cw, cr = (wave(shift)[0] for shift in (0.0, 0.1, 0.8))
    expected = [[1.891888, 1.724609], [1.147743, 1.353524], [0.073294, 0.431186], [1.147743, 1.353524]]
    assert torch.allclose(spectral.magnitudes(pw, 4), torch.tensor(expected, dtype=torch.float64), atol=5e-7)
    assert float(spectral.triplet_hinge(pw, cw, cr)) == pytest.approx(0.078242184937, abs=1e-11)
    energy = spectral.magnitudes(pw, 4).square().sum()
    assert float(energy) == pytest.approx(13.043491843372, abs=1e-11)
    for length, grown in ((6, 19.5652377651), (8, 26.0869836867)):
        assert float(spectral.magnitudes(pw, length).square().sum()) == pytest.approx(grown, abs=1e-9)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> AnswerPairs:
    """Four pairs about random pictures, with the likeness of each word."""
    root = tmp_path_factory.mktemp("tars")
    made: AnswerPairs = language.batch(language.view(root, AnswerPairs))
    return made


def seeing(root: Path, **settings: Any) -> Any:
    return language.model(root, "tars", **settings)


def asked_of(model: Any, method: TARS, batch: AnswerPairs) -> tuple[Any, list[dict[str, Tensor]]]:
    """The loss, and every call that reached the network."""
    with answered.watched(model) as calls:
        found = method.loss(batch, model)
    return found, calls


@pytest.mark.parametrize("by", ["mask", "replace"])
def test_both_models_read_the_same_changed_words_and_no_picture_token_is_touched(
    tmp_path: Path, batch: AnswerPairs, by: Any
) -> None:
    model = seeing(tmp_path)
    _, calls = asked_of(model, TARS(by=by), batch)
    before, clean, policy = (call["input_ids"] for call in calls)
    given = batch.answers
    assert torch.equal(before, policy)
    assert torch.equal(clean, given.ids)
    touched = policy != given.ids
    assert bool(touched.any())
    assert given.prompt is not None
    assert not bool((touched & ~given.prompt).any())
    assert torch.equal(policy[:4][touched[:4]], policy[4:][touched[4:]])


def test_as_written_it_starts_at_log_2_and_the_spectral_term(tmp_path: Path, batch: AnswerPairs) -> None:
    model = seeing(tmp_path, start=True)
    plain, _ = asked_of(model, TARS(spectral=0.0), batch)
    assert plain.each.tolist() == [math.log(2)] * 4
    whole, _ = asked_of(model, TARS(), batch)
    assert bool((whole.each > plain.each).all())


def test_as_released_it_starts_at_twice_log_2_and_the_hinge(tmp_path: Path, batch: AnswerPairs) -> None:
    model = seeing(tmp_path, start=True)
    plain, _ = asked_of(model, TARS(variant="release", by="replace", spectral=0.0), batch)
    assert plain.each.tolist() == pytest.approx([2 * math.log(2)] * 4, abs=1e-12)


def test_the_golden_adversarial_loss() -> None:
    """Three pairs of known log-probabilities: DPO's mean 0.670655711786 and the noisy picture's 0.691295223427."""
    policy, reference = (
        [-12, -30.5, -8.25, -15, -29, -20, -16, -33, -8],
        [-13, -30, -9, -14.5, -31, -18, -15, -33.5, -9.5],
    )
    log = answered.written(policy, reference)
    found = TARS(variant="release").adversarial(log, answered.of(log, 3))
    assert float(found.each.mean()) == pytest.approx(1.361950935213, abs=1e-11)


def test_words_that_the_release_changes_in_an_answer_are_not_counted(tmp_path: Path, batch: AnswerPairs) -> None:
    method = TARS(variant="release", by="replace", share=0.3)
    found = method.drawn(batch)
    touched = found.ids != batch.answers.ids
    assert bool((touched & batch.answers.answer).any())
    assert not bool((touched & found.answer).any())
    assert int(found.answer.sum()) < int(batch.answers.answer.sum())


def test_without_cosines_it_says_what_to_set(tmp_path: Path, batch: AnswerPairs) -> None:
    blind = replace(batch, answers=replace(batch.answers, relevance=None))
    with pytest.raises(ValueError, match=r"data\.relevance"):
        TARS().loss(blind, seeing(tmp_path))
