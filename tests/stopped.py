"""Builds of the playground's models that are stopped on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from visalign.playground import build

PARTS = ("vae", "unet", "text_encoder")


class Interrupted(Exception):
    """Stands for a machine that went down."""


def goes_on_to_the_same_weights(
    made: Callable[[Path], Path], moment: int, folder: Path, monkeypatch: pytest.MonkeyPatch,
    parts: Sequence[str] = PARTS,
) -> None:  # fmt: skip
    """`made` in one go, and again stopped at its `moment`-th update and gone on with, writes the same bytes."""
    made(folder / "whole")
    update, calls = build.Saved.update, itertools.count(1)

    def interrupted(self: build.Saved, loss: torch.Tensor, share: float) -> None:
        if next(calls) == moment:
            raise Interrupted
        update(self, loss, share)

    monkeypatch.setattr(build.Saved, "update", interrupted)
    with pytest.raises(Interrupted):
        made(folder / "twice")
    made(folder / "twice")
    for part in parts:
        files = [next((folder / each / part).glob("*.safetensors")) for each in ("whole", "twice")]
        assert files[0].read_bytes() == files[1].read_bytes(), part
