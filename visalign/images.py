"""The one canonicaliser of pictures: what may be opened, how it is turned upright, and what becomes of alpha.

Scorers, data and apps all open pictures here, so that one picture is the same pixels everywhere. The content says what
a file is, not its name. Colour profiles are not applied.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("PNG", "JPEG", "WEBP")
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP"}
MAX_PIXELS = 64_000_000  # 8000 x 8000; below Pillow's own limit, so that ours is the one that speaks
WHITE = (255, 255, 255)


class ImageError(ValueError):
    """A picture that cannot be used, with the reason in a few words."""


def load(
    source: str | os.PathLike[str] | bytes | Image.Image,
    *,
    max_pixels: int = MAX_PIXELS,
    background: tuple[int, int, int] | None = WHITE,
) -> Image.Image:
    """The picture upright, in 8-bit RGB, in memory, without metadata.

    PNG, JPEG and WebP with one frame are read; sixteen-bit grey is scaled down, alpha is laid over `background` (None:
    refused). The number of pixels is checked before anything is decoded. Raises ImageError with the reason.
    """
    if isinstance(source, Image.Image):
        return _checked(source, max_pixels, background)
    with _opened(source) as image:
        return _checked(image, max_pixels, background)


def _opened(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """The file's header, read; of the pixels nothing yet."""
    data = source if isinstance(source, bytes) else _read(Path(source))
    if not data:
        raise ImageError("empty file (0 bytes)")
    if not data.startswith(tuple(SIGNATURES)):
        raise ImageError(f"not a {', '.join(FORMATS)} file: it begins with {data[:8]!r}")
    try:
        return Image.open(BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"too many pixels ({error})") from error
    except Exception as error:  # decoders raise whatever a damaged header leads them to
        raise ImageError(f"damaged header ({_words(error)})") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"no such file: {path}") from None
    except OSError as error:
        raise ImageError(f"cannot be read: {path} ({error.strerror})") from error


def _checked(image: Image.Image, max_pixels: int, background: tuple[int, int, int] | None) -> Image.Image:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height}, at most {max_pixels} in all")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # a phone's MPO is a JPEG with a preview behind it
        raise ImageError(f"animated ({frames} frames): give one frame as a still picture")
    try:
        image.load()
        return _flat(ImageOps.exif_transpose(image), background)
    except ImageError:
        raise
    except Exception as error:  # as above: of a damaged body
        raise ImageError(f"damaged or truncated ({_words(error)})") from error


def _flat(image: Image.Image, background: tuple[int, int, int] | None) -> Image.Image:
    """8-bit RGB without alpha, a new picture."""
    if image.mode.startswith("I"):  # Pillow's own conversion clips sixteen bits at 255 instead of scaling them
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257.0).round().astype(np.uint8))
    if not image.has_transparency_data:
        flat = image.convert("RGB")
    elif background is None:
        raise ImageError("has an alpha channel")
    else:
        flat = Image.new("RGB", image.size, background)
        above = image.convert("RGBA")
        flat.paste(above, mask=above.getchannel("A"))
    return Image.frombytes("RGB", flat.size, flat.tobytes())


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
