"""A diffusers network of any known kind, with its reference and its process, as a `Denoiser`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..batches import Condition
from ..process import Process
from .families import ask
from .trained import Trained
from .users import Users
from .weights import Full, Lora


class NetworkDenoiser(Trained):
    """What is trained, or draws.

    `policy` and `reference` take x_t (n, c, h, w), or (n, c, frames, h, w) where the network draws clips, t (n,) times
    of the process and a `Condition` of n, and return the network's raw answer, shaped like x_t, in whatever dtype
    autocast gives.
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
