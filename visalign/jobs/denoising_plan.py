"""What training a denoiser costs, for `visalign train --dry-run`: no weight is loaded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .. import needs, playground, registry
from ..config import ConfigError, Run
from ..models import architectures, attention, cost
from ..models.family import Family
from ..models.folder import DTYPES, Folder, FolderError
from ..models.users import Shape
from ..records import DataError
from . import Plan

if TYPE_CHECKING:
    from ..contract import Method


@dataclass(frozen=True)
class Base:
    """The facts about a model that decide what training it costs."""

    family: Family
    config: dict[str, Any]  # of the network
    factor: int  # pixels per latent along a side
    tokens: int
    said: str  # where the facts are from


def of(run: Run) -> Plan:
    """The cost of a run that trains a denoiser."""
    method: Method = registry.build("method", run.method)
    base = known(run, method)
    check_model(run, method, base.family, base.family.guidance(base.config))
    shape = shaped(run, method, base)
    told = cost.estimate(shape)
    rows = [*of_step(run, told), *of_data(run, shape), *of_attention(run, shape)]
    return Plan("What it costs", rows, f"{base.said} No weight was loaded.")


def known(run: Run, method: Method) -> Base:
    """The model folder's own config; for a published model that is not here, its public shape.

    ConfigError if the folder's model is not of the kind that the method trains.
    """
    try:
        folder = Folder.open(run.model.folder)
    except FolderError:
        if run.model.folder not in architectures.KNOWN:
            raise
        found = architectures.KNOWN[run.model.folder]
        said = f"{run.model.folder} is not on this machine: these are the published numbers of {found.name}."
        return Base(found.family, dict(found.config), found.factor, found.tokens, said)
    needs.check_path(run.method["name"], method, folder.process)
    return Base(
        folder.family, folder.network_config(), folder.factor, tokens(folder),
        f"The shape was read from {folder.path}.",
    )  # fmt: skip


def tokens(folder: Folder) -> int:
    """How many tokens of a prompt the network sees."""
    if folder.family.tokens is not None:
        return folder.family.tokens
    text = json.loads((folder.path / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    return int(text.get("max_position_embeddings", 77))


def check_model(run: Run, method: Method, family: Family, told: float | None) -> None:
    """ConfigError if a model of this family, `told` its guidance or not (None), cannot be trained as the run says."""
    if run.model.train == "user" and family.part != "unet":
        raise ConfigError(
            f"model.train=user puts attention beside a UNet's cross-attention, and a {family.pipeline} has no UNet: "
            "set model.train to lora or full"
        )
    if run.model.guidance is not None and told is None:
        raise ConfigError(
            f"model.guidance: {run.model.guidance:g} is for models that are told their guidance, as FLUX.1-dev is, and "
            f"{run.model.folder} is not: leave it out"
        )
    needs.check_guided(run.method["name"], method, told)
    check_frames(run, clips=family.clips)


def check_frames(run: Run, *, clips: bool) -> None:
    """ConfigError unless `data.frames` is given where the model draws clips, and there alone."""
    frames = run.data.frames
    if clips and frames is None:
        raise ConfigError(f"{run.model.folder} draws clips: set data.frames to how many of each clip are trained on")
    if frames is not None and not clips:
        raise ConfigError(f"{run.model.folder} draws pictures: data.frames is for models of clips, got {frames}")


def shaped(run: Run, method: Method, base: Base) -> cost.Shape:
    """The run's question to `cost.estimate`."""
    return cost.Shape(
        family=base.family,
        config=base.config,
        size=latent_size(run, base),
        tokens=base.tokens,
        train=run.model.train,
        rank=run.model.rank,
        users=user_shape(run),
        dtype=run.model.dtype,
        precision=run.precision,
        checkpointing=run.model.checkpointing,
        passes=method.passes,
        reference=method.reference,
        ema=bool(run.ema),
    )


