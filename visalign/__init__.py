"""visalign: preference alignment for diffusion models and multimodal language models."""

from __future__ import annotations

from pathlib import Path

__version__ = "0.1.0"

_here = Path(__file__).resolve().parent
if not (_here / "scorers").is_dir():  # a checkout: scorers/, trainers/, apps/ and configs/ stand beside this folder
    __path__.append(str(_here.parent))
