"""Benchmarks of scorers: published protocols on numbers that were worked out by hand, and their files."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from visalign import cli
from visalign.cli import bench as command
from visalign.data import benches as files
from visalign.data import media, sources, store
from visalign.evaluation import benches
from visalign.evaluation.benches import Ranked
from visalign.playground import captions, corpus, world
from visalign.records import DataError, Preference


def ranked(said: list[float], ranks: list[float]) -> Ranked:
    """Values of a scorer, and ranks with 1 the best."""
    return Ranked(np.array(said), -np.array(ranks))


def test_hpd_v2_counts_inversions_and_forgives_ties_of_people() -> None:
    """Predicted places 0, 2, 1, 3 of labels 1, 2, 3, 3: one of six pairs is against them."""
    assert benches.hpd_v2([ranked([4, 2, 3, 1], [1, 2, 3, 3])]).value == pytest.approx(5 / 6)
    assert benches.hpd_v2([ranked([1, 1], [1, 2])]).value == 1.0, "equal values stand in their order"
    assert benches.hpd_v2([ranked([1, 1], [2, 1])]).value == 0.0
    assert benches.hpd_v2([ranked([3, 2], [1, 2]), ranked([1, 2], [1, 2])]).value == 0.5, "prompts weigh alike"


def test_image_reward_pools_pairs_and_its_other_form_prompts() -> None:
    prompts = [ranked([0.4, 0.3, 0.5, -1], [1, 2, 2, 4])]
    assert benches.image_reward(prompts) == pytest.approx(4 / 5)
    prompts.append(ranked([0.1, 0.2], [1, 2]))
    assert benches.image_reward(prompts) == pytest.approx(4 / 6)
    assert benches.image_reward_macro(prompts).value == pytest.approx(0.4)
    prompts.append(ranked([0.1, 0.2], [1, 1]))
    assert benches.image_reward_macro(prompts).value == pytest.approx(0.4), "a prompt of ties is left out"
    assert benches.image_reward([ranked([1, 1], [1, 2])]) == 0.0, "a tie of the scorer is wrong"


def test_what_could_not_be_judged_is_left_out() -> None:
    one = ranked([2, np.nan, 1], [1, 2, 3])
    assert len(one.pairs()) == 1
    assert benches.image_reward([one]) == 1.0
    assert benches.summary([one])["pictures not judged"] == 1
    with pytest.raises(ValueError, match="none of 1 prompts"):
        benches.summary([ranked([np.nan, 1], [1, 2])])


@pytest.mark.parametrize(
    ("threshold", "accuracy"), [(0, 0.5), (0.1, 0.583333), (0.2, 0.75), (0.3, 0.75), (0.5, 0.75), (1, 0.666667)]
)
def test_pick_a_pic_with_ties(threshold: float, accuracy: float) -> None:
    chance, label = np.array([0.9, 0.44, 0.52, 0.31, 0.66, 0.58]), np.array([1, 1, 0.5, 0, 0, 0.5])
    found = benches.pick_a_pic(chance, label, threshold=threshold)
    assert found.accuracy == pytest.approx(accuracy, abs=1e-6)
    assert benches.pick_a_pic(chance, label).threshold == pytest.approx(0.2)


def test_hps_v2_averages_ten_groups_of_a_style() -> None:
    found = benches.hps_v2({"photo": 27 + np.arange(800) / 1000})
    assert found["photo"].mean == pytest.approx(27.3995)
    assert found["photo"].deviation == pytest.approx(0.2297825059)
    holed = 27 + np.arange(800) / 1000
    holed[5] = np.nan
    again = benches.hps_v2({"photo": holed})["photo"]
    assert again.count == 799
    assert again.deviation == pytest.approx(found["photo"].deviation, abs=1e-4), "no other prompt changes its group"


def picture(text: str, seed: int = 0) -> bytes:
    """A playground picture of a caption, as JPEG."""
    drawn = world.draw(world.place(captions.parse(text), np.random.default_rng(seed)))
    file = BytesIO()
    Image.fromarray(drawn).save(file, "PNG")
    return file.getvalue()


def bench(folder: Path, count: int = 4) -> Path:
    """A ranking file in HPD v2's format: a right picture, one of another caption, and another one."""
    texts, rows = corpus.prompts("heldout", count + 2), []
    (folder / "test").mkdir(parents=True)
    for number in range(count):
        names = []
        for place, shown in enumerate(texts[number : number + 3]):
            names.append(f"{number}-{place}.png")
            (folder / "test" / names[-1]).write_bytes(picture(shown))
        rows.append({"prompt": texts[number], "image_path": names, "rank": [1, 2, 2]})
    (folder / "test.json").write_text(json.dumps(rows))
    return folder / "test.json"


