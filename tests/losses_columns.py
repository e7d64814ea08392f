"""Columns for any loss of the table, by the names that it reads: random, away from kinks, or at the ends of float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from visalign import losses
from visalign.losses.registry import Entry

ITEMS, TOKENS = 4, 3
DATA = (
    "score", "tie", "label", "rank", "confidence", "usual", "z0", "strength", "desirable", "p_", "length", "preference",
    "on_policy", "guide", "mask", "kl_mask", "reward", "margin", "rating",
)  # fmt: skip
"""Columns that carry labels or weights: no gradient is asked of them."""


def entries(*kinds: str) -> list[Entry]:
    """The functions and recipes of the table (no blends), all or those of the kinds."""
    found = [losses.by_name(name) for name in losses.names()]
    return [entry for entry in found if isinstance(entry, Entry) and (not kinds or entry.kinds & set(kinds))]


def named(*names: str) -> list[Entry]:
    return [entry for entry in entries() if entry.name in names]


def is_data(entry: Entry, name: str) -> bool:
    """Whether a column carries labels or weights rather than something that the model in training computes."""
    return name.startswith(DATA) and not ("reward" in entry.kinds and name.startswith("score"))


def shape(entry: Entry, name: str, batch: int) -> tuple[int, ...]:
    """The shape of a column: (b,), (b, K), (b, T), (b, 2), or () for what a batch shares."""
    if name in ("z0", "usual"):
        return ()
    if entry.kinds & {"list"}:
        return (batch, ITEMS)
    if name.startswith(("token", "guide", "mask", "kl_mask", "segment", "label")):
        return (batch, TOKENS)
    if name.startswith(("heads", "route")):
        return (batch, ITEMS)
    return (batch, 2 * ITEMS) if name.startswith("vector") else (batch, 2) if name.startswith("reward") else (batch,)


def column(entry: Entry, name: str, batch: int, draw: torch.Generator) -> Tensor:
    """One column in float64."""
    size = shape(entry, name, batch)
    uniform = torch.rand(size, generator=draw, dtype=torch.float64)
    if name in ("desirable", "tie"):
        return uniform > 0.5
    if name == "label":
        return torch.randint(-1, 2, size, generator=draw).double()
    if name == "rank":
        return uniform.argsort(-1) + 1
    if "logp" in name:
        return -0.1 - 2 * uniform
    if name.startswith(("error", "on_policy", "confidence", "p_", "mask", "kl_mask", "preference")):
        return 0.05 + 0.9 * uniform
    if name.startswith("length"):
        return (uniform * 20).ceil()
    return torch.randn(size, generator=draw, dtype=torch.float64)


def columns(entry: Entry, batch: int = 5, seed: int = 0) -> dict[str, Tensor]:
    """Every column that an entry reads."""
    draw = torch.Generator().manual_seed(seed)
    return {name: column(entry, name, batch, draw) for name in entry.fields}


def settings(entry: Entry) -> dict[str, Any]:
    """beta, and what has no default."""
    return {"beta": 0.7} | ({"weights": (0.5, 0.3, 0.2)} if entry.name == "modpo" else {})


def value(entry: Entry, given: dict[str, Tensor], **changes: Any) -> Tensor:
    """The loss of an entry on named columns."""
    return entry(*given.values(), **{**settings(entry), **changes})


def with_gradients(entry: Entry, given: dict[str, Tensor], **changes: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, and the gradient of its sum with respect to each column that a model computes."""
    leaves = {name: v.detach().clone().requires_grad_(not is_data(entry, name)) for name, v in given.items()}
    each = value(entry, leaves, **changes)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    found = torch.autograd.grad(each.sum(), wanted, allow_unused=True, materialize_grads=True)
    return each.detach(), dict(zip([n for n, v in leaves.items() if v.requires_grad], found, strict=True))
