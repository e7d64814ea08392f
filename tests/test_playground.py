"""The playground: its world, its voters and users, its model and how it was made."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rendered import bare, pipeline, rendered
from scipy.special import expit
from stopped import goes_on_to_the_same_weights

from visalign import playground
from visalign.playground import build, captions, checker, corpus, users, world
from visalign.playground.voters import Voters
from visalign.playground.world import Scene

# The world


def test_examples_and_prompts_are_pure_functions_of_their_seed() -> None:
    first, again = (corpus.example(0, 17) for _ in range(2))
    assert np.array_equal(first.picture, again.picture) and first.caption == again.caption
    assert not np.array_equal(first.picture, corpus.example(0, 18).picture)
    assert corpus.prompts("heldout", 50, seed=3) == corpus.prompts("heldout", 50, seed=3)
    assert corpus.prompts("heldout", 50, seed=3) != corpus.prompts("heldout", 50, seed=4)


def test_fewer_prompts_are_the_first_of_more() -> None:
    assert corpus.prompts("train", 20) == corpus.prompts("train", 60)[:20]


def test_no_combination_is_in_two_splits() -> None:
    asked = {split: corpus.prompts(split, 600) for split in corpus.SPLITS}
    for split, prompts in asked.items():
        assert {corpus.split_of(captions.parse(each)) for each in prompts} == {split}
    assert all(set(asked[a]).isdisjoint(asked[b]) for a, b in itertools.combinations(asked, 2))


def test_a_combination_stays_in_its_split_when_said_the_other_way_round_or_with_sizes() -> None:
    said = ["a red circle left of a blue square", "a blue square right of a red circle"]
    sized = "a large red circle left of a small blue square"
    assert len({corpus.split_of(captions.parse(each)) for each in (*said, sized)}) == 1


def test_an_unknown_split_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"'test'.*train, heldout, scorers"):
        corpus.prompts("test", 1)


def test_captions_and_paraphrases_mean_what_the_scene_is() -> None:
    random = np.random.default_rng(0)
    for scene in corpus.scenes("train", 400):
        assert captions.caption(captions.parse(captions.caption(scene))) == captions.caption(scene)
        meant = captions.parse(captions.paraphrase(scene, random))
        assert corpus.split_of(meant) == corpus.split_of(scene)
        assert sorted(map(bare, meant.things), key=str) == sorted(map(bare, scene.things), key=str)


def test_the_corpus_holds_its_stated_share_of_each_flaw() -> None:
    examples = [corpus.example(0, index) for index in range(600)]
    for flaw, share in corpus.FLAWS.items():
        seen = np.mean([flaw in each.flaws for each in examples])
        assert abs(seen - share) < 4 * np.sqrt(share * (1 - share) / len(examples)), flaw


def test_the_base_corpus_never_draws_the_styles_kept_for_later() -> None:
    examples = [corpus.example(0, index).caption for index in range(400)]
    assert not any(word in each for word in ("striped", "night", *captions.SUBJECTS) for each in examples)
    assert any("outline" in each for each in examples)


def test_every_style_has_a_drawing_of_its_own() -> None:
    placed = world.place(captions.parse("a red square"), np.random.default_rng(0))
    drawn = [world.draw(replace(placed, style=style)).tobytes() for style in (None, *world.STYLES)]
    assert len(set(drawn)) == len(drawn)


# Voters and users


def test_votes_are_pure_functions_of_seed_and_key() -> None:
    voters = Voters()
    ballots = [voters.vote(0.5, 0.6, seed=0, key=str(index)) for index in range(50)]
    assert ballots == [voters.vote(0.5, 0.6, seed=0, key=str(index)) for index in reversed(range(50))][::-1]
    assert ballots != [voters.vote(0.5, 0.6, seed=1, key=str(index)) for index in range(50)]


@pytest.mark.parametrize("gap", [0.06, 0.15, 0.4])
def test_votes_follow_bradley_terry_at_the_stated_temperature(gap: float) -> None:
    voters, count = Voters(), 4_000
    share = np.mean([voters.vote(0.3 + gap, 0.3, seed=0, key=str(index)) == "first" for index in range(count)])
    expected = expit(gap / voters.temperature)
    assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / count)


def test_voters_call_a_tie_within_their_band_only() -> None:
    voters = Voters()
    assert voters.vote(0.50, 0.50 + 0.9 * voters.tie, seed=0, key="a") == "tie"
    assert voters.vote(0.50, 0.50 + 1.1 * voters.tie, seed=0, key="a") != "tie"


def test_users_keep_their_tastes_and_differ_from_one_another() -> None:
    people = users.users(8)
    assert [each.taste for each in users.users(3)] == [each.taste for each in people[:3]]
    assert len({each.describe() for each in people}) > 4
    for each in people:
        assert np.isclose(np.square(list(each.taste.values())).sum(), 1.0)


def test_looks_measure_what_they_are_called() -> None:
    cool, warm = (238, 240, 252), (250, 244, 226)
    near, far = ((11.0, 16.0), (21.0, 16.0)), ((6.0, 16.0), (26.0, 16.0))

    def drawn(colour: str, radius: float, at: Any, tint: tuple[int, int, int], style: str | None = None) -> np.ndarray:
        things = tuple(world.Thing("square", colour, None, radius, each) for each in at)
        return world.draw(Scene(things, None, style, tint))

    plain = drawn("blue", 4.0, near, cool)
    others = {
        "warmth": drawn("blue", 4.0, near, warm), "size": drawn("blue", 6.0, near, cool),
        "distance": drawn("blue", 4.0, far, cool), "hollowness": drawn("blue", 4.0, near, cool, "outline"),
        "heat": drawn("red", 4.0, near, cool),
    }  # fmt: skip
    base = users.looks(plain[None])
    for name, picture in others.items():
        seen = users.looks(picture[None])
        assert seen[name][0] > base[name][0] + 0.5, name
        assert all(abs(seen[same][0] - base[same][0]) < 0.5 for same in ("warmth", "heat") if same != name), name


def test_users_agree_on_what_is_wrong_and_differ_on_what_is_pretty() -> None:
    scenes, pictures = rendered()[0][:120], rendered()[1][:120]
    texts = [captions.caption(each) for each in scenes]
    wrong = [captions.caption(corpus.wrong_colour(each, np.random.default_rng(0))) for each in scenes]
    rankings = []
    for user in users.users(4):
        right = user.utility(pictures, texts)
        assert (right > user.utility(pictures, wrong)).mean() > 0.98
        rankings.append(right)
    between = np.corrcoef(rankings)[np.triu_indices(4, 1)]
    assert between.min() < 0.5


# The model


def test_the_shipped_weights_are_small_and_half_precision() -> None:
    from safetensors import safe_open

    files = sorted(playground.folder().rglob("*.safetensors"))
    assert {each.parent.name for each in files} == {"vae", "unet", "text_encoder"}
    assert sum(each.stat().st_size for each in playground.folder().rglob("*") if each.is_file()) <= 12e6
    for each in files:
        with safe_open(each, "pt") as tensors:
            kinds = {tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}


def test_every_word_is_one_token_and_every_caption_fits() -> None:
    reader = pipeline().tokenizer
    for word in captions.VOCABULARY:
        assert len(reader(word).input_ids) == 3, word
        assert reader(word).input_ids[1] != reader.unk_token_id, word
    random = np.random.default_rng(0)
    scenes = [scene for split in corpus.SPLITS for scene in corpus.scenes(split, 300)]
    said = [captions.caption(each) for each in scenes] + [captions.paraphrase(each, random) for each in scenes]
    assert set(" ".join(said).split()) <= set(captions.VOCABULARY)
    assert max(len(reader(each).input_ids) for each in said) <= reader.model_max_length


def test_the_folder_draws_in_plain_diffusers() -> None:
    shipped = pipeline()
    asked: dict[str, Any] = {
        "num_inference_steps": playground.STEPS, "guidance_scale": playground.GUIDANCE, "output_type": "np"
    }  # fmt: skip
    prompt = "a red circle left of a blue square"
    drawn = [shipped(prompt, generator=torch.Generator().manual_seed(seed), **asked).images for seed in (0, 0, 1)]
    assert drawn[0].shape == (1, 32, 32, 3)
    assert np.array_equal(drawn[0], drawn[1]) and not np.array_equal(drawn[0], drawn[2])


def test_the_base_can_draw_well_but_often_does_not() -> None:
    shipped, prompts = pipeline(), corpus.prompts("heldout", 100)
    found = shipped(
        prompts, num_inference_steps=playground.STEPS, guidance_scale=playground.GUIDANCE, output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in range(len(prompts))],
    ).images  # fmt: skip
    overall = checker.scores((found * 255).round().astype(np.uint8), prompts)["overall"]
    assert 0.15 <= (overall > checker.CLEAN_AND_RIGHT).mean() <= 0.50


# How it was made


@pytest.mark.parametrize("moment", [3, 8])  # in the autoencoder's training, and in the base's
def test_an_interrupted_build_goes_on_to_the_same_weights(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = build.Plan(pictures=8, vae_steps=4, vae_batch=2, base_steps=5, base_batch=2, save_every=2)

    def made(folder: Path) -> Path:
        return build.build(folder, seed=1, plan=plan, say=lambda line: None)

    goes_on_to_the_same_weights(made, moment, tmp_path, monkeypatch)
