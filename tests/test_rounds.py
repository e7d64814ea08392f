"""Online rounds: each draws with the model before, a stage is never done twice, and the reference is as asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from visalign import cli, config, registry
from visalign.data import store
from visalign.drawing import Settings
from visalign.jobs import denoising, rounds
from visalign.models.folder import Folder
from visalign.scoring import Sample, Scores

PROMPTS = ("a red circle", "a blue square")


class Redness:
    """A scorer that any picture has a number for."""

    name = "redness"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, samples: Sequence[Sample]) -> Scores:
        from visalign.scoring import picture

        self.asked += len(samples)
        means = [torch.from_numpy(np.asarray(picture(each), dtype=np.float64)).mean((0, 1)) for each in samples]
        return Scores(torch.stack([mean[0] - mean[1] for mean in means]))


class Silent:
    """A screen that nobody sees."""

    def stage(self, title: str, total: int | None = None) -> Any:
        from contextlib import nullcontext

        return nullcontext(lambda *_, **__: None)

    def say(self, text: str) -> None: ...

    warn = say


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"), "sd15")


def plan(model: Path, out: Path, *changes: str, **settings: Any) -> rounds.Plan:
    given = [f"model.folder={model}", "data.resolution=16", "steps=2", "batch=2", "micro_batch=2", *changes]
    run = config.load("playground_online_dpo", [*given, "optimizer.lr=1e-3"])
    made = {"rounds": 2, "candidates": 3, **settings}
    return rounds.Plan(run, PROMPTS, Redness(), Settings(steps=2, guidance=1.0), out, **made)


def trained(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "weights" / "unet" / "diffusion_pytorch_model.safetensors")


@pytest.fixture(scope="module")
def walked(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[rounds.Plan, list[rounds.Round]]:
    made = plan(model, tmp_path_factory.mktemp("rounds"))
    return made, rounds.walk(made, Silent())


def test_each_round_draws_with_the_model_before(walked: tuple[rounds.Plan, list[rounds.Round]], model: Path) -> None:
    made, found = walked
    first, second = (store.read(made.out / f"round-{n}" / "labels.parquet") for n in (1, 2))
    assert {name for each in first for name in each.models} == {str(model)}
    assert {name for each in second for name in each.models} == {str(made.out / "round-1" / "run")}
    assert not {seed for each in first for seed in each.seeds} & {seed for each in second for seed in each.seeds}
    assert [(each.number, each.steps) for each in found] == [(1, 2), (2, 2), (0, 0)]
    told = [each.utilities for each in first]
    assert found[0].score == pytest.approx(float(sum(each.mean() for each in told)) / 2)
    assert found[0].gap == pytest.approx(float(sum(each.max() - each.min() for each in told)) / 2)


def test_a_stage_that_is_done_is_not_done_again(walked: tuple[rounds.Plan, list[rounds.Round]]) -> None:
    made, found = walked
    times = {path: path.stat().st_mtime_ns for path in made.out.rglob("*.safetensors")}
    again = replace(made, scorer=Redness())
    assert rounds.walk(again, Silent()) == found
    assert again.scorer.asked == 0  # type: ignore[attr-defined]
    assert {path: path.stat().st_mtime_ns for path in made.out.rglob("*.safetensors")} == times
    assert len(json.loads((made.out / "rounds.json").read_text())) == 3


def test_a_lost_round_is_done_again_alike(walked: tuple[rounds.Plan, list[rounds.Round]]) -> None:
    made, found = walked
    before = trained(made.out / "round-2" / "run")
    for name in ("done.json", "labels.parquet"):
        (made.out / "round-2" / name).unlink()
    shutil.rmtree(made.out / "round-2" / "run" / "checkpoints")
    assert rounds.walk(made, Silent()) == found
    after = trained(made.out / "round-2" / "run")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_refreshed_reference_is_the_model_that_drew(walked: tuple[rounds.Plan, list[rounds.Round]]) -> None:
    made, _ = walked
    run = rounds.configured(made, made.out / "round-2", made.out / "round-1" / "run")
    assert run.model.folder == str(made.out / "round-1" / "run" / "weights")
    kept = rounds.configured(replace(made, refresh="never"), made.out / "round-2", made.out / "round-1" / "run")
    assert kept.model.folder == made.run.model.folder


@pytest.mark.parametrize("train", ["full", "lora"])
def test_a_kept_reference_stays_while_the_policy_goes_on(model: Path, tmp_path: Path, train: str) -> None:
    """The second round starts where the first ended: its step of length zero leaves the first round's weights."""
    made = plan(model, tmp_path, f"model.train={train}", "steps=1", refresh="never", rounds=1)
    rounds.walk(made, Silent())
    start = rounds.last_weights(tmp_path / "round-1" / "run")
    parts_run = rounds.configured(made, tmp_path / "round-1", None)
    still = replace(parts_run, out=tmp_path / "still", optimizer=replace(parts_run.optimizer, lr=0.0, warmup=0))
    denoising.train(still, Silent(), start=start)
    again = rounds.last_weights(tmp_path / "still")
    assert start.keys() == again.keys()
    assert all(torch.equal(start[name], again[name]) for name in start)
    margins = [json.loads(line)["margin"] for line in (tmp_path / "still" / "metrics.jsonl").read_text().splitlines()]
    assert margins[0] != 0.0  # the reference is the base, not what it starts from


def test_adapters_are_merged_into_the_next_round_s_base(model: Path, tmp_path: Path) -> None:
    made = plan(model, tmp_path, "model.train=lora", rounds=1, candidates=2)
    rounds.walk(made, Silent())
    run = tmp_path / "round-1" / "run"
    folder = rounds.whole(made.run, run)
    held, base = (load_file(path / "unet" / "diffusion_pytorch_model.safetensors") for path in (folder, model))
    moved = {name for name in base if not torch.equal(held[name], base[name])}
    assert held.keys() == base.keys()
    assert moved
    assert all("attn" in name for name in moved)
    assert rounds.whole(made.run, run) == folder


def test_what_cannot_be_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="candidates must be at least 2, got 1"):
        plan(model, tmp_path, candidates=1)
    with pytest.raises(config.ConfigError, match="rounds must be at least 1, got 0"):
        plan(model, tmp_path, rounds=0)
    made = plan(model, tmp_path)
    denoiser = Folder.open(str(model)).denoiser(train="lora", rank=2)
    with pytest.raises(config.ConfigError, match="are of another model"):
        denoising.begin(denoiser, {"conv_in.weight": torch.zeros(1)})
    assert made.rounds == 2


def test_the_command_prints_the_rounds(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert registry.load("scorer", "looks")
    given = ["rounds", "playground_online_dpo", "--scorer", "nobody", "--prompts", "a red circle"]
    assert cli.main([*given, f"model.folder={model}"]) == 2
    assert "no scorer is named 'nobody'" in capsys.readouterr().err
