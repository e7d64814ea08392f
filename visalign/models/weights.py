"""What is trained, what it is compared with, and how it is saved: LoRA, full weights, safetensors only.

Under LoRA the reference is the same network with its adapters off, so no second copy is held. The switch flips the flag
of layers that were collected once; PEFT's `disable_adapters` walks the whole module tree twice a step (about 37 ms on
SDXL) and flips `requires_grad` on the way.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..draws import generator
from .states import WeightsError

ADAPTER, FOLLOWER = "default", "reference"
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
JOINT = (*ATTENTION, "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")  # where text has projections of its own
ADAPTER_CONFIG, ADAPTER_FILE = "adapter_config.json", "adapter_model.safetensors"  # PEFT's names
WRAPPED = "base_model.model."  # what PEFT writes before every name in them


class Weights(Protocol):
    """A network to train, and the way to ask its reference."""

    @property
    def network(self) -> nn.Module:
        """The policy."""

    def reference(self) -> AbstractContextManager[nn.Module]:
        """A context within which the yielded network answers as the reference."""

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter of everything that training changes; names are stable across runs."""

    def follower(self) -> dict[str, nn.Parameter]:
        """The same names -> parameters of a reference that follows what is trained; empty if it stays."""


@torch.no_grad()
def follow(weights: Weights, decay: float) -> None:
    """Take the reference along: decay x itself + (1 - decay) x what is trained, in place."""
    followers, trained = weights.follower(), weights.trainable()
    torch._foreach_lerp_(list(followers.values()), [trained[name].detach() for name in followers], 1.0 - decay)


