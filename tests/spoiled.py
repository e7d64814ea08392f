"""Files that are no proper pictures, each with the reason that must be given for it."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image


def picture(width: int = 12, height: int = 8) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """A valid one-bit PNG of side x side pixels in about a hundred kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def animated(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue", "green")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=100)


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "0 bytes": (lambda: b"", r"empty file \(0 bytes\)"),
    "text": (lambda: b"<html>404 not found</html>", "not a PNG, JPEG, WEBP file: it begins with b'<html>40'"),
    "only a signature": (lambda: b"\x89PNG\r\n\x1a\n", "damaged header"),
    "truncated JPEG": (lambda: encoded(picture(200, 200), "JPEG")[:-4000], "damaged or truncated"),
    "truncated PNG": (lambda: encoded(picture(200, 200), "PNG")[:-4000], "damaged or truncated"),
    "truncated WebP": (lambda: encoded(picture(200, 200), "WEBP")[:-4000], "damaged"),
    "a PNG with a flipped bit": (lambda: flipped(encoded(picture(64, 64), "PNG"), 2000), "damaged or truncated"),
    "animated GIF": (lambda: animated("GIF"), "not a PNG, JPEG, WEBP file"),
    "animated WebP": (lambda: animated("WEBP"), r"animated \(3 frames\)"),
    "animated PNG": (lambda: animated("PNG"), r"animated \(3 frames\)"),
    "still GIF": (lambda: encoded(picture(), "GIF"), "not a PNG, JPEG, WEBP file"),
    "BMP": (lambda: encoded(picture(), "BMP"), "not a PNG, JPEG, WEBP file"),
    "TIFF": (lambda: encoded(picture(), "TIFF"), "not a PNG, JPEG, WEBP file"),
    "a WAV behind WebP's RIFF": (lambda: b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(40), "damaged header"),
}


def flipped(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]
