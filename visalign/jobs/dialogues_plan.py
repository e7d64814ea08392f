"""What training a model that sees would learn from and cost, for `visalign train --dry-run`: no weight is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from statistics import fmean

from PIL import Image

from .. import images, needs
from ..config import Run
from ..contract import Method, Passes, Recalling, Reference
from ..data import media
from ..data.dialogues import VIEWS, RecordsView
from ..data.dialogues import Settings as How
from ..data.faults import wording
from ..data.pairing import Chosen
from ..data.quarantine import Bad
from ..images import ImageError
from ..models import seeing_cost
from ..models.cost import GB
from ..models.folder import FolderError
from ..models.reading import Reader, Unreadable
from ..models.seeing import SeeingFolder
from ..records import Preference
from . import Plan
from .denoising import read_records

LOOKED_AT = 100  # records whose lengths are measured
GUESS = (1024.0, 256.0)  # tokens of a dialogue and of its answer, where nothing can be measured


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a dialogue, and of its answer."""

    whole: float
    answer: float
    said: str  # of how many, or why they are a guess


def of(run: Run, method: Method, reference: Reference, shipped: str) -> Plan:
    """The plan of a run; `reference` is what must be held of it."""
    try:
        folder: SeeingFolder | None = SeeingFolder.open(run.model.folder)
    except FolderError:
        if run.model.folder not in seeing_cost.KNOWN:
            raise
        folder = None
    rows, chosen, root = (
        of_data(run, method, shipped) if run.data.path else ([["data", "data.path is not set"]], [], Path())
    )
    lengths = measured(chosen, root, folder.reader(max_length=run.data.max_length)) if folder else guess(run)
    passes = spared(method, run.model.cache_reference)
    told = seeing_cost.estimate(shaped(run, folder, lengths, passes, reference))
    rows += [["tokens", f"{lengths.whole:.0f} a dialogue, {lengths.answer:.0f} of them the answer's ({lengths.said})"]]
    note = f"The shape was read from {folder.path}." if folder else f"{run.model.folder} is not on this machine."
    return Plan("What it learns from and costs", [*rows, *of_step(run, passes, told)], f"{note} No weight was loaded.")


def of_data(run: Run, method: Method, shipped: str) -> tuple[list[list[str]], list[Chosen], Path]:
    """Rows on the records, what would be trained on, and the folder that pictures are relative to."""
    bad: list[Bad] = []
    records, root = read_records(run, shipped=shipped, bad=bad)
    needs.check(run.method["name"], method, records, ties=run.data.ties)
    sorting: type[RecordsView] = VIEWS[method.batch_type]
    how = How(run.data.ties, run.data.temperature, critique=run.data.critique)
    found = [sorting.choice(each, how) for each in records if wording(each) is None]
    chosen = [each for each in found if isinstance(each, Chosen)]
    left_out = Counter(each for each in found if isinstance(each, str))
    unusable = len(bad) + len(records) - len(found)
    said = [f"{count} {why}" for why, count in left_out.items()] + [f"{unusable} unusable"] * bool(unusable)
    rows = [
        ["records", f"{len(chosen)}, of {len({each.record.prompt for each in chosen})} questions"],
        ["left out", ", ".join(said) or "none; pictures are opened when training starts"],
        ["the run", f"{run.steps} steps, {run.steps * run.batch / max(len(chosen), 1):.3g} times over the records"],
    ]
    return rows, chosen, root


def measured(chosen: Sequence[Chosen], root: Path, reader: Reader) -> Lengths:
    """The lengths of the first records that can be read."""
    whole, answers = [], []
    for each in islice(chosen, LOOKED_AT):
        try:
            pictures = opened(each.record, root)
            reads = [reader.read(question, pictures, answer) for question, answer in each.turns]
        except (ImageError, Unreadable):
            continue
        whole += [len(read.ids) for read in reads]
        answers += [int(read.answer.sum()) for read in reads]
    return Lengths(fmean(whole), fmean(answers), f"of {len(whole)} looked at") if whole else Lengths(*GUESS, "a guess")


def opened(record: Preference, root: Path) -> list[Image.Image]:
    """The pictures of a record."""
    return [images.load(media.fetch(each, root)) for each in record.media]


def guess(run: Run) -> Lengths:
    """Lengths where there is no tokenizer to measure them with."""
    whole, answer = GUESS
    return Lengths(min(whole, run.data.max_length or whole), answer, "a guess: the model's tokenizer is not here")


def spared(method: Method, cached: bool) -> Passes:
    """The method's passes; a cache of what the reference says of a pair spares two."""
    passes = method.passes
    if not cached or not isinstance(method, Recalling):
        return passes
    return replace(passes, free=max(passes.free - 2.0, 0.0))


def shaped(
    run: Run, folder: SeeingFolder | None, lengths: Lengths, passes: Passes, reference: Reference
) -> seeing_cost.Shape:
    """The run's question to `seeing_cost.estimate`."""
    how = run.model
    return seeing_cost.Shape(
        network=seeing_cost.skeleton(folder.path if folder else None, how.folder),
        tokens=lengths.whole,
        answer=lengths.answer,
        train=how.train,
        rank=how.rank,
        vision=how.vision,
        projector=how.projector,
        dtype=how.dtype,
        precision=run.precision,
        checkpointing=how.checkpointing,
        passes=passes,
        reference=reference,
        ema=bool(run.ema),
    )


def of_step(run: Run, passes: Passes, told: seeing_cost.Cost) -> list[list[str]]:
    """Passes, parameters, memory."""
    total = sum(told.parts.values())
    units = 3 * passes.policy + passes.free
    free = f" + {passes.free:g} forward without gradient" * bool(passes.free)
    parts = ", ".join(f"{part} {count:,}" for part, count in told.parts.items())
    fixed, moving = told.fixed / GB, run.micro_batch * told.moving / GB
    step = told.flop * run.batch
    return [
        [
            "passes a record",
            f"{passes.policy:g} forward{free} + {passes.policy:g} backward: {units:g}, a backward being two",
        ],
        ["one step", f"about {step / 1e12:.3g} TFLOP: {run.batch} records, {run.micro_batch} a forward"],
        ["the run", f"about {step * run.steps / 1e15:.3g} PFLOP"],
        [
            "parameters",
            f"{total:,}, of which {told.trained:,} are trained ({100 * told.trained / total:.3g} %): {parts}",
        ],
        [
            "memory",
            f"roughly {fixed + moving:.3g} GB: weights, gradients, optimizer {fixed:.3g} + activations {moving:.3g}",
        ],
    ]
