"""The command line: what it says, what it exits with, and that what it does fits together."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import yaml
from diffusers import StableDiffusionPipeline
from PIL import Image

from visalign import cli, config
from visalign.data import album, store
from visalign.records import Preference
from visalign.training import metrics

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("demo", "train", "generate", "answer", "label", "evaluate", "playground", "data", "list", "doctor")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("tiny") / "sd15")


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen votes on random pictures, one of them a tie."""
    folder = tmp_path_factory.mktemp("votes")
    pictures = np.random.default_rng(0).integers(0, 256, (32, 16, 16, 3), dtype=np.uint8)
    names = album.write(pictures, folder / "pictures.parquet")
    votes = [
        Preference(
            f"a red circle number {row}", tuple(names[2 * row : 2 * row + 2]), verdict="tie" if row == 3 else "first"
        )
        for row in range(16)
    ]
    store.write(votes, folder / "records.parquet")
    return folder / "records.parquet"


@pytest.fixture
def changes(model: Path, records: Path, tmp_path: Path) -> list[str]:
    """A run that takes a second."""
    return [
        f"model.folder={model}", f"data.path={records}", f"data.cache={tmp_path / 'cache'}", f"out={tmp_path / 'run'}",
        "data.resolution=16", "steps=4", "batch=5", "micro_batch=5", "model.train=lora", "model.rank=2",
    ]  # fmt: skip


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code and everything printed."""
    try:
        code = cli.main(words)
    except SystemExit as left:
        code = int(left.code or 0)
    captured = capsys.readouterr()
    return code, captured.out + captured.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, command, "--help")
    assert code == 0
    assert f"example:\n  visalign {command}" in text


def test_help_answers_within_a_second_and_loads_no_library() -> None:
    """A second of a processor, however busy the machine is with other work."""
    began = os.times()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "visalign", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    ended = os.times()
    assert ended.children_user - began.children_user + ended.children_system - began.children_system < 1.0
    assert "start here" in done.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert not loaded & {"torch", "numpy", "rich", "yaml", "diffusers"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["trian"], "there is no 'trian'; did you mean train?"),
        (["list", "losses"], "did you mean loss?"),
        (["train", "sdxl_dop"], "did you mean sdxl_dpo?"),
        (["train", "sdxl_dpo", "optimiser.lr=1"], "unknown setting optimiser; did you mean optimizer?"),
        (["train", "sdxl_dpo", "optimizer.lr=fast"], "optimizer.lr: expected a number, got 'fast'"),
        (["train", "sdxl_dpo", "method.name=dpoo"], "no method is named 'dpoo'"),
        (["train", "sdxl_dpo", "method.betta=3"], "unknown setting method.betta; did you mean beta?"),
        (["train", "sdxl_dpo", "--dryrun"], "did you mean --dry-run?"),
        (["train", "sdxl_dpo", "model.folder=./nowhere", "--dry-run"], "no model_index.json in nowhere"),
        (["train", "sdxl_dpo", "model.folder=no/where", "--dry-run"], "set model.allow_download: true"),
        (["generate", "./nowhere", "--prompts", "a"], "no model_index.json"),
        (["generate", "./nowhere", "--prompts", "none.txt"], "no file of prompts at none.txt"),
        (["generate", "./nowhere", "--prompts", "playground:tset"], "splits are train, heldout, scorers"),
        (["label", "nowhere", "--scorer", "ruels"], "no scorer is named 'ruels'; did you mean rules?"),
        (["label", "nowhere", "--scorer", "rules"], "no such file or folder of records: nowhere"),
        (["evaluate", "playground", "--prompts", "a", "--judge", "rules"], "compares different models"),
        (["data", "check", "nowhere"], "no such file or folder of records: nowhere"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_mend_and_exit_code_two(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = said(capsys, *words)
    assert code == 2
    assert says in text
    assert len(text.strip().splitlines()) == 1
    assert "Traceback" not in text


def test_missing_data_and_a_model_that_is_here_still_end_in_one_line(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, text = said(capsys, "train", "playground_dpo", f"model.folder={model}", "data.path=''")
    assert (code, "data.path is not given" in text) == (2, True)
    empty = tmp_path / "empty.jsonl"
    empty.touch()
    code, text = said(capsys, "train", "playground_dpo", f"model.folder={model}", f"data.path={empty}")
    assert (code, text.strip()) == (2, f"visalign: {empty} holds no records")


def test_bugs_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a bug of ours")

    monkeypatch.setattr(config, "load", broken)
    with pytest.raises(ValueError, match="a bug of ours"):
        cli.main(["train", "sdxl_dpo"])


def test_an_interrupt_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(config, "load", interrupted)
    assert said(capsys, "train", "sdxl_dpo") == (130, "visalign: interrupted\n")


@pytest.mark.parametrize("recipe", config.recipes())
def test_every_recipe_opens_with_its_command_and_is_a_whole_run(recipe: str) -> None:
    text = (ROOT / "configs" / f"{recipe}.yaml").read_text()
    assert recipe in text.splitlines()[0]
    run = config.load(recipe)
    assert yaml.safe_load(config.to_yaml(run))["method"]["name"] in text


def test_the_cost_of_sdxl_is_told_without_its_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """At a small size, so that it takes seconds; sizes of weights do not depend on it."""
    code, text = said(capsys, "train", "sdxl_dpo", "--dry-run", "data.resolution=256")
    assert code == 0
    assert "2,567,463,684, of which 11,612,160 are trained" in " ".join(text.split())
    assert "published numbers of SDXL. No weight was loaded." in text
    assert "auto -> sdpa" in text
    run = yaml.safe_load(text[: text.index("What it costs")])
    assert (run["model"]["rank"], run["data"]["resolution"]) == (8, 256)


def test_a_dry_run_of_attention_to_users_needs_neither_weights_nor_users(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "train", "sd15_ppd", "--dry-run", "data.resolution=64")
    assert code == 0
    assert "859,520,964, of which 21,924,096 are trained" in " ".join(text.split())


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_a_dry_run_reads_a_folder_s_own_shape_and_writes_nothing(
    family: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, records: Path
) -> None:
    folder = tiny.folder(tmp_path / family, family)
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    changes = [f"model.folder={folder}", "data.resolution=16", f"data.path={records}"]  # a recipe asks for no layout
    code, text = said(capsys, "train", "sdxl_dpo", "--dry-run", *changes, f"out={tmp_path / 'run'}")
    assert code == 0
    assert "2 forward without gradient" in " ".join(text.split())
    assert "16 records, 32 pictures, 16 prompts" in " ".join(text.split())
    assert not (tmp_path / "run").exists()


def test_training_leaves_a_run_folder_that_others_can_use(
    changes: list[str], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grids = ["validation.prompts=[a red circle, a blue square]", "validation.every=2"]
    code, text = said(capsys, "train", "playground_dpo", *changes, *grids)
    assert code == 0
    assert "implicit_accuracy" in text
    assert "1 records left out: tie" in text
    run = tmp_path / "run"
    assert f"next:visaligncompare{model}{run}" in "".join(text.split())
    assert config.load(run / "run.yaml") == config.load("playground_dpo", [*changes, *grids])
    rows = metrics.read(run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert rows[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert {grid.name for grid in (run / "validation").iterdir()} == {"step-000002.png", "step-000004.png"}
    pipe = StableDiffusionPipeline.from_pretrained(model, safety_checker=None)
    pipe.load_lora_weights(run / "weights")

    assert said(capsys, "train", "playground_dpo", *changes, *grids)[0] == 0  # nothing left to do
    assert metrics.read(run / "metrics.jsonl") == rows
    code, text = said(capsys, "train", "playground_dpo", *changes, *grids, "optimizer.lr=1")
    assert (code, "optimizer.lr" in text) == (2, True)


def test_the_ring_closes_through_files(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, changes: list[str]
) -> None:
    """Pictures, then scores, then training on those scores, then a picture from what was trained."""
    out, small = tmp_path / "pictures", ["--steps", "2", "--size", "32"]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle above a blue square\ntwo green rings\n")
    words = ["generate", str(model), "--prompts", str(prompts), "--seeds", "4", "--out", str(out), *small]
    assert said(capsys, *words)[0] == 0
    drawn = store.read(out / "records.jsonl")
    assert [len(each.items) for each in drawn] == [4, 4]
    assert np.asarray(Image.open(out / drawn[0].items[0])).shape == (32, 32, 3)

    assert said(capsys, "label", str(out / "records.jsonl"), "--scorer", "rules")[0] == 0
    labelled = store.read(out / "labels-rules.parquet")
    assert [each.judge for each in labelled] == ["rules", "rules"]
    assert np.isfinite(labelled[0].scores).all()
    assert said(capsys, "data", "check", str(out / "labels-rules.parquet"))[0] == 0

    ring = [*changes, f"data.path={out / 'labels-rules.parquet'}", "data.resolution=32", "batch=2", "micro_batch=2"]
    assert said(capsys, "train", "playground_sft", *ring)[0] == 0
    run = str(tmp_path / "run")
    shown = ["--prompts", str(prompts), "--judge", "rules", "--out", str(tmp_path / "report"), *small]
    code, text = said(capsys, "evaluate", str(model), run, *shown)
    assert code == 0
    assert "Judged by rules" in text
    found = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(found["judges"]["rules"]["run"]) >= {"score", "right", "gain", "win_rate", "aspects"}
    assert (tmp_path / "report" / "report.html").stat().st_size > 5000


def test_labels_in_another_folder_still_find_their_pictures(
    model: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "bare").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (32, 32), "white").save(tmp_path / "bare" / f"{name}.png")
        (tmp_path / "bare" / f"{name}.txt").write_text("a red circle")
    away = tmp_path / "away" / "labels.jsonl"
    assert said(capsys, "label", str(tmp_path / "bare"), "--scorer", "rules", "--out", str(away))[0] == 0
    (record,) = store.read(away)
    assert len(record.items) == 2
    assert said(capsys, "data", "check", str(away))[0] == 0


def test_a_picture_that_does_not_open_is_named(
    records: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    store.write([Preference("a red circle", ("broken.png",), key="the-bad-one")], tmp_path / "records.jsonl")
    code, text = said(capsys, "data", "check", str(tmp_path / "records.jsonl"))
    assert code == 2
    assert "the-bad-one" in text


def test_a_method_file_is_a_script(changes: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "visalign.trainers.sft", "playground_sft", *changes],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "weights").is_dir()


@pytest.mark.slow
def test_accelerate_launches_a_method_file_on_two_processes(changes: list[str], tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    plain = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    script = ["-m", "visalign.trainers.diffusion_dpo", "playground_dpo", *changes, "batch=4", "micro_batch=2"]
    done = subprocess.run([*launch, *plain, *script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The last step, and what is healthy") == 1
    assert (tmp_path / "run" / "weights" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.parametrize("kind", ["method", "scorer", "loss", "recipe", "source", "model"])
def test_list_prints_what_there_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = said(capsys, "list", kind)
    assert code == 0
    assert {"method": "diffusion_dpo", "scorer": "rules", "loss": "dpo", "recipe": "sdxl_dpo", "source": "pickapic",
            "model": "StableDiffusionXLPipeline"}[kind] in text  # fmt: skip


def test_what_a_recipe_says_is_printed_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    """Between colons, rich would make a picture of a word: "playground:train:72" drives off as a tram."""
    assert "playground:train:72" in said(capsys, "list", "recipe")[1]


def test_every_family_that_sees_and_is_tested_is_listed() -> None:
    import tiny_families

    from visalign.cli.names import SEEING

    named = {"onevision": "llava_onevision"}
    assert {named.get(each, each) for each in tiny_families.FAMILIES} == set(SEEING)


def printed(page: str) -> list[str]:
    """The commands of a page's blocks of code, each as one line."""
    blocks = (ROOT / page).read_text(encoding="utf-8").split("```")[1::2]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0] for line in lines if line.startswith("visalign ")]


@pytest.mark.parametrize("page", ["README.md", "docs/mllm.md", "docs/hallucination.md"])
def test_every_command_that_a_page_prints_is_one(page: str) -> None:
    assert len(printed(page)) > 3
    for line in printed(page):
        given, rest = cli.parser().parse_known_args(shlex.split(line)[1:])
        assert all("=" in word for word in rest), line
        assert given.run, line