def test_ranking_files_are_read_as_published(tmp_path: Path) -> None:
    records = files.hpd_v2(bench(tmp_path))
    assert records[0].scores[:, 0].tolist() == [-1, -2, -2]
    assert media.fetch(records[0].items[0], tmp_path)[:4] == b"\x89PNG"
    rows = [{"id": "1", "prompt": "a", "generations": ["a.png", "b.png"], "ranking": [2, 1]}]
    (tmp_path / "ir.json").write_text(json.dumps(rows))
    assert files.image_reward(tmp_path / "ir.json")[0].scores[:, 0].tolist() == [-2, -1]
    train = [{"prompt": "a", "file_path": ["a.png", "b.png"], "human_preference": [0, 1]}]
    (tmp_path / "train.json").write_text(json.dumps(train))
    (record,) = sources.open_source(tmp_path / "train.json", "hpd")
    assert (record.scores[:, 0].tolist(), record.scale) == ([0, 1], "votes")
    (tmp_path / "bad.json").write_text(json.dumps([{"prompt": "a", "image_path": ["x"]}]))
    with pytest.raises(DataError, match=r"bad\.json row 0 has no 'rank' but prompt, image_path"):
        files.hpd_v2(tmp_path / "bad.json")


def test_votes_of_an_arena_are_read(tmp_path: Path) -> None:
    cells = [{"bytes": picture("a red circle"), "path": None}]
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
    table = {"prompt": ["a red circle"] * 4, "left_image": cells * 4, "right_image": cells * 4, "vote_type": votes}
    parquet.write_table(pa.table(table), tmp_path / "votes.parquet")
    records = files.genai_bench(tmp_path / "votes.parquet")
    assert [each.verdict for each in records] == ["first", "second", "tie", "both_bad"]
    assert media.fetch(records[1].items[1], tmp_path) == cells[0]["bytes"]


def test_a_missing_picture_of_the_hps_benchmark_is_named(tmp_path: Path) -> None:
    for style in files.STYLES:
        (tmp_path / f"{style}.json").write_text(json.dumps(["a red circle", "a blue square"]))
        (tmp_path / style).mkdir()
        for number in range(2):
            (tmp_path / style / f"{number:05d}.jpg").write_bytes(picture("a red circle"))
    assert [len(each) for each in files.drawn(tmp_path, tmp_path).values()] == [2, 2, 2, 2]
    (tmp_path / "photo" / "00001.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 2 pictures of photo are missing .*photo/00001\.jpg"):
        files.drawn(tmp_path, tmp_path)


def test_the_command_reports_every_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    asked = ["evaluate", "--bench", "hpd_v2", "--data", str(bench(tmp_path / "hpd")), "--judge", "rules"]
    assert cli.main([*asked, "--out", str(out)]) == 0
    told = json.loads((out / "report.json").read_text())["rules"]
    assert told["HPD v2 (1 - inversions, by prompt)"]["value"] == 1
    assert told["pairs"] == 12
    assert (out / "reliability.png").is_file()
    assert "calibrated" in capsys.readouterr().out


