"""visalign label: its scorer's settings, what cannot be judged, where it writes, how it goes on, what it exits with."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_scorers
from PIL import Image

from visalign import cli, scorers
from visalign.cli import label
from visalign.data import store
from visalign.playground import captions, corpus, world
from visalign.records import Preference
from visalign.scorers.clip import Cosine
from visalign.scoring import Sample, Scores, paired

ROOT = Path(__file__).resolve().parents[1]
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


# Runs that are stopped ------------------------------------------------------------------------------------------------


@pytest.fixture
def candidates(tmp_path: Path) -> Path:
    """Seven records of three pictures; prompts come back, and a picture is broken."""
    path = tmp_path / "drawn"
    path.mkdir()
    random = np.random.default_rng(1)
    prompts = corpus.prompts("heldout", 4)
    records = []
    for row in range(7):
        names = [f"{row}-{take}.png" for take in range(3)]
        for name in names:
            Image.fromarray(world.draw(world.place(captions.parse(prompts[row % 4]), random))).save(path / name)
        records.append(Preference(prompts[row % 4], tuple(names)))
    (path / "2-1.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    store.write(records, path / "records.jsonl")
    return path / "records.jsonl"


def asked_of(scorer: str, folder: Path, records: Path, out: Path) -> list[object]:
    """A command that labels with a tiny learned scorer, four pictures at a time."""
    weights = tiny_scorers.hps_file(folder)
    settings = ("--set", f"{scorer}.weights={weights}", "--set", f"{scorer}.config={tiny_scorers.OPEN_CLIP}")
    return ["label", records, "--scorer", scorer, "--batch", "4", "--out", out, *settings]


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_run_that_is_interrupted_loses_a_batch_and_goes_on_to_the_same_bytes(
    ending: str,
    candidates: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, twice = (tmp_path / name / f"labels.{ending}" for name in ("whole", "twice"))
    words = asked_of("hpsv2.1", tmp_path, candidates, twice)
    assert said(capsys, *asked_of("hpsv2.1", tmp_path, candidates, whole))[0] == 0
    asked: list[int] = []
    original = Cosine.score

    def stopped(self: Cosine, samples: Sequence[Sample]) -> Scores:
        asked.append(len(samples))
        if len(asked) == 3:
            raise KeyboardInterrupt
        found: Scores = original(self, samples)
        return found

    monkeypatch.setattr(Cosine, "score", stopped)
    assert said(capsys, *words) == (130, "judge with hpsv2.1 …\nvisalign: interrupted\n")
    assert not twice.exists()
    before = sum(asked[:2])
    code, text = said(capsys, *words)
    assert code == 0, text
    assert before + sum(asked[3:]) == 21, "nothing is asked about twice but the batch that was lost"
    assert twice.read_bytes() == whole.read_bytes()
    assert [each.name for each in twice.parent.iterdir()] == [twice.name]
    assert "hpsv2.1   20" in text and "not judged" in text  # the summary of all, not of what was left


def test_half_a_batch_is_judged_again(
    candidates: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one is what a kill may leave: an item's company, and with it its last bits, must be what it was."""
    out = tmp_path / "labels.jsonl"
    words = asked_of("hpsv2.1", tmp_path, candidates, out)
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", _interrupted)
        assert said(capsys, *words)[0] == 130
    growing = tmp_path / ".labels.jsonl.scores.jsonl"
    lines = growing.read_bytes().splitlines(keepends=True)
    growing.write_bytes(b"".join(lines[:-2]) + lines[-2][:40])
    assert said(capsys, *words)[0] == 0
    again = out.read_bytes()
    out.unlink()
    assert said(capsys, *words)[0] == 0 and out.read_bytes() == again


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_other_settings_do_not_go_on_with_what_was_begun(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was begun among the pictures is neither records nor pictures to anybody."""
    with monkeypatch.context() as patched:
        patched.setattr(store, "write", _interrupted)
        assert said(capsys, "label", folder, "--scorer", "looks")[0] == 130
    assert (folder / ".labels-looks.parquet.scores.jsonl").is_file()
    code, text = said(capsys, "label", folder, "--scorer", "looks", "--set", "looks.value=entropy")
    assert (code, "with other settings: write to another file, or delete this one" in text) == (2, True), text
    assert said(capsys, "score", folder, "--scorers", "looks")[0] == 0
    assert said(capsys, "label", folder, "--scorer", "looks")[0] == 0


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 100])
def test_a_prompt_is_in_one_batch_or_in_some_of_its_own(batch: int) -> None:
    records = [Preference(prompt, tuple(f"{row}-{take}" for take in range(4))) for row, prompt in enumerate("abcabd")]
    places = [(record, item) for record in records for item in record.items]
    parts = list(label.together(places, batch))
    assert max(map(len, parts)) <= batch
    assert sorted(item for part in parts for _, item in part) == sorted(item for _, item in places)
    for prompt in "abcd":
        held = [
            {record.prompt for record, _ in part} for part in parts if any(each.prompt == prompt for each, _ in part)
        ]
        assert len(held) == 1 or set().union(*held) == {prompt}


@pytest.mark.kill
def test_labels_survive_a_kill_in_the_middle(tmp_path: Path) -> None:
    """kill -9 while judging: the next run ends in the bytes of one that was left alone."""
    folder = tmp_path / "many"
    folder.mkdir()
    random = np.random.default_rng(0)
    prompts = corpus.prompts("heldout", 30)
    for number in range(300):
        scene = world.place(captions.parse(prompts[number % 30]), random)
        Image.fromarray(world.draw(scene)).save(folder / f"{number:04d}.png")
        (folder / f"{number:04d}.txt").write_text(prompts[number % 30])
    outs = [tmp_path / f"{name}.parquet" for name in ("whole", "killed")]
    whole, killed = (
        [sys.executable, "-m", "visalign", "label", str(folder), "--scorer", "playground_hps", "--batch", "16", "--out",
         str(out)] for out in outs
    )  # fmt: skip
    growing = tmp_path / ".killed.parquet.scores.jsonl"
    running = subprocess.Popen(killed, cwd=ROOT, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (growing.exists() and growing.stat().st_size) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not outs[1].exists() and growing.stat().st_size
    for command in (killed, whole):
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert not growing.exists()
