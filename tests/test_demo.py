"""The main job: from votes to an aligned model, and the claims that are made of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visalign import config, demo, job
from visalign.cli.playground import rendered
from visalign.cli.screen import Screen
from visalign.data import album, media, store
from visalign.data.views import Pair, paired
from visalign.images import load
from visalign.playground import corpus
from visalign.playground.voters import Voters


def test_a_ballot_is_a_pure_function_of_seed_and_pictures() -> None:
    prompt = corpus.prompts("train", 1)[0]
    drawn = np.stack([corpus.example(0, number).picture for number in range(4)])
    ballots = [demo.ballot(prompt, tuple("abcd"), (1, 2, 3, 4), drawn, seed=7) for _ in range(2)]
    assert ballots[0] == ballots[1]
    assert ballots[0].scale == "votes"
    assert ballots[0].scores.sum() == 6  # every two of four, once


def test_a_true_picture_gets_every_vote_against_wrong_ones() -> None:
    prompts = corpus.prompts("train", 4)
    true = rendered(prompts)
    found = demo.ballot(prompts[0], tuple("abcd"), (1, 2, 3, 4), true, seed=0)
    assert int(found.utilities.argmax()) == 0


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
    records = store.read(job.votes())
    assert len(records) == demo.PROMPTS
    assert sum(file.stat().st_size for file in job.votes().parent.iterdir()) < 3_000_000
    held_out = set(corpus.prompts("heldout", demo.HELD_OUT))
    assert not held_out & {record.prompt for record in records}
    assert sum(isinstance(paired(record), Pair) for record in records) == demo.PROMPTS
    for record in records[:: len(records) // 20]:
        pictures = [np.asarray(load(media.fetch(item, job.votes().parent))) for item in record.items]
        assert {each.shape for each in pictures} == {(32, 32, 3)}
        asked = demo.ballot(record.prompt, record.items, record.seeds, np.stack(pictures), seed=0)
        assert asked == record  # the vote that ships is the vote that the stated voters cast


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
    assert (tmp_path / "dpo" / "weights" / "pytorch_lora_weights.safetensors").is_file()
