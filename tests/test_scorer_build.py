"""The recipe of the playground's learned scorer: what it is shown, what is voted, and that a stopped build goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from stopped import goes_on_to_the_same_weights

from visalign import playground
from visalign.cli.screen import Screen
from visalign.jobs import scorer_build
from visalign.playground import captions, contrast, corpus, electing, families, flawed, twists, world, worn
from visalign.playground.checker import ASPECTS, scores
from visalign.playground.voters import Voters
from visalign.playground.words import Tokenizer
from visalign.scorers.playground import PlaygroundHPS
from visalign.scoring import Sample

PROMPTS = corpus.prompts("heldout", 120)
CANDIDATES = electing.CANDIDATES


@pytest.fixture(scope="module")
def right() -> list[NDArray[np.uint8]]:
    """A true rendering of each held-out prompt."""
    return [flawed.picture(each, 0, 0, {}) for each in PROMPTS]


def test_no_family_shows_a_held_out_combination() -> None:
    for index in range(40):
        pictures, told = families.family(3, index)
        assert pictures.shape == (4, 32, 32, 3)
        assert {corpus.split_of(captions.parse(each)) for each in told} <= set(families.SPLITS)


@pytest.mark.parametrize("kind", families.KINDS)
def test_no_two_of_a_family_mean_the_same(kind: str) -> None:
    for index in range(families.KINDS.index(kind), 80, len(families.KINDS)):
        told = [captions.parse(each) for each in families.family(3, index)[1]]
        assert len({families.meaning(each) for each in told}) == len(told) == families.MEMBERS


def test_a_family_of_places_differs_in_the_relation_alone_and_one_of_owners_in_whose_is_what() -> None:
    for index in range(1, 81, 2):
        told = [captions.parse(each) for each in families.family(3, index)[1]]
        things = {frozenset(each.things) for each in told}
        assert len(things) == (1 if families.KINDS[index % len(families.KINDS)] == "places" else 2)
        words = {tuple(sorted(word for each in one.things for word in (each.colour, each.shape))) for one in told}
        assert len(words) == 1 and all(each.relation for each in told)


def test_a_meaning_is_the_same_however_it_is_said() -> None:
    for index in range(40):
        scene = corpus.scene(np.random.default_rng(index))
        said = captions.parse(captions.paraphrase(scene, np.random.default_rng(index)))
        assert families.meaning(said) == families.meaning(captions.parse(captions.caption(scene)))


@pytest.mark.parametrize("mistake", [*flawed.SHARES, "owners", "none"])
def test_a_mistake_is_one_that_the_checker_sees(mistake: str) -> None:
    shares = {mistake: 1.0} if mistake != "none" else {}
    asked = [each for each in PROMPTS if mistake not in ("size", "relation", "owners") or changes(each, mistake)][:40]
    found = scores([flawed.picture(each, 1, 0, shares) for each in asked], asked)["overall"]
    assert found.mean() > 0.95 if mistake == "none" else found.mean() < 0.6


def changes(prompt: str, mistake: str) -> bool:
    """Whether the mistake can be made in this prompt's picture."""
    wanted = captions.parse(prompt)
    if mistake == "relation":
        return wanted.relation is not None
    if mistake == "owners":
        return len({each.colour for each in wanted.things}) > 1 and len({each.shape for each in wanted.things}) > 1
    return len(wanted.things) < 3 and any(each.size for each in wanted.things)


def test_a_candidate_is_a_function_of_its_prompt_seed_and_number() -> None:
    first = flawed.picture(PROMPTS[0], 1, 2)
    assert np.array_equal(first, flawed.picture(PROMPTS[0], 1, 2))
    assert not np.array_equal(first, flawed.picture(PROMPTS[0], 1, 3))
    assert first.shape == (world.SIDE, world.SIDE, 3)


def test_a_mirror_leaves_what_the_checker_says_and_a_turn_makes_the_relation_wrong_alone(
    right: list[NDArray[np.uint8]],
) -> None:
    for prompt, picture in zip(PROMPTS, right, strict=True):
        axis, own = twists.mirror(prompt), scores([picture], [prompt])
        if axis is not None:
            seen = scores([np.flip(picture, axis + 2)], [prompt])
            assert all(seen[name] == pytest.approx(own[name], abs=0.15) for name in ASPECTS)
    asked, turned = twists.turned(PROMPTS, np.stack([[each, each, each, each] for each in right]), 0)
    assert len(asked) > 60 and turned.shape[1:] == (CANDIDATES, 32, 32, 3)
    said = scores(turned[:, 2], asked)
    assert (said["relations"] < 0.5).mean() > 0.95
    assert min(said[name].mean() for name in ASPECTS if name != "relations") > 0.9


def test_other_words_are_of_the_split_that_is_voted_on() -> None:
    prompts = corpus.prompts("scorers", 30, 5)
    numbered = np.arange(30, dtype=np.uint8)[:, None, None, None, None].repeat(CANDIDATES, 1)
    asked, rows = twists.reworded(prompts, numbered, 0)
    assert len(asked) == len(rows) > 20
    assert all(other != prompts[row] for other, row in zip(asked, rows[:, 0].ravel(), strict=True))
    assert {corpus.split_of(captions.parse(each)) for each in asked} == {"scorers"}


