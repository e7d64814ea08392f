"""Scorers: one file each; importing this folder loads no model library.

from visalign.scorers import Rules          # a class by its name
from visalign.scorers import load           # any scorer by its registered name
scorer = load("rules")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visalign.scoring import Scorer

    from .rules import Redrawing, Rules, Taste

__all__ = ["Redrawing", "Rules", "Taste", "load"]


def load(name: str, **settings: Any) -> Scorer:
    """The scorer of that name, made with its settings; raises `visalign.registry.UnknownName` with the nearest name."""
    from visalign import registry

    scorer: Scorer = registry.build("scorer", {"name": name, **settings})
    return scorer


def __getattr__(name: str) -> Any:
    """Classes are imported when they are first asked for."""
    if name in ("Redrawing", "Rules", "Taste"):
        from . import rules

        return getattr(rules, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
