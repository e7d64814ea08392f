"""From preferred answers to an aligned model that sees: what `visalign train` does where the method trains one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from .. import needs, registry
from ..batches import AnswerPairs, Answers, Critiques
from ..config import ConfigError, Run
from ..contract import Looking, Method, Recalling, Reference
from ..data import dialogues, recalled
from ..data.dialogues import Likeness, RecordsView
from ..data.quarantine import Bad
from ..data.recalled import Recalled, Remembered
from ..models import publish_mllm
from ..models.critic import CriticModel, with_head
from ..models.mllm import SeeingModel
from ..models.seeing import SeeingFolder
from ..scoring import Scorer, score_matrix
from ..training import engine
from ..training.distributed import Ranks
from ..training.schedule import Order
from . import Outcome, Plan, Screen, dialogues_plan
from .denoising import cache_of, facts, read_records
from .watch import Noted

KINDS = (AnswerPairs, Answers, Critiques)
SHIPPED = "seeing.parquet"


def train(run: Run, screen: Screen, *, resume: bool = True) -> Outcome:
    """Do the whole of a run. Every error that is the user's is raised before the first step.

    Writes to `run.out`: run.yaml, metrics.jsonl, checkpoints/ and weights/.
    """
    ranks = Ranks(run.precision)
    method: Method = registry.build("method", run.method)
    reference = held_reference(run, method)
    folder = SeeingFolder.open(run.model.folder, allow_download=run.model.allow_download)
    view = opened(run, method, folder, screen)
    with screen.stage(f"load {run.model.folder}"):
        model = network(run, folder, reference, ranks)
        if method.batch_type is Critiques:
            model = critic(run, folder, model)
    seen: Any = remembered(run, view, model, reference, ranks, screen) if run.model.cache_reference else view
    with screen.stage(f"train {run.name}: {run.method['name']}, {len(view)} records", total=run.steps) as stage:
        summary = engine.train(run, method, model, seen, on_step=Noted(run, stage), resume=resume)
    weights = run.out / "weights"
    if ranks.main:
        publish_mllm.publish(model, folder, weights, facts(run, len(view), summary))
        if isinstance(model, CriticModel):
            model.save(weights)
    ranks.wait()
    look = "" if isinstance(model, CriticModel) else f"visalign answer {run.model.folder} {run.out} --questions FILE"
    return Outcome(run, summary, weights, tuple(view.quarantine), dict(view.left_out), model.attention, look)


def plan(run: Run) -> Plan:
    """What the run would learn from and cost; no weight is loaded."""
    method: Method = registry.build("method", run.method)
    return dialogues_plan.of(run, method, held_reference(run, method), SHIPPED)


def held_reference(run: Run, method: Method) -> Reference:
    """Which reference must be held; ConfigError for a cache that the method cannot use, what it lacks, or what draws.

    A method that asks the reference of nothing but the records' own answers can do without a second copy of the
    weights: before the first step the policy itself answers as the reference.
    """
    name = run.method["name"]
    if run.validation.prompts:
        raise ConfigError(f"validation.prompts are drawn, and {name} trains a model that answers: leave them out")
    if isinstance(method, Looking) and run.data.relevance is None:
        raise ConfigError(f"{name} goes by which words a picture shows: set data.relevance to a scorer of cosines")
    if not run.model.cache_reference:
        return method.reference
    if not isinstance(method, Recalling) or method.reference is Reference.NONE:
        why = "has none" if method.reference is Reference.NONE else "asks it about more than the records' own answers"
        raise ConfigError(f"model.cache_reference: of the reference {name} {why}; set it to false")
    if method.reference is Reference.EMA:
        raise ConfigError(f"model.cache_reference: the reference of {name} follows what is trained; set it to false")
    alone = method.recalls == "all" and run.model.train == "full"
    return Reference.NONE if alone else method.reference


def opened(run: Run, method: Method, folder: SeeingFolder, screen: Screen) -> RecordsView:
    """The run's records as the model reads them."""
    bad: list[Bad] = []
    records, root = read_records(run, shipped=SHIPPED, bad=bad)
    how = run.data
    needs.check(run.method["name"], method, records, ties=how.ties)
    with screen.stage("read questions and answers") as stage:
        view = dialogues.VIEWS[method.batch_type](
            records,
            root,
            folder.reader(max_length=how.max_length),
            dialogues.Settings(how.ties, how.temperature, how.max_bad, how.critique, likeness(how.relevance)),
            bad=bad,
            listed=cache_of(run, root) / "quarantine.jsonl",
            progress=lambda what, done, total: stage(done, what, total=total),
        )
    if view.cut:
        screen.warn(f"{view.cut} answers are longer than data.max_length={how.max_length} and lose their end")
    return view


