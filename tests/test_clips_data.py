"""Clips are read alike from folders, animations and films, and what is damaged, cut off or too long says so."""

from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filmed import film, noise
from numpy.typing import NDArray
from PIL import Image

from visalign.cli import label, main
from visalign.data import clips, store
from visalign.images import ImageError
from visalign.records import DataError


def arrays(folder: Path, name: str, count: int | None = None) -> NDArray[np.uint8]:
    return np.stack([np.asarray(each) for each in clips.frames(name, folder, count)])


def flats(count: int, size: tuple[int, int] = (48, 64)) -> NDArray[np.uint8]:
    """Frames that a lossy codec keeps to a few levels: one colour each, brighter from left to right."""
    ramp = np.linspace(0, 60, size[1])[None, None, :, None]
    return (np.linspace(20, 180, count)[:, None, None, None] + ramp + np.zeros((count, *size, 3))).astype(np.uint8)


# What is written comes back -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 20), (15, 17), (1, 1)])
def test_a_written_clip_comes_back_bit_for_bit(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = noise(0, 5, size)
    clips.write(tmp_path / "a.webp", frames)
    assert np.array_equal(arrays(tmp_path, "a.webp"), frames)
    with Image.open(tmp_path / "a.webp") as image:
        assert (image.n_frames, image.info["loop"]) == (5, 0)  # type: ignore[attr-defined]
        image.seek(1)
        image.load()
        assert image.info["duration"] == 125


@pytest.mark.parametrize("places", [(0, 0, 0, 0), (0, 1, 1, 0), (0,)])
def test_frames_that_are_equal_are_not_merged(tmp_path: Path, places: tuple[int, ...]) -> None:
    frames = noise(1, 2)[list(places)]
    clips.write(tmp_path / "a.webp", frames)
    assert np.array_equal(arrays(tmp_path, "a.webp"), frames)


def test_a_clip_of_nothing_or_of_several_sizes_is_not_written(tmp_path: Path) -> None:
    for frames in ([], [*noise(0, 1), *noise(0, 1, (8, 8))]):
        with pytest.raises(ImageError, match="frames of one size"):
            clips.write(tmp_path / "a.webp", frames)
    assert list(tmp_path.iterdir()) == []


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "mpeg4"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")],
)
def test_a_film_has_the_frames_that_went_into_it(tmp_path: Path, name: str, codec: str) -> None:
    frames = flats(9)
    film(tmp_path / name, frames, codec)
    found = arrays(tmp_path, name)
    assert found.shape == frames.shape
    assert np.abs(found.astype(int) - frames).mean() < 6


def test_a_gif_has_its_frames(tmp_path: Path) -> None:
    greys = [Image.new("L", (8, 6), each) for each in (0, 90, 180)]
    greys[0].save(tmp_path / "a.gif", save_all=True, append_images=greys[1:])
    assert arrays(tmp_path, "a.gif")[:, 0, 0].tolist() == [[0] * 3, [90] * 3, [180] * 3]


def test_the_first_frames_are_asked_for_by_their_number(tmp_path: Path) -> None:
    frames = flats(9)
    film(tmp_path / "film.mp4", frames)
    clips.write(tmp_path / "a.webp", frames)
    (tmp_path / "folder").mkdir()
    for number, each in enumerate(frames):
        Image.fromarray(each).save(tmp_path / "folder" / f"{number}.png")
    for name in ("film.mp4", "a.webp", "folder"):
        whole = arrays(tmp_path, name)
        assert np.array_equal(arrays(tmp_path, name, 4), whole[:4])
        assert np.array_equal(arrays(tmp_path, name, 9), whole)
        with pytest.raises(ImageError, match="has 9 frames, and 10 are needed"):
            clips.frames(name, tmp_path, 10)


