"""Two siblings of the playground's base, which predicts v: one that predicts the noise, one that is a flow model.

Each starts from the base's weights under another scheduler, and is fine-tuned on the corpus that the base was trained
on, of mixed quality, by `sft` in the package's own engine. Autoencoder, text encoder and prompts stay what they are.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visalign import config, jobs, playground
from visalign.cli.screen import Screen
from visalign.data import album, store
from visalign.playground import corpus
from visalign.playground.networks import SCHEDULE
from visalign.records import Preference

SCHEDULERS: dict[str, dict[str, Any]] = {
    "epsilon": {"_class_name": "DDIMScheduler", **SCHEDULE, "prediction_type": "epsilon"},
    "flow": {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 1.0},
}


@dataclass(frozen=True)
class Plan:
    """How much of everything; a base takes about ten minutes on a core."""

    pictures: int = 20_000
    steps: int = 700
    batch: int = 64
    rate: float = 5e-4


def sibling(name: str, out: Path, plan: Plan, screen: Screen) -> Path:
    """The pipeline folder of a base, made in `out` unless it is there; an interrupted training goes on."""
    run = settings(name, out, plan)
    if not (run.out / "weights" / "model_index.json").is_file():
        jobs.of(run).train(run, screen)
    return run.out / "weights"


def settings(name: str, out: Path, plan: Plan) -> config.Run:
    """The training of a base."""
    return config.load("playground_sft", [
        f"name=base-{name}", f"out={out / name}", f"model.folder={renamed(name, out / 'start' / name)}",
        f"data.path={captioned(out / 'corpus', plan.pictures)}", f"data.cache={out / 'cache'}",
        "data.prompt_dropout=0.1", f"steps={plan.steps}", f"batch={plan.batch}", f"micro_batch={plan.batch}",
        f"optimizer.lr={plan.rate}", "optimizer.warmup=50", "optimizer.betas=[0.9, 0.99]", "save_every=250",
        "log_every=25",
    ])  # fmt: skip


def renamed(name: str, folder: Path) -> Path:
    """The shipped pipeline under another scheduler: its network's answers mean something else until it is trained."""
    if not folder.is_dir():
        shutil.copytree(playground.folder(), folder)
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        index["scheduler"] = ["diffusers", SCHEDULERS[name]["_class_name"]]
        (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        text = json.dumps(SCHEDULERS[name], indent=2) + "\n"
        (folder / "scheduler" / "scheduler_config.json").write_text(text, encoding="utf-8")
    return folder


def captioned(folder: Path, count: int) -> Path:
    """The corpus as records of one picture each, all of them liked: the first `count` that the base was trained on."""
    path = folder / "records.parquet"
    if not path.is_file():
        examples = [corpus.example(0, index) for index in range(count)]
        names = album.write([each.picture for each in examples], folder / "pictures.parquet")
        pictures = [Preference(each.caption, (name,)) for each, name in zip(examples, names, strict=True)]
        store.write([each.judged([1.0], scale="probability", judge="corpus") for each in pictures], path)
    return path
