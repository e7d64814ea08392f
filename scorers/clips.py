"""The frames of a sample's clip: given as pictures, or as the path of a folder of frames or of a file."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from visalign import images
from visalign.data import clips
from visalign.images import Misuse
from visalign.scoring import Sample

Frames = tuple[Image.Image, ...]


def frames(sample: Sample) -> Frames:
    """The sample's frames in order, upright in RGB; none where it has no clip.

    Raises ImageError for a clip that cannot be read, and its child Misuse for a path where nothing is.
    """
    return timed(sample)[0]


def timed(sample: Sample) -> tuple[Frames, float | None]:
    """The same, and how many a second they are, where a film says so."""
    video = sample.video
    if video is None:
        return (), None
    if not isinstance(video, str | os.PathLike):
        return tuple(images.load(each) for each in video), None
    if not Path(video).exists():
        raise Misuse(f"no such clip: {os.fspath(video)}")
    found = clips.fetched(str(Path(video).resolve()), Path())
    return found.decoded()[0], found.rate
