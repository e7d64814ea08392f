"""Wan 2.1 (arXiv 2503.20314): a transformer over the latents of an autoencoder that is causal in time, told by UMT5.

Latent frame 0 is the first frame of a clip by itself, each other one is of four: latents are (n, 16, 1 + (f - 1) / 4,
h / 8, w / 8), and clips have 4 k + 1 frames. Prompts are cleaned by diffusers' own `prompt_clean`: where ftfy is
installed it mends them there and here alike. Wan 2.2's two experts are two networks, and are not trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Condition
from ..records import DataError
from .encoders import Reader
from .family import Config, Family

if TYPE_CHECKING:
    from .folder import Folder

STRIDE = 4  # frames in a latent frame after the first; AutoencoderKLWan knows no other
TOKENS = 512  # of a prompt, padded with zeros: the pipeline's window (its `encode_prompt` alone would take 226)
SIZE = (81, 480, 832)  # frames, height, width of the pipeline's defaults, for the configs name none


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """(n, c, frames, h, w) of a `WanTransformer3DModel`."""
    if condition.user is not None:
        raise ValueError("a user's embedding was given, and Wan has no attention to users: it is for UNets")
    dtype = network.patch_embedding.weight.dtype
    answer: Tensor = network(x_t.to(dtype), time, condition.text.to(dtype), return_dict=False)[0]
    return answer


class WanCoder:
    """diffusers' `AutoencoderKLWan`: latents less the mean of each channel, in its deviations."""

    def __init__(self, folder: Folder, device: torch.device) -> None:
        from diffusers import AutoencoderKLWan

        self.vae: Any = AutoencoderKLWan.from_pretrained(
            folder.path, subfolder="vae", torch_dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        self.vae.to(device).eval().requires_grad_(False).enable_slicing()  # one clip at a time
        mean, deviation = self.vae.config.latents_mean, self.vae.config.latents_std
        self.mean, self.deviation = (
            torch.tensor(each, device=device)[:, None, None, None] for each in (mean, deviation)
        )
        self.factor = folder.factor
        self.grain = self.factor * patch(folder.network_config())

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pixels (n, 3, 4 k + 1, h, w)."""
        self.latent_shape(tuple(pixels.shape[2:]))  # the autoencoder leaves out other frames without a word
        posterior = self.vae.encode(pixels).latent_dist
        return (posterior.mean - self.mean) / self.deviation, posterior.std / self.deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, 4 k + 1, h, w) in [-1, 1]."""
        pixels: Tensor = self.vae.decode(latents * self.deviation + self.mean).sample
        return pixels

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """(channels, frames, height, width); DataError for frames and sides that do not fill whole latents."""
        frames, height, width = size
        if frames < 1 or (frames - 1) % STRIDE:
            low = max(1, frames - (frames - 1) % STRIDE)
            raise DataError(f"Wan's clips have 4 k + 1 frames, not {frames}; {low} and {low + STRIDE} are near")
        if height % self.grain or width % self.grain:
            raise DataError(f"sides of Wan's clips are multiples of {self.grain} pixels, got {height} x {width}")
        return int(self.vae.config.z_dim), 1 + (frames - 1) // STRIDE, height // self.factor, width // self.factor


def read(folder: Folder, dtype: torch.dtype, device: torch.device) -> Reader:
    """UMT5's last hidden states; what is past a prompt's end is zeros, as the pipeline makes it."""
    import transformers
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    encoder: Any = transformers.UMT5EncoderModel.from_pretrained(
        folder.path / "text_encoder", dtype=dtype, use_safetensors=True, local_files_only=True
    )
    encoder.to(device).eval().requires_grad_(False)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder.path / "tokenizer", local_files_only=True)

    def states(prompts: Sequence[str]) -> tuple[Tensor, None]:
        told = tokenizer(
            [prompt_clean(prompt) for prompt in prompts], padding="max_length", max_length=TOKENS, truncation=True,
            return_attention_mask=True, return_tensors="pt",
        ).to(device)  # fmt: skip
        found = encoder(told.input_ids, told.attention_mask).last_hidden_state
        return found * told.attention_mask[..., None].to(found.dtype), None

    return states


def factor(vae: Config) -> int:
    """What the autoencoder says, 8 of old."""
    return int(vae.get("scale_factor_spatial", 8))


def patch(config: Config) -> int:
    """Latents of a token along a side."""
    return int(config.get("patch_size", (1, 2, 2))[1])


def size(config: Config, per_latent: int) -> tuple[int, int, int]:
    """The pipeline's own, whatever the network."""
    return SIZE


def example(config: Config, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Condition]:
    """A latent of (frames, height, width) and its condition, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(1, int(config.get("in_channels", 16)), *shape)
        return x, Condition(torch.empty(1, tokens, int(config.get("text_dim", 4096))))


def refuse(index: Mapping[str, Any]) -> str | None:
    """Why a folder of that model_index.json cannot be trained here; None if it can."""
    experts = index.get("transformer_2") not in (None, [None, None])
    if not experts and index.get("boundary_ratio") is None:
        return None
    return (
        f"two experts take turns in it (transformer_2, boundary_ratio {index.get('boundary_ratio')}, as in Wan 2.2's "
        "A14B), and one network is trained here: use Wan 2.1, or Wan 2.2 TI2V 5B"
    )


WAN = Family(
    "wan", "WanPipeline", "transformer", "WanTransformer3DModel", ask, WanCoder, read, factor, size, example,
    clips=True, rate=16.0, stride=STRIDE, tokens=TOKENS, refuse=refuse,
    patch=patch,
)  # fmt: skip
