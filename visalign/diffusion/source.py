"""Models by what a user calls them: a folder, a run's folder, a base with a LoRA, and who else takes part in drawing.

A MODEL is "playground", a pipeline folder, a run's folder, a hub id, or "BASE+LORA"; ",option=value" may follow it, as
often as there are `Options`: "runs/dpo,negative=runs/npo,alpha=0.5", "runs/dpo,weak=playground,reflect=11".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from torch import Tensor

from ..config import ConfigError, fill
from ..data import sources
from ..models.folder import Folder, FolderError
from ..models.mixing import Mix, negative_mix
from ..models.publish import LORA_FILE
from ..models.users import USER_FILE, shape_of
from .personal import taste


class SpecError(ValueError):
    """A model's options cannot be used together; one line with the mend."""


@dataclass(frozen=True)
class Options:
    """What may follow a MODEL, each as `,name=value`."""

    scale: float = 1.0  # of MODEL's LoRA
    negative: str | None = None  # a MODEL that answers for the empty prompt
    alpha: float | None = None  # how much of MODEL's own training the negative has (1); 1 - the release's merge_weight
    beta: float | None = None  # how much of the negative's (1)
    base: str | None = None  # the MODEL that both were trained from, where their runs do not say
    reflect: int | None = None  # how many steps are reflected (all but the last)
    weak: str | None = None  # the MODEL that goes back up; MODEL itself if only a guidance or a scale is given
    strong: str | None = None  # the MODEL that goes down, MODEL itself if none is given
    weak_scale: float | None = None  # of the weak side's LoRA
    strong_scale: float | None = None
    weak_guidance: float | None = None  # 1 where the two sides' weights differ, 0 where they are the same
    strong_guidance: float | None = None  # 1 where the two sides' weights differ, what it draws with where they do not
    variant: Literal["paper", "release"] | None = None
    user: str | int | None = None  # whose taste MODEL draws by: a name, or a mixture, 0.3*anna+0.7*ben
    users: str | None = None  # the file of users' embeddings (what MODEL's run was trained with)
    user_guidance: float | None = None  # how far from everybody's taste to the user's (1)

    def __post_init__(self) -> None:
        orphans = self.given("alpha", "beta", "base")
        if orphans and self.negative is None:
            raise SpecError(f"{', '.join(orphans)}: mixes a negative model, and none is given; add negative=MODEL")
        if self.reflect is not None and self.reflect < 0:
            raise SpecError(f"reflect is a number of steps, got {self.reflect}")

    def given(self, *names: str) -> list[str]:
        """Those of these options that were said."""
        return [name for name in names if getattr(self, name) is not None]

    @property
    def reflects(self) -> bool:
        """Whether anything of a reflection was said."""
        sides = ("weak", "strong", "weak_scale", "strong_scale", "weak_guidance", "strong_guidance")
        return bool(self.given("reflect", "variant", *sides))


@dataclass(frozen=True)
class Named:
    """A MODEL: a pipeline folder, adapters on top of it, and what it was trained from, as far as its files say."""

    folder: Folder
    lora: Path | None = None
    origin: Folder | None = None
    layers: Path | None = None  # its attention to users
    users: Path | None = None  # the embeddings that these were trained with

    @classmethod
    def find(cls, name: str, lora: str | None = None, *, allow_download: bool = False) -> Named:
        """From "playground", a pipeline folder, a hub id, a run's folder, or "BASE+LORA"; FolderError if not there."""
        base, plus, added = name.partition("+")
        path = Path(base).expanduser()
        if not plus and not lora and (path / "run.yaml").is_file():
            return cls.of_run(path)
        folder = Folder.open(base, allow_download=allow_download)
        if not lora and not added:
            return cls(folder)
        adapters = Path(lora or added).expanduser()
        adapters = adapters / "weights" if (adapters / "weights").is_dir() else adapters
        if (adapters / USER_FILE).is_file():
            return cls(folder, None, folder, adapters / USER_FILE)
        if not (adapters.is_file() or (adapters / LORA_FILE).is_file()):
            raise FolderError(f"no LoRA at {adapters}: give a folder that holds {LORA_FILE}, or the file itself")
        return cls(folder, adapters, folder)

    @classmethod
    def of_run(cls, path: Path) -> Named:
        """What a training run published: its LoRA on its base, or its whole pipeline."""
        weights = path / "weights"
        if not weights.is_dir():
            raise FolderError(f"{path} is a run without weights/: it has not finished; run the same command to resume")
        run = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))
        base = run["model"]["folder"]
        if (weights / USER_FILE).is_file():
            return cls(Folder.open(base), None, Folder.open(base), weights / USER_FILE, Path(run["data"]["users"]))
        if (weights / LORA_FILE).is_file():
            return cls(Folder.open(base), weights, Folder.open(base))
        return cls(Folder.open(weights), None, opened(base))

    def mix(self, scale: float | None = 1.0) -> Mix:
        """Its weights, with its LoRA at a scale."""
        adapters = {} if self.lora is None else {self.lora.resolve(): 1.0 if scale is None else scale}
        return Mix({self.folder.path.resolve(): 1.0}, adapters)


def opened(base: str) -> Folder | None:
    """What a whole pipeline was trained from: it draws without it, so its absence matters only to a mix."""
    try:
        return Folder.open(base)
    except FolderError:
        return None


