"""What training a model that sees will hold and compute, from its config alone: no weight is loaded.

The network is built on the meta device, so parameters are counted exactly; the rest is by rules of thumb: 2 FLOP a
parameter and token forward, twice that backward (Kaplan et al., arXiv 2001.08361), and 34 bytes of activations a token,
layer and unit of width in 16 bits (Korthikanti et al., arXiv 2205.05198, eq. 2, attention fused).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..contract import Passes, Reference
from .cost import BYTES
from .seeing import TARGETS, part_of, unread

KNOWN: Mapping[str, Mapping[str, Any]] = {  # published shapes of models that may not be on this machine
    "llava-hf/llava-1.5-7b-hf": {
        "model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064},
        "vision_config": {
            "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14, "projection_dim": 768,
        },
    },
    "Qwen/Qwen2.5-VL-7B-Instruct": {
        "model_type": "qwen2_5_vl",
        "text_config": {
            "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
            "num_attention_heads": 28, "num_key_value_heads": 4,
        },
        "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """What is asked about: the network, and how it will be trained."""

    network: Any  # on the meta device
    tokens: float  # of a dialogue
    answer: float  # of those, the answer's
    train: str = "lora"
    rank: int = 16
    vision: bool = False
    projector: bool = True
    dtype: str = "fp32"
    precision: str = "no"
    checkpointing: bool = False
    passes: Passes = field(default_factory=lambda: Passes(policy=2, free=2))
    reference: Reference = Reference.FROZEN
    ema: bool = False


@dataclass(frozen=True)
class Cost:
    """Parameters, and bytes: fixed, and of each record that shares a forward."""

    parts: Mapping[str, int]  # parameters by part
    trained: int
    fixed: int
    moving: float
    flop: float  # of one record


def skeleton(path: Path | None, name: str) -> Any:
    """The network of a folder, or of a published model's shape, on the meta device; KeyError for an unknown name."""
    from transformers import AutoConfig, AutoModelForImageTextToText

    if path is not None:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    else:
        config = AutoConfig.for_model(**KNOWN[name])
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


def estimate(shape: Shape) -> Cost:
    """Count and guess."""
    parts: Counter[str] = Counter()
    for name, each in shape.network.named_parameters():
        parts[part_of(name)] += each.numel()
    trained = adapters(shape) if shape.train == "lora" else wanted(shape)
    total = sum(parts.values())
    frozen = total if shape.train == "lora" else total - trained
    copied = trained if shape.train == "full" and shape.reference is not Reference.NONE else 0
    cast = 2 * trained * (BYTES[shape.precision] == 2)  # autocast holds what is trained in 16 bits besides
    fixed = BYTES[shape.dtype] * frozen + 4 * (4 * trained + copied + trained * shape.ema) + cast
    asked = shape.passes
    forward = 2 * (total - parts["vision"]) * shape.tokens
    flop = (asked.policy + asked.free) * forward + asked.policy * forward * (2 if shape.train == "full" else 1)
    held = asked.policy if asked.held is None else asked.held
    return Cost(parts, trained, fixed, held * activations(shape), flop)


def wanted(shape: Shape) -> int:
    """Parameters that full training changes."""
    reached = {"language": True, "vision": shape.vision, "projector": shape.projector}
    idle, named = unread(shape.network.config), shape.network.named_parameters()
    return sum(each.numel() for name, each in named if reached[part_of(name)] and not idle.search(name))


def adapters(shape: Shape) -> int:
    """Parameters of the adapters that LoRA adds."""
    target = re.compile(TARGETS)
    layers = [each for name, each in shape.network.named_modules() if target.fullmatch(name)]
    return sum(shape.rank * sum(layer.weight.shape) for layer in layers)


def activations(shape: Shape) -> float:
    """Bytes that one dialogue keeps for backward: the language model's layers, and the logits of the answer."""
    text = shape.network.config.get_text_config()
    width = 2 if BYTES[shape.precision] == 2 or BYTES[shape.dtype] == 2 else 4
    kept = 1 if shape.checkpointing else 17
    layers = kept * width * shape.tokens * text.hidden_size * text.num_hidden_layers
    return float(layers + 2 * 4 * shape.answer * text.vocab_size)
