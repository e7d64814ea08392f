"""visalign: preference alignment for diffusion models and multimodal language models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .quick import score as score

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "scorers").is_dir():  # a checkout: scorers/, trainers/, apps/ and configs/ stand beside this folder
    __path__.append(str(_here.parent))


def __getattr__(name: str) -> Any:
    """`visalign.score`, imported when it is first asked for: nothing heavy loads before."""
    if name == "score":
        from .quick import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
