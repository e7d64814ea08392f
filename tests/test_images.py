"""One picture is the same pixels everywhere; what is no proper picture is refused with a reason."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from spoiled import REFUSED, bomb, encoded, picture

from visalign import images
from visalign.images import ImageError, load


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_proper_picture_is_refused_with_its_reason(kind: str) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(ImageError, match=reason):
        load(make())


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def exploded(image: Image.Image) -> None:
        raise AssertionError("decoded")

    data = bomb()
    assert len(data) < 200_000
    monkeypatch.setattr(Image.Image, "load", exploded)
    with pytest.raises(ImageError, match="too many pixels"):
        load(data)


def test_the_cap_is_exact_and_its_message_says_the_size() -> None:
    data = encoded(picture(12, 8), "PNG")
    assert load(data, max_pixels=96).size == (12, 8)
    with pytest.raises(ImageError, match="too many pixels: 12 x 8, at most 95 in all"):
        load(data, max_pixels=95)
    with pytest.raises(ImageError, match="too many pixels"):
        load(picture(12, 8), max_pixels=95)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such file: .*gone\.png"):
        load(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be read"):
        load(tmp_path)


def test_a_path_bytes_and_an_open_picture_are_the_same_pixels(tmp_path: Path) -> None:
    image = picture()
    path = tmp_path / "a.png"
    path.write_bytes(encoded(image, "PNG"))
    for source in (path, str(path), path.read_bytes(), image):
        assert load(source).tobytes() == image.tobytes()


def test_the_content_and_not_the_name_says_what_a_file_is(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(picture(), "PNG"))
    assert load(path).tobytes() == picture().tobytes()


@pytest.mark.parametrize("turn", range(1, 9))
def test_exif_turns_the_picture_upright(turn: int) -> None:
    """Each of the eight orientations, applied to the stored pixels, gives the upright picture back."""
    stored = {
        1: None, 2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
        7: "TRANSVERSE", 8: "ROTATE_270",
    }[turn]  # fmt: skip
    upright = picture()
    turned = upright.transpose(Image.Transpose[stored]) if stored else upright
    exif = Image.Exif()
    exif[0x0112] = turn
    assert load(encoded(turned, "PNG", exif=exif)).tobytes() == upright.tobytes()


def test_nothing_but_pixels_is_kept() -> None:
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    image = load(encoded(picture(), "PNG", exif=exif))
    assert (image.mode, image.info, image.format) == ("RGB", {}, None)
    assert not image.getexif()


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    grey = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    found = np.asarray(load(encoded(Image.fromarray(grey), "PNG")))
    np.testing.assert_array_equal(found[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGB"])
def test_every_plain_mode_becomes_what_pillow_shows(mode: str) -> None:
    image = picture().convert(mode)
    assert load(encoded(image, "PNG")).tobytes() == image.convert("RGB").tobytes()


def test_four_inks_become_three_lights() -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # magenta and yellow: red
    red = np.asarray(load(encoded(cmyk, "JPEG", quality=95))).reshape(-1, 3)
    assert red.mean(0) == pytest.approx([255, 0, 0], abs=6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_laid_over_the_background(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 51))
    data = encoded(image.convert(mode), "PNG")
    assert load(data).tobytes() == bytes([0, 0, 0, 204, 204, 204])
    assert load(data, background=(0, 100, 0)).tobytes() == bytes([0, 0, 0, 0, 80, 0])
    with pytest.raises(ImageError, match="alpha"):
        load(data, background=None)


def test_a_transparent_palette_entry_is_alpha_too() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    data = encoded(image, "PNG", transparency=1)
    assert load(data).tobytes() == bytes([255, 0, 0, 255, 255, 255])


def test_the_source_is_left_as_it_was() -> None:
    image = Image.new("RGBA", (2, 2), (9, 9, 9, 9))
    load(image).putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (9, 9, 9, 9)


@pytest.mark.parametrize("given", [None, 3, bytearray(b"x"), memoryview(b"x"), BytesIO(b"x"), [[0, 1]], {}])
def test_what_is_no_kind_of_picture_is_named(given: Any) -> None:
    with pytest.raises(images.Misuse, match=f"^{type(given).__name__} is no picture: give a path, bytes, "):
        images.load(given)


def test_floats_in_a_pil_image_are_refused_and_not_cut_off() -> None:
    """Pillow reads mode F as 0 … 255: a picture in [0, 1] would be black."""
    half = Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32))
    with pytest.raises(images.Misuse, match="mode F"):
        images.load(half)
    assert images.load(np.asarray(half)).getpixel((0, 0)) == (128, 128, 128)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ImageError, match="0 x 5 has no pixels"):
        images.load(Image.new("RGB", (0, 5)))


def test_a_path_that_is_none_is_told_in_short() -> None:
    with pytest.raises(images.Misuse, match=r"no such file: https://example\.com/a\.png"):
        images.load("https://example.com/a.png")
    with pytest.raises(images.Misuse, match="null"):
        images.load("a\0b")
    with pytest.raises(images.Misuse) as caught:
        images.load("iVBORw0KGgo" * 500)  # base64, taken for a path
    assert len(str(caught.value)) < 300


def test_floats_a_little_out_of_range_are_told_with_all_their_digits() -> None:
    with pytest.raises(images.Misuse, match=r"these lie in \[0, 1\.0000001\]"):
        images.load(np.array([[0.0, 1.0000001]]))


def test_a_file_of_many_pages_that_ends_too_early_is_refused_with_its_reason(tmp_path: Path) -> None:
    """Of formats that Pillow counts the pages of, it reads the file for it."""
    pages = [Image.new("L", (8, 8), shade) for shade in (0, 255)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    whole = (tmp_path / "pages.tif").read_bytes()
    (tmp_path / "pages.tif").write_bytes(whole[: len(whole) - 60])
    with Image.open(tmp_path / "pages.tif") as opened, pytest.raises(ImageError):
        load(opened)
