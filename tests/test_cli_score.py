"""visalign score: every kind of input, rows that are never made twice, and what it says and exits with."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tiny_scorers
from PIL import Image
from pyarrow import parquet
from spoiled import bomb, encoded, picture

from visalign import cli, scorers
from visalign.data import store
from visalign.data.inputs import inputs
from visalign.data.scored import Row, ScoreFile
from visalign.playground import captions, corpus, world
from visalign.records import DataError, Preference
from visalign.scorers import Rules
from visalign.scoring import Sample, Scores, paired

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = corpus.prompts("heldout", 6)


@pytest.fixture(scope="module")
def drawn() -> list[Image.Image]:
    """True pictures of the prompts."""
    random = np.random.default_rng(0)
    return [Image.fromarray(world.draw(world.place(captions.parse(each), random))) for each in PROMPTS]


@pytest.fixture
def folder(drawn: list[Image.Image], tmp_path: Path) -> Path:
    """Pictures with their prompts beside them, one of them below."""
    path = tmp_path / "pictures"
    (path / "below").mkdir(parents=True)
    for number, (image, prompt) in enumerate(zip(drawn, PROMPTS, strict=True)):
        at = path / ("below" if number == 5 else "") / f"{number}.png"
        image.save(at)
        at.with_suffix(".txt").write_text(prompt + "\n")
    return path


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Exit code and everything printed."""
    try:
        code = cli.main([str(each) for each in words])
    except SystemExit as left:
        code = int(left.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def kept(path: Path) -> dict[tuple[str, str, str], Row]:
    """The rows of a file, which is let go again."""
    file = ScoreFile(path)
    file.release()
    return file.rows


def png(image: Image.Image) -> bytes:
    return encoded(image, "PNG")


# Inputs --------------------------------------------------------------------------------------------------------------


def shard(path: Path, drawn: list[Image.Image], told: str) -> Path:
    """A WebDataset shard with the prompts in .txt or .json, and a file that is neither."""
    with tarfile.open(path, "w") as tar:
        for number, (image, prompt) in enumerate(zip(drawn, PROMPTS, strict=True)):
            text = prompt if told == "txt" else json.dumps({"caption": prompt, "score": 3})
            for ending, content in (("png", png(image)), (told, text.encode()), ("cls", b"7")):
                member = tarfile.TarInfo(f"part/{number:03d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def table(path: Path, drawn: list[Image.Image], kind: str) -> Path:
    cells = [{"bytes": png(each), "path": None} if kind == "struct" else png(each) for each in drawn]
    parquet.write_table(pa.table({"id": list(range(6)), "image": cells, "caption": PROMPTS}), path)
    return path


@pytest.mark.parametrize("kind", ["folder", "tar txt", "tar json", "parquet bytes", "parquet struct", "files"])
def test_every_kind_of_input_gives_the_same_scores(
    kind: str, folder: Path, drawn: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, _, way = kind.partition(" ")
    given = {
        "folder": lambda: [folder],
        "tar": lambda: [shard(tmp_path / "a.tar", drawn, way)],
        "parquet": lambda: [table(tmp_path / "a.parquet", drawn, way)],
        "files": lambda: sorted(folder.rglob("*.png"), key=lambda each: each.name),
    }[form]()
    code, text = said(capsys, "score", *given, "--scorers", "rules", "--out", tmp_path / "s.jsonl")
    assert code == 0, text
    wanted = scorers.load("rules").score(paired(drawn, PROMPTS)).values.tolist()
    found = rows(tmp_path / "s.jsonl")
    assert [row["value"] for row in found] == wanted
    assert [row["prompt"] for row in found] == PROMPTS
    assert len({row["image"] for row in found}) == 6
    assert min(wanted) > 0.9


def test_records_and_pick_a_pic_are_read_with_their_prompts(drawn: list[Image.Image], tmp_path: Path) -> None:
    columns = {
        "caption": PROMPTS[:2], "jpg_0": [png(drawn[0]), png(drawn[1])], "jpg_1": [png(drawn[1]), png(drawn[0])],
        "label_0": [1.0, 1.0], "label_1": [0.0, 0.0],
    }  # fmt: skip
    parquet.write_table(pa.table(columns), tmp_path / "p.parquet")
    found = list(inputs(tmp_path / "p.parquet"))
    assert [each.prompt for each in found] == [PROMPTS[0]] * 2 + [PROMPTS[1]] * 2
    assert [each.read() for each in found] == [png(drawn[0]), png(drawn[1]), png(drawn[1]), png(drawn[0])]


def test_the_shipped_votes_are_scored_offline_by_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from visalign.data import sources, store

    records = sources.open_source(ROOT / "visalign/playground/votes/records.parquet")[:3]
    (tmp_path / "pictures.parquet").write_bytes((ROOT / "visalign/playground/votes/pictures.parquet").read_bytes())
    store.write(records, tmp_path / "records.parquet")
    code, text = said(capsys, "score", tmp_path / "records.parquet", "--scorers", "rules,looks")
    assert code == 0
    assert "rules    12" in text
    assert "looks    12" in text


def test_a_folder_of_shards_is_every_shard(drawn: list[Image.Image], tmp_path: Path) -> None:
    for name in ("b.tar", "a.tar"):
        shard(tmp_path / name, drawn, "txt")
    assert [each.name for each in inputs(tmp_path)][::6] == [
        f"{tmp_path}/{name}#part/000" for name in ("a.tar", "b.tar")
    ]


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: path / "gone", "no such file or folder"),
        (lambda path: path, "holds no pictures"),
        (lambda path: _written(path / "a.csv", b"x"), "is no picture, .tar, .parquet or .jsonl file"),
        (lambda path: _written(path / "a.tar", b"no tar at all"), "is not a whole tar file"),
        (lambda path: _written(path / "a.parquet", b"no parquet"), "is not a whole parquet file"),
    ],
)
def test_what_cannot_be_read_is_one_line_and_exit_code_2(
    make: object, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = said(capsys, "score", make(tmp_path), "--scorers", "rules", "--prompt", "a red circle")  # type: ignore[operator]
    assert code == 2
    assert why in text
    assert "Traceback" not in text


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_pictures_beside_records_must_be_told_apart(folder: Path, tmp_path: Path) -> None:
    (folder / "a.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"holds pictures and a\.jsonl: name the files"):
        list(inputs(folder))


# Prompts -------------------------------------------------------------------------------------------------------------


def test_prompts_come_from_the_line_a_file_or_beside(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "s.jsonl", tmp_path / "prompts.txt"
    file.write_text("\n".join(reversed(PROMPTS)))
    assert said(capsys, "score", folder, "--scorers", "rules", "--out", out, "--prompts", file)[0] == 0
    assert [row["prompt"] for row in rows(out)] == PROMPTS[::-1]
    assert said(capsys, "score", folder, "--scorers", "rules", "--out", out, "--prompt", "a red circle")[0] == 0
    assert [row["prompt"] for row in rows(out)][6:] == ["a red circle"] * 6


@pytest.mark.parametrize(("count", "why"), [(5, "has no prompt"), (7, "more prompts than there are pictures")])
def test_as_many_prompts_as_pictures(
    count: int, why: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.txt").write_text("\n".join(["a red circle"] * count))
    code, text = said(capsys, "score", folder, "--scorers", "rules", "--prompts", tmp_path / "p.txt")
    assert (code, why in text) == (2, True)


def test_a_picture_without_a_prompt_is_scored_by_what_reads_none(
    drawn: list[Image.Image], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn[0].save(tmp_path / "a.png")
    assert said(capsys, "score", tmp_path / "a.png", "--scorers", "looks")[0] == 0
    code, text = said(capsys, "score", tmp_path / "a.png", "--scorers", "looks,rules")
    assert code == 2
    assert "has no prompt: give --prompt" in text


# Rows ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_what_is_there_is_not_scored_again(
    ending: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"s.{ending}"
    words = ("score", folder, "--out", out, "--scorers")
    assert said(capsys, *words, "rules")[0] == 0
    before = {key: row.value for key, row in kept(out).items()}
    asked: list[int] = []
    original = Rules.score

    def counted(self: Rules, samples: Sequence[Sample]) -> Scores:
        asked.append(len(samples))
        return original(self, samples)

    monkeypatch.setattr(Rules, "score", counted)
    assert said(capsys, *words, "rules,looks")[0] == 0
    assert asked == []
    after = kept(out)
    assert len(after) == 12
    assert {key: row.value for key, row in after.items() if key[2] == "rules"} == before
    assert not list(tmp_path.glob(".*"))


def test_a_run_that_was_killed_goes_on(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a line is what a kill leaves; the row is made again and the file is whole."""
    out = tmp_path / "s.jsonl"
    words = ("score", folder, "--scorers", "rules", "--out", out)
    said(capsys, *words)
    whole = out.read_bytes()
    out.write_bytes(whole[:-40])
    assert said(capsys, *words)[0] == 0
    assert out.read_bytes() == whole


@pytest.mark.kill
def test_rows_survive_a_kill_in_the_middle(tmp_path: Path) -> None:
    """kill -9 while scoring: what was written is read, and parquet is made of it in the end."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(600):
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(folder / f"{number:04d}.png")
    out = tmp_path / "s.parquet"
    command = [sys.executable, "-m", "visalign", "score", str(folder), "--prompt", "a red circle", "--scorers",
               "rules", "--out", str(out)]  # fmt: skip
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    growing = tmp_path / ".s.parquet.partial.jsonl"
    until = time.monotonic() + 60
    while not (growing.exists() and growing.stat().st_size) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = len(ScoreFile(out).rows)
    assert 0 < kept < 600
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
    found = parquet.read_table(out)
    assert found.num_rows == 600
    assert len(set(found.column("image").to_pylist())) == 600
    assert not growing.exists()


def test_a_scorer_of_other_settings_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("score", folder, "--scorers", "looks", "--out", tmp_path / "s.jsonl")
    assert said(capsys, *words)[0] == 0
    code, text = said(capsys, *words, "--set", "looks.value=entropy")
    assert code == 2
    assert "holds scores of looks with other settings: write to another file" in text


def test_a_row_is_the_same_from_both_kinds_of_file(tmp_path: Path) -> None:
    made = [
        Row("a.png", "a cat", "x", 0.25, None, True, 0.5, {"colour": 1.0, "shape": 0.0}),
        Row("b.png", "", "x", None, "empty file (0 bytes)"),
    ]
    for ending in ("jsonl", "parquet"):
        file = ScoreFile(tmp_path / f"s.{ending}")
        file.add(made)
        file.close()
        assert list(ScoreFile(tmp_path / f"s.{ending}").rows.values()) == made
    with pytest.raises(DataError, match=r"should end in \.jsonl or \.parquet"):
        ScoreFile(tmp_path / "s.csv")
    (tmp_path / "t.jsonl").write_text('{"image": "a"}\n')
    with pytest.raises(DataError, match=r"t\.jsonl:1 is no row of scores"):
        ScoreFile(tmp_path / "t.jsonl")


# What it says --------------------------------------------------------------------------------------------------------


def test_what_cannot_be_judged_is_a_row_with_its_reason_and_does_not_stop_the_rest(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "0.png").write_bytes(png(picture(200, 200))[:-4000])
    (folder / "1.png").write_bytes(bomb())
    code, text = said(capsys, "score", folder, "--scorers", "rules", "--out", tmp_path / "s.jsonl")
    assert code == 0
    assert "rules    4" in text
    found = rows(tmp_path / "s.jsonl")
    assert [row["value"] is None for row in found] == [True, True, False, False, False, False]
    assert str(found[0]["reason"]).startswith("damaged or truncated")
    assert str(found[1]["reason"]).startswith("too many pixels")


def test_nothing_judged_is_exit_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture(64, 64).save(tmp_path / "a.png")
    code, text = said(capsys, "score", tmp_path / "a.png", "--scorers", "rules", "--prompt", "a red circle")
    assert code == 1
    assert "the checker reads (32, 32, 3)" in text


def test_an_unknown_scorer_or_setting_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, why in (
        (("--scorers", "rulez"), "no scorer is named 'rulez'; did you mean rules?"),
        (("--scorers", "looks", "--set", "looks.valeu=1"), "unknown setting scorer.valeu; did you mean value?"),
        (
            ("--scorers", "looks", "--set", "rules.a=1"),
            "--set rules.a=1 is not SCORER.KEY=VALUE with a scorer of looks",
        ),
        (("--scorers", "hpsv2.1"), "give weights=PATH"),
    ):
        code, text = said(capsys, "score", folder, *words)
        assert (code, why in text) == (2, True), text


def test_a_learned_scorer_is_set_by_its_dotted_name_and_cut_prompts_are_counted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tiny_scorers.hps_file(tmp_path)
    (tmp_path / "tiny.json").write_text(json.dumps(tiny_scorers.OPEN_CLIP))
    out = tmp_path / "s.jsonl"
    code, text = said(
        capsys, "score", folder, "--scorers", "hpsv2.1,rules", "--prompt", "a red circle " * 40, "--out", out,
        "--set", f"hpsv2.1.weights={weights}", "--set", f"hpsv2.1.config={tmp_path / 'tiny.json'}", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, text
    learned = [row for row in rows(out) if row["scorer"] == "hpsv2.1"]
    assert [row["truncated"] for row in learned] == [True] * 6
    direct = scorers.load("hpsv2.1", weights=weights, config=tiny_scorers.OPEN_CLIP)
    wanted = direct.score(paired([str(row["image"]) for row in learned], "a red circle " * 40)).values
    assert [row["value"] for row in learned] == pytest.approx(wanted.tolist(), abs=2e-6)
    note = json.loads((tmp_path / "s.jsonl.scorers.json").read_text())
    assert note["hpsv2.1"]["spec"]["antialias"] is True
    assert note["hpsv2.1"]["settings"]["weights"] == str(weights)


def test_the_list_of_scorers_says_their_scales_and_one_says_all(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "scorers", "list")
    assert code == 0
    assert "exp(logit_scale)*cosine" in "".join(text.split())
    code, text = said(capsys, "scorers", "show", "hpsv2.1")
    assert code == 0
    for each in ("xswu/HPSv2: HPS_v2.1_compressed.pt", "Apache-2.0", "black bars", "allow_download"):
        assert each in text
    assert "must be given" in said(capsys, "scorers", "show", "mps")[1]
    assert "product of the checker's aspects" in said(capsys, "scorers", "show", "rules")[1]
    assert said(capsys, "scorers", "show", "mpz")[0] == 2


# Files of others, and of others at work ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ['{"a": 1}', "my notes, one line", "x" * 50])
def test_a_file_of_something_else_is_left_as_it_is(
    text: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a row is cut away, since a kill leaves one; anything else is somebody's."""
    out = tmp_path / "notes.jsonl"
    out.write_text(text)
    code, answer = said(capsys, "score", folder, "--scorers", "rules", "--out", out)
    assert (code, "ends in what is no row of scores" in answer) == (2, True)
    assert out.read_text() == text


@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_one_process_writes_a_file_at_a_time(
    ending: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"s.{ending}"
    words = ("score", folder, "--scorers", "rules", "--out", out)
    busy = ScoreFile(out)
    code, text = said(capsys, *words)
    assert (code, "is being written to by another process" in text) == (2, True)
    busy.release()
    assert said(capsys, *words)[0] == 0 and len(kept(out)) == 6


def test_scores_that_lie_among_their_pictures_are_gone_on_with(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for scorers_named in ("rules", "rules, looks"):
        code, text = said(capsys, "score", folder, "--scorers", scorers_named, "--out", folder / "scores.jsonl")
        assert code == 0, text
    assert len(kept(folder / "scores.jsonl")) == 12


def test_a_picture_that_records_name_and_nobody_finds_is_a_row_with_its_reason(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write([Preference(PROMPTS[0], ("0.png", "gone.png"))], folder / "records.jsonl")
    code, text = said(capsys, "score", folder / "records.jsonl", "--scorers", "rules", "--out", tmp_path / "s.jsonl")
    assert code == 0, text
    good, lost = rows(tmp_path / "s.jsonl")
    assert good["value"] is not None
    assert lost["value"] is None and "no such file" in str(lost["reason"])


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--scorers", ","), "no scorer is named in ','"),
        (("--scorers", "looks", "--set", "looks.value=["), "'[' is no YAML"),
        (("--scorers", "ensemble", "--set", "ensemble.name=x"), "is not SCORER.KEY=VALUE with a scorer of ensemble"),
        (("--scorers", "looks", "--prompts", "bad.txt"), "holds no prompts"),
    ],
)  # fmt: skip
def test_words_that_cannot_be_are_told_in_a_line(
    words: tuple[str, ...],
    why: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.txt").write_bytes(b"\xff\xfe")
    code, text = said(capsys, "score", folder, *words)
    assert (code, why in text) == (2, True), text
