"""Online preference training in rounds: draw with the model of now, let a scorer judge, train on that, and again.

Each round's folder holds what it drew (pictures.parquet), what was said of it (labels.parquet), and its run. A stage
that is done leaves its file last, so that the same call goes on where an interrupted one stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .. import config
from ..config import ConfigError, Run
from ..data import album, store
from ..data.shards import replace_file
from ..drawing import Settings, draw
from ..evaluation.comparison import CannotJudge, samples
from ..models.folder import Folder
from ..models.publish import merged
from ..records import Preference
from ..scoring import Scorer
from ..training import checkpoint
from . import Screen, denoising

APART = 1_000_000  # between the seeds of two rounds
TRAINED = "model.weights.network."  # what checkpoints put before the name of a trained weight


@dataclass(frozen=True)
class Plan:
    """What is done in every round."""

    run: Run  # the recipe; where its data lie, where it writes and what it starts from is decided here
    prompts: tuple[str, ...]
    scorer: Scorer
    how: Settings
    out: Path
    rounds: int = 3
    candidates: int = 4  # pictures a prompt; the best and the worst are the pair
    refresh: Literal["round", "never"] = "round"  # whether each round's reference is the model that drew

    def __post_init__(self) -> None:
        for name, least in (("rounds", 1), ("candidates", 2)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.run.model.train == "user":
            raise ConfigError("rounds train lora or full weights; attention to users is trained on votes")


@dataclass(frozen=True)
class Round:
    """How one round went."""

    number: int  # from 1; 0 is what the last round's model draws, of which nothing is learnt
    score: float  # mean of what its pictures scored
    gap: float  # mean of best minus worst of a prompt
    steps: int
    stopped: str


def walk(plan: Plan, screen: Screen) -> list[Round]:
    """Every round, and at the end the pictures of the last model, judged; writes rounds.json."""
    plan.out.mkdir(parents=True, exist_ok=True)
    found: list[Round] = []
    spec = plan.run.model.folder
    for number in range(1, plan.rounds + 1):
        folder = plan.out / f"round-{number}"
        labels = judged(plan, spec, number, folder, screen)
        outcome = trained(plan, number, folder, screen)
        found.append(Round(number, *said(labels), outcome["steps"], outcome["stopped"]))
        spec = str(folder / "run")
    last = judged(plan, spec, plan.rounds + 1, plan.out / "after", screen)
    found.append(Round(0, *said(last), 0, ""))
    replace_file(plan.out / "rounds.json", json.dumps([asdict(each) for each in found], indent=1).encode())
    return found


def judged(plan: Plan, spec: str, number: int, folder: Path, screen: Screen) -> list[Preference]:
    """The round's candidates with the scorer's values: drawn and judged, or read if that was done before."""
    labels = folder / "labels.parquet"
    if labels.is_file():
        return store.read(labels)
    asked = [prompt for prompt in plan.prompts for _ in range(plan.candidates)]
    seeds = [plan.run.seed + number * APART + place for place in range(len(asked))]
    drawn = draw(spec, asked, seeds, plan.how, screen, title=f"round {number}: draw")
    with screen.stage(f"round {number}: judge with {plan.scorer.name}"):
        found = plan.scorer.score(samples(asked, drawn))
    if not found.judged.any():
        raise CannotJudge(f"{plan.scorer.name} could judge none of the {len(asked)} pictures")
    values = np.where(found.judged.numpy(), found.values.double().numpy(), np.nan)
    names = album.write(drawn, folder / "pictures.parquet")
    records = [_record(plan, row, names, seeds, values, spec) for row in range(len(plan.prompts))]
    store.write(records, labels)
    return records


def _record(plan: Plan, row: int, names: Sequence[str], seeds: Sequence[int], values: Any, spec: str) -> Preference:
    own = slice(row * plan.candidates, (row + 1) * plan.candidates)
    models = (spec,) * plan.candidates
    asked = Preference(plan.prompts[row], tuple(names[own]), seeds=tuple(seeds[own]), models=models)
    return asked.judged(values[own], scale="utility", judge=plan.scorer.name)


def said(labels: Sequence[Preference]) -> tuple[float, float]:
    """Mean score, and mean of best minus worst over the prompts of which two pictures were judged."""
    values = np.array([each.utilities for each in labels])
    several = values[(~np.isnan(values)).sum(1) > 1]
    gap = np.nanmax(several, axis=1) - np.nanmin(several, axis=1) if len(several) else np.zeros(1)
    return float(np.nanmean(values)), float(gap.mean())


def trained(plan: Plan, number: int, folder: Path, screen: Screen) -> Mapping[str, Any]:
    """Train the round's run, or go on with it; how it ended."""
    done = folder / "done.json"
    if done.is_file():
        ended: Mapping[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return ended
    before = plan.out / f"round-{number - 1}" / "run" if number > 1 else None
    run = configured(plan, folder, before)
    start = None if before is None or plan.refresh == "round" else last_weights(before)
    summary = denoising.train(run, screen, start=start).summary
    if summary.stopped == "signal":
        raise KeyboardInterrupt
    ended = {"steps": summary.steps, "stopped": summary.stopped}
    replace_file(done, json.dumps(ended).encode())
    return ended


def configured(plan: Plan, folder: Path, before: Path | None) -> Run:
    """The recipe on this round's labels, from the model that drew them where the reference is refreshed."""
    base = plan.run.model.folder if before is None or plan.refresh == "never" else str(whole(plan.run, before))
    data = replace(plan.run.data, path=str(folder / "labels.parquet"), format=None, cache=folder / "cache")
    name = f"{plan.run.name}-{folder.name}"
    return replace(plan.run, name=name, out=folder / "run", data=data, model=replace(plan.run.model, folder=base))


def whole(run: Run, before: Path) -> Path:
    """What the last round published as a pipeline folder: full weights are one, adapters are merged into their base."""
    weights = before / "weights"
    if (weights / "model_index.json").is_file():
        return weights
    base = config.load(before / "run.yaml").model.folder
    return merged(Folder.open(base, allow_download=run.model.allow_download), weights, before / "merged")


def last_weights(before: Path) -> dict[str, Any]:
    """What the last round trained, by name: averaged weights where it kept them."""
    tensors = checkpoint.read(checkpoint.listed(before / "checkpoints")[-1]).tensors
    found = tensors.get("ema") or tensors["trainable"]
    return {name.removeprefix(TRAINED): value for name, value in found.items()}
