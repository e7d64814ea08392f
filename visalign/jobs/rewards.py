"""From votes to a scorer: what `visalign train` does where the method trains a reward model."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from .. import registry
from ..batches import Comparisons
from ..config import ConfigError, Run
from ..contract import Method
from ..data.comparisons import ComparisonsView, Reading, compared
from ..models.publish import whole
from ..training import engine
from ..training.distributed import Ranks
from . import Outcome, Plan, Screen
from .denoising import cache_of, read_records
from .watch import Noted

KINDS = (Comparisons,)


def plan(run: Run) -> Plan:
    """What the run would learn from; no picture is opened and no weight loaded."""
    registry.build("method", run.method)
    records, _ = read_records(run)
    found = [compared(each, ties=run.data.ties, temperature=run.data.temperature) for each in records]
    left_out = Counter(each for each in found if isinstance(each, str))
    kept = [each for each in found if not isinstance(each, str)]
    pairs = sum(int((~np.isnan(each)).sum()) // 2 for each in kept)
    passes = sum(len(each) for each in kept) / max(len(kept), 1)
    rows = [
        ["records", f"{len(kept)}, of {len({each.prompt for each in records})} prompts"],
        ["compared pairs", f"{pairs}, {pairs / max(len(kept), 1):.3g} a record"],
        ["left out", ", ".join(f"{count} {why}" for why, count in left_out.items()) or "none"],
        ["one step", f"{passes * run.batch:.4g} pictures forward and back: {run.batch} records of {passes:.3g}"],
        ["the run", f"{run.steps} steps, {run.steps * run.batch / max(len(kept), 1):.3g} times over the records"],
    ]
    return Plan("What it learns from", rows)


def train(run: Run, screen: Screen, *, resume: bool = True) -> Outcome:
    """Do the whole of a run. Every error that is the user's is raised before the first step.

    Writes to `run.out`: run.yaml, metrics.jsonl, checkpoints/ and weights/.
    """
    ranks = Ranks(run.precision)
    method: Method = registry.build("method", run.method)
    with screen.stage("load the reward model"):
        model = network(run).to(ranks.device)
    view = opened(run, model, screen)
    with screen.stage(f"train {run.name}: {run.method['name']}, {len(view)} records", total=run.steps) as stage:
        summary = engine.train(run, method, model, view, on_step=Noted(run, stage), resume=resume)
    weights = run.out / "weights"
    if ranks.main:
        with whole(weights) as draft:
            model.save(draft)
    ranks.wait()
    look = f"visalign score PICTURES --prompts FILE --scorers learned --set learned.weights={weights}"
    return Outcome(run, summary, weights, tuple(view.quarantine), dict(view.left_out), next=look)


def network(run: Run) -> Any:
    """The reward model that `model.network` names, with the weights of `model.folder`."""
    if run.model.train != "full":
        raise ConfigError(
            "model.train: a reward model is trained with train: full; model.network's image_blocks and text_blocks "
            "say how much of it"
        )
    settings = {"name": "open_clip", **run.model.network}
    return registry.build("reward_model", {**settings, "weights": run.model.folder, "seed": run.seed})


def opened(run: Run, model: Any, screen: Screen) -> ComparisonsView:
    """The run's records as the model reads them."""
    records, root = read_records(run)
    try:
        model.know(sorted({each.user for each in records if each.user is not None}))
    except ValueError as error:
        raise ConfigError(f"model.network: {error}") from error
    with screen.stage("open pictures") as stage:
        return ComparisonsView(
            records,
            root,
            Reading(model.geometry.image, model.tokenizer),
            ties=run.data.ties,
            temperature=run.data.temperature,
            max_bad=run.data.max_bad,
            users=model.users or None,
            listed=cache_of(run, root) / "quarantine.jsonl",
            progress=lambda what, done, total: stage(done, what, total=total),
        )
