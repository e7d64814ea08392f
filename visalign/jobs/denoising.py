"""From settings to an aligned model: open, encode, train, publish. What `visalign train` does, for any caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import needs, playground, registry
from ..batches import Prompts
from ..config import ConfigError, Run
from ..contract import Method, View
from ..data import encode, sources, views
from ..data.encode import Encoded
from ..data.quarantine import Bad
from ..models import publish
from ..models.denoiser import NetworkDenoiser
from ..models.folder import DTYPES, Folder
from ..models.users import Shape
from ..records import Preference
from ..training import engine
from ..training.distributed import Ranks
from ..training.engine import Summary
from . import Outcome, Plan, Screen
from . import denoising_plan as costs
from .watch import Watch
from .watch import note as note

SCRATCH = Path("runs/playground_cache")  # where the playground's recipes keep theirs


@dataclass(frozen=True)
class Parts:
    """A run's parts, opened and ready."""

    method: Method
    folder: Folder
    view: View
    encoded: Encoded
    model: NetworkDenoiser


def train(run: Run, screen: Screen, *, resume: bool = True, start: Mapping[str, Tensor] | None = None) -> Outcome:
    """Do the whole of a run. Every error that is the user's is raised before the first step.

    `start` are weights by name that what is trained begins with, while the reference stays the run's model.
    Writes to `run.out`: run.yaml, metrics.jsonl, checkpoints/, validation/ and weights/.
    """
    ranks = Ranks(run.precision)
    parts = opened(run, ranks, screen)
    begin(parts.model, start or {})
    with screen.stage(f"train {run.name}: {run.method['name']}, {len(parts.view)} records", total=run.steps) as stage:
        watch = Watch(run, parts, stage, ranks)
        summary = engine.train(run, parts.method, parts.model, parts.view, on_step=watch, resume=resume)
    weights = run.out / "weights"
    if (best := watch.put_best()) is not None:
        screen.say(f"kept the weights of step {best}, whose validation pictures scored best")
    if ranks.main:
        publish.publish(parts.model, parts.folder, weights, facts(run, len(parts.view), summary))
    ranks.wait()
    left_out = dict(getattr(parts.view, "left_out", {}))
    look = f"visalign compare {run.model.folder} {run.out}" if draws_alone(run, parts.method) else ""
    return Outcome(run, summary, weights, parts.encoded.quarantine, left_out, parts.model.attention, look)


def draws_alone(run: Run, method: Method) -> bool:
    """Whether what is trained draws by itself: no branch of guidance, and for everybody alike."""
    return run.model.train != "user" and not (isinstance(method, needs.Branching) and method.negative_branch)


@torch.no_grad()
def begin(model: NetworkDenoiser, start: Mapping[str, Tensor]) -> None:
    """Copy these values into the trained weights of their names; ConfigError for names that are not trained."""
    weights = model.trainable()
    if start and start.keys() ^ weights.keys():
        odd = min(start.keys() ^ weights.keys())
        raise ConfigError(f"the weights to start from are of another model: they differ in {odd}")
    for name, value in start.items():
        weights[name].copy_(value)


def plan(run: Run) -> Plan:
    """What the run would cost; no weight is loaded."""
    return costs.of(run)


def opened(run: Run, ranks: Ranks, screen: Screen) -> Parts:
    """Method, model folder, encoded records, view and denoiser of a run."""
    method: Method = registry.build("method", run.method)
    folder = Folder.open(run.model.folder, allow_download=run.model.allow_download)
    needs.check_path(run.method["name"], method, folder.process)
    costs.check_model(run, method, folder.family, folder.guidance)
    records, root = read_records(run, shipped=folder.family.shipped)
    needs.check(run.method["name"], method, records, ties=run.data.ties)
    encoders = folder.encoders(DTYPES[run.model.dtype], ranks.device, guidance=run.model.guidance)
    texts_only = method.batch_type is Prompts
    encoded = encoded_once(run, records, root, encoders, ranks, screen, texts_only=texts_only)
    settings = view_settings(run)
    view = views.view(method.batch_type, records, encoded, settings)
    del encoders  # they have done their work; the denoiser needs the room
    with screen.stage("load the denoiser"):
        model = denoiser(run, folder, method, ranks, settings.users)
    return Parts(method, folder, view, encoded, model)


