"""Small clips for tests: noise that moves, and films that PyAV writes of it."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from visalign.data import clips
from visalign.records import Preference


def noise(seed: int, frames: int = 9, size: tuple[int, int] = (16, 20)) -> NDArray[np.uint8]:
    """(frames, height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (frames, *size, 3), dtype=np.uint8)


def film(
    path: Path, frames: NDArray[np.uint8], codec: str = "libx264", *, rate: int = 8, faststart: bool = False
) -> Path:
    """A film of these frames, in yuv420p; its container by the path's ending."""
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as made:
        stream = made.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for each in frames:
            made.mux(stream.encode(av.VideoFrame.from_ndarray(each, format="rgb24")))
        made.mux(stream.encode())
    return path


def pairs(folder: Path, count: int, frames: int = 9, size: tuple[int, int] = (16, 20)) -> list[Preference]:
    """Records of `count` pairs of clips, the first preferred, with their animated WebPs in `folder`."""
    for i in range(count):
        for j, name in enumerate(("one", "other")):
            clips.write(folder / f"{i}-{name}.webp", noise(2 * i + j, frames, size))
    return [
        Preference(f"a red circle {i % 2}", (f"{i}-one.webp", f"{i}-other.webp"), verdict="first", key=f"pair-{i}")
        for i in range(count)
    ]
