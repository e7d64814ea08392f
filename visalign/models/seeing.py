"""A folder of an image-text-to-text model, or of adapters to one, opened to be trained or asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..contract import Reference
from . import publish_mllm, seeing_attention
from .attention import computed_in
from .folder import DTYPES, FolderError, hub_folder
from .mllm import SeeingModel
from .reading import Reader, Unreadable
from .states import read
from .weights import ADAPTER_CONFIG, ADAPTER_FILE, Full, Lora

LINEAR = "q_proj|k_proj|v_proj|o_proj|qkv_proj|gate_proj|up_proj|down_proj|gate_up_proj"
TARGETS = rf".*\.(language_model|text_model)\..*\.({LINEAR})"
PROJECTOR = re.compile(r"\.(multi_modal_projector|connector|merger|deepstack_merger_list|image_newline)(\.|$)")
VISION = re.compile(r"\.(vision_tower|vision_model|visual)\.")
READ = (".safetensors", ".json", ".jinja", ".txt", ".model")  # endings of files that answers depend on
TRAINED = ("lora", "full", "none")
OTHER = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save", "layers_to_transform")  # PEFT's


class SeeingFolder:
    """A transformers folder with its processor; or PEFT's folder of adapters, which names the model it belongs to.

    Args of `open`: a folder, the name "playground" for the model that ships with the package, or the id of a hub
    repository, which is looked up in the local cache and downloaded only if `allow_download`.
    """

    def __init__(self, path: Path, adapters: Path | None = None, name: str = "") -> None:
        self.path, self.adapters = path, adapters
        self.name = name or str(path.resolve())  # what adapters to it will call it

    @classmethod
    def open(cls, name: str | os.PathLike[str], *, allow_download: bool = False) -> SeeingFolder:
        """Find a model's folder; raises `FolderError` naming what was looked for and the mend."""
        path = _found(name, allow_download)
        if not (path / ADAPTER_CONFIG).is_file():
            return cls(_checked(path), name="" if Path(name).expanduser().exists() else str(name))
        base = json.loads((path / ADAPTER_CONFIG).read_text()).get("base_model_name_or_path")
        if not base:
            raise FolderError(f"the adapters in {path} do not say whose they are: set base_model_name_or_path in them")
        return cls(_checked(_found(base, allow_download)), path, base)

    @property
    def family(self) -> str:
        """transformers' name for the kind of model: "llava", "qwen2_5_vl", …"""
        return str(json.loads((self.path / "config.json").read_text())["model_type"])

    @cached_property
    def digest(self) -> str:
        """A hash of every file that an answer depends on: weights, settings, tokenizer, template, adapters."""
        found = hashlib.sha256()
        for folder in filter(None, (self.path, self.adapters)):
            for file in sorted(each for each in folder.iterdir() if each.suffix in READ):
                found.update(file.name.encode() + b"\0")
                with file.open("rb") as opened:
                    found.update(hashlib.file_digest(opened, "sha256").digest())
        return found.hexdigest()[:32]

    def reader(self, *, max_length: int | None = None) -> Reader:
        """What makes tokens and pixels of dialogues for this model; FolderError if its template cannot be gone by."""
        try:
            return Reader.open(self.path, max_length=max_length)
        except Unreadable as error:
            raise FolderError(f"{self.path}: {error}") from error

    def network(self, dtype: torch.dtype = torch.float32, attention: str | None = None) -> Any:
        """The network, loaded in the given dtype with transformers' name of an attention, without adapters."""
        from transformers import AutoModelForImageTextToText

        try:
            return AutoModelForImageTextToText.from_pretrained(
                self.path, dtype=dtype, attn_implementation=attention, use_safetensors=True, local_files_only=True
            )
        except ValueError as error:  # another kind of model, or an attention that it does not know
            raise FolderError(f"{self.path} holds a {self.family}, which does not open so: {error}") from error

    def model(
        self,
        *,
        train: str = "lora",
        reference: Reference = Reference.FROZEN,
        rank: int = 16,
        alpha: float | None = None,
        targets: str | tuple[str, ...] = TARGETS,
        vision: bool = False,
        projector: bool = True,
        dtype: str = "fp32",
        precision: str = "no",
        attention: str = "auto",
        strict_attention: bool = False,
        checkpointing: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
    ) -> SeeingModel:
        """The model ready to train ("lora", "full") or to be asked ("none"), its reference and its attention.

        Under a `precision` of "bf16" or "fp16" it will run in autocast, which is what `attention` must serve.
        LoRA adapts the language model's linear layers (`targets`). Full training leaves the vision tower as it is
        unless `vision`, and the projector unless `projector`. Adapters that the folder holds are trained on (`rank`,
        `alpha` and `targets` are theirs), and their start is the reference; otherwise they are put into the weights.
        """
        if train not in TRAINED:
            raise ValueError(f"train: {train!r} is not one of {', '.join(TRAINED)}")
        if train == "full" and dtype != "fp32":
            raise ValueError(f"full fine-tuning needs fp32 master weights, got dtype {dtype!r}; use precision: bf16")
        computed = computed_in(precision, DTYPES[dtype])
        resolution = seeing_attention.resolve(attention, torch.device(device), computed, strict=strict_attention)
        network = self.network(DTYPES[dtype], seeing_attention.asked(resolution)).to(device)
        resolution = seeing_attention.taken(network, resolution)
        if checkpointing:
            network.activation_checkpointing_enable({"use_reentrant": False})
        weights: Lora | Full
        if train == "lora":
            weights = self._lora(network, reference, rank=rank, alpha=alpha, targets=targets, seed=seed)
        else:
            weights = self._full(network, reference, _trained(train, vision=vision, projector=projector))
        settings = f"{dtype} {resolution.resolved}"
        return SeeingModel(weights, resolution=resolution, identify=lambda: f"{self.digest} {settings}").to(device)

    def publish(self, model: SeeingModel, out: Path, facts: Mapping[str, Any]) -> Path:
        """Write what was trained to `out`, whole or not at all, and return it: see `publish_mllm`."""
        return publish_mllm.publish(model, self, out, facts)

    def _lora(self, network: Any, reference: Reference, **settings: Any) -> Lora:
        follows = reference is Reference.EMA
        if self.adapters is None:
            return Lora(network, follows=follows, **settings)
        found = json.loads((self.adapters / ADAPTER_CONFIG).read_text())
        if odd := [name for name in OTHER if found.get(name)] or [found["peft_type"]] * (found["peft_type"] != "LORA"):
            raise FolderError(
                f"the adapters in {self.adapters} are no plain LoRA ({odd[0]}): merge them with PEFT first"
            )
        settings |= {"rank": found["r"], "alpha": found["lora_alpha"], "targets": found["target_modules"]}
        weights = Lora(network, follows=True, **settings)
        weights.load(read(self.adapters / ADAPTER_FILE), str(self.adapters))
        return weights

    def _full(self, network: Any, reference: Reference, parts: frozenset[str]) -> Full:
        if self.adapters is not None:
            self._lora(network, Reference.NONE, seed=0).merge()
        held, follows = bool(parts) and reference is Reference.FROZEN, bool(parts) and reference is Reference.EMA
        idle = unread(network.config)
        trained = {name for name, _ in network.named_parameters() if part_of(name) in parts and not idle.search(name)}
        return Full(network, reference=held, follows=follows, trained=trained.__contains__)


