"""Films (mp4, mov, webm, mkv, avi and the like) to frames, through PyAV, which brings its own ffmpeg."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image

from ..images import ImageError
from ..records import DataError

EXTRA = 'pip install "visalign[video]"'
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg"  # no playlists: those would name other files and hosts
Matrix = tuple[float, float, float, float]  # a, b, c, d
AS_IT_IS: Matrix = (1, 0, 0, 1)
TURNS: dict[Matrix, Image.Transpose] = {  # what stands at (x, y) is shown at (a x + c y, b x + d y), y downwards
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,  # a phone held upright
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,  # some cameras that look at their owner
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}


def measured(data: bytes) -> tuple[int, int]:
    """(frames, pixels of one of them) of a film, nothing decoded. ImageError if it is none or its end is missing.

    Frames are counted as the file holds them. A film whose pixels are not square is refused: to scale it is a choice
    of its owner. DataError where PyAV is not installed.
    """
    with _opened(data) as (film, stream):
        _square(stream)
        count, end = 0, 0.0
        for packet in film.demux():
            if packet.pts is not None:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            count += packet.stream is stream and packet.size > 0
        if stream.frames > count:
            raise ImageError(f"truncated: {count} of {stream.frames} frames are there")
        _complete(film, stream, end)
        return count, stream.codec_context.width * stream.codec_context.height


def rate(data: bytes) -> float | None:
    """Frames a second of a film, as it says itself; None where it does not. Raises as `measured`."""
    with _opened(data) as (_, stream):
        return float(stream.average_rate) if stream.average_rate else None


def _complete(film: Any, stream: Any, end: float) -> None:
    """Matroska and WebM tell no number of frames, but a length in seconds, and less than a frame of it may lack."""
    length, rate = (film.duration or 0) / 1e6, float(stream.average_rate or 0)
    if "matroska" in film.format.name and (length - end) * rate > 0.75:
        raise ImageError(f"truncated: it ends after {end:.3g} of {length:.3g} s")


def _square(stream: Any) -> None:
    """That a row of pixels is as wide as it is shown; ratios a little off 1 come of rounding, and change no pixel."""
    ratio, width = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio, stream.codec_context.width
    if ratio and round(width * ratio) != width:
        raise ImageError(f"its pixels are not square ({ratio}): ffmpeg -vf scale=iw*sar:ih,setsar=1 makes them so")


def frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of a film in the order they are shown, upright, as they are decoded; ImageError for a damaged one.

    Damaged is what the decoder says so of. Films hold no checksums: wrong bits that spell another film are that film.
    """
    with _opened(data) as (film, stream):
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}  # or damaged parts are made up in silence
        for number, frame in enumerate(film.decode(stream)):
            if frame.is_corrupt:
                raise ImageError(f"damaged in frame {number}")
            yield _upright(frame)


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    shown = _matrix(frame)
    if shown == AS_IT_IS:
        return image
    if shown not in TURNS:
        raise ImageError(f"is to be shown through the matrix {shown}: only quarter turns and mirrors are known")
    return image.transpose(TURNS[shown])


def _matrix(frame: Any) -> Matrix:
    """(a, b, c, d) of where the file says that its pixels are shown, of nine numbers in 16.16."""
    from av.sidedata.sidedata import Type

    found = frame.side_data.get(Type.DISPLAYMATRIX)
    if found is None:
        return AS_IT_IS
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    return a / 65536, b / 65536, c / 65536, d / 65536


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """The container and its video stream; whatever ffmpeg says against them is an ImageError."""
    try:
        import av
    except ImportError:
        raise DataError(f"films (mp4, webm, mov, …) are read by PyAV, which is not installed: {EXTRA}") from None
    try:
        with av.open(BytesIO(data), options={"format_whitelist": CONTAINERS}) as film:
            if not film.streams.video:
                raise ImageError("holds no video")
            yield film, film.streams.video[0]
    except av.FFmpegError as error:
        raise ImageError(f"damaged, or no clip ({error.strerror})") from error
