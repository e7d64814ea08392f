"""Stable Diffusion 3 and FLUX.1 trained from the command line, and what is refused there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import transformers
from drawn import drawer, noise_of, pipeline, theirs

from visalign import cli, config
from visalign.cli.screen import Screen
from visalign.data import album, store
from visalign.diffusion.sampling import pictures
from visalign.jobs import denoising
from visalign.jobs.watch import Watch
from visalign.models import cost
from visalign.models.folder import Folder
from visalign.records import Preference
from visalign.training import metrics
from visalign.training.distributed import Ranks

FAMILIES = ["sd3", "flux"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    path = tmp_path_factory.mktemp("model")
    return {kind: Folder.open(tiny.folder(path / kind, kind)) for kind in FAMILIES}


@pytest.fixture(params=FAMILIES)
def folder(request: pytest.FixtureRequest, folders: dict[str, Folder]) -> Folder:
    return folders[request.param]


METHODS = {  # one of each sort that trains on flows
    "diffusion_dpo": {},
    "flow_dpo": {},
    "mapo": {},
    "smpo": {"steps": 2},
    "inversion_dpo": {"steps": 3},
    "diffusion_kto": {},
    "sft": {},
}
LOG_2 = {"diffusion_dpo", "flow_dpo", "smpo", "inversion_dpo"}  # while policy and reference are the same


@pytest.fixture(scope="module")
def votes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight votes with a scorer's values on random pictures."""
    folder = tmp_path_factory.mktemp("votes")
    names = album.write(
        np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=np.uint8), folder / "p.parquet"
    )
    records = [
        Preference(f"a red circle number {row}", tuple(names[2 * row : 2 * row + 2]), scores=np.array([1.0, 0.2]))
        for row in range(8)
    ]
    store.write(records, folder / "records.parquet")
    return folder / "records.parquet"


def changes(folder: Folder, votes: Path, out: Path, *more: str) -> list[str]:
    return [
        f"model.folder={folder.path}", f"data.path={votes}", f"out={out}", "data.resolution=16", "data.format=parquet",
        "steps=2", "batch=4", "micro_batch=4", "model.rank=2", "validation.every=0", "precision=no", "model.dtype=fp32",
        *more,
    ]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_sort_of_method_trains_it_from_the_command_line(
    folder: Folder, votes: Path, method: str, tmp_path: Path
) -> None:
    settings = [f"method.name={method}", *(f"method.{name}={value}" for name, value in METHODS[method].items())]
    more = ["method={name: sft}", *settings, "optimizer.lr=1e-3"]
    recipe = "sd35_dpo" if folder.family.name == "sd3" else "flux_dpo"
    assert cli.main(["train", recipe, *changes(folder, votes, tmp_path, *more)]) == 0
    rows = metrics.read(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2]
    if method in LOG_2:
        assert rows[0]["loss"] in (np.log(2), float(np.float32(np.log(2))))  # a scorer's values are float64
        assert rows[1]["loss"] != rows[0]["loss"]
    pipe = pipeline(folder)
    plain = noise_of(drawer(folder))
    before = theirs(pipe, plain)
    pipe.load_lora_weights(tmp_path / "weights")
    assert not torch.equal(before, theirs(pipe, plain))


def test_full_training_in_bfloat16_with_checkpointing_and_pictures_on_the_way(
    folder: Folder, votes: Path, tmp_path: Path
) -> None:
    more = [
        "model.train=full",
        "precision=bf16",
        "model.checkpointing=true",
        "validation.every=2",
        "validation.steps=2",
    ]
    run = config.load("sd35_dpo", changes(folder, votes, tmp_path, *more))
    outcome = denoising.train(run, Screen())
    assert outcome.summary.steps == 2
    assert (tmp_path / "validation" / "step-000002.png").is_file()
    assert Folder.open(outcome.weights).pipeline_class == folder.pipeline_class


def test_pictures_on_the_way_and_a_second_run_load_no_text_encoder(
    folder: Folder, votes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompts are encoded once and kept; what is drawn is what the folder's own encoders would have said."""
    prompts = ["a red circle", "a blue square"]
    more = [f"data.cache={tmp_path / 'cache'}", f"validation.prompts={prompts}", "validation.steps=2"]
    run = config.load(
        "sd35_dpo" if folder.family.name == "sd3" else "flux_dpo", changes(folder, votes, tmp_path, *more)
    )
    ranks, encoders = Ranks("no"), folder.encoders()
    parts = denoising.opened(run, ranks, Screen())
    seeds = [run.validation.seed, run.validation.seed + 1]
    how = run.validation
    (expected,) = pictures(encoders, parts.model, prompts, seeds, size=(16, 16), steps=2, guidance=how.guidance)
    for kind in (transformers.CLIPTextModel, transformers.CLIPTextModelWithProjection, transformers.T5EncoderModel):
        monkeypatch.setattr(kind, "from_pretrained", None)
    again = denoising.opened(run, ranks, Screen())
    with Screen(silent=True).stage("") as stage:
        drawn = Watch(run, again, stage, ranks).draw()
    assert np.abs(drawn.astype(int) - expected).max() <= 1


@pytest.mark.parametrize(("said", "told"), [(None, 3.5), (1.0, 1.0)])
def test_in_training_it_is_told_what_it_draws_with_or_what_the_run_says(
    folders: dict[str, Folder], votes: Path, tmp_path: Path, said: float | None, told: float
) -> None:
    more = [] if said is None else [f"model.guidance={said}"]
    run = config.load("flux_dpo", changes(folders["flux"], votes, tmp_path, *more))
    parts = denoising.opened(run, Ranks("no"), Screen())
    batch = parts.view.batch([0, 1], [0, 0], 0)
    assert batch.condition.guidance.tolist() == batch.empty.guidance.tolist() == [told] * 4
    assert parts.model.process == folders["flux"].process_at((16, 16))


@pytest.mark.parametrize(
    ("kind", "change", "says"),
    [
        ("sd3", "model.guidance=3", "told their guidance, as FLUX.1-dev is, and .* is not: leave it out"),
        ("flux", "method={name: self_npo}", "method.name=diffusion_dpo trains what it draws"),
        ("flux", "method={name: diffusion_npo}", "method.name=diffusion_dpo trains what it draws"),
        ("flux", "method={name: spo, trains: negative}", "method.name=diffusion_dpo trains what it draws"),
        ("sd3", "model.train=user", "a StableDiffusion3Pipeline has no UNet: set model.train to lora or full"),
        ("flux", "data.resolution=18", "18 is not a multiple of 4"),
        ("flux", "data.frames=5", "draws pictures: data.frames is for models of clips, got 5"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_what_it_cannot_be_trained_with_is_refused_in_one_line(
    folders: dict[str, Folder], votes: Path, tmp_path: Path, kind: str, change: str, says: str, dry: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = [*changes(folders[kind], votes, tmp_path), change, *(["--dry-run"] if dry else [])]
    assert cli.main(["train", "sd35_dpo", *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(rf"^visalign: .*{says}", said[-1]), said
    assert [line for line in said if line.startswith("visalign: ")] == said[-1:]


def test_the_cost_of_a_folder_counts_the_layers_that_are_trained(folder: Folder) -> None:
    counted = cost.estimate(cost.Shape(folder.family, folder.network_config(), size=(8, 8), tokens=20, rank=4))
    made = folder.denoiser(train="lora", rank=4)
    assert counted.trained == sum(each.numel() for each in made.trainable().values())
    assert counted.parameters == sum(each.numel() for each in folder.network().parameters())
