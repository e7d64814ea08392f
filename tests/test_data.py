"""Records come back from disk as they went, foreign data are read as published, and pictures are found and framed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from paired import picture
from PIL import Image
from pyarrow import parquet

from visalign.data import media, store
from visalign.data.sources import open_source, root
from visalign.records import DataError, Preference

RECORDS = [
    Preference(
        "a red circle",
        ("a.png", "b.png"),
        np.array([1.0, 0.0]),
        scale="votes",
        judge="ann",
        user="ann",
        verdict="first",
    ),
    Preference(
        "", ("a.png", "b.png", "c.png"), np.array([0.1, np.nan, 0.3]), seeds=(1, 2, 2**62), models=("m", "m", "n")
    ),
    Preference("what is this?", ("a cat", "a dog"), np.array([[1, np.nan], [0, 2]]), media=("a.png",), aspect="truth"),
    Preference("ein Würfel, 方", ("x.png", "y.png"), captions=("one", ""), shown_first=0, verdict="both_bad"),
    Preference("it moves", ("x.mp4", "y.mp4"), np.array([[1, 0.5], [0, 0.5]]), scale="probability", segment=24),
]


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl", "records"])
def test_what_was_written_is_read_back_in_order(tmp_path: Path, name: str) -> None:
    store.write(RECORDS, tmp_path / "deep" / name, shard=3)
    again = store.read(tmp_path / "deep" / name)
    assert again == RECORDS
    assert [record.key for record in again] == [record.key for record in RECORDS]
    assert all(one.scores.tobytes() == two.scores.tobytes() for one, two in zip(again, RECORDS, strict=True))
    assert open_source(tmp_path / "deep" / name) == RECORDS


def test_a_folder_is_shards_and_is_never_overwritten(tmp_path: Path) -> None:
    store.write(RECORDS, tmp_path / "records", shard=3)
    assert [file.name for file in store.files(tmp_path / "records")] == [
        "part-00000-of-00002.parquet",
        "part-00001-of-00002.parquet",
    ]
    with pytest.raises(DataError, match="is there already"):
        store.write(RECORDS, tmp_path / "records")


@pytest.mark.parametrize("name", ["records.parquet", "records.jsonl", "records"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / name
    if path.suffix:
        store.write(RECORDS[:1], path)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(RECORDS, path)
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_key_is_written_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 keys occur twice"):
        store.write([RECORDS[0], RECORDS[0]], tmp_path / "records.parquet")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a", "items": ["x"]}\n\n{"prompt": "a", "ite', r"records\.jsonl:3 is not JSON"),
        ('{"prompt": "a", "items": [""]}\n', r"records\.jsonl:1: an item's name is empty"),
        (
            '{"prompt": "a", "items": ["x"], "score": [1]}\n',
            r"records\.jsonl:1: a record has no field 'score'; did you mean scores\?",
        ),
        ("[1]\n", r"records\.jsonl:1: a record is an object"),
        ("\xff\n", r"records\.jsonl:1 is not JSON"),
    ],
)
def test_a_broken_line_is_named_by_file_and_number(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "records.jsonl").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=said):
        open_source(tmp_path / "records.jsonl")


def test_a_cut_parquet_file_and_a_foreign_one_are_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "records.parquet"
    store.write(RECORDS, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a whole parquet file"):
        open_source(path)
    parquet.write_table(pa.table({"text": ["a"], "image": ["b"]}), path)
    with pytest.raises(DataError, match="no column 'prompt' but text, image"):
        open_source(path)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "gone", "no such file or folder"),
        (lambda folder: folder, "holds no .parquet or .jsonl file"),
        (lambda folder: written(folder / "a.csv", ""), "cannot tell the format of .*a.csv: name it, one of parquet"),
        (lambda folder: written(folder / "a.jsonl", "\n"), "holds no records"),
    ],
)
def test_no_data_is_one_clear_line(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(DataError, match=said):
        open_source(make(tmp_path))


def test_an_unknown_format_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'csv' is not one of parquet, jsonl, pairs_folder, pickapic"):
        open_source(tmp_path, "csv")


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# A folder of pairs --------------------------------------------------------------------------------------------------


def test_win_and_lose_folders_are_pairs(tmp_path: Path) -> None:
    for name in ("one", "two"):
        picture(tmp_path / f"win/{name}.png", 0)
        picture(tmp_path / f"lose/{name}.png", 1)
        written(tmp_path / f"win/{name}.txt", f"number {name}\n")
    written(tmp_path / "lose/two.txt", "another caption")
    assert open_source(tmp_path) == [
        Preference("number one", ("win/one.png", "lose/one.png"), verdict="first", judge="folder", key="one"),
        Preference(
            "number two", ("win/two.png", "lose/two.png"), verdict="first", judge="folder", key="two",
            captions=("number two", "another caption"),
        ),
    ]  # fmt: skip
    assert root(tmp_path) == tmp_path


def test_a_picture_without_partner_or_prompt_is_named(tmp_path: Path) -> None:
    picture(tmp_path / "win/one.png", 0)
    (tmp_path / "lose").mkdir()
    with pytest.raises(DataError, match=r"1 pictures in .* no partner of that name: one"):
        open_source(tmp_path)
    picture(tmp_path / "lose/one.png", 1)
    with pytest.raises(DataError, match=r"one\.png has no prompt: write it to .*one\.txt"):
        open_source(tmp_path)


# Pick-a-Pic ---------------------------------------------------------------------------------------------------------


def jpeg(seed: int) -> bytes:
    buffer = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def pick_a_pic(path: Path, rows: int = 4, **changes: Any) -> Path:
    """A parquet file with the columns of yuvalkirstain/pickapic_v2 and two row groups."""
    columns: dict[str, Any] = {
        "are_different": [True] * rows,
        "best_image_uid": ["u"] * rows,
        "caption": [f"prompt {i}" for i in range(rows)],
        "has_label": [True, True, True, False][:rows],
        "image_0_uid": [f"{i}-0" for i in range(rows)],
        "image_1_uid": [f"{i}-1" for i in range(rows)],
        "jpg_0": [jpeg(2 * i) for i in range(rows)],
        "jpg_1": [jpeg(2 * i + 1) for i in range(rows)],
        "label_0": [1.0, 0.0, 0.5, 1.0][:rows],
        "label_1": [0.0, 1.0, 0.5, 0.0][:rows],
        "model_0": ["sdxl-beta"] * rows,
        "model_1": ["dreamlike"] * rows,
        "ranking_id": list(range(rows)),
        "user_id": [7] * rows,
    }
    columns = {name: value for name, value in (columns | changes).items() if value is not None}
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("where", ["file", "folder"])
def test_pick_a_pic_is_read_as_it_is_published(tmp_path: Path, where: str) -> None:
    path = pick_a_pic(tmp_path / "data" / "train-00000.parquet")
    source = path if where == "file" else path.parent
    records = open_source(source)
    assert [record.utilities.tolist() for record in records[:3]] == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]
    assert np.isnan(records[3].scores).all()  # nobody labelled it
    first = records[1]
    assert (first.prompt, first.scale, first.judge, first.user) == ("prompt 1", "probability", "pickapic", "7")
    assert first.models == ("sdxl-beta", "dreamlike")
    assert first.items == ("train-00000.parquet#1#jpg_0", "train-00000.parquet#1#jpg_1")
    for i in (3, 0, 2, 1):  # across row groups, in any order
        for side in (0, 1):
            assert media.fetch(records[i].items[side], root(source)) == jpeg(2 * i + side)


def test_pick_a_pics_optional_columns_may_be_absent(tmp_path: Path) -> None:
    path = pick_a_pic(tmp_path / "a.parquet", has_label=None, model_0=None, user_id=None)
    record = open_source(path)[3]
    assert (record.models, record.user, record.utilities.tolist()) == ((), None, [1.0, 0.0])
    with pytest.raises(DataError, match="no column 'caption' but"):
        open_source(pick_a_pic(tmp_path / "b.parquet", caption=None))


def test_a_label_that_cannot_be_is_named_by_its_row(tmp_path: Path) -> None:
    path = pick_a_pic(tmp_path / "a.parquet", label_1=[0.0, 1.0, 1.0, 0.0])
    with pytest.raises(DataError, match=r"a\.parquet row 2: probabilities of the items must sum to 1"):
        open_source(path)


def test_pictures_in_structs_as_datasets_writes_them_are_opened(tmp_path: Path) -> None:
    parquet.write_table(pa.table({"image": [{"bytes": jpeg(0), "path": None}]}), tmp_path / "a.parquet")
    assert media.fetch("a.parquet#0#image", tmp_path) == jpeg(0)


def test_a_line_of_json_is_valid_json_whatever_the_prompt(tmp_path: Path) -> None:
    record = Preference('two\nlines   "quoted" \x00', ("x",))
    text = store.line(record)
    assert text.count("\n") == 1
    assert Preference.from_json(json.loads(text)) == record
