"""What a training step will cost, worked out on the meta device: no weight is loaded, no memory is taken.

FLOP are counted by torch's own counter over a real forward and backward of the real network shape, so LoRA (no gradient
for frozen weights) and activation checkpointing (a second forward) cost what they cost. Activation memory is the sum of
the distinct storages that autograd keeps for backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..contract import Passes, Reference
from .users import Shape as UserShape
from .users import Users, told
from .weights import Lora

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "no": 4}
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """What is asked about: a UNet's config, and how it will be trained."""

    unet: Mapping[str, Any]
    size: int  # side of a latent
    tokens: int = 77
    train: str = "lora"
    rank: int = 16
    users: UserShape | None = None  # of the embeddings, where attention to users is trained
    dtype: str = "fp32"  # of the frozen weights
    precision: str = "no"  # of the computation
    checkpointing: bool = False
    passes: Passes = field(default_factory=lambda: Passes(policy=2, free=2))  # of one record
    reference: Reference = Reference.FROZEN
    ema: bool = False


@dataclass(frozen=True)
class Cost:
    """The cost of one record in FLOP, and what the step holds in memory, in bytes."""

    parameters: int
    trained: int
    passes: str  # what is run for one record
    forward_flop: float  # one picture through the policy
    record_flop: float  # one record: every forward, and backward
    weights: int
    reference: int
    gradients: int
    optimizer: int
    average: int
    activations: int  # of one record; times the micro-batch

    def memory(self, micro_batch: int) -> float:
        """GB (1e9 bytes) that a step of this micro-batch holds; kernels' workspaces and fragmentation not counted."""
        fixed = self.weights + self.reference + self.gradients + self.optimizer + self.average
        return (fixed + micro_batch * self.activations) / GB


def estimate(shape: Shape) -> Cost:
    """Build the network on the meta device, run one picture forward and backward, and count."""
    network = skeleton(shape)
    total = sum(each.numel() for each in network.parameters())
    trained = adapted(network, shape)
    count = sum(each.numel() for each in trained.trainable().values()) if trained else total
    frozen = total if trained else 0
    forward, backward, kept = measured(network, shape)
    asked, copied = shape.passes, shape.reference is not Reference.NONE and not trained
    held = BYTES["fp32"] * count + BYTES[shape.dtype] * frozen
    return Cost(
        parameters=total,
        trained=count,
        passes=in_words(shape),
        forward_flop=forward,
        record_flop=(asked.policy + asked.free) * forward + asked.policy * backward,
        weights=held,
        reference=BYTES["fp32"] * total if copied else 0,
        gradients=BYTES["fp32"] * count,
        optimizer=2 * BYTES["fp32"] * count,
        average=BYTES["fp32"] * count if shape.ema else 0,
        activations=round(kept * (asked.policy if asked.held is None else asked.held)),
    )


def adapted(network: nn.Module, shape: Shape) -> Lora | Users | None:
    """What is trained beside a frozen network; None if all of it is."""
    if shape.users is not None:
        return Users(network, shape.users)
    return Lora(network, rank=shape.rank) if shape.train == "lora" else None


def in_words(shape: Shape) -> str:
    """What the network is asked for one record."""
    asked = shape.passes
    parts = [f"{asked.policy:g} policy forward", f"{asked.policy:g} backward"]
    if asked.free:
        parts.insert(1, f"{asked.free:g} forward without gradient")
    if shape.checkpointing:
        parts.append(f"{asked.policy:g} recomputed forward")
    return " + ".join(parts)


def skeleton(shape: Shape) -> Any:
    """The UNet of that config on the meta device, in the dtype of the computation."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(dict(shape.unet))
    if BYTES[shape.precision] == 2 or BYTES[shape.dtype] == 2:
        nn.Module.to(network, torch.bfloat16)  # diffusers' own `to` warns about modules that are not there
    network.set_attn_processor(FusedProcessor())
    if shape.checkpointing:
        network.enable_gradient_checkpointing()
    return network.train()


def measured(network: nn.Module, shape: Shape) -> tuple[float, float, int]:
    """FLOP of one picture forward and backward, and the bytes that are kept in between."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []  # so that no storage is freed and its identity given to another
    counter = FlopCounterMode(display=False)
    with counter, saved_tensors_hooks(note, lambda tensor: tensor):
        inputs = meta_inputs(network, shape)  # of users' embeddings a layer is asked already
        answer = network(**inputs, return_dict=False)[0]
    forward, held = float(counter.get_total_flops()), sum(kept.values())
    with counter:
        answer.sum().backward()
    return forward, float(counter.get_total_flops()) - forward, held


class FusedAttention(torch.autograd.Function):
    """Attention with the products and the memory of a fused kernel: no tokens-by-tokens matrix is kept."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Two products."""
        answer = (query @ key.mT) @ value
        context.save_for_backward(query, key, value, answer)
        return answer

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Five products: the matrix again, its gradient, and one for each input."""
        query, key, value, _ = context.saved_tensors
        gradient, scores = gradients[0], query @ key.mT
        matrix = gradient @ value.mT
        return matrix @ key, matrix.mT @ query, scores.mT @ gradient


class FusedProcessor:
    """A diffusers attention processor around it: on the meta device torch itself would keep the whole matrix."""

    def __call__(self, layer: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any) -> Tensor:
        """(b, tokens, width) to the same."""
        source = hidden if encoder_hidden_states is None else encoder_hidden_states
        parts = [layer.to_q(hidden), layer.to_k(source), layer.to_v(source)]
        heads = [each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in parts]
        answer: Tensor = FusedAttention.apply(*heads).transpose(1, 2).flatten(2)
        for module in layer.to_out:
            answer = module(answer)
        return answer


def meta_inputs(network: Any, shape: Shape) -> dict[str, Any]:
    """One picture's arguments, without values."""
    dtype, config = network.dtype, network.config
    width, made = config.cross_attention_dim, {"device": "meta", "dtype": dtype}
    inputs = {
        "sample": torch.empty(1, config.in_channels, shape.size, shape.size, **made),
        "timestep": torch.empty(1, device="meta"),
    }
    text = torch.empty(1, shape.tokens, width, **made)
    user = None if shape.users is None else torch.empty(1, shape.users.tokens, shape.users.width, **made)
    inputs["encoder_hidden_states"] = told(network, text, user)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        added = {"text_embeds": torch.empty(1, pooled, **made), "time_ids": torch.empty(1, 6, **made)}
        inputs["added_cond_kwargs"] = added  # type: ignore[assignment]
    return inputs