@dataclass(frozen=True)
class Gap:
    """Between what a reflection goes: two sides' weights and guidances, for how many steps, by which variant."""

    strong: Mix
    weak: Mix
    strong_guidance: float | None  # None: what the drawing is guided with
    weak_guidance: float
    count: int | None = None
    variant: str = "paper"


@dataclass(frozen=True)
class Person:
    """For whom a model draws that attends to users."""

    layers: Path  # the attention to users
    embedding: Tensor  # (tokens, width); zeros, nobody's, is everybody's taste
    guidance: float = 1.0


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a pipeline folder, the weights that draw, and who else takes part."""

    name: str
    folder: Folder
    weights: Mix
    negative: Mix | None = None
    gap: Gap | None = None
    person: Person | None = None

    @property
    def mixes(self) -> tuple[Mix, Mix, Mix, Mix]:
        """Who draws, who answers for the empty prompt, and the strong and the weak side: `weights` where none else."""
        sides = (self.gap.strong, self.gap.weak) if self.gap else (self.weights, self.weights)
        return (self.weights, self.negative or self.weights, *sides)

    @classmethod
    def find(cls, spec: str, lora: str | None = None, *, allow_download: bool = False) -> Source:
        """The model that a user means by "MODEL,option=value,…"; see the module's first lines.

        Raises:
            FolderError: a model is not there; ConfigError: no such option; SpecError: options that do not go together.
        """
        model, *said = spec.split(",")
        asked = options(spec, said)
        found = Named.find(model, lora, allow_download=allow_download)
        weights = found.mix(asked.scale)
        if found.lora is None and asked.scale != 1.0:
            raise SpecError(f"{spec!r}: scale weighs a LoRA, and {model} has none")
        others = negative(asked, found, weights), gap(asked, found, weights)
        return cls(spec, found.folder, weights, *others, person(asked, found, spec))


def options(spec: str, said: list[str]) -> Options:
    """The options of a spec, read strictly: each once, known, and of its type."""
    values: dict[str, Any] = {}
    for each in said:
        name, equals, value = each.partition("=")
        if not equals or not value:
            raise SpecError(f"{spec!r}: options read name=value, got {each!r}")
        if name in values:
            raise SpecError(f"{spec!r} gives {name} twice")
        number = yaml.safe_load(value) if value.lstrip("-+").isdigit() else value
        values[name] = number
    try:
        return fill(Options, values, "")
    except (ConfigError, SpecError) as error:
        raise SpecError(f"{spec!r}: {error}") from None


def person(asked: Options, model: Named, spec: str) -> Person | None:
    """Whose taste is drawn by; nobody's where no user is said, None for a model that attends to none."""
    if model.layers is None:
        if said := asked.given("user", "users", "user_guidance"):
            raise SpecError(f"{spec!r}: {said[0]} needs a model that was trained with model.train=user, as ppd is")
        return None
    guidance = 1.0 if asked.user_guidance is None else asked.user_guidance
    if asked.user is None:
        shape = shape_of(model.layers)
        return Person(model.layers, torch.zeros(shape.tokens, shape.width), guidance)
    path = Path(asked.users).expanduser() if asked.users else model.users
    if path is None:
        raise SpecError(f"{spec!r}: user={asked.user} needs users=FILE, a safetensors file of embeddings")
    return Person(model.layers, taste(str(asked.user), sources.users(path)), guidance)


def negative(asked: Options, model: Named, weights: Mix) -> Mix | None:
    """Who answers for the empty prompt: base + alpha (model - base) + beta (negative - base); None for the model."""
    if asked.negative is None:
        return None
    other = Named.find(asked.negative)
    alpha, beta = (1.0 if each is None else each for each in (asked.alpha, asked.beta))
    origin = other.origin or model.origin
    base = Named.find(asked.base) if asked.base else origin and Named(origin)
    if base is None and round(1.0 - alpha - beta, 9):
        raise SpecError(
            f"what {asked.negative} was trained from is not known, and alpha={alpha:g}, beta={beta:g} needs it: "
            "add base=MODEL"
        )
    return negative_mix(base.mix() if base else Mix(), weights, other.mix(), alpha=alpha, beta=beta)


def gap(asked: Options, model: Named, weights: Mix) -> Gap | None:
    """The reflection that was asked for, its guidances filled in; None if none was.

    Weights that differ are reflected without guidance (1 and 1), as in the paper's experiments (appendix B.1); the
    same weights with and without it, which is Z-sampling.
    """
    if not asked.reflects:
        return None
    strong, weak = (side(asked, name, model) for name in ("strong", "weak"))
    apart = strong != weak
    return Gap(
        strong=strong,
        weak=weak,
        strong_guidance=1.0 if apart and asked.strong_guidance is None else asked.strong_guidance,
        weak_guidance=asked.weak_guidance if asked.weak_guidance is not None else float(apart),
        count=asked.reflect,
        variant=asked.variant or "paper",
    )


def side(asked: Options, name: str, model: Named) -> Mix:
    """One side's weights: the MODEL that was said for it, or the drawing one, its LoRA at this side's scale."""
    said, scale = getattr(asked, name), getattr(asked, f"{name}_scale")
    found = model if said is None else Named.find(said)
    if scale is not None and found.lora is None:
        raise SpecError(f"{name}_scale weighs a LoRA, and {said or 'the model'} has none")
    return found.mix(asked.scale if said is None and scale is None else scale)