def view_settings(run: Run) -> views.Settings:
    """How the run wants its records made into batches."""
    how = run.data
    if (run.model.train == "user") != (how.users is not None):
        raise ConfigError(
            f"model.train=user and data.users=FILE go together: the new layers are told the users' embeddings; got "
            f"model.train={run.model.train}, data.users={how.users}"
        )
    users = None if how.users is None else sources.users(how.users)
    return views.Settings(how.ties, how.prompt_dropout, how.temperature, how.liked, users, how.segments_min)


def denoiser(
    run: Run, folder: Folder, method: Method, ranks: Ranks, users: Mapping[str, Tensor] | None = None
) -> NetworkDenoiser:
    """The folder's denoiser as the run wants it trained, with the reference that the method asks for."""
    how = run.model
    model = folder.denoiser(
        train=how.train,
        reference=method.reference,
        rank=how.rank,
        alpha=how.alpha,
        dtype=how.dtype,
        precision=run.precision,
        kernel=how.attention,
        strict_attention=how.strict_attention,
        checkpointing=how.checkpointing,
        device=ranks.device,
        seed=run.seed,
        users=None if users is None else Shape.of(next(iter(users.values()))),
        size=run.data.size,
    )
    if run.compile:
        model.compile_networks()
    return model


def read_records(
    run: Run, *, shipped: str = "records.parquet", bad: list[Bad] | None = None
) -> tuple[list[Preference], Path]:
    """The run's records, and the folder that their items are relative to; rows that make none are added to `bad`.

    The playground's are its votes in the file `shipped`.
    """
    if not run.data.path:
        raise ConfigError("data.path is not given: name a file or folder of records, as in data.path=votes.parquet")
    path = playground.found(run.data.path, shipped)
    return sources.open_source(path, run.data.format, bad=bad, max_bad=run.data.max_bad), sources.root(path)


def cache_of(run: Run, root: Path) -> Path:
    """Where what can be used again is kept: beside the records, or below SCRATCH for those of the package itself."""
    return run.data.cache or (SCRATCH if root == playground.shipped_votes().parent else root / "visalign-cache")


def encoded_once(
    run: Run,
    records: list[Preference],
    root: Path,
    encoders: Any,
    ranks: Ranks,
    screen: Screen,
    *,
    texts_only: bool = False,
) -> Encoded:
    """The encoded records: the first process fills the cache, then the others find it full."""

    def fill() -> Encoded:
        with screen.stage("encode pictures and prompts") as stage:
            return encode.encode(
                records,
                encoders,
                root=root,
                cache=cache_of(run, root),
                resolution=run.data.resolution,
                width=run.data.width,
                frames=run.data.frames,
                max_bad=run.data.max_bad,
                texts_only=texts_only,
                prompts=run.validation.prompts,
                progress=lambda what, done, total: stage(done, what, total=total),
            )

    found = fill() if ranks.main else None
    ranks.wait()
    for path in found.rebuilt if found else ():
        screen.warn(f"{path} was damaged and is set aside; what it held was encoded again")
    return found or fill()


def facts(run: Run, records: int, summary: Summary) -> dict[str, Any]:
    """What the model card says of a run on so many records."""
    return {
        "name": run.name,
        "base": run.model.folder,
        "method": ", ".join(f"{name}: {value}" for name, value in run.method.items()),
        "records": records,
        "optimizer steps": f"{summary.steps} of {run.batch} records",
        "learning rate": run.optimizer.lr,
        "seed": run.seed,
        "ended": summary.stopped,
    }