class Lora(nn.Module):
    """Low-rank adapters (Hu et al., arXiv 2106.09685) on a frozen network; the reference is the network without them.

    `rank` r and `alpha` give the update alpha / r · B A. A starts normal with deviation 1 / r, drawn from (seed,
    parameter name), and B at zero: at the first step policy and reference are the same, bit for bit. `targets` are the
    ends of the adapted layers' names, or a regular expression that matches them whole. With `follows` the
    reference is a second set of adapters, equal at the start, that `follow` takes along; it has no dropout.
    """

    def __init__(
        self,
        network: Any,
        *,
        rank: int,
        alpha: float | None = None,
        targets: tuple[str, ...] | str = ATTENTION,
        dropout: float = 0.0,
        seed: int = 0,
        follows: bool = False,
    ) -> None:
        from peft import LoraConfig

        super().__init__()
        if rank < 1:
            raise ValueError(f"the rank of a LoRA is at least 1, got {rank}")
        network.requires_grad_(False)
        self.config = LoraConfig(
            r=rank,
            lora_alpha=alpha or rank,
            target_modules=targets if isinstance(targets, str) else list(targets),
            lora_dropout=dropout,
            init_lora_weights=False,
        )
        self.network, self.follows = network, follows
        if follows:
            network.add_adapter(replace(self.config, lora_dropout=0.0), adapter_name=FOLLOWER)
        with warnings.catch_warnings():  # of a second adapter, which is meant
            warnings.filterwarnings("ignore", "Already found a `peft_config`")
            network.add_adapter(self.config, adapter_name=ADAPTER)
        # A plain list: the layers are the network's own children and must not be registered twice.
        self._layers = adapted_layers(network)
        # Found once: walking SDXL's parameters at every step would cost what the switch above saves.
        self._trained = self._of(ADAPTER, trained=True)
        self._followers = self._of(FOLLOWER, trained=False) if follows else {}
        self._start(rank, seed)
        if follows:
            follow(self, decay=0.0)

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
        """The network without its adapters, or with those that follow; as it was on the way out, whatever happens."""
        switch = "_active_adapter" if self.follows else "_disable_adapters"
        there, back = (FOLLOWER, ADAPTER) if self.follows else (True, False)
        for layer in self._layers:
            setattr(layer, switch, there)
        try:
            yield self.network
        finally:
            for layer in self._layers:
                setattr(layer, switch, back)

    def trainable(self) -> dict[str, nn.Parameter]:
        """The adapters' parameters, in float32 at least whatever the dtype of the network."""
        return dict(self._trained)

    def follower(self) -> dict[str, nn.Parameter]:
        """The parameters of the adapters that follow, in float32, under the names of those that they follow."""
        return dict(self._followers)

    def _of(self, adapter: str, *, trained: bool) -> dict[str, nn.Parameter]:
        """An adapter's parameters under the names of those that are trained."""
        named = self.network.named_parameters()
        found = {name: each for name, each in named if "lora_" in name and f".{adapter}." in name}
        for each in found.values():
            each.data = each.data.to(torch.promote_types(each.dtype, torch.float32))
            each.requires_grad_(trained)
        return {name.replace(f".{adapter}.", f".{ADAPTER}."): each for name, each in found.items()}

    def adapters(self) -> dict[str, Tensor]:
        """The adapters as PEFT and diffusers save them."""
        from peft import get_peft_model_state_dict

        saved: Mapping[str, Tensor] = get_peft_model_state_dict(self.network, adapter_name=ADAPTER)
        return {name: each.detach().cpu().contiguous() for name, each in saved.items()}

    def save(self, folder: Path, base: str) -> None:
        """PEFT's folder of these adapters to the model that is called `base`."""
        from safetensors.torch import save_file

        save_file({f"{WRAPPED}{name}": each for name, each in self.adapters().items()}, folder / ADAPTER_FILE)
        replace(self.config, base_model_name_or_path=base, inference_mode=True).save_pretrained(folder)

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor], where: str) -> None:
        """Start from adapters that PEFT saved, and let a reference that follows start there too; WeightsError if they
        are of other layers or ranks."""
        trained = self.trainable()
        given = {name.removeprefix(WRAPPED): each for name, each in state.items()}
        known = {name.replace(f".{ADAPTER}.", "."): each for name, each in trained.items()}
        fits = given.keys() == known.keys() and all(each.shape == given[name].shape for name, each in known.items())
        if not fits:
            odd = min(given.keys() ^ known.keys(), default="a rank")
            raise WeightsError(f"the adapters in {where} are of another model: they differ in {odd}")
        for name, each in known.items():
            each.copy_(given[name])
        follow(self, decay=0.0)

    def merge(self) -> None:
        """Put the adapters into the weights and take them off the network; this object is of no use any more."""
        for name, layer in [found for found in self.network.named_modules() if found[1] in self._layers]:
            layer.merge(adapter_names=[ADAPTER])
            self.network.set_submodule(name, layer.get_base_layer())
        self.network._hf_peft_config_loaded = False
        del self.network.peft_config


def adapted_layers(network: nn.Module) -> list[Any]:
    """The layers of a network that carry adapters, in order."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [each for each in network.modules() if isinstance(each, BaseTunerLayer)]


class Full(nn.Module):
    """Every weight is trained, or those whose names `trained` accepts. The reference, where a method wants one, is a
    copy of the same dtype, which stays as it was or, with `follows`, is taken along by `follow`; what is not trained is
    held once.

    The same dtype on purpose: a bf16 reference beside a float32 policy under bf16 autocast gives logits up to 3 at
    step 0.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        reference: bool,
        follows: bool = False,
        trained: Callable[[str], bool] = lambda name: True,
    ) -> None:
        super().__init__()
        self.network, self.follows, self.trained = network.requires_grad_(False), follows, trained
        shared = {id(each): each for name, each in network.named_parameters() if not trained(name)}
        self.frozen = copy.deepcopy(network, shared).eval() if reference or follows else None
        for each in self.trainable().values():
            each.requires_grad_(True)

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
        """The parameters that are trained."""
        return {name: each for name, each in self.network.named_parameters() if self.trained(name)}

    def follower(self) -> dict[str, nn.Parameter]:
        """The copy's parameters, if it follows."""
        if self.frozen is None or not self.follows:
            return {}
        return {name: each for name, each in self.frozen.named_parameters() if self.trained(name)}
