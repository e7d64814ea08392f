"""Settings of a run: YAML and dotted changes to frozen dataclasses, strictly (see `strict`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from .strict import ConfigError as ConfigError
from .strict import between, check_ranges, joined, refuse
from .strict import fill as fill
from .strict import suggestion as suggestion

RECIPES = "visalign.configs"


@dataclass(frozen=True)
class Model:
    """Which model is trained, and which of its weights."""

    folder: str = "playground"  # a diffusers folder, a name the registry knows, or a hub id if downloads are allowed
    train: Literal["lora", "full", "user"] = "lora"  # user: new attention to the users of data.users, as PPD
    rank: int = between(16, 1)
    alpha: float | None = between(None, 0.0, open_low=True)  # None: the rank, so that LoRA's factor is 1
    attention: Literal["auto", "sdpa", "xformers", "flash"] = "auto"
    strict_attention: bool = False  # True: an attention that cannot run is an error, not a fallback
    checkpointing: bool = False  # of activations: less memory, a third more time, the same gradients
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"  # of the frozen weights; what is trained is always fp32
    guidance: float | None = between(None, 0.0)  # what a model like FLUX.1-dev is told in training; None: its own 3.5
    allow_download: bool = False
    vision: bool = False  # train: full reaches the vision tower of a language model too
    projector: bool = True  # and what stands between tower and language model
    cache_reference: bool = False  # a language model's reference is asked once, before training, and its answers kept
    network: Mapping[str, Any] = field(default_factory=dict)  # of a reward model: {name: open_clip, image_blocks: 20}


@dataclass(frozen=True)
class Data:
    """Which records are trained on, and how they become batches."""

    path: str = ""
    format: str | None = None  # None: told from the file
    resolution: int = between(512, 8)  # pixels of a side, of the upright one where `width` is another
    width: int | None = between(None, 8)  # pixels of the other side; None: pictures are square
    frames: int | None = between(None, 1)  # of a clip, of which the first so many are trained on; None: pictures
    ties: Literal["skip", "half"] = "skip"  # half: a tie is a preference of probability 1/2
    prompt_dropout: float = between(0.0, 0.0, 1.0)
    max_bad: float = between(0.01, 0.0, 1.0)  # share of records that may be quarantined
    cache: Path | None = None  # of what is used again; None: beside the records
    liked: float | None = between(None, 0.0, 1.0, open_low=True)  # weight of liked pictures among labelled ones, in all
    users: Path | None = None  # safetensors with each user's embedding (tokens, width), for personalised methods
    max_length: int | None = between(None, 1)  # tokens of question, pictures and answer; what is longer loses its end
    critique: str = "{question}\n{answer}"  # how a critic is asked about an answer
    relevance: str | Mapping[str, Any] | None = None  # a scorer that says which words of a question the picture shows
    segments_min: float = between(0.2, 0.0, 1.0)  # share of a clip's frames that need a label, for labels of segments
    temperature: float = between(0.0, 0.0)  # from utility differences to probabilities; 0: the higher one is better

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of a picture in pixels, (frames, height, width) of a clip."""
        sides = self.resolution, self.width or self.resolution
        return sides if self.frames is None else (self.frames, *sides)


