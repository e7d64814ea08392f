"""The public shapes of well-known networks, so that a run's cost can be told before a single weight is downloaded.

Each mapping is what differs from diffusers' defaults in the published config of the model's network; parameter counts
are asserted in tests against the published sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from . import flux, sd3, stable_diffusion, wan
from .family import Family

SD15: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD21: Mapping[str, Any] = {
    "sample_size": 96,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL: Mapping[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD3_MEDIUM: Mapping[str, Any] = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 192,
}
SD35_MEDIUM: Mapping[str, Any] = {
    **SD3_MEDIUM,
    "pos_embed_max_size": 384,
    "dual_attention_layers": list(range(13)),
    "qk_norm": "rms_norm",
}
SD35_LARGE: Mapping[str, Any] = {
    "num_layers": 38,
    "num_attention_heads": 38,
    "caption_projection_dim": 2432,
    "pos_embed_max_size": 192,
    "qk_norm": "rms_norm",
}
FLUX_DEV: Mapping[str, Any] = {"guidance_embeds": True}
FLUX_SCHNELL: Mapping[str, Any] = {}
WAN_1B: Mapping[str, Any] = {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960}
WAN_14B: Mapping[str, Any] = {"num_attention_heads": 40, "num_layers": 40, "ffn_dim": 13824}


@dataclass(frozen=True)
class Architecture:
    """A published model: its network's config, and the facts beside it that decide cost."""

    name: str
    family: Family
    config: Mapping[str, Any]
    factor: int = 8  # pixels per latent along a side
    tokens: int = 77
    other_parameters: int = 0  # VAE and text encoders, which encode once and leave


KNOWN: Mapping[str, Architecture] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Architecture(
        "SD1.5", stable_diffusion.SD, SD15, other_parameters=206_714_343
    ),
    "runwayml/stable-diffusion-v1-5": Architecture("SD1.5", stable_diffusion.SD, SD15, other_parameters=206_714_343),
    "CompVis/stable-diffusion-v1-4": Architecture("SD1.4", stable_diffusion.SD, SD15, other_parameters=206_714_343),
    "stabilityai/stable-diffusion-2-1": Architecture("SD2.1", stable_diffusion.SD, SD21, other_parameters=424_041_703),
    "stabilityai/stable-diffusion-xl-base-1.0": Architecture(
        "SDXL", stable_diffusion.SDXL, SDXL, other_parameters=901_374_183
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": Architecture(
        "SD3 medium", sd3.SD3, SD3_MEDIUM, tokens=sd3.TOKENS
    ),
    "stabilityai/stable-diffusion-3.5-medium": Architecture("SD3.5 medium", sd3.SD3, SD35_MEDIUM, tokens=sd3.TOKENS),
    "stabilityai/stable-diffusion-3.5-large": Architecture("SD3.5 large", sd3.SD3, SD35_LARGE, tokens=sd3.TOKENS),
    "black-forest-labs/FLUX.1-dev": Architecture("FLUX.1 dev", flux.FLUX, FLUX_DEV, tokens=flux.TOKENS),
    "black-forest-labs/FLUX.1-schnell": Architecture("FLUX.1 schnell", flux.FLUX, FLUX_SCHNELL, tokens=flux.TOKENS),
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": Architecture("Wan 2.1 1.3B", wan.WAN, WAN_1B, tokens=wan.TOKENS),
    "Wan-AI/Wan2.1-T2V-14B-Diffusers": Architecture("Wan 2.1 14B", wan.WAN, WAN_14B, tokens=wan.TOKENS),
}
