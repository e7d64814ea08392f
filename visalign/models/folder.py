"""A diffusers pipeline folder of the Stable Diffusion kind, opened part by part and only when a part is asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..batches import Condition
from ..contract import Reference
from ..process import Ddpm, Flow, from_scheduler
from . import attention
from .unet import UNetDenoiser
from .users import Shape, Users
from .weights import Full, Lora

FAMILIES = {
    "StableDiffusionPipeline": "sd",
    "StableDiffusionXLPipeline": "sdxl",
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class FolderError(ValueError):
    """A model folder is missing, or is not of a kind that is known here."""


class Folder:
    """A model folder: its process, its encoders, its denoiser, and the whole as a plain diffusers pipeline.

    Args of `open`: a folder, the name "playground" for the model that ships with the package, or the id of a hub
    repository, which is looked up in the local cache and downloaded only if `allow_download`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        index = json.loads((path / "model_index.json").read_text())
        kind = index.get("_class_name")
        if kind not in FAMILIES:
            raise FolderError(f"{path} holds a {kind}; known here are {', '.join(FAMILIES)}")
        self.kind: str = kind
        self.family = FAMILIES[kind]
        self.zero_empty = bool(index.get("force_zeros_for_empty_prompt", False))

    @classmethod
    def open(cls, name: str | os.PathLike[str], *, allow_download: bool = False) -> Folder:
        """Find a model folder; raises `FolderError` naming what was looked for and the mend."""
        if str(name) == "playground":
            from ..playground import folder as shipped

            return cls(shipped())
        path = Path(name).expanduser()
        if (path / "model_index.json").is_file():
            return cls(path)
        if path.exists() or str(name).startswith((".", "/", "~")):
            raise FolderError(f"no model_index.json in {path}: give the folder of a diffusers pipeline")
        return cls(hub_folder(str(name), allow_download))

    @cached_property
    def process(self) -> Ddpm | Flow:
        """The path that the folder's scheduler describes."""
        return from_scheduler(json.loads((self.path / "scheduler" / "scheduler_config.json").read_text()))

    def unet_config(self) -> dict[str, Any]:
        """The UNet's config, read without loading weights."""
        config: dict[str, Any] = json.loads((self.path / "unet" / "config.json").read_text())
        return config

    @property
    def default_size(self) -> int:
        """The side in pixels that the model was made for."""
        return int(self.unet_config()["sample_size"]) * self.factor

    @property
    def factor(self) -> int:
        """Pixels per latent along a side."""
        config = json.loads((self.path / "vae" / "config.json").read_text())
        return int(2 ** (len(config["block_out_channels"]) - 1))

    def encoders(self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> Encoders:
        """The VAE and the text encoders, loaded."""
        return Encoders(self, dtype, torch.device(device))

    def unet(self, dtype: torch.dtype = torch.float32) -> Any:
        """The UNet, loaded in the given dtype."""
        from diffusers import UNet2DConditionModel

        return UNet2DConditionModel.from_pretrained(
            self.path, subfolder="unet", torch_dtype=dtype, use_safetensors=True, local_files_only=True
        )

    def denoiser(
        self,
        *,
        train: str = "lora",
        reference: Reference = Reference.FROZEN,
        rank: int = 16,
        alpha: float | None = None,
        dropout: float = 0.0,
        dtype: str = "fp32",
        kernel: str = "auto",
        strict_attention: bool = False,
        checkpointing: bool = False,
        device: torch.device | str = "cpu",
        seed: int = 0,
        users: Shape | None = None,
    ) -> UNetDenoiser:
        """The UNet ready to train: adapters, full weights or attention to `users`, its reference, its kernel."""
        if train not in ("lora", "full", "user"):
            raise ValueError(f"train: {train!r} is not one of lora, full, user")
        if (train == "user") != (users is not None):
            raise ValueError(f"train: user and users' embeddings go together, got {train!r} and {users}")
        if train == "full" and dtype != "fp32":
            raise ValueError(f"full fine-tuning needs fp32 master weights, got dtype {dtype!r}; use precision: bf16")
        network = self.unet(DTYPES[dtype]).to(device)
        setting = attention.Setting(torch.device(device), DTYPES[dtype], attention.head_widths(network))
        resolution = attention.resolve(kernel, setting, strict=strict_attention)
        attention.install(network, resolution)
        if checkpointing:
            network.enable_gradient_checkpointing()
        weights: Lora | Full | Users
        follows = reference is Reference.EMA
        if users is not None:
            weights = Users(network, users, seed=seed)
        elif train == "lora":
            weights = Lora(network, rank=rank, alpha=alpha, dropout=dropout, seed=seed, follows=follows)
        else:
            weights = Full(network, reference=reference is not Reference.NONE, follows=follows)
        return UNetDenoiser(weights, self.process, resolution=resolution).to(device)

    def pipeline(self, **changed: Any) -> Any:
        """The folder as a plain diffusers pipeline, with parts replaced by name."""
        import diffusers

        kind = getattr(diffusers, self.kind)
        return kind.from_pretrained(self.path, use_safetensors=True, local_files_only=True, **changed)


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


class Encoders:
    """Pictures and prompts to what the denoiser sees, and latents back to pictures. Never trained here.

    The VAE runs in float32 always: Stable Diffusion XL's overflows in half precision, and a latent is made once.
    """

    def __init__(self, folder: Folder, dtype: torch.dtype, device: torch.device) -> None:
        from diffusers import AutoencoderKL

        self.folder, self.dtype, self.device = folder, dtype, device
        self.vae: Any = AutoencoderKL.from_pretrained(
            folder.path, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.vae.to(device).eval().requires_grad_(False)
        self.scale = float(self.vae.config.scaling_factor)
        self.shift = float(self.vae.config.shift_factor or 0.0)
        self.factor = folder.factor
        self.wants_time_ids = folder.family == "sdxl"
        names = ["", "_2"] if folder.family == "sdxl" else [""]
        self._readers = [self._reader(name) for name in names]

    def _reader(self, suffix: str) -> tuple[Any, Any]:
        import transformers

        path = self.folder.path
        kind = transformers.CLIPTextModelWithProjection if suffix else transformers.CLIPTextModel
        encoder = kind.from_pretrained(
            path / f"text_encoder{suffix}", dtype=self.dtype, use_safetensors=True, local_files_only=True
        )
        tokenizer = transformers.CLIPTokenizer.from_pretrained(path / f"tokenizer{suffix}", local_files_only=True)
        return tokenizer, encoder.to(self.device).eval().requires_grad_(False)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every file and setting that changes what these encoders return."""
        digest = hashlib.sha256(f"{self.dtype} {self.folder.zero_empty}".encode())
        for part in ("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"):
            for file in sorted((self.folder.path / part).glob("*")):
                digest.update(f"{part}/{file.name}".encode())
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
        return digest.hexdigest()[:32]

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the VAE's posterior, scaled as the UNet sees it, for pixels (n, 3, h, w) in [-1, 1]."""
        posterior = self.vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        return (posterior.mean - self.shift) * self.scale, posterior.std * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, h, w) in [0, 1]."""
        pixels: Tensor = self.vae.decode(latents.to(self.device, torch.float32) / self.scale + self.shift).sample
        return (pixels / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Hidden states (n, tokens, width) and SDXL's pooled text (n, width); longer prompts are cut at the window.

        Stable Diffusion reads the last layer after its norm; SDXL the layer before the last of both encoders, side by
        side, and the pooled projection of the second. Where the pipeline draws its unconditional branch with zeros
        (`force_zeros_for_empty_prompt`), "" gives zeros too, so that dropped prompts train what sampling will use.
        """
        hidden, pooled = [], None
        for tokenizer, encoder in self._readers:
            ids = tokenizer(
                list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True,
                return_tensors="pt",
            ).input_ids.to(self.device)  # fmt: skip
            answer = encoder(ids, output_hidden_states=self.wants_time_ids)
            hidden.append(answer.hidden_states[-2] if self.wants_time_ids else answer.last_hidden_state)
            pooled = answer.text_embeds if self.wants_time_ids and hasattr(answer, "text_embeds") else pooled
        text = torch.cat(hidden, dim=-1)
        if self.folder.zero_empty:
            told = torch.tensor([bool(prompt) for prompt in prompts], device=self.device)
            text = text * told[:, None, None]
            pooled = None if pooled is None else pooled * told[:, None]
        return text, pooled

    def conditions(self, prompts: Sequence[str], size: tuple[int, int]) -> Condition:
        """Conditions of n prompts for pictures of (height, width) pixels, each unique prompt encoded once."""
        unique = list(dict.fromkeys(prompts))
        rows = torch.tensor([unique.index(prompt) for prompt in prompts], device=self.device)
        text, pooled = self.encode_prompts(unique)
        time_ids = None
        if self.wants_time_ids:
            height, width = size
            time_ids = torch.tensor([[height, width, 0, 0, height, width]] * len(prompts), device=self.device)
        return Condition(text[rows], None if pooled is None else pooled[rows], time_ids)

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """(channels, height, width) of one latent."""
        return (int(self.vae.config.latent_channels), size[0] // self.factor, size[1] // self.factor)
