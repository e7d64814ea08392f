"""The main job: from votes to an aligned model, and the claims that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visalign import config, demo, playground
from visalign.cli.playground import rendered
from visalign.cli.screen import Screen
from visalign.data import album, media, store
from visalign.images import load
from visalign.playground import corpus
from visalign.playground.voters import Voters


def test_ballots_are_a_pure_function_of_seed_and_pictures() -> None:
    prompt = corpus.prompts("train", 1)[0]
    drawn = np.stack([corpus.example(0, number).picture for number in range(4)])
    once, again = (demo.ballot(prompt, tuple("abcd"), (1, 2, 3, 4), drawn, seed=7) for _ in range(2))
    assert once == again
    assert once.scale == "utility"
    assert float(once.scores.sum()) == 6.0  # every two of four were voted on, each vote shared if a tie


def test_a_true_picture_gets_the_votes_against_wrong_ones() -> None:
    prompts = corpus.prompts("train", 4)
    found = demo.ballot(prompts[0], tuple("abcd"), (1, 2, 3, 4), rendered(prompts), seed=0)
    assert float(found.utilities[0]) == 3.0


def test_votes_follow_bradley_terry() -> None:
    """Of 2,000 voters, as many prefer the first as sigmoid(gap / temperature) says, to 4 deviations."""
    voters = Voters()
    chance = 1 / (1 + np.exp(-0.1 / voters.temperature))
    said = [voters.vote(0.6, 0.5, seed=0, key=str(voter)) for voter in range(2000)]
    assert set(said) == {"first", "second"}
    assert said.count("first") / 2000 == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / 2000))


def test_an_album_gives_every_picture_back_bit_for_bit(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (700, 32, 32, 3), dtype=np.uint8)
    names = album.write(pictures, tmp_path / "pictures.parquet")
    for place in (0, 255, 256, 699):
        assert np.array_equal(np.asarray(load(media.fetch(names[place], tmp_path))), pictures[place])


def test_the_shipped_votes_are_whole_and_never_about_held_out_prompts() -> None:
    records = store.read(playground.shipped_votes())
    assert len(records) == demo.PROMPTS
    assert sum(file.stat().st_size for file in playground.shipped_votes().parent.iterdir()) < 4_000_000
    assert not set(corpus.prompts("heldout", demo.HELD_OUT)) & {record.prompt for record in records}
    assert {float(record.scores.sum()) for record in records} == {6.0}


def test_the_votes_that_ship_are_those_that_the_stated_voters_cast() -> None:
    root = playground.shipped_votes().parent
    for record in store.read(playground.shipped_votes())[::40]:
        drawn = np.stack([np.asarray(load(media.fetch(item, root))) for item in record.items])
        assert demo.ballot(record.prompt, record.items, record.seeds, drawn, seed=0) == record


def test_both_methods_train_alike() -> None:
    """SFT is shown at equal steps: the recipes differ in nothing but the method, and where that is written."""
    ours, theirs = (config.flat(config.plain(config.load(name))) for name in demo.METHODS.values())
    differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    assert {key.split(".")[0] for key in differing} <= {"name", "out", "method"}


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path: Path) -> None:
    found = demo.walk(tmp_path, Screen())
    told = json.loads((tmp_path / "report.json").read_text())
    assert set(told) >= {"base", "sft", "dpo", "win_rate", "win_rate_ci", "seconds"}
    assert told["win_rate"] >= 0.65
    assert told["win_rate_ci"][0] > 0.55
    assert told["dpo"] - told["base"] >= 0.10
    assert found.comparison.first.judged >= 200
    other = found.comparison.verdicts[1].standings["dpo"].win
    assert other is not None and other.value >= 0.5
    assert all(each.holds for each in found.comparison.drifts["dpo"])
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "dpo" / "weights" / "model_index.json").is_file()
