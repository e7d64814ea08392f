"""visalign list and visalign doctor: what there is, and whether this machine is ready."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from .screen import Screen

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "xformers", "open_clip_torch")
KINDS = (
    "method", "scorer", "judge", "chat", "reader", "captioner", "rewriter", "detector", "text_reader", "similarity",
    "loss", "recipe", "source", "model",
)  # fmt: skip

SEEING = (
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "paligemma",
    "internvl", "gemma3",
)  # fmt: skip


def add(commands: words.Commands) -> None:
    """Both commands."""
    made = words.command(
        commands, "list", "what can be named: methods, scorers, losses, recipes …", "visalign list loss", show
    )
    made.add_argument(
        "kind", nargs="?", choices=KINDS, metavar="KIND", help=f"one of {', '.join(KINDS)}; all if not given"
    )
    words.command(commands, "doctor", "whether this machine is ready, and what it lacks", "visalign doctor", examine)


def show(given: Any) -> int:
    """Print the names of a kind, or of all."""
    from .screen import Screen

    screen = Screen()
    for kind in [given.kind] if given.kind else KINDS:
        screen.table(kind, ["name", "what it is"], rows(kind))
    return 0


def rows(kind: str) -> list[list[str]]:
    """Names of a kind, each with a line on what it is."""
    from .. import config, registry

    if kind in registry.kinds():
        return [[name, entry.about] for name, entry in registry.names(kind).items()]
    if kind == "recipe":
        return [[name, _first_command(name)] for name in config.recipes()]
    if kind == "loss":
        return _losses()
    if kind == "source":
        from ..data import sources

        return [[name, (read.__doc__ or "").splitlines()[0]] for name, read in sources.FORMATS.items()]
    from ..models.families import PIPELINES

    return [
        ["playground", "the tiny models that ship with the package: one draws, one sees"],
        ["playground_moving", "the tiny model that ships with the package and draws clips"],
        *([name, f"a diffusers folder of the {family.name} kind"] for name, family in PIPELINES.items()),
        ["image-text-to-text", f"a transformers folder of a model that sees: {', '.join(SEEING)}; likely others"],
    ]


def _losses() -> list[list[str]]:
    from .. import losses

    return [[name, f"{entry.when} ({entry.paper})"] for name in losses.names() if (entry := losses.by_name(name))]


def _first_command(recipe: str) -> str:
    """The command that a recipe opens with."""
    from importlib import resources

    text = resources.files("visalign.configs").joinpath(f"{recipe}.yaml").read_text(encoding="utf-8")
    return text.splitlines()[0].lstrip("# ")


def examine(given: Any) -> int:
    """Versions, devices, attention, the playground; exit code 1 if something needed is missing."""
    from .screen import Screen

    screen = Screen()
    screen.table("Packages", ["package", "version"], [[name, version(name)] for name in PACKAGES])
    screen.table("Compute", ["", ""], devices())
    screen.table("Attention", ["kernel", "here"], kernels())
    return playground(screen)


def version(package: str) -> str:
    """The installed version, or that there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def devices() -> list[list[str]]:
    """What torch computes on."""
    import os

    import torch

    found = [["CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"]]
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        found.append(
            [f"cuda:{index}", f"{about.name}, {about.total_memory / 1e9:.0f} GB, bf16 {torch.cuda.is_bf16_supported()}"]
        )
    return found if len(found) > 1 else [*found, ["GPU", "none: full-sized models will not train in useful time"]]


def kernels() -> list[list[str]]:
    """Each attention kernel, probed on this machine."""
    import torch

    from ..models import attention

    cuda = torch.cuda.is_available()
    setting = attention.Setting(
        torch.device("cuda" if cuda else "cpu"), torch.bfloat16 if cuda else torch.float32, (64,)
    )
    found = [["sdpa", "ready"]]
    return found + [[name, refuse(setting) or "ready"] for name, refuse in attention.PROBES.items()]


def playground(screen: Screen) -> int:
    """Whether the playground's model opens."""
    from ..models.folder import Folder, FolderError

    try:
        path = Folder.open("playground").path
    except (FolderError, FileNotFoundError) as error:
        screen.warn(f"the playground's model does not open: {error}")
        return 1
    screen.say(f"playground: {path}")
    return 0
