"""Which attention a transformers model runs: asked, answered with the reason."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from .attention import AttentionError, Resolution, instead

NAMES = {"sdpa": "sdpa", "flash": "flash_attention_2", "eager": "eager"}  # ours -> transformers'
CHOICES = ("auto", *NAMES)


def resolve(requested: str, device: torch.device, dtype: torch.dtype, *, strict: bool = False) -> Resolution:
    """Choose before training starts. An explicit choice that cannot run is an error if `strict`."""
    if requested == "xformers":
        raise AttentionError("xformers has no part in transformers' models: set attention: auto, sdpa, flash or eager")
    if requested not in CHOICES:
        raise AttentionError(f"attention {requested!r} is not one of {', '.join(CHOICES)}")
    why = refuse_flash(device, dtype)
    refused = {"xformers": "transformers' models know no xformers", **({"flash": why} if why else {})}
    if requested == "auto":
        return Resolution(requested, "sdpa", "torch's own kernels", refused)  # or what the family knows: `taken`
    if requested not in refused:
        return Resolution(requested, requested, "asked for", refused)
    return instead(requested, refused, strict=strict)


def asked(resolution: Resolution) -> str | None:
    """transformers' name for it; None leaves the choice to the family, some of which know no sdpa (Gemma 2)."""
    return None if resolution.requested == "auto" else NAMES[resolution.resolved]


def taken(network: Any, resolution: Resolution) -> Resolution:
    """What the language model of a loaded network really runs."""
    runs = network.config.get_text_config()._attn_implementation
    ours = next((name for name, theirs in NAMES.items() if theirs == runs), str(runs))
    if ours == resolution.resolved:
        return resolution
    if resolution.requested != "auto":
        raise AttentionError(f"asked for {resolution.resolved}, and the network runs {ours}: set attention: auto")
    return replace(resolution, resolved=ours, reason=f"{type(network).__name__} knows no {resolution.resolved} here")


def refuse_flash(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why FlashAttention 2 cannot serve, or None."""
    from transformers.utils import is_flash_attn_2_available

    if device.type != "cuda":
        return f"FlashAttention runs on a GPU, not on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"FlashAttention needs fp16 or bf16, not {dtype}"
    return None if is_flash_attn_2_available() else "the package flash-attn is not installed"
