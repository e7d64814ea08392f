"""Clips as people keep them: a folder of frames, an animated WebP, PNG or GIF, or a film."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

from PIL import Image, ImageSequence

from .. import images
from ..images import FORMATS, SIGNATURES, ImageError, Picture
from . import films, media
from .shards import replace_file
from .sources import PICTURES

ENDINGS = (".mp4", ".mov", ".webm", ".mkv", ".avi", ".gif")  # of files that are clips whatever they hold
MAX_FRAMES = 2_000
MAX_PIXELS = 512_000_000  # of all frames; eight times one picture's
PILLOW = (*SIGNATURES, b"GIF8")  # how the files begin that it opens


@dataclass(frozen=True)
class Clip:
    """A clip's bytes, of which nothing is decoded yet."""

    path: Path
    parts: tuple[bytes, ...]  # the file, or the frames of a folder, as many as were asked for
    listed: int | None = None  # how many frames the folder holds; None: the clip is one file

    @property
    def digest(self) -> str:
        """A hash of the bytes; of a folder, of its first frames and how many it holds."""
        if self.listed is None:
            return hashlib.sha256(self.parts[0]).hexdigest()
        each = [hashlib.sha256(part).hexdigest() for part in self.parts]
        return hashlib.sha256(" ".join([str(self.listed), *each]).encode()).hexdigest()

    @property
    def rate(self) -> float | None:
        """Frames a second, where a film says so; folders and animations are frames and no more."""
        return films.rate(self.parts[0]) if self._film else None

    def decoded(self, count: int | None = None) -> tuple[tuple[Image.Image, ...], int]:
        """The first `count` frames (None: all), upright in RGB, and how many the clip has. Raises ImageError.

        What decoding would bring to light is asked for first: frames and pixels are refused by what the file says.
        """
        try:
            length, pixels = self._measured()
            _enough(length, count)
            wanted = count or length
            _limit(wanted, wanted * pixels)
            found = tuple(images.load(each) for each in islice(self._frames(), wanted))
            _enough(len(found), count if self._film else wanted)  # a film may hold frames that are not shown
        except ImageError as error:
            raise ImageError(f"{self.path}: {error}") from error
        return found, length

    def _measured(self) -> tuple[int, int]:
        """(frames, pixels of one); of a folder the first frame's, for the others are looked at one by one."""
        if self._film:
            return films.measured(self.parts[0])
        with _opened(self.parts[0]) as image:
            inside: int = getattr(image, "n_frames", 1)
            return self.listed or inside, image.width * image.height

    def _frames(self) -> Iterator[Picture]:
        if self.listed is not None:
            return iter(self.parts)
        return films.frames(self.parts[0]) if self._film else _animation(self.parts[0])

    @property
    def _film(self) -> bool:
        data = self.parts[0]
        avi = data.startswith(b"RIFF") and data[8:12] != b"WEBP"  # which begins as a WebP does
        return self.listed is None and (avi or not data.startswith(PILLOW))


def frames(reference: str, root: Path, count: int | None = None) -> tuple[Image.Image, ...]:
    """The frames of a clip in order, upright in RGB: of a folder by name, numbers in names as numbers.

    A reference is a path relative to `root`, which it may not leave, an absolute one, or FILE.parquet#ROW#COLUMN. With
    `count` the first so many; a clip that has fewer is an ImageError, as is one that is damaged or cut off.
    """
    return fetched(reference, root, count).decoded(count)[0]


def opened(item: str, root: Path, frames: int | None) -> media.Still | Clip:
    """The bytes of an item: of a picture, or of a clip of which the first `frames` are wanted. Raises ImageError."""
    return media.Still(media.fetch(item, root)) if frames is None else fetched(item, root, frames)


def fetched(reference: str, root: Path, count: int | None = None) -> Clip:
    """A clip's bytes; of a folder those of the first `count` frames. Raises ImageError."""
    path = Path(root, reference)
    if not path.is_dir():
        return Clip(path, (media.fetch(reference, root),))
    if not Path(reference).is_absolute() and not path.resolve().is_relative_to(root.resolve()):
        raise ImageError(f"{reference} leads out of {root}; give an absolute path if that is meant")
    found = listed(path)
    if not found:
        raise ImageError(f"{path} holds no frames ({', '.join(PICTURES)})")
    names = [str(Path(reference, each.name)) for each in found[:count]]
    _limit(len(names), 0)
    return Clip(path, tuple(media.fetch(each, root) for each in names), len(found))


def listed(folder: Path) -> list[Path]:
    """The frames of a folder in order: frame2.png before frame10.png."""
    return sorted((file for file in folder.iterdir() if file.suffix.lower() in PICTURES), key=_counted)


def _counted(file: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.name)]


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """An animated or still file; decoders raise whatever a damaged one leads them to, and that is an ImageError."""
    try:
        with Image.open(BytesIO(data), formats=(*FORMATS, "GIF")) as image:
            yield image
    except Exception as error:
        raise ImageError(f"damaged or truncated ({type(error).__name__}: {error})") from error


def _animation(data: bytes) -> Iterator[Picture]:
    if data.startswith(b"GIF8") and not data.rstrip(b"\0").endswith(b";"):  # Pillow takes what is there for the whole
        raise ImageError("truncated: a GIF ends in ;")
    with _opened(data) as image:
        yield from (each.copy() for each in ImageSequence.Iterator(image))


def _enough(length: int, count: int | None) -> None:
    if length < (count or 1):
        raise ImageError(f"has {length} frames, and {count or 1} are needed")


def _limit(count: int, pixels: int) -> None:
    if count > MAX_FRAMES or pixels > MAX_PIXELS:
        said = f"{count} frames, {pixels} pixels in all"
        raise ImageError(f"too long: {said}; at most {MAX_FRAMES} and {MAX_PIXELS} are read")


def write(path: Path, frames: Iterable[Picture], *, rate: float = 8.0) -> None:
    """A lossless animated WebP at `rate` frames a second; `frames` gives its frames back bit for bit."""
    replace_file(path, animated(frames, rate=rate))


def animated(frames: Iterable[Picture], *, rate: float = 8.0) -> bytes:
    """What `write` writes.

    Frames are put behind one another here, each as Pillow writes a still: its own writer of animations merges frames
    that are equal, so that a clip that stands still would come back shorter.
    """
    loaded = [images.load(each) for each in frames]
    sizes = {each.size for each in loaded}
    if len(sizes) != 1:
        raise ImageError(f"a clip has frames of one size, at least 1; got {sorted(sizes) or 'none'}")
    ((width, height),) = sizes
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    timing = round(1000 / rate).to_bytes(3, "little")
    chunks = [_chunk(b"VP8X", b"\x02\0\0\0" + size), _chunk(b"ANIM", bytes(6))]  # animated; black, for ever
    for each in loaded:
        still = BytesIO()
        each.save(still, "WEBP", lossless=True, exact=True, method=2, quality=20)  # of effort: no larger, and sooner
        place, opaque = bytes(6), b"\x02"  # top left; not blended with the frame before
        chunks.append(_chunk(b"ANMF", place + size + timing + opaque + still.getvalue()[12:]))  # less RIFF and WEBP
    return _chunk(b"RIFF", b"WEBP" + b"".join(chunks))


def _chunk(name: bytes, content: bytes) -> bytes:
    """A part of a RIFF file: name, length, content, filled up to an even length."""
    return name + len(content).to_bytes(4, "little") + content + bytes(len(content) % 2)