def through(data: bytes, a: float, b: float, c: float, d: float) -> bytes:
    """An mp4 whose track header says that what stands at (x, y) is shown at (a x + c y, b x + d y)."""
    place = data.index(b"tkhd") + 4 + 40  # version and flags, times, ids, layer, volume; then nine numbers, 16.16
    one, two, three, four = (round(each * 65536) for each in (a, b, c, d))
    matrix = struct.pack(">9i", one, two, 0, three, four, 0, 0, 0, 1 << 30)
    return data[:place] + matrix + data[place + 36 :]


def turned(data: bytes, quarters: int) -> bytes:
    """An mp4 whose track header says that it is shown turned clockwise by so many quarters."""
    cosine, sine = {1: (0, 1), 2: (-1, 0), 3: (0, -1)}[quarters]
    return through(data, cosine, sine, -sine, cosine)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_film_is_turned_as_its_header_says(tmp_path: Path, quarters: int) -> None:
    plain = arrays(tmp_path, film(tmp_path / "a.mp4", flats(3)).name)
    (tmp_path / "b.mp4").write_bytes(turned((tmp_path / "a.mp4").read_bytes(), quarters))
    assert np.array_equal(arrays(tmp_path, "b.mp4"), np.rot90(plain, -quarters, axes=(1, 2)))


@pytest.mark.parametrize(
    ("matrix", "shown"),
    [
        ((-1, 0, 0, 1), lambda clip: clip[:, :, ::-1]),
        ((1, 0, 0, -1), lambda clip: clip[:, ::-1]),
        ((0, 1, 1, 0), lambda clip: clip.swapaxes(1, 2)),
        ((0, -1, -1, 0), lambda clip: clip[:, ::-1, ::-1].swapaxes(1, 2)),
    ],
    ids=["left and right", "up and down", "across one diagonal", "across the other"],
)
def test_a_film_is_mirrored_as_its_header_says(tmp_path: Path, matrix: Any, shown: Any) -> None:
    plain = arrays(tmp_path, film(tmp_path / "a.mp4", noise(0, 3)).name)
    (tmp_path / "b.mp4").write_bytes(through((tmp_path / "a.mp4").read_bytes(), *matrix))
    assert np.array_equal(arrays(tmp_path, "b.mp4"), shown(plain))


@pytest.mark.parametrize(
    ("matrix", "why"),
    [
        ((2, 0, 0, 1), r"its pixels are not square \(2\)"),
        ((0.75, 0.75, -0.75, 0.75), r"is to be shown through the matrix \(0.75, .* quarter turns and mirrors"),
    ],
    ids=["stretched", "turned by 45 degrees"],
)
def test_a_film_that_is_shown_otherwise_is_refused(tmp_path: Path, matrix: Any, why: str) -> None:
    film(tmp_path / "a.mp4", flats(3))
    (tmp_path / "b.mp4").write_bytes(through((tmp_path / "a.mp4").read_bytes(), *matrix))
    with pytest.raises(ImageError, match=why):
        clips.frames("b.mp4", tmp_path)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.mkv", "libx264"), ("a.avi", "mpeg4")])
def test_a_film_whose_pixels_are_not_square_is_refused_with_the_mend(tmp_path: Path, name: str, codec: str) -> None:
    film(tmp_path / name, flats(3), codec, ratio=Fraction(4, 3))
    with pytest.raises(ImageError, match=r"its pixels are not square \(4/3\): ffmpeg -vf scale=iw\*sar:ih,setsar=1"):
        clips.frames(name, tmp_path)
    for almost in (Fraction(1), Fraction(4320, 4319)):
        film(tmp_path / name, flats(3), codec, ratio=almost)
        assert len(clips.frames(name, tmp_path)) == 3


# What is refused ------------------------------------------------------------------------------------------------------


