"""Whole runs that train a model that sees: exact resume, a reference asked once, what is refused and published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import language
import numpy as np
import pytest
import torch
from PIL import Image
from rehearsal import digest, losses

from visalign import cli, config, jobs, playground
from visalign.answering import Answerer
from visalign.answering import Settings as How
from visalign.cli.screen import Screen
from visalign.config import ConfigError, Run
from visalign.contract import Reference
from visalign.data import store
from visalign.images import load
from visalign.jobs import Outcome, denoising, dialogues
from visalign.models.seeing import SeeingFolder
from visalign.models.weights import Full
from visalign.records import DataError
from visalign.scoring import Sample, Scores
from visalign.training.distributed import Ranks
from visalign.training.metrics import Collapse


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("job")
    store.write(language.records(made / "data"), made / "data" / "records.parquet")
    language.folder(made)
    return made


def settings(root: Path, out: Path, *changes: str) -> Run:
    """Four steps of four records of eight."""
    fixed = [
        f"model.folder={root / 'llava'}", f"data.path={root / 'data' / 'records.parquet'}",
        f"data.cache={root / 'cache'}", f"out={out}", "steps=4", "batch=4",
        "micro_batch=1", "save_every=2", "optimizer.lr=1e-3", "model.rank=2",
        "method.name=mllm_dpo",
    ]  # fmt: skip
    return config.load(None, [*fixed, *changes])


def trained(run: Run, *, resume: bool = True) -> Outcome:
    return dialogues.train(run, Screen(silent=True), resume=resume)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_run_that_is_taken_up_again_has_the_same_losses_and_weights(root: Path, tmp_path: Path, train: str) -> None:
    """To the last bit, and whether or not the reference's answers are kept."""
    how = (f"model.train={train}",)
    whole = trained(settings(root, tmp_path / "whole", *how))
    trained(settings(root, tmp_path / "parts", *how, "steps=2"))
    again = trained(settings(root, tmp_path / "parts", *how))
    kept = trained(settings(root, tmp_path / "kept", *how, "model.cache_reference=true"))
    assert again.summary.resumed == 2
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole") == losses(tmp_path / "kept")
    assert digest(again.summary.checkpoint) == digest(whole.summary.checkpoint) == digest(kept.summary.checkpoint)
    assert len(losses(tmp_path / "whole")) == 4 and whole.summary.last["win_tokens"] > 2


def test_what_is_published_answers_as_it_was_trained(root: Path, tmp_path: Path) -> None:
    """Adapters in PEFT's folder; opened by their own name they bring their model along."""
    told = trained(settings(root, tmp_path / "run", "steps=1", "optimizer.lr=0.5"))
    view = language.view(root, dialogues.KINDS[0])
    asked = [view.reader.ask(record.prompt, view._opened(record)) for record in language.records(root / "data")[:3]]
    before, after = (
        Answerer(folder.model(train="none").network, folder.reader(), How(max_new_tokens=6)).answer("abc", asked)
        for folder in (language.folder(root), SeeingFolder.open(told.weights))
    )
    assert [each.text for each in before] != [each.text for each in after]


def test_with_its_answers_kept_no_second_copy_is_held(root: Path, tmp_path: Path) -> None:
    run = settings(root, tmp_path, "model.train=full", "model.cache_reference=true")
    method = language.method("mllm_dpo")
    reference = dialogues.held_reference(run, method)
    assert reference is Reference.NONE
    model = dialogues.network(run, language.folder(root), reference, Ranks("no"))
    assert isinstance(model.weights, Full) and model.weights.frozen is None
    plain = settings(root, tmp_path, "model.train=full")
    assert dialogues.held_reference(plain, method) is Reference.FROZEN
    some = settings(root, tmp_path, "model.train=full", "model.cache_reference=true", "method.name=mdpo")
    assert dialogues.held_reference(some, language.method("mdpo")) is Reference.FROZEN


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (("method.name=tars",), r"tars goes by which words a picture shows: set data\.relevance"),
        (
            ("model.cache_reference=true", "method.name=tars", "data.relevance=playground_hps"),
            "tars asks it about more than the records' own answers",
        ),
        (("model.cache_reference=true", "method.name=mllm_sft"), "of the reference mllm_sft has none"),
        (("model.cache_reference=true", "method.preference=orpo"), "of the reference mllm_dpo has none"),
        (("model.train=user",), "model.train: user is for models that draw"),
        (("validation.prompts=[a]",), "validation.prompts are drawn"),
    ],
)
def test_what_cannot_be_is_refused_with_the_mend(
    root: Path, tmp_path: Path, changes: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        trained(settings(root, tmp_path / "run", *changes))
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_votes_without_scores_are_refused_before_a_picture_is_read(root: Path, tmp_path: Path) -> None:
    """As every other job does; a tie that is skipped needs none."""
    said = [
        replace(each, scores=np.empty(0), verdict="tie" if row else "first")
        for row, each in enumerate(language.records(root / "data"))
    ]
    scored = language.records(root / "data")[:1]
    (bare, tied) = (root / "data" / name for name in ("bare.parquet", "tied.parquet"))
    store.write(said, bare)
    store.write([*scored, *said[1:]], tied)
    how = ("method.name=mm_dpo", f"data.cache={tmp_path / 'cache'}", "steps=1", "batch=1")
    with pytest.raises(DataError, match=r"mm_dpo needs a scorer's values .*'record 0' has none, only the verdict"):
        trained(settings(root, tmp_path / "run", f"data.path={bare}", *how))
    with pytest.raises(DataError, match="'record 0' has none"):
        dialogues.plan(settings(root, tmp_path / "run", f"data.path={bare}", *how))
    with pytest.raises(DataError, match="'record 1' has none, only the verdict 'tie'"):
        trained(settings(root, tmp_path / "run", f"data.path={tied}", "data.ties=half", *how))
    assert not (tmp_path / "cache").exists() and not (tmp_path / "run").exists()
    assert trained(settings(root, tmp_path / "run", f"data.path={tied}", *how)).left_out == {"tie": 7}


@pytest.mark.parametrize("given", ["playground", str(playground.shipped_votes())])
def test_nothing_is_kept_beside_records_that_ship_with_the_package(root: Path, tmp_path: Path, given: str) -> None:
    shipped = settings(root, tmp_path, "data.cache=null", f"data.path={given}")
    assert denoising.cache_of(shipped, playground.shipped_votes().parent) == Path("runs/playground_cache")
    own = settings(root, tmp_path, "data.cache=null")
    assert denoising.cache_of(own, root / "data") == root / "data" / "visalign-cache"
    assert denoising.cache_of(settings(root, tmp_path), root / "data") == root / "cache"


class Says:
    """A scorer that says of each word how long it is, by a factor, and of a dark picture nothing."""

    name = "says"

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def score(self, samples: Sequence[Sample]) -> Scores:
        said = [self.factor * len(each.prompt) for each in samples]
        seen = torch.tensor([load(each.image or b"").getpixel((0, 0)) != (0, 0, 0) for each in samples])
        return Scores(torch.tensor(said).where(seen, torch.nan), valid=seen)


def test_relevance_is_the_most_of_several_pictures_and_a_cosine() -> None:
    light, dark = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (8, 8))
    assert dialogues.cosines(Says(0.1))(["a", "dot"], [light] * 2) == pytest.approx([0.1, 0.3])
    with pytest.raises(ConfigError, match=r"data\.relevance: says says 3 of 'dot', which is no cosine"):
        dialogues.cosines(Says(1.0))(["a", "dot"], [light])
    with pytest.raises(ConfigError, match="says nan of 'a'"):
        dialogues.cosines(Says(0.1))(["a"], [light, dark])


