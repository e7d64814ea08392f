"""Items are found where they may be, and framed one way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from paired import pairs, picture
from PIL import Image
from pyarrow import parquet

from visalign.data import media
from visalign.images import ImageError


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("gone.png", "no such file"),
        ("sub", "no such file"),
        ("../secret.png", "leads out of"),
        ("sub/../../secret.png", "leads out of"),
        ("link.png", "leads out of"),
        ("linked/secret.png", "leads out of"),
        ("a\0b.png", "no usable path"),
        ("x" * 5000, "no usable path"),
        ("a.parquet#0", "should read FILE.parquet#ROW#COLUMN"),
        ("a.parquet#-1#image", "should read FILE.parquet#ROW#COLUMN"),
        ("a.parquet#1#image", "has no row 1"),
        ("a.parquet#0#picture", "no column 'picture' but image"),
        ("a.parquet#0#image", "holds no bytes but NoneType"),
        ("broken.parquet#0#image", "cannot be read"),
        ("../secret.parquet#0#image", "leads out of"),
    ],
)
def test_a_reference_that_leads_nowhere_or_out_is_refused(tmp_path: Path, reference: str, said: str) -> None:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    picture(tmp_path / "secret.png", 0)
    os.symlink(tmp_path / "secret.png", folder / "link.png")
    os.symlink(tmp_path, folder / "linked")
    parquet.write_table(pa.table({"image": pa.array([None], pa.binary())}), folder / "a.parquet")
    (folder / "broken.parquet").write_text("PAR1")
    with pytest.raises(ImageError, match=said):
        media.fetch(reference, folder)


def test_relative_and_absolute_references_are_fetched(tmp_path: Path) -> None:
    record = pairs(tmp_path, 1)[0]
    data = (tmp_path / record.items[0]).read_bytes()
    assert media.fetch(record.items[0], tmp_path) == data
    assert media.fetch(str(tmp_path / record.items[0]), Path("elsewhere")) == data


def test_a_file_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(media.MAX_BYTES + 1)  # sparse: no disk is used
    with pytest.raises(ImageError, match="too large"):
        media.fetch("a.png", tmp_path)


@pytest.mark.parametrize("size", [(64, 64), (100, 64), (64, 99), (333, 127), (40, 31)])
def test_framing_is_resizing_the_shortest_side_and_cutting_the_centre(size: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    shortest = min(size)
    wide, high = (round(side * 64 / shortest) for side in size)
    left, top = (wide - 64) // 2, (high - 64) // 2
    by_hand = image.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + 64, top + 64))
    found = media.framed(image, 64)
    assert (found.original, found.corner) == ((size[1], size[0]), (top, left))
    expected = torch.from_numpy(np.array(by_hand)).permute(2, 0, 1).float() / 127.5 - 1
    assert (found.pixels - expected).abs().max() <= 1.01 / 127.5  # one grey level


@pytest.mark.parametrize("size", [(96, 48), (100, 64), (64, 99), (333, 30)])
def test_framing_to_a_rectangle_covers_it_and_cuts_the_centre(size: tuple[int, int]) -> None:
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    scale = max(96 / size[0], 48 / size[1])
    wide, high = (round(side * scale) for side in size)
    left, top = (wide - 96) // 2, (high - 48) // 2
    by_hand = image.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + 96, top + 48))
    found = media.framed(image, 48, 96)
    assert (found.original, found.corner) == ((size[1], size[0]), (top, left))
    expected = torch.from_numpy(np.array(by_hand)).permute(2, 0, 1).float() / 127.5 - 1
    assert found.pixels.shape == (3, 48, 96)
    assert (found.pixels - expected).abs().max() <= 1.01 / 127.5


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = media.framed(Image.fromarray(pixels), 32).pixels
    assert torch.equal(((found + 1) * 127.5).round().byte().permute(1, 2, 0), torch.from_numpy(pixels))
    assert (found.min().item(), found.max().item()) == (-1.0, 1.0)


def test_specks_are_refused_and_ribbons_stay_small() -> None:
    with pytest.raises(ImageError, match="too small: 1 x 1 for 64 x 64"):
        media.framed(Image.new("RGB", (1, 1)), 64)
    with pytest.raises(ImageError, match="too small: 15 x 900"):
        media.framed(Image.new("RGB", (15, 900)), 64)
    assert media.framed(Image.new("RGB", (16, 1_000_000)), 64).pixels.shape == (3, 64, 64)
