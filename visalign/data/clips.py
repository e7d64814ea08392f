"""Clips as people keep them: a folder of frames, or one animated WebP or PNG file."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageSequence

from .. import images
from ..images import FORMATS, ImageError
from . import media
from .sources import PICTURES

MAX_FRAMES = 2_000
MAX_PIXELS = 512_000_000  # of all frames; eight times one picture's
MEND = "give a folder of frames (ffmpeg -i clip.mp4 clip/%05d.png), or an animated WebP or PNG"


def frames(reference: str, root: Path) -> tuple[Image.Image, ...]:
    """The frames of a clip in order, upright in RGB: of a folder by name, numbers in names as numbers.

    A reference is a path relative to `root`, which it may not leave, or an absolute one. Raises ImageError.
    """
    path = Path(root, reference)
    if path.is_dir():
        if not Path(reference).is_absolute() and not path.resolve().is_relative_to(root.resolve()):
            raise ImageError(f"{reference} leads out of {root}; give an absolute path if that is meant")
        found = listed(path)
        if not found:
            raise ImageError(f"{path} holds no frames ({', '.join(PICTURES)})")
        _limit(len(found), 0, path)
        return tuple(images.load(each) for each in found)
    return _animated(media.fetch(reference, root), path)


def listed(folder: Path) -> list[Path]:
    """The frames of a folder in order: frame2.png before frame10.png."""
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in PICTURES), key=_counted)


def _counted(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


def _animated(content: bytes, path: Path) -> tuple[Image.Image, ...]:
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            count = getattr(image, "n_frames", 1)
            _limit(count, count * image.width * image.height, path)
            return tuple(images.load(each.copy()) for each in ImageSequence.Iterator(image))
    except ImageError:
        raise
    except Exception as error:  # decoders raise whatever a damaged or foreign file leads them to
        raise ImageError(f"{path} is no clip that can be read: {MEND}") from error


def _limit(count: int, pixels: int, path: Path) -> None:
    if count > MAX_FRAMES or pixels > MAX_PIXELS:
        raise ImageError(f"too long: {path} has {count} frames, at most {MAX_FRAMES} and {MAX_PIXELS} pixels in all")
