"""Heads of several linear layers with nothing but dropout between: one affine map, made once in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.models.states import WeightsError


@dataclass(frozen=True)
class Affine:
    """w . x + b."""

    weight: Tensor  # (d,) float32
    bias: Tensor  # () float32

    def __call__(self, features: Tensor) -> Tensor:
        """(n,) of (n, d)."""
        return (features.float() * self.weight).sum(-1) + self.bias  # not a matrix product: equal in every batch

    def to(self, device: torch.device) -> Affine:
        """The same map elsewhere."""
        return Affine(self.weight.to(device), self.bias.to(device))


def collapsed(state: Mapping[str, Tensor], layers: Sequence[str], where: str) -> Affine:
    """The product of linear layers, in order; each name has a weight and a bias, and nothing else is in the state."""
    names = {f"{layer}.{part}".removeprefix(".") for layer in layers for part in ("weight", "bias")}
    if names != state.keys():
        raise WeightsError(
            f"{where} does not fit: it should hold {', '.join(sorted(names))}, and holds {', '.join(sorted(state))}"
        )
    weight, bias = None, torch.zeros((), dtype=torch.float64)
    for layer in layers:
        step, shift = (state[f"{layer}.{part}".removeprefix(".")].double() for part in ("weight", "bias"))
        weight, bias = (step, shift) if weight is None else (step @ weight, step @ bias + shift)
    if weight is None or weight.shape[0] != 1:
        raise WeightsError(f"{where} does not end in one number")
    return Affine(weight[0].float(), bias[0].float())
