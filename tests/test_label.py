"""visalign label: its scorer's settings, pictures that cannot be judged, where it writes, and what it exits with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny_scorers
from PIL import Image

from visalign import cli, scorers
from visalign.data import store
from visalign.playground import captions, corpus, world
from visalign.records import Preference
from visalign.scoring import paired

PROMPT = corpus.prompts("heldout", 1)[0]


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and everything printed."""
    try:
        code = cli.main([str(each) for each in words])
    except SystemExit as left:
        code = int(left.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two true pictures of one prompt, and a third of another; their names are not ASCII."""
    path = tmp_path / "bilder"
    path.mkdir()
    random = np.random.default_rng(0)
    for name, prompt in {"ä": PROMPT, "ö": PROMPT, "ü 3": corpus.prompts("heldout", 2)[1]}.items():
        Image.fromarray(world.draw(world.place(captions.parse(prompt), random))).save(path / f"{name}.png")
        (path / f"{name}.txt").write_text(prompt, encoding="utf-8")
    return path


def test_a_scorer_takes_its_settings_as_in_score(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tiny_scorers.hps_file(tmp_path)
    out = tmp_path / "labels.jsonl"
    code, text = said(
        capsys, "label", folder, "--scorer", "hpsv2.1", "--out", out, "--device", "cpu",
        "--set", f"hpsv2.1.weights={weights}", "--set", f"hpsv2.1.config={tiny_scorers.OPEN_CLIP}",
    )  # fmt: skip
    assert code == 0, text
    direct = scorers.load("hpsv2.1", weights=weights, config=tiny_scorers.OPEN_CLIP)
    made = store.read(out)
    wanted = direct.score(paired([each for record in made for each in record.items], PROMPT)).values
    assert made[0].prompt == PROMPT
    assert made[0].utilities.tolist() == pytest.approx(wanted[: len(made[0].items)].tolist(), abs=2e-6)
    for words, why in (
        (("hpsv2.1", "--set", "rules.a=1"), "is not SCORER.KEY=VALUE with a scorer of hpsv2.1"),
        (("looks", "--set", "looks.value=["), "'[' is no YAML"),
        (("hpsv2.1", "--set", "hpsv2.1.batch=many"), "scorer.batch: expected a whole number, got 'many'"),
    ):
        code, text = said(capsys, "label", folder, "--out", out, "--scorer", *words)
        assert (code, why in text, len(text.splitlines())) == (2, True, 1), text
    code, text = said(capsys, "label", folder, "--judge", "vlm", "--set", "vlm.a=1")
    assert (code, "a judge is set in --judge" in text) == (2, True)


def test_what_cannot_be_judged_is_empty_and_does_not_stop_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    (folder / "broken.txt").write_text(PROMPT)
    code, text = said(capsys, "label", folder, "--scorer", "rules")
    (record,) = [each for each in store.read(folder / "labels-rules.parquet") if each.prompt == PROMPT]
    assert code == 0 and "1 of 4 items could not be judged" in text and "damaged header" in text
    assert {Path(item).stem: np.isnan(value) for item, value in zip(record.items, record.utilities, strict=True)} == {
        "broken": True, "ä": False, "ö": False,
    }  # fmt: skip
    store.write([Preference(PROMPT, ("gone.png", "ä.png"))], folder / "records.jsonl")
    code, text = said(capsys, "label", folder / "records.jsonl", "--scorer", "rules", "--out", tmp_path / "l.jsonl")
    (record,) = store.read(tmp_path / "l.jsonl")
    assert code == 0 and "no such file" in text and np.isnan(record.utilities).tolist() == [True, False]
    store.write([Preference(PROMPT, ("gone.png", "lost.png"))], folder / "records.jsonl")
    assert said(capsys, "label", folder / "records.jsonl", "--scorer", "rules", "--out", tmp_path / "n.jsonl")[0] == 1


def test_a_folder_that_holds_its_own_labels_is_labelled_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scorer in ("rules", "looks", "rules"):
        code, text = said(capsys, "label", folder, "--scorer", scorer)
        assert code == 0, text
    assert [len(store.read(folder / f"labels-{scorer}.parquet")) for scorer in ("rules", "looks")] == [2, 2]


def test_records_of_answers_keep_their_words_and_find_their_pictures_from_elsewhere(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Preference("What is it?", ("a circle", "a square"), media=("ä.png",), answers=True)
    store.write([record], folder / "answers.jsonl")
    out = tmp_path / "away" / "labels.jsonl"
    assert said(capsys, "label", folder / "answers.jsonl", "--scorer", "rules", "--out", out)[0] == 1  # it reads none
    (made,) = store.read(out)
    assert made.items == record.items and made.media == (str((folder / "ä.png").resolve()),)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--out", "x.csv"), "--out x.csv should end in .parquet or .jsonl"),
        (("--out", "file/x.jsonl"), "visalign: [Errno"),
        (("--out", "file"), "--out file is there already"),
        (("--batch", "0"), "--batch must be at least 1, got 0"),
        (("--batch", "-3"), "--batch must be at least 1, got -3"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    words: tuple[str, ...],
    why: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    code, text = said(capsys, "label", folder, "--scorer", "rules", *words)
    assert (code, why in text, len(text.splitlines())) == (2, True, 1), text  # before anything is judged


def test_a_prompt_that_is_no_text_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "ä.txt").write_bytes(b"\xff\xfe")
    for words in (("label", folder, "--scorer", "rules"), ("score", folder, "--scorers", "rules")):
        code, text = said(capsys, *words)
        assert (code, "ä.txt is not UTF-8 text" in text) == (2, True), text


def test_sets_leave_out_what_cannot_be_read(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [("ä.png", "ö.png"), ("ö.png", "ä.png"), ("ä.png", "gone.png")]
    store.write([Preference(f"{PROMPT} {row}", each) for row, each in enumerate(pairs)], folder / "records.jsonl")
    for words in (("instance", "--scorer", "looks"), ("vendi", "--embedder", "playground_hps")):
        out = tmp_path / f"{words[0]}.jsonl"
        code, text = said(capsys, "sets", folder / "records.jsonl", "--out", out, "--reward", *words)
        assert (code, "1 left out: a picture could not be read" in text) == (0, True), text
        assert len(store.read(out)) == 2
