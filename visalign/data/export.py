"""Records for others: with their pictures beside them, or as the columns that Pick-a-Pic is published in."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from .. import images
from ..records import Preference
from . import album, media, store
from .pairing import paired
from .shards import replace_file

ALBUM = "pictures.parquet"
QUALITY = 95  # of Pick-a-Pic's JPEG pictures; colours are kept at full resolution
PICKAPIC = pa.schema(
    [
        pa.field("caption", pa.string()),
        pa.field("jpg_0", pa.binary()),
        pa.field("jpg_1", pa.binary()),
        pa.field("label_0", pa.float64()),
        pa.field("label_1", pa.float64()),
        pa.field("has_label", pa.bool_()),
        pa.field("model_0", pa.string()),
        pa.field("model_1", pa.string()),
        pa.field("user_id", pa.string()),
    ]
)


def bundle(records: Sequence[Preference], root: Path, path: Path, kind: str) -> Path:
    """A zip of records.parquet or records.jsonl (`kind`) and the pictures that they name: unpack and train.

    Pictures are decoded and written anew, without what else their files said.
    """
    items = list(dict.fromkeys(item for each in records for item in each.items))
    with TemporaryDirectory() as folder:
        drawn = [np.asarray(images.load(media.fetch(item, root))) for item in items]
        names = dict(zip(items, album.write(drawn, Path(folder) / ALBUM), strict=True))
        moved = [replace(each, items=tuple(names[item] for item in each.items)) for each in records]
        store.write(moved, Path(folder) / f"records.{kind}")
        content = BytesIO()
        with zipfile.ZipFile(content, "w") as file:
            for each in sorted(Path(folder).iterdir()):
                file.write(each, each.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())
    return path


def pickapic(records: Sequence[Preference], root: Path, path: Path) -> Path:
    """One parquet file with Pick-a-Pic's columns (arXiv 2305.01569), pictures inside; "both bad" has no label there."""
    table = pa.Table.from_pylist([_pickapic_row(each, root) for each in records], schema=PICKAPIC)
    content = BytesIO()
    parquet.write_table(table, content, compression="none")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, content.getvalue())
    return path


def _pickapic_row(record: Preference, root: Path) -> dict[str, object]:
    pair = paired(record)
    labels = [0.5, 0.5]
    if not isinstance(pair, str):
        labels[pair.win], labels[pair.lose] = pair.confidence, 1 - pair.confidence
    models = record.models or (None, None)
    return {
        "caption": record.prompt,
        "jpg_0": _jpeg(record.items[0], root),
        "jpg_1": _jpeg(record.items[1], root),
        "label_0": labels[0],
        "label_1": labels[1],
        "has_label": not isinstance(pair, str),
        "model_0": models[0],
        "model_1": models[1],
        "user_id": record.user,
    }


def _jpeg(item: str, root: Path) -> bytes:
    file = BytesIO()
    image: Image.Image = images.load(media.fetch(item, root))
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


Write = Callable[[Sequence[Preference], Path, Path], Path]
KINDS: Mapping[str, tuple[str, Write]] = {
    "parquet": ("votes-parquet.zip", lambda records, root, path: bundle(records, root, path, "parquet")),
    "jsonl": ("votes-jsonl.zip", lambda records, root, path: bundle(records, root, path, "jsonl")),
    "pickapic": ("votes-pickapic.parquet", pickapic),
}
