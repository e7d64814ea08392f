"""Training methods: one file a paper, each also a script (`accelerate launch -m visalign.trainers.NAME`)."""

from __future__ import annotations

from .diffusion_dpo import DiffusionDPO
from .sft import SFT

__all__ = ["SFT", "DiffusionDPO"]
