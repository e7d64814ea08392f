"""What is trained, what it is compared with, and how it is saved: LoRA, full weights, safetensors only.

Under LoRA the reference is the same network with its adapters off, so no second copy is held. The switch flips the flag
of layers that were collected once; PEFT's `disable_adapters` walks the whole module tree twice a step (about 37 ms on
SDXL) and flips `requires_grad` on the way.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..draws import generator

ADAPTER = "default"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


class Weights(Protocol):
    """A network to train, and the way to ask its reference."""

    @property
    def network(self) -> nn.Module:
        """The policy."""

    def reference(self) -> AbstractContextManager[nn.Module]:
        """A context within which the yielded network answers as the reference."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that training changes; names are stable across runs."""


class Lora(nn.Module):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on a frozen network; the reference is the network without them.

    `rank` r and `alpha` give the update alpha / r · B A. A starts normal with deviation 1 / r, drawn from (seed,
    parameter name), and B at zero: at the first step policy and reference are the same, bit for bit.
    """

    def __init__(
        self,
        network: Any,
        *,
        rank: int,
        alpha: float | None = None,
        targets: tuple[str, ...] = ATTENTION,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        from peft import LoraConfig

        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of a LoRA is at least 1, got {rank}")
        network.requires_grad_(False)
        self.config = LoraConfig(
            r=rank,
            lora_alpha=alpha or rank,
            target_modules=list(targets),
            lora_dropout=dropout,
            init_lora_weights=False,
        )
        network.add_adapter(self.config, adapter_name=ADAPTER)
        self.network = network
        # A plain list: the layers are the network's own children and must not be registered twice.
        self._layers = adapted_layers(network)
        self._start(rank, seed)

    @torch.no_grad()
    def _start(self, rank: int, seed: int) -> None:
        for name, parameter in self.trainable().items():
            if "lora_B" in name:
                parameter.zero_()
                continue
            drawn = generator(seed, name, 0, "lora").standard_normal(tuple(parameter.shape)) / rank
            parameter.copy_(torch.from_numpy(drawn))

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The network with every adapter's flag off; on again on the way out, whatever happens within."""
        for layer in self._layers:
            layer._disable_adapters = True
        try:
            yield self.network
        finally:
            for layer in self._layers:
                layer._disable_adapters = False

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' parameters, kept in float32 whatever the dtype of the network."""
        found = {name: each for name, each in self.network.named_parameters() if "lora_" in name}
        for each in found.values():
            each.data = each.data.float()
            each.requires_grad_(True)
        return found

    def adapters(self) -> dict[str, Tensor]:
        """The adapters as PEFT and diffusers save them."""
        from peft import get_peft_model_state_dict

        saved: Mapping[str, Tensor] = get_peft_model_state_dict(self.network, adapter_name=ADAPTER)
        return {name: each.detach().cpu().contiguous() for name, each in saved.items()}


def adapted_layers(network: nn.Module) -> list[Any]:
    """The layers of a network that carry adapters, in order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [each for each in network.modules() if isinstance(each, BaseTunerLayer)]


class Full(nn.Module):
    """Every weight is trained. The reference, where a method wants one, is a frozen copy of the same dtype.

    The same dtype on purpose: a bf16 reference beside a float32 policy under bf16 autocast gives logits up to 3 at
    step 0.
    """

    def __init__(self, network: nn.Module, *, reference: bool) -> None:
        super().__init__()
        self.network = network.requires_grad_(True)
        self.frozen = copy.deepcopy(network).requires_grad_(False).eval() if reference else None

    def reference(self) -> AbstractContextManager[nn.Module]:
        """The frozen copy."""
        if self.frozen is None:
            raise ValueError("this run holds no reference: its method said Reference.NONE")
        return nullcontext(self.frozen)

    def train(self, mode: bool = True) -> Full:
        """Training mode for the policy alone: what is frozen stays as it draws."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.eval()
        return self

    def trainable(self) -> dict[str, nn.Parameter]:
        """Every parameter of the network."""
        return dict(self.network.named_parameters())
