"""Small folders of picture pairs with their records, and an encoder that counts its calls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from visalign.contract import Encoders
from visalign.records import Preference


def picture(path: Path, seed: int, size: tuple[int, int] = (20, 16)) -> None:
    """A noise picture of (width, height)."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def pairs(folder: Path, count: int, size: tuple[int, int] = (20, 16)) -> list[Preference]:
    """Records of `count` pairs, the first item preferred, with their pictures in `folder`."""
    for i in range(count):
        picture(folder / f"{i}/win.png", 2 * i, size)
        picture(folder / f"{i}/lose.png", 2 * i + 1, size)
    return [
        Preference(f"a red circle {i % 2}", (f"{i}/win.png", f"{i}/lose.png"), verdict="first", key=f"pair-{i}")
        for i in range(count)
    ]


class Counting:
    """Real encoders, with a record of what they were asked."""

    def __init__(self, encoders: Encoders) -> None:
        self.encoders = encoders
        self.pictures: list[Tensor] = []
        self.prompts: list[str] = []
        self.fingerprint = encoders.fingerprint
        self.factor, self.wants_time_ids = encoders.factor, encoders.wants_time_ids
        self.guidance = encoders.guidance

    def latent_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        return self.encoders.latent_shape(size)

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        self.pictures.extend(pixels)
        return self.encoders.encode_images(pixels)

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        self.prompts.extend(prompts)
        return self.encoders.encode_prompts(prompts)
