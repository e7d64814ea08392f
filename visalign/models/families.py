"""The kinds of diffusers pipelines that can be trained: what each needs that the others do not.

A kind is one file beside this one, which ends in its `Family`, and a name in `KNOWN`. Methods, samplers and the
engine see none of it: they see `policy`, `reference` and `process`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..batches import Condition, moved
from .animatediff import ANIMATEDIFF
from .family import Family
from .flux import FLUX
from .sd3 import SD3
from .stable_diffusion import SD, SDXL
from .wan import WAN

KNOWN = (SD, SDXL, SD3, FLUX, ANIMATEDIFF, WAN)
PIPELINES: Mapping[str, Family] = {family.pipeline: family for family in KNOWN}
NETWORKS: Mapping[str, Family] = {family.network: family for family in reversed(KNOWN)}


def family_of(network: Any) -> Family:
    """The family of a diffusers network, by its class, whoever stands before it (`Role`)."""
    return NETWORKS[type(getattr(network, "network", network)).__name__]


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """The raw answer (n, ...) of a diffusers network to x_t (n, ...) at times (n,) of the network's own scale."""
    return family_of(network).ask(network, x_t, moved(time, x_t.device), condition)
