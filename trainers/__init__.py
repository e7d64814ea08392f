"""Training methods: one file a paper, each also a script (`accelerate launch -m visalign.trainers.NAME`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .diffusion_dpo import DiffusionDPO
    from .sft import SFT

__all__ = ["SFT", "DiffusionDPO"]


def __getattr__(name: str) -> Any:
    """A class, imported when first asked for: imported here, `python -m visalign.trainers.sft` would load it twice."""
    if name == "DiffusionDPO":
        from .diffusion_dpo import DiffusionDPO

        return DiffusionDPO
    if name == "SFT":
        from .sft import SFT

        return SFT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
