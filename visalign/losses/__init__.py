"""Preference losses for text, multimodal and diffusion models: pure functions of log-ratios, and a table of them.

    from visalign import losses

    losses.dpo(win, lose, beta=0.1)                                          # (b,) losses of (b,) log-ratios
    losses.resolve({"name": "robust", "epsilon": 0.1})(win, lose, beta=0.1)  # by name, with the label of each pair

`docs/losses.md` shows the whole table.
"""

from __future__ import annotations

from .bound import BoundLoss
from .pairwise import dpo, exo_pair, hinge, ipo
from .registry import Blend, Entry, by_name, loss, names
from .resolution import LossSpec, combine, resolve

__all__ = [
    "Blend",
    "BoundLoss",
    "Entry",
    "LossSpec",
    "by_name",
    "combine",
    "dpo",
    "exo_pair",
    "hinge",
    "ipo",
    "loss",
    "names",
    "resolve",
]
