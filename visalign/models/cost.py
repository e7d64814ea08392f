"""What a training step will cost, worked out on the meta device: no weight is loaded, no memory is taken.

FLOP are counted by torch's own counter over a real forward and backward of the real network shape, so LoRA (no gradient
for frozen weights) and activation checkpointing (a second forward) cost what they cost. Activation memory is the sum of
the distinct storages that autograd keeps for backward.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from ..contract import Passes, Reference
from .family import Family
from .users import Shape as UserShape
from .users import Users
from .weights import Lora

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "no": 4}
GB = 1e9


@dataclass(frozen=True)
class Shape:
    """What is asked about: a network's config, and how it will be trained."""

    family: Family
    config: Mapping[str, Any]
    size: tuple[int, ...]  # of a latent, without its channels
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
    return Lora(network, rank=shape.rank, targets=shape.family.targets) if shape.train == "lora" else None


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
    """The network of that config on the meta device, in the dtype of the computation."""
    import diffusers

    with torch.device("meta"):
        network = getattr(diffusers, shape.family.network).from_config(dict(shape.config))
    if BYTES[shape.precision] == 2 or BYTES[shape.dtype] == 2:
        nn.Module.to(network, torch.bfloat16)  # diffusers' own `to` warns about modules that are not there
    if shape.checkpointing:
        # Backward recomputes outside of the mode, unless it is told.
        again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), Fused()))
        network.enable_gradient_checkpointing(again)
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
    with counter, saved_tensors_hooks(note, lambda tensor: tensor), Fused():
        x, condition = shape.family.example(shape.config, shape.size, shape.tokens)
        if shape.users is not None:
            condition = replace(condition, user=torch.empty(1, shape.users.tokens, shape.users.width, device="meta"))
        answer = shape.family.ask(network, x, torch.empty(1, device="meta"), condition)
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


class Fused(TorchFunctionMode):
    """Every `scaled_dot_product_attention` inside is that: on the meta device torch itself would keep the matrix."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function's own answer, or the fused one's."""
        if function is not functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        given = dict(zip(("query", "key", "value"), args, strict=False)) | (kwargs or {})
        return FusedAttention.apply(given["query"], given["key"], given["value"])
