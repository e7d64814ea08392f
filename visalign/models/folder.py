"""A diffusers pipeline folder of a known kind, opened part by part and only when a part is asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..contract import Reference
from ..playground import SHIPPED
from ..process import Ddpm, Flow
from . import attention
from .denoiser import NetworkDenoiser
from .encoders import Encoders
from .families import PIPELINES
from .family import Family
from .users import Shape, Users
from .weights import Full, Lora

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FolderError(ValueError):
    """A model folder is missing, or is not of a kind that is known here."""


class Folder:
    """A model folder: its process, its encoders, its denoiser, and the whole as a plain diffusers pipeline.

    Args of `open`: a folder, the name of a model that ships with the package ("playground" draws pictures,
    "playground_moving" clips), or the id of a hub repository, which is looked up in the local cache and downloaded only
    if `allow_download`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = json.loads((path / "model_index.json").read_text())
        pipeline = index.get("_class_name")
        if pipeline not in PIPELINES:
            raise FolderError(f"{path} holds a {pipeline}; known here are {', '.join(PIPELINES)}")
        self.pipeline_class: str = pipeline
        self.family = PIPELINES[pipeline]
        if why := self.family.refuse(index) or other_network(index, self.family):
            raise FolderError(f"{path}: {why}")
        self.zero_empty = bool(index.get("force_zeros_for_empty_prompt", False))

    @classmethod
    def open(cls, name: str | os.PathLike[str], *, allow_download: bool = False) -> Folder:
        """Find a model folder; raises `FolderError` naming what was looked for and the mend."""
        if str(name) in SHIPPED:
            return cls(SHIPPED[str(name)]())
        path = Path(name).expanduser()
        if (path / "model_index.json").is_file():
            return cls(path)
        if path.exists() or str(name).startswith((".", "/", "~")):
            raise FolderError(f"no model_index.json in {path}: give the folder of a diffusers pipeline")
        return cls(hub_folder(str(name), allow_download))

    @cached_property
    def process(self) -> Ddpm | Flow:
        """The path that the folder's scheduler describes."""
        return self.family.path(json.loads((self.path / "scheduler" / "scheduler_config.json").read_text()))

    def process_at(self, size: tuple[int, ...]) -> Ddpm | Flow:
        """The path for pictures or clips of this size in pixels."""
        tokens = prod(side // self.grain for side in size[-2:])
        return self.process.sized(tokens) if isinstance(self.process, Flow) else self.process

    def network_config(self) -> dict[str, Any]:
        """The network's config, read without loading weights."""
        return self._config(self.family.part)

    @property
    def default_size(self) -> tuple[int, ...]:
        """What the model was made for, in pixels: (height, width), or (frames, height, width) of clips."""
        return self.family.size(self.network_config(), self.factor)

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        return self.family.factor(self._config("vae"))

    @property
    def grain(self) -> int:
        """Pixels of a latent along a side, or of a transformer's token: sides are multiples of it."""
        return self.factor * self.family.patch(self.network_config())

    @property
    def guidance(self) -> float | None:
        """What the network is told of guidance in training; None where it is asked twice instead."""
        return self.family.guidance(self.network_config())

    def _config(self, part: str) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.path / part / "config.json").read_text())
        return config

    def encoders(
        self,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        *,
        guidance: float | None = None,
    ) -> Encoders:
        """The autoencoder and the text encoders; `guidance` is told to a network that is told it in place of
        its family's own, and FolderError where it is not."""
        if guidance is not None and self.guidance is None:
            raise FolderError(f"{self.path} is not told its guidance, {guidance:g}: leave model.guidance out")
        return Encoders(self, dtype, torch.device(device), self.guidance if guidance is None else guidance)

    def network(self, dtype: torch.dtype = torch.float32) -> Any:
        """The network that draws, loaded in the given dtype."""
        import diffusers

        return getattr(diffusers, self.family.network).from_pretrained(
            self.path, subfolder=self.family.part, torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )

    def denoiser(
        self,
        *,
        train: str = "lora",
        reference: Reference = Reference.FROZEN,
        rank: int = 16,
        alpha: float | None = None,
        dtype: str = "fp32",
        precision: str = "no",
        kernel: str = "auto",
        strict_attention: bool = False,
        checkpointing: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
        users: Shape | None = None,
        size: tuple[int, ...] | None = None,
    ) -> NetworkDenoiser:
        """The network ready to train: adapters, full weights or attention to `users`, its reference, its kernel.

        Under a `precision` of "bf16" or "fp16" it will run in autocast, which is what `kernel` must serve.
        `size` are the pixels of what it is trained on, on which some paths depend; None: what it was made for.
        """
        if train not in ("lora", "full", "user"):
            raise ValueError(f"train: {train!r} is not one of lora, full, user")
        if (train == "user") != (users is not None):
            raise ValueError(f"train: user and users' embeddings go together, got {train!r} and {users}")
        if train == "full" and dtype != "fp32":
            raise ValueError(f"full fine-tuning needs fp32 master weights, got dtype {dtype!r}; use precision: bf16")
        network = self.network(DTYPES[dtype]).to(device)
        computed = attention.computed_in(precision, DTYPES[dtype])
        setting = attention.Setting(torch.device(device), computed, attention.head_widths(network))
        resolution = attention.resolve(kernel, setting, strict=strict_attention)
        attention.install(network, resolution)
        if checkpointing:
            network.enable_gradient_checkpointing()
        weights: Lora | Full | Users
        follows = reference is Reference.EMA
        if users is not None:
            weights = Users(network, users, seed=seed)
        elif train == "lora":
            weights = Lora(network, rank=rank, alpha=alpha, targets=self.family.targets, seed=seed, follows=follows)
        else:
            weights = Full(network, reference=reference is not Reference.NONE, follows=follows)
        process = self.process_at(size or self.default_size)
        return NetworkDenoiser(weights, process, resolution=resolution).to(device)

    def pipeline(self, **changed: Any) -> Any:
        """The folder as a plain diffusers pipeline, with parts replaced by name."""
        import diffusers

        kind = getattr(diffusers, self.pipeline_class)
        return kind.from_pretrained(self.path, use_safetensors=True, local_files_only=True, **changed)


def other_network(index: Mapping[str, Any], family: Family) -> str | None:
    """Why the network that a model_index.json names is not the family's, as where motion modules lie beside a UNet of
    pictures; None if it is, or nothing is said."""
    _, named = index.get(family.part) or (None, family.network)
    if named == family.network:
        return None
    return f"its {family.part} is a {named}, not a {family.network}: save it by {family.pipeline}.save_pretrained"


def hub_folder(name: str, allow_download: bool) -> Path:
    """The local snapshot of a hub repository; nothing is downloaded unless allowed."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["*.json", "*.txt", "*.safetensors", "*.model", "*.jinja"]
    try:
        return Path(snapshot_download(name, local_files_only=not allow_download, allow_patterns=patterns))
    except (LocalEntryNotFoundError, HfHubHTTPError, HFValidationError, OSError) as error:
        mend = (
            "check the name and the network"
            if allow_download
            else "give a local folder, or set model.allow_download: true"
        )
        raise FolderError(f"no model folder {name!r} here: {mend} ({type(error).__name__})") from error
