"""UNets of the Stable Diffusion 1.5, 2.1 and SDXL kind as a `Denoiser`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batches import Condition
from ..process import Process
from .trained import Trained
from .users import Users, told
from .weights import Full, Lora


class UNetDenoiser(Trained):
    """A diffusers `UNet2DConditionModel` with its reference and its process.

    `policy` and `reference` take x_t (n, c, h, w), t (n,) times of the process and a `Condition` of n, and return the
    UNet's raw answer, (n, c, h, w), in whatever dtype autocast gives.
    """

    def __init__(self, weights: Lora | Full | Users, process: Process, *, resolution: Any = None) -> None:
        super().__init__(weights, resolution)
        self.process = process

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The trained network's answer."""
        return ask(self.weights.network, x_t, self.process.network_time(t), condition)

    @torch.no_grad()
    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The reference's answer, without gradient."""
        with self.weights.reference() as network:
            return ask(network, x_t, self.process.network_time(t), condition)


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Call a diffusers UNet the way its kind wants to be called: SDXL's also takes pooled text and time ids."""
    dtype = network.conv_in.weight.dtype
    added = None
    if network.config.addition_embed_type == "text_time":
        if condition.pooled is None or condition.time_ids is None:
            raise ValueError("an SDXL-type UNet needs the condition's `pooled` text and `time_ids`, and one is missing")
        added = {"text_embeds": condition.pooled.to(dtype), "time_ids": condition.time_ids}
    states = told(network, condition.text.to(dtype), condition.user)
    answer: Tensor = network(x_t.to(dtype), time.to(x_t.device), states, added_cond_kwargs=added, return_dict=False)[0]
    return answer
