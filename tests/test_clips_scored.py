"""Scorers of clips from the command line: what `label` and `score` hand them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from visalign.cli import main
from visalign.data import clips, store
from visalign.playground import moving_corpus
from visalign.records import Preference

PROMPT = "a red circle moving right"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A true clip, the same clip standing still, and one that is damaged, with their prompts beside them."""
    room = tmp_path / "clips"
    room.mkdir()
    true = moving_corpus.rendered(PROMPT).frames
    clips.write(room / "a.webp", list(true))
    clips.write(room / "b.webp", [true[0]] * len(true))
    (room / "c.webp").write_bytes((room / "a.webp").read_bytes()[:200])
    for name in "abc":
        (room / f"{name}.txt").write_text(PROMPT)
    return room


def test_label_shows_clips_to_a_scorer_of_clips(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["label", str(folder), "--scorer", "motion", "--out", str(folder / "votes.jsonl")]) == 0
    (record,) = store.read(folder / "votes.jsonl")
    values = dict(zip(record.items, np.ravel(record.scores).tolist(), strict=True))
    assert values["a.webp"] > 0.9 > 0.5 > values["b.webp"]
    assert np.isnan(values["c.webp"])
    assert "1 of 3 items could not be judged" in capsys.readouterr().out


def test_score_shows_clips_to_a_scorer_of_clips_and_pictures_to_others(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.jsonl"
    assert main(["score", str(folder), "--scorers", "motion,looks", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    found = {(Path(row["image"]).name, row["scorer"]): row for row in rows}
    assert found["a.webp", "motion"]["value"] > 0.9 > found["b.webp", "motion"]["value"]
    assert found["c.webp", "motion"]["value"] is None and found["c.webp", "motion"]["reason"]
    assert found["a.webp", "looks"]["value"] is None  # a clip is no picture


def test_score_reads_clips_of_records(folder: Path, tmp_path: Path) -> None:
    records, out = folder / "records.jsonl", tmp_path / "scores.jsonl"
    store.write([Preference(PROMPT, ("a.webp", "b.webp"))], records)
    assert main(["score", str(records), "--scorers", "motion", "--out", str(out)]) == 0
    values = [json.loads(line)["value"] for line in out.read_text().splitlines()]
    assert values[0] > 0.9 > values[1]
