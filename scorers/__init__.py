"""Scorers: one file each; importing this folder loads no model library.

from visalign.scorers import Rules          # a registered scorer's class, by its own name
from visalign.scorers import load           # any scorer by its registered name
scorer = load("rules")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors; at run time the registry knows them
    from visalign.scoring import Scorer

    from .aesthetic import Aesthetic as Aesthetic
    from .clipscore import CLIPIQA as CLIPIQA
    from .clipscore import CLIPScore as CLIPScore
    from .critique import Critique as Critique
    from .edit_reward import EditReward as EditReward
    from .ensemble import Ensemble as Ensemble
    from .hpsv2 import HPSv2 as HPSv2
    from .hpsv3 import HPSv3 as HPSv3
    from .image_reward import ImageReward as ImageReward
    from .learned import Learned as Learned
    from .likeness import Likeness as Likeness
    from .motion import Motion as Motion
    from .mps import MPS as MPS
    from .objects import GenEval as GenEval
    from .ocr import OCR as OCR
    from .personal import Personal as Personal
    from .pickscore import PickScore as PickScore
    from .playground import PlaygroundHPS as PlaygroundHPS
    from .rules import Redrawing as Redrawing
    from .rules import Rules as Rules
    from .rules import Taste as Taste
    from .statistics import Looks as Looks
    from .unified_reward import UnifiedReward as UnifiedReward
    from .video_reward import VideoReward as VideoReward
    from .vlm_judge import VLMJudge as VLMJudge
    from .vqa import VQAScore as VQAScore


def load(name: str, **settings: Any) -> Scorer:
    """The scorer of that name, made with its settings; raises `visalign.registry.UnknownName` with the nearest name."""
    from visalign import registry

    scorer: Scorer = registry.build("scorer", {"name": name, **settings})
    return scorer


def __getattr__(name: str) -> Any:
    """A class, imported when it is first asked for."""
    from visalign import registry

    return registry.attribute("scorer", name, __name__)


def __dir__() -> list[str]:
    """`load` and the classes' names."""
    from visalign import registry

    return ["load", *registry.attributes("scorer", __name__)]
