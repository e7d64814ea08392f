"""Tiny random-weight model folders of each shape, made of real diffusers and transformers parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    AutoencoderKLWan,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    UNetMotionModel,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "left",
    "right",
    "of",
    "above",
    "below",
    "on",
    "small",
    "large",
    "picture",
]


def tokenizer(folder: Path, length: int = 12) -> CLIPTokenizer:
    """A CLIP tokenizer whose vocabulary is the letters and the words above."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(f"{each}</w>" for each in letters)]
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
            vocabulary.append(pieces[0])
    vocabulary = [*dict.fromkeys(vocabulary), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(vocabulary)}))
    lines = [f"{left} {right}" for left, right in dict.fromkeys(merges)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def t5_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer whose pieces are the words above, and letters for all others."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [*(f"▁{word}" for word in WORDS if len(word) > 1), *letters, *(f"▁{each}" for each in letters)]
    marks = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -6.0)]
    return T5Tokenizer([*marks, *((piece, -1.0 - len(piece) / 100) for piece in pieces)], extra_ids=0)


def umt5(reader: T5Tokenizer, width: int) -> UMT5EncoderModel:
    return UMT5EncoderModel(
        UMT5Config(vocab_size=len(reader), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)
    ).eval()


def t5(reader: T5Tokenizer, width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(reader), d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=2)
    ).eval()


def text_encoder(reader: CLIPTokenizer, width: int, projected: bool = False) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(reader), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=reader.model_max_length, projection_dim=width,
        bos_token_id=reader.bos_token_id, eos_token_id=reader.eos_token_id, pad_token_id=reader.eos_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()


def unet(context: int, pooled: int | None = None, **changes: Any) -> UNet2DConditionModel:
    settings: dict[str, Any] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (16, 32), "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": context, "attention_head_dim": 8, "norm_num_groups": 8,
    }  # fmt: skip
    if pooled is not None:
        settings |= {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + pooled, "use_linear_projection": True,
        }  # fmt: skip
    return UNet2DConditionModel(**settings | changes)


def motion_unet(context: int) -> UNetMotionModel:
    """Of clips of at most 8 frames; the motion modules' last layers are not at zero."""
    return UNetMotionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"), cross_attention_dim=context,
        num_attention_heads=2, norm_num_groups=8, motion_num_attention_heads=2, motion_max_seq_length=8,
    )  # fmt: skip


def wan_transformer(context: int, channels: int) -> WanTransformer3DModel:
    return WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=channels, out_channels=channels,
        text_dim=context, freq_dim=32, ffn_dim=32, num_layers=2, rope_max_seq_len=32,
    )  # fmt: skip


def wan_vae() -> AutoencoderKLWan:
    """With the published means and deviations of the sixteen channels."""
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1).eval()


def wan22_vae() -> AutoencoderKLWan:
    """The 5B model's: pixels come in patches, a latent is of 16 x 16."""
    return AutoencoderKLWan(
        base_dim=4, decoder_base_dim=4, z_dim=48, dim_mult=[1, 1, 1, 1], num_res_blocks=1, is_residual=True,
        patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16, latents_mean=[0.1] * 48,
        latents_std=[1.3] * 48,
    ).eval()  # fmt: skip


def vae(**changes: Any) -> AutoencoderKL:
    settings: dict[str, Any] = {
        "in_channels": 3, "out_channels": 3, "latent_channels": 4, "block_out_channels": (8, 8), "norm_num_groups": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
        "sample_size": 16, "scaling_factor": 0.5,
    }  # fmt: skip
    return AutoencoderKL(**settings | changes).eval()


def shifted_vae() -> AutoencoderKL:
    """As of transformers: latents have a shift, and no convolution stands on either side of them."""
    return vae(shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False)


def sd3_transformer() -> SD3Transformer2DModel:
    """Of the kind of SD3.5 medium: normed queries and keys, and a second attention in the first block."""
    return SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=16, pooled_projection_dim=40,
        pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip


def flux_transformer(*, guidance: bool) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    )  # fmt: skip


def flux_scheduler(*, grows: bool) -> FlowMatchEulerDiscreteScheduler:
    """As of FLUX.1-dev, whose shift grows with the picture, or as of schnell."""
    return FlowMatchEulerDiscreteScheduler(shift=3.0 if grows else 1.0, use_dynamic_shifting=grows)


def scheduler(prediction: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    )  # fmt: skip


def folder(path: Path, family: str = "sd15", seed: int = 0) -> Path:
    """A pipeline folder of the shape of sd15 (epsilon), sd21 (v, linear projections), sdxl (two text encoders), of
    transformers on flows: sd3 (shift 3), sd3 without T5, flux (as dev), schnell, or of clips: animatediff (v), wan and
    wan22 (flow, shift 3)."""
    torch.manual_seed(seed)
    reader = tokenizer(path / "reader")
    if family == "sdxl":
        pipe: Any = StableDiffusionXLPipeline(
            vae=vae(), text_encoder=text_encoder(reader, 16), text_encoder_2=text_encoder(reader, 24, projected=True),
            tokenizer=reader, tokenizer_2=reader, unet=unet(40, pooled=24), scheduler=scheduler("epsilon"),
        )  # fmt: skip
    elif family in ("sd3", "sd3 without T5"):
        words = t5_tokenizer() if family == "sd3" else None
        pipe = StableDiffusion3Pipeline(
            transformer=sd3_transformer(), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), vae=shifted_vae(),
            text_encoder=text_encoder(reader, 16, projected=True), tokenizer=reader,
            text_encoder_2=text_encoder(reader, 24, projected=True), tokenizer_2=reader,
            text_encoder_3=words and t5(words, 48), tokenizer_3=words,
        )  # fmt: skip
    elif family in ("flux", "schnell"):
        words, dev = t5_tokenizer(), family == "flux"
        pipe = FluxPipeline(
            transformer=flux_transformer(guidance=dev), scheduler=flux_scheduler(grows=dev), vae=shifted_vae(),
            text_encoder=text_encoder(reader, 16), tokenizer=reader, text_encoder_2=t5(words, 48), tokenizer_2=words,
        )  # fmt: skip
    elif family in ("wan", "wan22"):
        words, new = t5_tokenizer(), family == "wan22"
        pipe = WanPipeline(
            vae=wan22_vae() if new else wan_vae(), text_encoder=umt5(words, 16), tokenizer=words,
            transformer=wan_transformer(16, 48 if new else 16), scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            expand_timesteps=new,
        )  # fmt: skip
    elif family == "animatediff":
        pipe = AnimateDiffPipeline(
            vae=vae(), text_encoder=text_encoder(reader, 32), tokenizer=reader, unet=motion_unet(32),
            motion_adapter=None, scheduler=scheduler("v_prediction"),
        )  # fmt: skip
    else:
        kind: dict[str, Any] = {"use_linear_projection": True, "attention_head_dim": (2, 4)} if family == "sd21" else {}
        pipe = StableDiffusionPipeline(
            vae=vae(), text_encoder=text_encoder(reader, 32), tokenizer=reader, unet=unet(32, **kind),
            scheduler=scheduler("v_prediction" if family == "sd21" else "epsilon"), safety_checker=None,
            feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipe.save_pretrained(path, safe_serialization=True)
    return path