def test_worn_pictures_are_a_function_of_prompt_and_seed_and_of_every_quality() -> None:
    made, few = worn.pictures(PROMPTS[:24], 2, 1), worn.pictures(PROMPTS[:3], 2, 1)
    assert np.abs(made[:3].astype(int) - few).max() <= 1, "the autoencoder rounds other batches otherwise"
    said = scores(made.reshape(-1, 32, 32, 3), [each for each in PROMPTS[:24] for _ in range(2)])
    assert said["overall"].min() < 0.1 and said["overall"].max() > 0.9


def test_votes_of_many_are_what_the_utilities_say() -> None:
    utilities = np.array([[0.9, 0.5, 0.52, 0.1]]).repeat(400, 0)
    won = scorer_build.duels(utilities, 5, np.random.default_rng(0))
    assert won.sum(1) == pytest.approx(6)
    first = 1 / (1 + np.exp(-(0.9 - np.array([0.5, 0.52, 0.1])) / Voters().temperature))
    assert won[:, 0].mean() == pytest.approx(first.sum(), abs=0.02)


def test_of_equal_votes_half_a_lead_is_worth_half_its_log_odds() -> None:
    """HPS v2's loss is least where the cosines' gaps, scaled, are the log odds of what was won."""
    texts = torch.eye(3)[:2]
    won = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).repeat(2, 1)
    images = torch.stack([won[:, :, None] * texts[:, None] / 10, won[:, :, None] * texts[:, None] / 5])
    least, more = (electing.preferred(each, texts, won, torch.tensor(10.0), 0.0) for each in images)
    chance = (won[0][electing.FIRST] - won[0][electing.SECOND]).sigmoid()
    entropy = -(chance * chance.log() + (1 - chance) * (1 - chance).log()).mean()
    assert float(least[0]) == pytest.approx(float(entropy), abs=1e-6) == least[1]
    assert float(more[0]) > float(least[0])


def test_a_step_shows_candidates_moved_by_two_pixels_at_most_all_of_a_prompt_alike() -> None:
    prompts = [each for each in PROMPTS if twists.mirror(each) is not None][:6]
    shown = scorer_build.rendered(prompts, 1)
    votes = electing.Votes(prompts, shown, np.full((6, CANDIDATES), 1.5))
    ballots = electing.Ballots(votes, 4, reader(), electing.Plan())
    pictures, tokens, won = ballots.some(torch.Generator().manual_seed(0))
    assert pictures.shape == (4, CANDIDATES, 3, 32, 32) and tokens.shape == (4, 24) and bool((won == 3).all())
    for row in range(4):
        number = next(i for i, each in enumerate(ballots.tokens) if torch.equal(each, tokens[row]))
        both = [ballots.pictures[number], ballots.pictures[number].flip(ballots.mirrors[number] or 0)]
        near = [torch.roll(each, (dy, dx), (-2, -1)) for each in both for dy in range(-2, 3) for dx in range(-2, 3)]
        middle = (..., slice(2, -2), slice(2, -2))
        assert any(torch.equal(each[middle], pictures[row][middle]) for each in near)


def reader() -> Tokenizer:
    """The shipped words."""
    return Tokenizer(playground.scorer_folder(), 24)


def contrasted(folder: Path) -> Path:
    """The recipe's first half with little of everything."""
    plan = contrast.Plan(families=8, steps=4, batch=4, save_every=2)
    return contrast.build(folder, 0, plan, say=lambda text: None)


def elected(folder: Path) -> Path:
    """Its second half with little of everything, from the shipped weights."""
    shutil.copytree(playground.scorer_folder(), folder / "contrast", dirs_exist_ok=True)
    first, votes = contrast.Plan(families=8), electing.Plan(steps=4, save_every=2)
    few = scorer_build.Plan(contrast=first, drawn=4, again=5, rendered=6, worn=4, calibration=8, votes=votes)
    return scorer_build.build(folder, Screen(), plan=few)


def test_contrast_that_was_stopped_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on_to_the_same_weights(contrasted, 4, tmp_path, monkeypatch, parts=(".",))


def test_votes_that_were_stopped_go_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on_to_the_same_weights(elected, 4, tmp_path, monkeypatch, parts=("scorer",))
    made = tmp_path / "twice" / "scorer"
    names = ["merges.txt", "open_clip_config.json", "open_clip_model.safetensors", "vocab.json"]
    assert sorted(each.name for each in made.iterdir()) == names
    kept = electing.Votes.read(tmp_path / "twice" / "votes" / "drawn.npz")
    assert len(kept.prompts) == 9 and kept.won.sum(1) == pytest.approx(6)
    built, shipped = PlaygroundHPS(made), PlaygroundHPS()
    picture = flawed.picture(PROMPTS[0], 7, 0)
    one, other = (each.score([Sample(PROMPTS[0], image=picture)]).values for each in (built, shipped))
    assert built.spec.temperature is not None and built.spec.temperature > 0
    assert not torch.equal(one, other)
