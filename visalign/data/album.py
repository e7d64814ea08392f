"""Many small pictures or clips in one parquet file, named by records as FILE.parquet#ROW#image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pyarrow import parquet

from .clips import animated
from .shards import replace_file

COLUMN = "image"
GROUP = 256  # rows a row group: what is read to get at one picture


def write(pictures: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], path: Path) -> list[str]:
    """Write (h, w, 3) uint8 pictures, without loss, and return the reference of each, relative to the file's folder."""
    return _kept([_webp(each) for each in pictures], path)


def write_clips(clips: Iterable[NDArray[np.uint8]], path: Path) -> list[str]:
    """Likewise of clips (f, h, w, 3), each an animated WebP."""
    return _kept([animated(each) for each in clips], path)


def _kept(contents: Sequence[bytes], path: Path) -> list[str]:
    table = pa.table({COLUMN: pa.array(contents, type=pa.binary())})
    content = BytesIO()
    parquet.write_table(table, content, compression="none", row_group_size=GROUP)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())
    return [f"{path.name}#{row}#{COLUMN}" for row in range(len(contents))]


def _webp(picture: NDArray[np.uint8]) -> bytes:
    file = BytesIO()
    Image.fromarray(picture).save(
        file, "WEBP", lossless=True, quality=75, method=4
    )  # 100 and 6: 2 % smaller, 30 times slower
    return file.getvalue()