def test_each_kind_of_batch_has_its_job(root: Path, tmp_path: Path) -> None:
    names = {"playground_dpo": "denoising", "playground_reward": "rewards"}
    assert {name: jobs.of(config.load(name)).__name__.split(".")[-1] for name in names} == names  # type: ignore[attr-defined]
    assert jobs.of(settings(root, tmp_path)) is dialogues


def test_a_dry_run_measures_records_and_counts_parameters_without_weights(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = settings(root, tmp_path / "run", "model.cache_reference=true")
    plan = dict(dialogues.plan(run).rows)
    network = language.folder(root).network()
    assert plan["parameters"].startswith(f"{sum(each.numel() for each in network.parameters()):,}")
    counted = sum(each.numel() for each in language.folder(root).model(train="lora", rank=2).trainable().values())
    assert f"of which {counted:,} are trained" in plan["parameters"]
    assert plan["passes a record"] == "2 forward + 2 backward: 6, a backward being two"
    lengths = [len(read.ids) for each in language.view(root, dialogues.KINDS[0]).chosen
               for read in language.view(root, dialogues.KINDS[0])._reads(each)]  # fmt: skip
    assert plan["tokens"].startswith(f"{sum(lengths) / len(lengths):.0f} a dialogue")
    (tmp_path / "run.yaml").write_text(config.to_yaml(run))
    assert cli.main(["train", str(tmp_path / "run.yaml"), "--dry-run"]) == 0
    assert "No weight was loaded." in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "count"), [("llava-hf/llava-1.5-7b-hf", 7_063_427_072), ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656)]
)
def test_published_shapes_are_those_of_the_published_models(root: Path, tmp_path: Path, name: str, count: int) -> None:
    plan = dict(dialogues.plan(settings(root, tmp_path, f"model.folder={name}")).rows)
    assert plan["parameters"].startswith(f"{count:,}, ")


# The alarm ------------------------------------------------------------------------------------------------------------


def answers(win: float, lose: float, tokens: float = 10.0) -> dict[str, float]:
    """A step's row in which answers of so many tokens have these log-ratios."""
    return {"win_ratio": win, "lose_ratio": lose, "win_tokens": tokens, "margin": 0.1 * (win - lose)}


@pytest.mark.parametrize(
    ("row", "stops"),
    [
        (answers(-11.0, -30.0), True),
        (answers(-9.0, -30.0), False),  # below a nat a token
        (answers(-11.0, -30.0, tokens=100.0), False),  # long answers may lose more
        (answers(-11.0, -5.0), False),  # the margin is negative: it learns nothing yet
        (answers(1.0, -30.0), False),
        ({"win_ratio": -11.0, "lose_ratio": -30.0}, False),
    ],
)
def test_preferred_answers_that_become_unlikely_while_the_margin_grows_stop_a_run(
    row: dict[str, float], stops: bool
) -> None:
    alarm = Collapse(config.Stop(window=3))
    said = [alarm.sees(row) for _ in range(3)]
    assert said[:2] == [None, None]
    assert (said[2] is not None) is stops
    if said[2]:
        assert "1.10 nats a token less likely" in said[2] and "anchors the preferred answer" in said[2]


def test_a_learning_rate_that_is_far_too_high_is_stopped(root: Path, tmp_path: Path) -> None:
    run = settings(
        root, tmp_path, "steps=60", "optimizer.lr=0.03", "stop.window=3", "stop.win_fall=0.05", "save_every=0"
    )
    told = trained(run)
    assert told.summary.stopped == "collapse" and told.summary.steps < 60