def latent_size(run: Run, base: Base) -> tuple[int, ...]:
    """(height, width) of a latent, of clips (frames, height, width); ConfigError for what does not fill whole ones."""
    grain = base.factor * base.family.patch(base.config)
    *frames, height, width = run.data.size
    for side, name in ((height, "resolution"), (width, "width")):
        if side % grain:
            raise ConfigError(f"data.{name}: {side} is not a multiple of {grain}, pixels of a token")
    if odd := [each for each in frames if (each - 1) % base.family.stride]:
        raise ConfigError(f"data.frames: {odd[0]} are not {base.family.stride} k + 1, as the autoencoder takes them")
    times = [1 + (each - 1) // base.family.stride for each in frames]
    return (*times, height // base.factor, width // base.factor)


def user_shape(run: Run) -> Shape | None:
    """The shape of the users' embeddings, where attention to them is trained: PPD's if the file is not there yet."""
    if run.model.train != "user":
        return None
    if run.data.users is None or not run.data.users.is_file():
        return Shape(tokens=29, width=3584)
    from ..data import sources

    return Shape.of(next(iter(sources.users(run.data.users).values())))


def of_step(run: Run, told: cost.Cost) -> list[list[str]]:
    """Passes, FLOP, parameters, memory."""
    record, step = told.record_flop / 1e12, told.record_flop * run.batch / 1e12
    fixed, moving = told.memory(0), run.micro_batch * told.activations / cost.GB
    share = 100 * told.trained / told.parameters
    return [
        ["passes a record", told.passes],
        [f"forward of one {'picture' if run.data.frames is None else 'clip'}", f"{told.forward_flop / 1e12:.4g} TFLOP"],
        ["one record", f"{record:.4g} TFLOP"],
        [
            "one step",
            f"{step:.4g} TFLOP: {run.batch} records, {run.batch // run.micro_batch} forwards of {run.micro_batch}",
        ],
        ["the run", f"{step * run.steps / 1e3:.4g} PFLOP: {run.steps} steps"],
        ["parameters", f"{told.parameters:,}, of which {told.trained:,} are trained ({share:.3g} %)"],
        [
            "memory",
            f"about {fixed + moving:.3g} GB: weights, gradients, optimizer {fixed:.3g} + activations {moving:.3g}",
        ],
    ]


def of_data(run: Run, shape: cost.Shape) -> list[list[str]]:
    """How many records, and how large their cache will be."""
    from ..data import sources

    x, condition = shape.family.example(shape.config, shape.size, shape.tokens)
    picture = 2 * 4 * x.numel() + 32  # mean and deviation in float32, and the frame
    numbers = condition.text.numel() + (0 if condition.pooled is None else condition.pooled.numel())
    text = cost.BYTES[run.model.dtype] * numbers  # as the encoders gave them
    try:
        path = playground.found(run.data.path, shape.family.shipped)
        records = sources.open_source(path, run.data.format) if run.data.path else []
    except DataError as error:
        return [
            ["cache", f"{_size(1000 * (2 * picture + text))} for 1,000 pairs with a prompt each"],
            ["data", f"{error}"],
        ]
    if not records:
        return [
            ["cache", f"{_size(1000 * (2 * picture + text))} for 1,000 pairs with a prompt each; data.path is not set"]
        ]
    items, prompts = {item for each in records for item in each.items}, {each.prompt for each in records}
    size, kind = (
        _size(len(items) * picture + (len(prompts) + 1) * text),
        "pictures" if run.data.frames is None else "clips",
    )
    return [["cache", f"{size}: {len(records)} records, {len(items)} {kind}, {len(prompts)} prompts"]]


def _size(count: int) -> str:
    return f"{count / 1e9:.3g} GB" if count >= 1e9 else f"{count / 1e6:.3g} MB"


def of_attention(run: Run, shape: cost.Shape) -> list[list[str]]:
    """Which attention would run on this machine, and why."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = attention.computed_in(run.precision, DTYPES[run.model.dtype])
    widths = attention.head_widths(cost.skeleton(shape))
    found = attention.resolve(
        run.model.attention, attention.Setting(device, dtype, widths), strict=run.model.strict_attention
    )
    return [["attention", f"{found.requested} -> {found.resolved} on {device.type}: {found.reason}"]]
