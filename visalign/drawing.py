"""Models by what a user calls them, and pictures from them: a folder, a run's folder, or a base with a LoRA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from .job import Screen
from .models.folder import DTYPES, Folder, FolderError
from .models.publish import LORA_FILE, attach_lora
from .models.unet import UNetDenoiser
from .models.weights import Full
from .sampling import pictures


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a pipeline folder, and adapters on top of it."""

    name: str
    folder: Folder
    lora: Path | None = None

    @classmethod
    def find(cls, spec: str, lora: str | None = None, *, allow_download: bool = False) -> Source:
        """From "playground", a pipeline folder, a hub id, a run's folder, or "BASE+LORA"."""
        base, plus, added = spec.partition("+")
        path = Path(base).expanduser()
        if not plus and not lora and (path / "run.yaml").is_file():
            return cls.of_run(path, spec)
        adapters = Path(lora or added).expanduser() if lora or added else None
        if adapters is not None and (adapters / "weights").is_dir():
            adapters = adapters / "weights"
        if adapters is not None and not (adapters.is_file() or (adapters / LORA_FILE).is_file()):
            raise FolderError(f"no LoRA at {adapters}: give a folder that holds {LORA_FILE}, or the file itself")
        return cls(spec, Folder.open(base, allow_download=allow_download), adapters)

    @classmethod
    def of_run(cls, path: Path, name: str) -> Source:
        """What a training run published: its LoRA on its base, or its whole pipeline."""
        weights = path / "weights"
        if not weights.is_dir():
            raise FolderError(f"{path} is a run without weights/: it has not finished; run the same command to resume")
        if not (weights / LORA_FILE).is_file():
            return cls(name, Folder.open(weights))
        base = yaml.safe_load((path / "run.yaml").read_text(encoding="utf-8"))["model"]["folder"]
        return cls(name, Folder.open(base), weights)


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; the same for every model that is compared."""

    steps: int = 25
    guidance: float = 5.0
    size: int | None = None  # side in pixels; None: what the model was made for
    batch: int = 32
    dtype: str = "fp32"
    device: str = "auto"

    @property
    def place(self) -> torch.device:
        """Where to draw."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)


class Drawer:
    """A model that is loaded and draws."""

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source, self.settings = source, settings
        dtype = DTYPES[settings.dtype]
        network: Any = source.folder.unet(dtype)
        if source.lora is not None:
            attach_lora(network, source.lora)
        self.encoders = source.folder.encoders(dtype, settings.place)
        weights = Full(network, reference=False)
        self.model = UNetDenoiser(weights, source.folder.process).to(settings.place).eval().requires_grad_(False)
        side = settings.size or source.folder.default_size
        self.size = (side, side)

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], screen: Screen, title: str = "") -> NDArray[np.uint8]:
        """(n, h, w, 3) uint8: prompt i from seed i."""
        made: list[NDArray[np.uint8]] = []
        with screen.stage(title or f"draw with {self.source.name}", total=len(prompts)) as stage:
            for batch in pictures(
                self.encoders, self.model, prompts, seeds, size=self.size, steps=self.settings.steps,
                guidance=self.settings.guidance, batch=self.settings.batch, device=self.settings.place,
                dtype=DTYPES[self.settings.dtype],
            ):  # fmt: skip
                made.append(batch)
                stage(sum(map(len, made)))
        return np.concatenate(made)


def draw(
    spec: str, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, screen: Screen, *, title: str = ""
) -> NDArray[np.uint8]:
    """Load a model, draw, and let go of it."""
    return Drawer(Source.find(spec), settings).draw(prompts, seeds, screen, title)