def test_the_command_says_what_it_lacks(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", "--bench", "hpd_v2", "--judge", "rules"]) == 2
    assert "--data" in capsys.readouterr().err
    assert cli.main(["evaluate", "--bench", "hpd", "--data", "x", "--judge", "rules"]) == 2
    assert "did you mean hpd_v2" in capsys.readouterr().err


# hostile files, aspects, settings


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "image_path": "x.png", "rank": [1]}, "image_path is a list, got 'x.png'"),
        ({"prompt": 3, "image_path": ["x.png"], "rank": [1]}, "prompt is a text, got 3"),
        ({"prompt": "a", "image_path": ["x.png"], "rank": ["best"]}, "could not convert"),
        ({"prompt": "a", "image_path": ["x.png"], "rank": [None]}, "row 0"),
    ],
)
def test_a_row_that_is_none_is_named(row: dict[str, object], why: str, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text(json.dumps([row]))
    if row["rank"] == [None]:  # nobody ranked it
        assert np.isnan(files.hpd_v2(tmp_path / "bad.json")[0].utilities).all()
        return
    with pytest.raises(DataError, match=f"bad.json row 0.*{why}"):
        files.hpd_v2(tmp_path / "bad.json")


def test_a_group_of_which_nothing_was_judged_is_no_mean() -> None:
    values = np.arange(100.0)
    values[:10] = np.nan
    with pytest.raises(ValueError, match="of photo a whole group of prompts could not be judged"):
        benches.hps_v2({"photo": values})
    assert benches.hps_v2({"photo": np.arange(100.0)})["averaged"].deviation is None


def test_a_scorer_that_judges_nothing_is_told_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = bench(tmp_path, 2)
    for file in (tmp_path / "test").iterdir():
        file.write_bytes(b"junk")
    asked = ["evaluate", "--bench", "hpd_v2", "--data", str(path), "--judge", "rules", "--out", str(tmp_path / "out")]
    assert cli.main(asked) == 2
    assert "rules could judge none of 6 pictures: not a PNG" in capsys.readouterr().err


def test_aspects_have_a_table_and_scorers_their_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In "colours" people prefer the right picture, in "mood" the other one."""
    prompt, other = corpus.prompts("heldout", 2)
    for name, shown in (("a", prompt), ("b", other)):
        (tmp_path / f"{name}.png").write_bytes(picture(shown))
    records = [
        Preference(prompt, ("a.png", "b.png"), aspect=aspect, verdict=verdict, judge="people")
        for aspect, verdict in (("colours", "first"), ("mood", "second"), ("style", "tie"))
    ]
    store.write(records, tmp_path / "records.jsonl")
    asked = ["evaluate", "--bench", "records", "--data", str(tmp_path / "records.jsonl"), "--judge", "rules",
             "--judge", "looks", "--set", "looks.value=entropy", "--out", str(tmp_path / "out")]  # fmt: skip
    assert cli.main(asked) == 0
    told = json.loads((tmp_path / "out" / "report.json").read_text())
    assert told["rules"]["by aspect"]["colours"] == {"right": 1, "tied": 0, "wrong": 0}
    assert told["rules"]["by aspect"]["mood"] == {"right": 0, "tied": 0, "wrong": 1}
    assert told["rules"]["by aspect"]["style"] == {"right": 0, "tied": 0, "wrong": 0}
    assert "By aspect" in capsys.readouterr().out
    assert cli.main([*asked, "--set", "voters.a=1"]) == 2
    assert "with a scorer of rules, looks" in capsys.readouterr().err


def test_pick_a_pic_is_read_at_the_threshold_that_was_chosen_elsewhere() -> None:
    """At 1 every pair is a tie: half a point for the clear one. The best threshold here gets both."""
    prompts = [Ranked(np.array([1.0, 0.0]), np.array([1.0, 0.0])), Ranked(np.array([0.1, 0.0]), np.array([0.5, 0.5]))]
    chosen = command.pick_a_pic(prompts, 1.0, 1.0)
    best = command.pick_a_pic(prompts, 1.0, None)
    assert (chosen.threshold, chosen.accuracy) == (1.0, 0.75)
    assert best.accuracy == 1.0 and best.threshold < 1.0


def test_all_pairs_tied_by_people_have_no_strict_accuracy() -> None:
    said = benches.summary([ranked([1, 2], [1, 1])])
    assert said["ImageReward (pooled, ties of the scorer wrong)"] is None and said["pairs"] == 1