@dataclass(frozen=True)
class Optimizer:
    """AdamW and its learning rate, a pure function of the step."""

    lr: float = between(1e-5, 0.0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = between(1e-8, 0.0, open_low=True)
    weight_decay: float = between(0.01, 0.0)
    warmup: int = between(0, 0)  # steps of linear rise
    schedule: Literal["constant", "cosine"] = "constant"
    clip: float = between(1.0, 0.0)  # greatest gradient norm; 0: never clipped


@dataclass(frozen=True)
class Validation:
    """Pictures drawn while training, always from the same noise."""

    prompts: tuple[str, ...] = ()
    every: int = between(0, 0)  # optimizer steps; 0: never
    steps: int = between(20, 1)  # of the sampler
    guidance: float = between(5.0, 0.0)
    seed: int = 0
    scorer: str | Mapping[str, Any] | None = None  # judges the pictures; the weights of the best ones are what is kept
    patience: int = between(0, 0)  # validations without a better score before the run stops; 0: it never does


@dataclass(frozen=True)
class Stop:
    """When training stops early: the rule of `metrics.Collapse`."""

    collapse: bool = True
    window: int = between(20, 1)  # optimizer steps that are averaged
    win_rise: float = between(0.2, 0.0)  # the winners' error above the reference's, as a share of it
    lose_rise: float = between(0.5, 0.0)  # likewise the losers'
    win_fall: float = between(1.0, 0.0)  # nats a token that preferred answers lose against the reference


@dataclass(frozen=True)
class Run:
    """One training run."""

    name: str = "run"
    seed: int = 0
    out: Path = Path("runs/run")
    steps: int = between(1000, 1)  # optimizer steps
    batch: int = between(8, 1)  # records an optimizer step, over all processes
    micro_batch: int = between(1, 1)  # records a forward of one process
    precision: Literal["no", "bf16", "fp16"] = "no"
    ema: float = between(0.0, 0.0, 1.0)  # decay of the average of the trained weights; 0: none
    compile: bool = False
    save_every: int = between(100, 0)  # optimizer steps; 0: only at the end
    keep: int = between(2, 2)  # newest checkpoints that stay
    log_every: int = between(1, 1)
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()  # besides metrics.jsonl, which is always written
    skip_nonfinite: int = between(0, 0)  # steps that may be left out because loss or gradient is not finite
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    optimizer: Optimizer = field(default_factory=Optimizer)
    validation: Validation = field(default_factory=Validation)
    stop: Stop = field(default_factory=Stop)
    method: Mapping[str, Any] = field(default_factory=lambda: {"name": "diffusion_dpo"})

    def __post_init__(self) -> None:
        """Ranges, of this and of every part, also where the run was made in code."""
        check_ranges(self)
        if self.batch % self.micro_batch:
            raise ConfigError(f"batch ({self.batch}) must be a multiple of micro_batch ({self.micro_batch})")
        if "name" not in self.method:
            raise ConfigError(f"method needs a name, as in {{name: diffusion_dpo}}; got {dict(self.method)}")


def load(source: str | Path | None, changes: Iterable[str] = ()) -> Run:
    """The run of a YAML file or of a shipped recipe's name (None: the defaults), after "a.b=value" changes."""
    values: dict[str, Any] = plain({"method": Run().method}) if source is None else _read(source)
    for change in changes:
        _apply(values, change)
    if isinstance(values.get("method"), str):
        values["method"] = {"name": values["method"]}
    return fill(Run, values, "")


def plain(value: Any) -> Any:
    """The same settings as dicts, lists, strings and numbers: what YAML and JSON can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def to_yaml(run: Run) -> str:
    """The filled run as YAML; `load` reads it back as an equal run."""
    return str(yaml.safe_dump(plain(run), sort_keys=False, allow_unicode=True))


def flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Nested settings by their dotted paths."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = joined(where, str(key))
        found.update(flat(value, path) if isinstance(value, Mapping) else {path: value})
    return found


def _read(source: str | Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(_text(source)) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {' '.join(str(error).split())}") from None
    return values if isinstance(values, dict) else refuse(values, "settings (key: value)", str(source))


def _text(source: str | Path) -> str:
    path = Path(source)
    if path.is_file():
        return path.read_text(encoding="utf-8")
    shipped = {item.name.removesuffix(".yaml"): item for item in resources.files(RECIPES).iterdir()}
    if str(source) in shipped and shipped[str(source)].is_file():
        return shipped[str(source)].read_text(encoding="utf-8")
    raise ConfigError(f"no such file or recipe: {source}{suggestion(str(source), recipes())}")


def recipes() -> list[str]:
    """Names of the recipes that ship."""
    names = [item.name for item in resources.files(RECIPES).iterdir()]
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _apply(values: dict[str, Any], change: str) -> None:
    """Set one dotted path; a mapping on the way is made, anything else on the way is an error."""
    path, equals, text = change.partition("=")
    if not equals or not path.strip():
        raise ConfigError(f"a change reads name=value, as in optimizer.lr=1e-5; got {change!r}")
    *parents, last = path.strip().split(".")
    for depth, parent in enumerate(parents):
        inner = values.setdefault(parent, {})
        if isinstance(inner, str) and depth == 0 and parent == "method":  # `method: sft` is short for {name: sft}
            inner = values[parent] = {"name": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{path}: {'.'.join(parents[: depth + 1])} is {inner!r} and has no parts")
        values = inner
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"{path}: {text!r} is not a YAML value") from None
