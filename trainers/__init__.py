"""Training methods: one file a paper, each also a script (`accelerate launch -m visalign.trainers.NAME`).

from visalign.trainers import DiffusionDPO      # any registered method's class, by its own name
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time the registry knows them
    from .chip import CHiP as CHiP
    from .critique_reward import CritiqueReward as CritiqueReward
    from .dcpo import DCPO as DCPO
    from .dense_dpo import DenseDPO as DenseDPO
    from .diffusion_dpo import DiffusionDPO as DiffusionDPO
    from .diffusion_kto import DiffusionKTO as DiffusionKTO
    from .diffusion_npo import DiffusionNPO as DiffusionNPO
    from .dragon import DRAGON as DRAGON
    from .flow_dpo import FlowDPO as FlowDPO
    from .flow_rwr import FlowRWR as FlowRWR
    from .grpo import GRPO as GRPO
    from .inpo import InPO as InPO
    from .inversion_dpo import InversionDPO as InversionDPO
    from .mapo import MaPO as MaPO
    from .mdpo import MDPO as MDPO
    from .mllm_dpo import MLLMDPO as MLLMDPO
    from .mllm_sft import MLLMSFT as MLLMSFT
    from .mm_dpo import MMDPO as MMDPO
    from .opa_dpo import OPADPO as OPADPO
    from .ppd import PPD as PPD
    from .reward_model import RewardModelling as RewardModelling
    from .rpo import RPO as RPO
    from .self_npo import SelfNPO as SelfNPO
    from .sft import SFT as SFT
    from .smpo import SmPO as SmPO
    from .spo import SPO as SPO
    from .tars import TARS as TARS
    from .v_dpo import VDPO as VDPO


def __getattr__(name: str) -> Any:
    """A class, imported when first asked for: imported here, `python -m visalign.trainers.sft` would load it twice."""
    from visalign import registry

    return registry.attribute("method", name, __name__)


def __dir__() -> list[str]:
    """The classes' names."""
    from visalign import registry

    return registry.attributes("method", __name__)
