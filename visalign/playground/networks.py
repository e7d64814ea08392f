"""The playground's networks, untrained: an autoencoder, a UNet, a CLIP text encoder and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import captions, words

SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False,
    "set_alpha_to_one": False, "steps_offset": 1, "prediction_type": "v_prediction",
}  # fmt: skip
TOKENS = 24
WIDTH = 128  # of the text states


def tokenized(reader: Any, texts: list[str]) -> Tensor:
    """Token ids (n, 24)."""
    ids: Tensor = reader(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt").input_ids
    return ids


def tokenizer(folder: Path) -> Any:
    """The CLIP tokenizer of the playground's vocabulary, written to `folder`."""
    from transformers import CLIPTokenizer

    words.write(folder, captions.VOCABULARY)
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def new_vae(seed: int) -> Any:
    """An untrained autoencoder: 32 x 32 pixels to 4 x 8 x 8 latents."""
    from diffusers import AutoencoderKL

    torch.manual_seed(seed)
    return AutoencoderKL(
        latent_channels=4, block_out_channels=(32, 64, 64), layers_per_block=1, norm_num_groups=16, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)  # fmt: skip


def new_unet(seed: int) -> Any:
    """An untrained UNet of 4.3 million parameters on 8 x 8 latents."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed + 1)
    return UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=WIDTH, attention_head_dim=4, norm_num_groups=16,
    ).to(memory_format=torch.channels_last)  # fmt: skip


def new_text(reader: Any, seed: int) -> Any:
    """An untrained CLIP text encoder of two layers."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed + 2)
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(reader), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=TOKENS, projection_dim=WIDTH,
        bos_token_id=reader.bos_token_id, eos_token_id=reader.eos_token_id, pad_token_id=reader.eos_token_id,
    ))  # fmt: skip


def write(folder: Path, vae: Any, reader: Any, unet: Any, text: Any) -> None:
    """The whole as a diffusers folder in float16."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    StableDiffusionPipeline(
        vae=vae.half(), text_encoder=text.half(), tokenizer=reader, unet=unet.half(),
        scheduler=DDIMScheduler(**SCHEDULE), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder, safe_serialization=True)  # fmt: skip
