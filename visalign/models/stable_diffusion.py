"""Stable Diffusion 1.5, 2.1 and XL: a UNet that attends to the hidden states of one CLIP, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Condition
from .encoders import PictureCoder, Reader
from .family import Config, Family
from .users import told

if TYPE_CHECKING:
    from .folder import Folder


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """(n, c, h, w) of a `UNet2DConditionModel`; SDXL's also takes pooled text and time ids."""
    dtype = network.conv_in.weight.dtype
    added = None
    if network.config.addition_embed_type == "text_time":
        if condition.pooled is None or condition.time_ids is None:
            raise ValueError("an SDXL-type UNet needs the condition's `pooled` text and `time_ids`, and one is missing")
        added = {"text_embeds": condition.pooled.to(dtype), "time_ids": condition.time_ids}
    states = told(network, condition.text.to(dtype), condition.user)
    answer: Tensor = network(x_t.to(dtype), time, states, added_cond_kwargs=added, return_dict=False)[0]
    return answer


def clip(folder: Folder, suffix: str, dtype: torch.dtype, device: torch.device, *, projected: bool) -> tuple[Any, Any]:
    """The tokenizer and the CLIP text encoder in a folder, with or without its projection of the pooled text."""
    import transformers

    kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    encoder = kind.from_pretrained(
        folder.path / f"text_encoder{suffix}", dtype=dtype, use_safetensors=True, local_files_only=True
    )
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder.path / f"tokenizer{suffix}", local_files_only=True)
    return tokenizer, encoder.to(device).eval().requires_grad_(False)


def ids(tokenizer: Any, prompts: Sequence[str], device: torch.device, length: int | None = None) -> Tensor:
    """(n, length) token ids, padded and cut to the tokenizer's own window where no length is given."""
    found: Tensor = tokenizer(
        list(prompts), padding="max_length", max_length=length or tokenizer.model_max_length, truncation=True,
        return_tensors="pt",
    ).input_ids.to(device)  # fmt: skip
    return found


def read_one(folder: Folder, dtype: torch.dtype, device: torch.device) -> Reader:
    """Stable Diffusion's: the last layer, after its norm."""
    tokenizer, encoder = clip(folder, "", dtype, device, projected=False)

    def read(prompts: Sequence[str]) -> tuple[Tensor, None]:
        return encoder(ids(tokenizer, prompts, device)).last_hidden_state, None

    return read


def read_two(folder: Folder, dtype: torch.dtype, device: torch.device) -> Reader:
    """SDXL's: the layer before the last of both encoders, side by side, and the pooled projection of the second."""
    readers = [clip(folder, suffix, dtype, device, projected=bool(suffix)) for suffix in ("", "_2")]

    def read(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        answers = [
            encoder(ids(tokenizer, prompts, device), output_hidden_states=True) for tokenizer, encoder in readers
        ]
        return torch.cat([each.hidden_states[-2] for each in answers], dim=-1), answers[1].text_embeds

    return read


def factor(vae: Config) -> int:
    """Each block of the autoencoder but the last halves a side."""
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def size(config: Config, per_latent: int) -> tuple[int, int]:
    """The square that the UNet was made for."""
    side = int(config["sample_size"]) * per_latent
    return side, side


def example(config: Config, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Condition]:
    """A latent of (height, width) and its condition, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(1, int(config.get("in_channels", 4)), *shape)
        text = torch.empty(1, tokens, int(config.get("cross_attention_dim", 1280)))
        if config.get("addition_embed_type") != "text_time":
            return x, Condition(text)
        pooled = config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"]
        return x, Condition(text, torch.empty(1, pooled), torch.empty(1, 6))


SD = Family(
    "sd", "StableDiffusionPipeline", "unet", "UNet2DConditionModel", ask, PictureCoder, read_one, factor, size, example
)  # fmt: skip
SDXL = Family(
    "sdxl", "StableDiffusionXLPipeline", "unet", "UNet2DConditionModel", ask, PictureCoder, read_two, factor, size,
    example, time_ids=True,
)  # fmt: skip