def open_model(name: str | os.PathLike[str], *, allow_download: bool = False, **settings: Any) -> SeeingModel:
    """The model of a folder; the settings are those of `SeeingFolder.model`."""
    return SeeingFolder.open(name, allow_download=allow_download).model(**settings)


def part_of(name: str) -> str:
    """Which part a parameter belongs to: "projector", "vision" or "language"."""
    if PROJECTOR.search(f".{name}"):
        return "projector"
    return "vision" if VISION.search(f".{name}") else "language"


def unread(config: Any) -> re.Pattern[str]:
    """Finds parameters that no answer depends on: of a vision tower the layers behind the one that is read, and the
    norm and the head that make one vector of a picture."""
    read: int | list[int] | None = getattr(config, "vision_feature_layer", None)
    count = getattr(config.vision_config, "num_hidden_layers", 0)
    layers = [read] if isinstance(read, int) else read or []
    deepest = max((each if each >= 0 else count + 1 + each for each in layers), default=count)
    behind = [rf"layers\.{layer}" for layer in range(deepest, count)] + ["post_layernorm"] * bool(layers)
    return re.compile(rf"{VISION.pattern}.*\b({'|'.join([*behind, 'head'])})\.")


def _trained(train: str, *, vision: bool, projector: bool) -> frozenset[str]:
    asked = {"language": True, "vision": vision, "projector": projector}
    return frozenset(each for each, wanted in asked.items() if wanted and train == "full")


def _found(name: str | os.PathLike[str], allow_download: bool) -> Path:
    if str(name) == "playground":
        from ..playground import seeing_folder

        return Path(seeing_folder())
    path = Path(name).expanduser()
    if path.exists() or str(name).startswith((".", "/", "~")):
        return path
    return hub_folder(str(name), allow_download)


def _checked(path: Path) -> Path:
    if not (path / "config.json").is_file():
        raise FolderError(f"no config.json in {path}: give the folder of a transformers image-text-to-text model")
    return path
