"""The one canonicaliser of pictures: what may be opened, how it is turned upright, and what becomes of alpha.

Scorers, data and apps all open pictures here, so that one picture is the same pixels everywhere. The content says what
a file is, not its name. Colour profiles are not applied. Arrays and tensors are pictures too, if their shape and range
say so without doubt.
"""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

if TYPE_CHECKING:
    from torch import Tensor

Picture: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Tensor"
ONE = (str, os.PathLike, bytes, Image.Image)  # of those, the ones that cannot be a batch

FORMATS = ("PNG", "JPEG", "WEBP")
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG", b"RIFF": "WEBP"}
MAX_PIXELS = 64_000_000  # 8000 x 8000; below Pillow's own limit, so that ours is the one that speaks
WHITE = (255, 255, 255)
NAMED = 200  # letters of a path in a message: what is longer is a file's content, taken for its name


class ImageError(ValueError):
    """A picture that cannot be used, with the reason in a few words."""


class Misuse(ImageError):
    """The caller's mistake and not the picture's: a path where nothing is, an array of the wrong shape or range."""


def load(
    source: Picture,
    *,
    max_pixels: int = MAX_PIXELS,
    background: tuple[int, int, int] | None = WHITE,
) -> Image.Image:
    """The picture upright, in 8-bit RGB, in memory, without metadata.

    PNG, JPEG and WebP with one frame are read; sixteen-bit grey is scaled down, alpha is laid over `background` (None:
    refused). The number of pixels is checked before anything is decoded. Arrays and tensors are uint8, or floats in
    [0, 1], which are rounded to 8 bits; see `from_array`. Raises ImageError with the reason.
    """
    if isinstance(source, Image.Image):
        return _checked(source, max_pixels, background)
    if isinstance(source, str | os.PathLike | bytes):
        with _opened(source) as image:
            return _checked(image, max_pixels, background)
    if not hasattr(source, "dtype"):  # as arrays and tensors have, of whatever library
        raise Misuse(f"{type(source).__name__} is no picture: give a path, bytes, a PIL image, an array or a tensor")
    return _checked(from_array(source), max_pixels, background)


def from_array(values: NDArray[Any] | Tensor) -> Image.Image:
    """A picture of (h, w), (c, h, w) or (h, w, c) values, c one of 1, 3, 4: uint8, or floats in [0, 1].

    Where both ends could be channels, a tensor has them first and an array last. Raises Misuse, also for floats out of
    range: pixels of 0 … 255 or -1 … 1 would otherwise be read as white or be cut off.
    """
    first = hasattr(values, "detach")  # a tensor; torch itself is not imported for this
    given = values.detach().cpu() if first else values  # type: ignore[union-attr]
    array = np.asarray(given.float() if first and given.is_floating_point() else given)  # type: ignore[union-attr]
    return Image.fromarray(_eight_bits(_channels_last(array, first)))


def _channels_last(array: NDArray[Any], first: bool) -> NDArray[Any]:
    """(h, w) or (h, w, 3 or 4)."""
    ends = {0: array.ndim == 3 and array.shape[0] in (1, 3, 4), 2: array.ndim == 3 and array.shape[2] in (1, 3, 4)}
    if array.size == 0 or (array.ndim != 2 and not any(ends.values())):
        raise Misuse(f"an array of shape {array.shape} is no picture: (h, w), (c, h, w) or (h, w, c), c 1, 3 or 4")
    if ends[0] and (first or not ends[2]):
        array = array.transpose(1, 2, 0)
    return array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array


def _eight_bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if not np.issubdtype(array.dtype, np.floating):
        raise Misuse(f"an array of {array.dtype} is no picture: give uint8, or floats in [0, 1]")
    if not (array.min() >= 0 and array.max() <= 1):  # false for NaN too
        low, high = f"{array.min():.9g}", f"{array.max():.9g}"
        raise Misuse(f"floats must lie in [0, 1], these lie in [{low}, {high}]: scale them first")
    return np.ascontiguousarray(np.rint(array.astype(np.float32) * 255).astype(np.uint8))


def _opened(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """The file's header, read; of the pixels nothing yet."""
    data = source if isinstance(source, bytes) else _read(source)
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


def _read(source: str | os.PathLike[str]) -> bytes:
    named = os.fspath(source)
    named = named if len(named) <= NAMED else f"{named[:NAMED]}…"
    try:
        return Path(source).read_bytes()
    except FileNotFoundError:
        raise Misuse(f"no such file: {named}") from None
    except OSError as error:
        raise Misuse(f"cannot be read: {named} ({error.strerror})") from error
    except ValueError as error:  # of a null in a name
        raise Misuse(f"no path: {named!r} ({error})") from error


def _checked(image: Image.Image, max_pixels: int, background: tuple[int, int, int] | None) -> Image.Image:
    width, height = image.size
    if not width * height:
        raise ImageError(f"a picture of {width} x {height} has no pixels")
    if image.mode == "F":  # Pillow takes its floats for 0 … 255 and cuts off the rest
        raise Misuse("a PIL image of floats (mode F) has no known range: give an array of floats in [0, 1]")
    if width * height > max_pixels:
        raise ImageError(f"too many pixels: {width} x {height}, at most {max_pixels} in all")
    try:
        frames = getattr(image, "n_frames", 1)  # of formats that look for the frames it reads the file
        if frames > 1 and image.format != "MPO":  # a phone's MPO is a JPEG with a preview behind it
            raise ImageError(f"animated ({frames} frames): give one frame as a still picture")
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
