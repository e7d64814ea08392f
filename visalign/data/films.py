"""Films (mp4, mov, webm, mkv, avi and the like) to frames, through PyAV, which brings its own ffmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

from PIL import Image

from ..images import ImageError
from ..records import DataError

EXTRA = 'pip install "visalign[video]"'
CONTAINERS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,ogg"  # no playlists: those would name other files and hosts
TURNS = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    -90: Image.Transpose.ROTATE_270,
    -180: Image.Transpose.ROTATE_180,
}


def measured(data: bytes) -> tuple[int, int]:
    """(frames, pixels of one of them) of a film, nothing decoded. ImageError if it is none or its end is missing.

    Frames are counted as the file holds them. DataError where PyAV is not installed.
    """
    with _opened(data) as (film, stream):
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


def frames(data: bytes) -> Iterator[Image.Image]:
    """The frames of a film in the order they are shown, upright, as they are decoded; ImageError for a damaged one."""
    with _opened(data) as (film, stream):
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}  # or damaged parts are made up in silence
        for number, frame in enumerate(film.decode(stream)):
            if frame.is_corrupt:
                raise ImageError(f"damaged in frame {number}")
            yield _upright(frame)


def _upright(frame: Any) -> Image.Image:
    image: Image.Image = frame.to_image()
    turn = round(frame.rotation or 0)  # degrees counter-clockwise, as a phone held upright notes
    if turn and turn not in TURNS:
        raise ImageError(f"is to be shown turned by {turn} degrees: only quarter turns are known")
    return image.transpose(TURNS[turn]) if turn else image


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
