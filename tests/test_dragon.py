"""DRAGON: rewards of sets against their definitions, the greedy sets, and the two surrogates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import methods
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.linalg import sqrtm

from visalign import cli
from visalign.data import store
from visalign.data.halves import divided, twos
from visalign.evaluation.sets import Frechet, Moments, SetReward, average, greedy, likeness, vendi
from visalign.playground import captions, world
from visalign.records import DataError, Preference
from visalign.trainers import DRAGON, DiffusionDPO, DiffusionKTO

Floats = NDArray[np.float64]


def points(n: int, d: int = 5, seed: int = 0, unit: bool = True) -> Floats:
    found = np.random.default_rng(seed).standard_normal((n, d)) + 0.3
    return found / np.linalg.norm(found, axis=1, keepdims=True) if unit else found


REWARDS: dict[str, Callable[[], SetReward]] = {
    "frechet": lambda: Frechet.to(points(30, seed=9)),
    "vendi": lambda: vendi,
    "average": lambda: lambda moments: average(Moments(moments.count, moments.total[:1], moments.outer[:1, :1])),
}


def test_the_frechet_distance_is_its_definition() -> None:
    drawn, reference = points(40, unit=False), 1.3 * points(25, seed=1, unit=False)
    mine, theirs = (np.cov(each, rowvar=False) for each in (drawn, reference))
    root = np.real(sqrtm(mine @ theirs))
    gap = drawn.mean(0) - reference.mean(0)
    expected = gap @ gap + np.trace(mine + theirs - 2 * root)
    assert Frechet.to(reference)(Moments.of(drawn)) == pytest.approx(-expected, rel=1e-9)
    assert Frechet.to(reference)(Moments.of(reference)) == pytest.approx(0.0, abs=1e-9)


def test_frechet_numbers_by_hand() -> None:
    """Means 1 apart; variances 2 and 8 along one axis: 1 + 2 + 8 - 2 sqrt(16) = 3."""
    reference, drawn = np.array([[0.0], [2.0]]), np.array([[0.0], [4.0]])
    assert Frechet.to(reference)(Moments.of(drawn)) == pytest.approx(-3.0, abs=1e-12)


def test_vendi_counts_different_pictures() -> None:
    assert vendi(Moments.of(np.eye(4))) == pytest.approx(4.0, rel=1e-12)
    assert vendi(Moments.of(np.tile(points(1), (6, 1)))) == pytest.approx(1.0, rel=1e-12)
    assert vendi(Moments.of(np.eye(4)[[0, 0, 1, 1]])) == pytest.approx(2.0, rel=1e-12)
    features = points(7)
    values = np.linalg.eigvalsh(features @ features.T / 7)
    values = values[values > 1e-12]
    assert vendi(Moments.of(features)) == pytest.approx(float(np.exp(-(values * np.log(values)).sum())), rel=1e-9)


def test_likeness_is_the_mean_cosine_to_the_exemplars() -> None:
    found = likeness(np.eye(3), np.eye(3)[:2])
    assert found.tolist() == [[0.5], [0.5], [0.0]]


@pytest.mark.parametrize("name", REWARDS)
def test_updates_of_rank_one_are_a_new_count(name: str) -> None:
    """After two hundred exchanges, to rounding."""
    reward, held, others = REWARDS[name](), points(20), points(200, seed=3)
    moments = Moments.of(held)
    for row, each in enumerate(others):
        moments = moments.exchanged(held[row % 20], each)
        held[row % 20] = each
    assert np.allclose(moments.outer, Moments.of(held).outer, atol=1e-12)
    assert reward(moments) == pytest.approx(reward(Moments.of(held)), rel=1e-9)


@pytest.mark.parametrize("name", REWARDS)
def test_the_good_set_is_never_worse_than_either_whole(name: str) -> None:
    reward = REWARDS[name]()
    for seed in range(5):
        first, second = points(16, seed=seed), points(16, seed=seed + 50)
        split = greedy(first, second, reward)
        good = np.where(split.second[:, None], second, first)
        assert split.value >= max(split.starts)
        assert split.value == pytest.approx(reward(Moments.of(good)), rel=1e-9)
        assert split.starts == pytest.approx([reward(Moments.of(each)) for each in (first, second)])


def test_a_reward_of_single_pictures_takes_each_prompts_better_one() -> None:
    first, second = (np.random.default_rng(seed).random((50, 1)) for seed in (0, 1))
    assert np.array_equal(greedy(first, second, average).second, (second > first)[:, 0])


def test_what_is_equal_stays_where_it_is() -> None:
    same = points(8)
    assert not greedy(same, same.copy(), vendi).second.any()


def test_records_are_taken_two_by_two_and_marked() -> None:
    items = ("a", "b", "c", "d", "e")
    record = Preference("a prompt", items, np.arange(5.0), seeds=(1, 2, 3, 4, 5), captions=items)
    pairs = twos([record, Preference("another", ("f", "g"))])
    assert [each.items for each in pairs] == [("a", "b"), ("c", "d"), ("f", "g")]
    assert pairs[1].seeds == (3, 4)
    features = np.array([[0.1], [0.9], [0.8], [0.2], [np.nan], [0.5]])
    made, split = divided(pairs, features, average, "dragon:instance")
    assert [each.utilities.tolist() for each in made] == [[0.0, 1.0], [1.0, 0.0]]
    assert split.value == pytest.approx(0.85)
    assert made[0].judge == "dragon:instance"
    with pytest.raises(DataError, match="1 prompts have two pictures that can be read"):
        divided(pairs[1:], features[2:], average, "x")


def test_the_paired_dpo_surrogate_is_diffusion_dpo() -> None:
    given = methods.pairs()
    ours, theirs = (made.loss(given, methods.denoiser()) for made in (DRAGON(beta=300), DiffusionDPO(beta=300)))
    assert torch.equal(ours.each, theirs.each)


def test_the_unpaired_kto_surrogate_is_diffusion_kto() -> None:
    given = methods.labelled()
    methods_of = (DRAGON(beta=300, surrogate="kto", paired=False), DiffusionKTO(beta=300))
    ours, theirs = (made.loss(given, methods.denoiser()) for made in methods_of)
    assert torch.equal(ours.each, theirs.each)


def test_the_paired_kto_surrogate_is_kto_of_both_at_one_noise() -> None:
    given, model = methods.pairs(), methods.denoiser()
    loss = DRAGON(beta=300, surrogate="kto").loss(given, model)
    gain = torch.cat([
        loss.metrics["win_reference_error"] - loss.metrics["win_error"],
        loss.metrics["lose_reference_error"] - loss.metrics["lose_error"],
    ])  # fmt: skip
    sign = torch.cat([torch.ones(4), -torch.ones(4)]).double()
    each = torch.sigmoid(-sign * 300 * (gain - gain.mean().clamp(min=0)))
    assert torch.allclose(loss.each, each.reshape(2, 4).mean(0), rtol=1e-9)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="without pairs it must be kto"):
        DRAGON(paired=False)
    with pytest.raises(ValueError, match=r"surrogate .ipo. is not one of dpo, kto"):
        DRAGON(surrogate="ipo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="beta must be positive"):
        DRAGON(beta=0)
    with pytest.raises(ValueError, match="needs two pictures in it, got 1"):
        Frechet.to(np.ones((1, 3)))
    with pytest.raises(ValueError, match="of two prompts or more"):
        greedy(np.ones((1, 2)), np.ones((1, 2)), vendi)


def test_the_command_writes_the_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    for row in range(4):
        scene = world.place(captions.parse("a red circle" if row % 2 else "a blue square"), np.random.default_rng(row))
        Image.fromarray(world.draw(scene)).save(tmp_path / f"{row}.png")
        names.append(f"{row}.png")
    records = [Preference("a red circle", (names[0], names[1])), Preference("a blue square", (names[2], names[3]))]
    store.write(records, tmp_path / "records.jsonl")
    out = tmp_path / "out" / "sets.parquet"
    given = ["sets", str(tmp_path / "records.jsonl"), "--out", str(out)]
    assert cli.main([*given, "--reward", "instance", "--scorer", "rules"]) == 0
    assert [each.utilities.tolist() for each in store.read(out)] == [[0.0, 1.0], [1.0, 0.0]]
    asked = ["--embedder", "playground_hps"]
    assert cli.main([*given, "--reward", "vendi", *asked]) == 0
    assert cli.main([*given, "--reward", "frechet", *asked, "--exemplars", str(tmp_path)]) == 0
    assert cli.main([*given, "--reward", "exemplar", *asked, "--exemplars", str(tmp_path)]) == 0
    assert {each.judge for each in store.read(out)} == {"dragon:exemplar"}
    assert cli.main([*given, "--reward", "vendi", "--embedder", "rules"]) == 2
    assert "rules embeds no pictures" in capsys.readouterr().err
    assert cli.main([*given, "--reward", "instance"]) == 2
