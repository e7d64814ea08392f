"""Networks whose weights are sums: full weights and LoRA offsets, each with its coefficient, sharing what they can.

Diffusion-NPO (arXiv 2505.11245) and Self-NPO (arXiv 2505.11777) draw with theta_neg = theta_base + alpha eta + beta
delta, where eta and delta are the offsets of the preference-optimised and of the negatively trained weights. As weights
that is (1 - alpha - beta) base + alpha policy + beta negative, which is the policy bit for bit at alpha = 1, beta = 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .folder import Folder, FolderError
from .publish import attach_lora
from .weights import adapted_layers

DIGITS = 12  # coefficients that ought to cancel, 1 - 0.7 - 0.3, do


@dataclass(frozen=True)
class Mix:
    """A network's weights: the sum of its folders' networks and of LoRA offsets, each times its coefficient."""

    full: Mapping[Path, float] = field(default_factory=dict)  # model folder -> coefficient
    lora: Mapping[Path, float] = field(default_factory=dict)  # LoRA file or folder -> coefficient


def weighed(*terms: tuple[float, Mapping[Any, float]]) -> dict[Any, float]:
    """The weighed sum of mappings from keys to numbers; what cancels is left out."""
    total: dict[Any, float] = {}
    for factor, values in terms:
        for key, value in values.items():
            total[key] = total.get(key, 0.0) + factor * value
    return {key: round(value, DIGITS) for key, value in total.items() if round(value, DIGITS)}


def negative_mix(base: Mix, policy: Mix, negative: Mix, *, alpha: float = 1.0, beta: float = 1.0) -> Mix:
    """theta_base + alpha (theta_policy - theta_base) + beta (theta_negative - theta_base).

    The release's `merge_weight` m (G-U-N/Diffusion-NPO, gen.py:17) is alpha = 1 - m with beta = 1.
    """
    factors = (1.0 - alpha - beta, alpha, beta)
    parts = (base, policy, negative)
    return Mix(
        weighed(*((factor, part.full) for factor, part in zip(factors, parts, strict=True))),
        weighed(*((factor, part.lora) for factor, part in zip(factors, parts, strict=True))),
    )


def combined(terms: Iterable[tuple[float, Mapping[str, Tensor]]]) -> dict[str, Tensor]:
    """The weighed sum of state dicts, summed in float32 at least and returned in the first one's dtypes.

    Terms are taken one at a time, so that not all need be in memory together.

    Raises:
        ValueError: for states of different networks, naming a weight that differs.
    """
    each_term = iter(terms)
    factor, state = next(each_term)
    dtypes = {name: each.dtype for name, each in state.items()}
    total = {name: factor * each.to(torch.promote_types(each.dtype, torch.float32)) for name, each in state.items()}
    for factor, state in each_term:
        for name in sorted(total.keys() | state.keys()):
            if name not in total or name not in state or total[name].shape != state[name].shape:
                raise ValueError(f"weights of different networks cannot be mixed: they differ in {name}")
            total[name] += factor * state[name].to(total[name].dtype)
    return {name: each.to(dtypes[name]) for name, each in total.items()}


class Role(nn.Module):
    """A network as it answers under these weights of its adapters, which are set for each call and put back after it.

    So several roles share one network in memory. Everything else (config, dtype, parts) is the network's own: a
    diffusers pipeline takes a role for its network.
    """

    def __init__(self, network: nn.Module, scales: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.network = network
        self.scales = dict(scales or {})
        # Collected once: walking SDXL's module tree at every call costs about as much as a small forward.
        self._layers = adapted_layers(network)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's answer."""
        with self.playing():
            return self.network(*args, **kwargs)

    @contextmanager
    def playing(self) -> Iterator[None]:
        """The network's adapters at this role's weights, off where it has none; as before on the way out."""
        before = [(layer._active_adapter, layer._disable_adapters, dict(layer.scaling)) for layer in self._layers]
        try:
            for layer in self._layers:
                layer._active_adapter, layer._disable_adapters = list(self.scales), not self.scales
                for name, scale in self.scales.items():
                    layer.set_scale(name, scale)
            yield
        finally:
            for layer, (active, disabled, scaling) in zip(self._layers, before, strict=True):
                layer._active_adapter, layer._disable_adapters = active, disabled
                layer.scaling.update(scaling)


class Networks:
    """Networks for several mixes: one in memory for each different sum of full weights, its LoRAs as switched adapters.

    `roles` answer for the mixes, in order; equal mixes have the same role. `held` are the networks in memory.
    """

    def __init__(self, mixes: Sequence[Mix], dtype: torch.dtype, device: torch.device | str) -> None:
        self.dtype, self.device = dtype, device
        self._full: list[tuple[Mapping[Path, float], nn.Module]] = []
        self._names: dict[Path, str] = {}
        for mix in mixes:
            self._attach(self._network(mix.full), mix.lora)
        unique = [mix for place, mix in enumerate(mixes) if mix not in mixes[:place]]
        made = [self._role(mix) for mix in unique]  # after every LoRA: a role collects its network's layers
        self.roles = [made[unique.index(mix)] for mix in mixes]

    @property
    def held(self) -> list[nn.Module]:
        """The networks in memory."""
        return [network for _, network in self._full]

    def _role(self, mix: Mix) -> Role:
        return Role(self._network(mix.full), {self._names[path]: scale for path, scale in mix.lora.items()})

    def _network(self, full: Mapping[Path, float]) -> Any:
        for known, network in self._full:
            if known == full:
                return network
        network = summed(full, self.dtype).to(self.device).eval().requires_grad_(False)
        self._full.append((full, network))
        return network

    def _attach(self, network: Any, lora: Mapping[Path, float]) -> None:
        for path in lora:
            name = self._names.setdefault(path, f"lora{len(self._names)}")
            if name not in getattr(network, "peft_config", {}):
                with warnings.catch_warnings():  # peft's, that there are several adapters now: there should be
                    warnings.filterwarnings("ignore", message="Already found a `peft_config`")
                    attach_lora(network, path, name)
                network.to(self.device).requires_grad_(False)


def summed(full: Mapping[Path, float], dtype: torch.dtype) -> Any:
    """The weighed sum of folders' networks, summed in float32; FolderError if they are of different shapes."""
    if list(full.values()) == [1.0]:
        return Folder(next(iter(full))).network(dtype)
    try:
        state = combined((weight, Folder(path).network().state_dict()) for path, weight in full.items())
    except ValueError as error:
        raise FolderError(f"{', '.join(map(str, full))}: {error}") from None
    network = Folder(next(iter(full))).network(dtype)
    network.load_state_dict(state)
    return network
