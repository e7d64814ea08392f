"""Image-text-to-text networks of transformers as a `LanguageModel`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Dialogues
from ..contract import Spoken
from ..text import answer_places
from .trained import Trained
from .weights import Full, Lora


class SeeingModel(Trained):
    """A transformers image-text-to-text network with its reference.

    `policy` and `reference` take `Dialogues` of n and return the logits of their answers, and of nothing else: the
    places are handed to the family's own forward (`logits_to_keep`), which takes them out before its head and does to
    the logits whatever the family does (Gemma's soft cap, Cohere's scale). The network never drops out: policy and
    reference are the same function of their weights, so that at step 0 they agree bit for bit.
    """

    weights: Lora | Full

    def __init__(
        self, weights: Lora | Full, *, resolution: Any = None, identify: Callable[[], str] | None = None
    ) -> None:
        super().__init__(weights, resolution)
        self._identify = identify
        for layer in _recomputing(weights):
            _undropped(layer)
        self.train()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of every weight and setting that the reference's answers depend on: caches are kept under it."""
        if self._identify is None:
            raise ValueError("this model was not opened from a folder, so nothing can be kept for it")
        return self._identify()

    def train(self, mode: bool = True) -> SeeingModel:
        """Training mode for this module alone: what lies in it stays in evaluation mode, without dropout.

        transformers recomputes activations only in layers that are in training mode, so a layer that shall says so,
        itself and none of its children. One that is not trained keeps nothing that it could recompute.
        """
        super().train(mode)
        self.weights.eval()
        for layer in _recomputing(self.weights):
            layer.training = mode and any(each.requires_grad for each in layer.parameters())
        return self

    def policy(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        """What the trained network says of the answers."""
        return ask(self.weights.network, dialogues, hidden)

    @torch.no_grad()
    def reference(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        """What the reference says of the answers, without gradient."""
        with self.weights.reference() as network:
            return ask(network, dialogues, hidden)


def ask(network: Any, dialogues: Dialogues, hidden: int | None = None) -> Spoken:
    """What a network says at the places that predict the counted tokens; `hidden` asks for that layer's states too."""
    places, mask = answer_places(dialogues.answer)
    found = network(
        input_ids=dialogues.ids,
        attention_mask=dialogues.attention.long(),
        **seen(network, dialogues.media),
        **dialogues.kinds,
        logits_to_keep=(places - 1).clamp(min=0),
        output_hidden_states=hidden is not None,
        use_cache=False,
    )
    states = None if hidden is None else found.hidden_states[hidden]
    return Spoken(found.logits, dialogues.ids.gather(1, places), mask, states)


def seen(network: Any, media: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a processor made of the pictures, pixels in the dtype of the network."""
    return {name: each.to(network.dtype) if each.is_floating_point() else each for name, each in media.items()}


def _recomputing(weights: nn.Module) -> list[nn.Module]:
    """The layers that were asked to recompute their activations."""
    return [each for each in weights.modules() if getattr(each, "gradient_checkpointing", False)]


def _undropped(layer: nn.Module) -> None:
    """Set a layer's own dropout rates to zero."""
    for name, value in vars(layer).items():
        if "dropout" in name and isinstance(value, float):
            setattr(layer, name, 0.0)