def harmed(data: bytes, harm: str) -> bytes:
    """A file without its end, or with twenty wrong bytes in its middle third."""
    if harm != "flipped":
        return data[: int(len(data) * {"half": 0.5, "nearly all": 0.97}[harm])]
    made = bytearray(data)
    for place in np.random.default_rng(0).integers(len(data) // 3, 2 * len(data) // 3, 20):
        made[place] ^= 255
    return bytes(made)


@pytest.mark.parametrize(
    ("kind", "harm"),
    [(kind, harm) for kind in ("mp4", "faststart.mp4", "webm", "webp", "gif") for harm in ("half", "nearly all")]
    + [("mp4", "flipped"), ("faststart.mp4", "flipped"), ("webm", "flipped")],  # stills in a row have no redundancy
)
def test_what_is_cut_off_or_damaged_says_so(tmp_path: Path, kind: str, harm: str) -> None:
    path = tmp_path / f"whole.{kind}"
    if kind == "webp":
        clips.write(path, noise(0, 20))
    elif kind == "gif":
        first, *rest = (Image.fromarray(each) for each in noise(0, 20))
        first.save(path, save_all=True, append_images=rest)
    else:
        film(path, noise(0, 20), "libvpx-vp9" if kind == "webm" else "libx264", faststart=kind.startswith("fast"))
    clips.frames(path.name, tmp_path)
    (tmp_path / "harmed").write_bytes(harmed(path.read_bytes(), harm))
    with pytest.raises(ImageError, match=r"harmed: (truncated|damaged)"):
        clips.frames("harmed", tmp_path)


def test_what_is_no_clip_is_refused_and_no_playlist_is_followed(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", flats(3))
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile://{tmp_path}/a.mp4\n#EXT-X-ENDLIST\n"
    for content in (b"", b"hello", b"\0\0\0 ftypisom", playlist.encode(), b"ffconcat version 1.0\nfile a.mp4\n"):
        (tmp_path / "film").write_bytes(content)
        with pytest.raises(ImageError, match=r"film: damaged, or no clip \(Invalid (data|argument)"):
            clips.frames("film", tmp_path)


@pytest.mark.parametrize("name", ["a.mp4", "a.webp", "a"])
def test_too_long_a_clip_is_refused_before_it_is_decoded(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = flats(9)
    if name == "a.mp4":
        film(tmp_path / name, frames)
    elif name == "a.webp":
        clips.write(tmp_path / name, frames)
    else:
        (tmp_path / name).mkdir()
        for number, each in enumerate(frames):
            Image.fromarray(each).save(tmp_path / name / f"{number}.png")
    monkeypatch.setattr(clips, "MAX_PIXELS", 8 * 48 * 64)
    monkeypatch.setattr(clips.Clip, "_frames", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageError, match="too long: 9 frames, 27648 pixels in all; at most 2000 and 24576"):
        clips.frames(name, tmp_path)
    monkeypatch.setattr(clips, "MAX_FRAMES", 4)
    with pytest.raises(ImageError, match="too long: 5 frames"):
        clips.frames(name, tmp_path, 5)


def test_a_frame_may_not_lead_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "data" / "clip").mkdir(parents=True)
    Image.fromarray(noise(0, 1)[0]).save(tmp_path / "secret.png")
    (tmp_path / "data" / "clip" / "0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(ImageError, match="leads out of"):
        clips.frames("clip", tmp_path / "data")


def test_a_folder_of_films_is_labelled_and_records_of_clips_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    film(tmp_path / "a.mp4", flats(9))
    clips.write(tmp_path / "b.webp", flats(7))
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text("it brightens\n")
    (record,) = label.bare(tmp_path)
    assert (record.prompt, record.items) == ("it brightens", ("a.mp4", "b.webp"))
    store.write([record], tmp_path / "records.jsonl")
    asked = ["data", "check", str(tmp_path / "records.jsonl")]
    assert main([*asked, "--frames", "7"]) == 0
    assert "every clip opens" in capsys.readouterr().out
    assert main([*asked, "--frames", "9"]) == 2
    assert "has 7 frames" in " ".join(capsys.readouterr().out.split())
    assert main(asked) == 2
    assert main([*asked, "--frames", "0"]) == 2


def test_films_without_pyav_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    film(tmp_path / "a.mp4", flats(2))
    clips.write(tmp_path / "a.webp", flats(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r'pip install "visalign\[video\]"'):
        clips.frames("a.mp4", tmp_path)
    assert len(clips.frames("a.webp", tmp_path)) == 2