def likeness(scorer: str | Mapping[str, Any] | None) -> Likeness | None:
    """What says which words a picture shows, if a scorer is named."""
    return None if scorer is None else cosines(registry.build("scorer", scorer))


def cosines(scorer: Scorer) -> Likeness:
    """How much each word is in the pictures, the most of several; ConfigError where the scorer says no cosine."""

    def asked(words: Sequence[str], pictures: Sequence[Image.Image]) -> list[float]:
        values = score_matrix(scorer, pictures, words).amax(0)
        for word, value in zip(words, values.tolist(), strict=True):
            if not abs(value) <= 1:  # also where it is NaN
                raise ConfigError(f"data.relevance: {scorer.name} says {value:.3g} of {word!r}, which is no cosine")
        return [float(each) for each in values]

    return asked


def network(run: Run, folder: SeeingFolder, reference: Reference, ranks: Ranks) -> SeeingModel:
    """The folder's model as the run wants it trained."""
    how = run.model
    if how.train == "user":
        raise ConfigError("model.train: user is for models that draw; set lora or full")
    model = folder.model(
        train=how.train,
        reference=reference,
        rank=how.rank,
        alpha=how.alpha,
        vision=how.vision,
        projector=how.projector,
        dtype=how.dtype,
        precision=run.precision,
        attention=how.attention,
        strict_attention=how.strict_attention,
        checkpointing=how.checkpointing,
        device=ranks.device,
        seed=run.seed,
    )
    if run.compile:
        model.compile_networks()
    return model


def critic(run: Run, folder: SeeingFolder, model: SeeingModel) -> CriticModel:
    """The model with a reward head: the folder's own, or a new one with the settings of model.network."""
    try:
        return with_head(model, folder.adapters or folder.path, run.data.critique, seed=run.seed, **run.model.network)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.network: {error}") from error


def remembered(
    run: Run, view: RecordsView, model: SeeingModel, reference: Reference, ranks: Ranks, screen: Screen
) -> Recalled:
    """The view with what the reference says of every record; each process asks for its part of what is missing.

    The answers that share a forward are those of the first epoch's micro-batches.
    """
    if not isinstance(view, dialogues.PairsOfAnswersView):
        raise ConfigError("model.cache_reference is for pairs of answers; set it to false")
    memory = Remembered(recalled.folder_of(
        cache_of(run, view.root), model=model.fingerprint, precision=run.precision, device=ranks.device.type,
        max_length=str(run.data.max_length),
    ))  # fmt: skip
    order = Order(run.seed, len(view), run.batch, run.micro_batch, ranks.count)
    starts = range(ranks.index * run.micro_batch, len(view), ranks.count * run.micro_batch)
    ask = model.policy if reference is Reference.NONE else model.reference
    with screen.stage("ask the reference", total=len(starts)) as stage, ranks.autocast():
        batches = (order.slice(start).indices for start in starts)
        asked = recalled.recall(view, batches, ask, memory, device=ranks.device, progress=stage)
    ranks.wait()
    memory.reload()
    screen.say(f"the reference was asked about {asked} of {len(view)} records; the others it had answered before")
    return Recalled(view, memory)
