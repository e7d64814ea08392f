"""Pictures made worse: the published numbers, one draw a record, and packing there and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as vision
from transformers import Idefics3ImageProcessor, LlavaNextImageProcessor, Qwen2VLImageProcessor

from visalign.batches import Dialogues
from visalign.draws import Draws
from visalign.text.corruption import (
    CORRUPTIONS,
    FAINT,
    blank,
    corruption,
    cropped,
    noised,
    resized,
    shuffled,
    signal,
    speckled,
    window,
)
from visalign.text.packing import pictures_of, repacked

DRAW = Draws(0, ("a", "b", "c"), (0, 0, 2))
SIZES = [(32, 48), (40, 40), (64, 32)]


def about(media: dict[str, Tensor], rows: int) -> Dialogues:
    """Dialogues of one token about these pictures."""
    ids = torch.ones(rows, 1, dtype=torch.int64)
    return Dialogues(ids, ids > 0, ids > 0, media)


def photographs(sizes: list[tuple[int, int]] = SIZES) -> list[Image.Image]:
    """A random picture of each (width, height)."""
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (high, wide, 3), dtype=np.uint8)) for wide, high in sizes]


def qwen(pictures: list[Image.Image]) -> dict[str, Tensor]:
    """What Qwen2-VL's own processor makes of them."""
    reader = Qwen2VLImageProcessor(patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 4096})
    return dict(reader(images=pictures, return_tensors="pt"))


def pairs(kind: str) -> Dialogues:
    """Winners, then losers, about three records' pictures as a family of networks packs them."""
    if kind == "qwen":
        return about(qwen(photographs() * 2), 6)
    if kind == "llava":
        pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
        return about({"pixel_values": torch.cat([pixels, pixels])}, 6)
    if kind == "llava-next":
        reader: Any = LlavaNextImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16},
            image_grid_pinpoints=[[16, 32], [32, 16], [32, 32]],
        )  # fmt: skip
        return about(dict(reader(images=photographs() * 2, return_tensors="pt")), 6)
    idefics: Any = Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 16}, do_image_splitting=True
    )
    return about(dict(idefics(images=[[each] for each in photographs() * 2], return_tensors="pt")), 6)


def test_the_golden_schedule() -> None:
    assert signal(300) == pytest.approx(0.962329372, abs=1e-9)
    assert signal(500) == pytest.approx(0.744798526, abs=1e-9)
    assert signal(999) == pytest.approx(0.081249194, abs=1e-9)
    assert signal(0) == pytest.approx(1 - 2.2338390e-5, abs=1e-12)
    assert 1 - signal(500) / signal(499) == pytest.approx(0.002512492470, abs=1e-12)
    assert [signal(500) ** 0.5, (1 - signal(500)) ** 0.5] == pytest.approx([0.863017106, 0.505174696], abs=1e-9)
    with pytest.raises(ValueError, match="0 … 999, got 1000"):
        signal(1000)


def test_noise_has_the_published_share_of_the_picture() -> None:
    clean = about({"pixel_values": torch.ones(3, 3, 64, 64)}, 3)
    found = noised(clean, DRAW).media["pixel_values"]
    assert float(found.mean()) == pytest.approx(0.863, abs=0.01)
    assert float(found.std()) == pytest.approx(0.505, abs=0.01)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (kind, name)
        for kind in ("llava", "qwen", "llava-next", "idefics")
        for name in CORRUPTIONS
        if kind == "llava" or name != "shuffle"  # the others' pictures differ in size
    ],
)
def test_winner_and_loser_see_the_same_worse_picture_and_nothing_else_changes(kind: str, name: str) -> None:
    given = pairs(kind)
    found = corruption(name)(given, DRAW, stream="s")
    pixels = found.media["pixel_values"]
    first, second = pixels.chunk(2)
    assert torch.equal(first, second)
    assert not torch.equal(pixels, given.media["pixel_values"])
    assert pixels.shape == given.media["pixel_values"].shape
    assert pixels.dtype == given.media["pixel_values"].dtype
    assert all(torch.equal(each, given.media[key]) for key, each in found.media.items() if key != "pixel_values")
    assert found.ids is given.ids


@pytest.mark.parametrize("kind", ["llava", "qwen"])
@pytest.mark.parametrize("change", [cropped, noised, speckled])
def test_a_record_is_changed_alike_in_any_batch_and_anew_by_another_stream(kind: str, change: Any) -> None:
    given = pairs(kind)
    whole = pictures_of(change(given, DRAW).media)
    alone = qwen(photographs()[1:2]) if kind == "qwen" else {"pixel_values": given.media["pixel_values"][1:2]}
    own = Draws(0, ("b",), (0,))
    assert torch.equal(pictures_of(change(about(alone, 1), own).media)[0], whole[1])
    assert not torch.equal(pictures_of(change(given, DRAW, stream="another").media)[1], whole[1])


@pytest.mark.parametrize("sizes", [SIZES, [(64, 24)]])
def test_qwens_patches_are_pictures_and_are_packed_again_exactly(sizes: list[tuple[int, int]]) -> None:
    """Against the real processor: what is unpacked is the normalised picture itself, and repacking loses no bit."""
    media = qwen(photographs(sizes))
    pictures = pictures_of(media)
    assert torch.equal(repacked(media, pictures)["pixel_values"], media["pixel_values"])
    mean, deviation = (torch.tensor(each)[:, None, None] for each in (
        [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    ))  # fmt: skip
    for picture, photograph in zip(pictures, photographs(sizes), strict=True):
        if (photograph.height, photograph.width) == tuple(picture.shape[-2:]):
            expected = (vision.pil_to_tensor(photograph).float() / 255 - mean) / deviation
            assert torch.allclose(picture, expected, atol=1e-5)
    assert any(picture.shape[-2:] == photographs(sizes)[i].size[::-1] for i, picture in enumerate(pictures))


def test_a_crop_is_torchvisions_for_the_same_rectangle() -> None:
    given = pairs("llava")
    top, left, high, wide = window(DRAW.uniforms("crop", 4)[0].tolist(), (24, 24), (0.01, 0.2), (3 / 4, 4 / 3))
    expected = vision.resized_crop(given.media["pixel_values"][0], top, left, high, wide, [24, 24], antialias=True)
    assert torch.allclose(cropped(given, DRAW).media["pixel_values"][0], expected, atol=1e-5)


def test_crops_keep_one_to_twenty_percent_and_their_ratio() -> None:
    for number in range(300):
        numbers = Draws(number, ("x",), (0,)).uniforms("crop", 4)[0].tolist()
        top, left, high, wide = window(numbers, (400, 300), (0.01, 0.2), (3 / 4, 4 / 3))
        assert 0.0095 < high * wide / (400 * 300) < 0.203
        assert 0.72 < wide / high < 1.39
        assert 0 <= top <= 400 - high
        assert 0 <= left <= 300 - wide
    assert window([1, 0.999, 0.5, 0.5], (10, 1000), (0.2, 0.2), (1, 1))[2:] == (10, 45)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    picture = torch.randn(3, 9, 7)
    assert torch.equal(resized(picture, (9, 7)), picture)


def test_speckles_hit_a_share_of_the_pixels_with_the_pictures_own_mean() -> None:
    given = about({"pixel_values": torch.randn(3, 3, 64, 64)}, 3)
    before, after = given.media["pixel_values"], speckled(given, DRAW).media["pixel_values"]
    hit = (before != after).all(1)
    assert torch.equal(hit, (before != after).any(1))
    assert float(hit.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.allclose(after[0, 1][hit[0]], before[0, 1].mean())
    assert torch.equal(speckled(given, DRAW, share=0).media["pixel_values"], before)


def test_tiles_are_cropped_alike_and_those_that_fill_up_stay_empty() -> None:
    given = pairs("llava-next")
    sizes = (given.media["pixel_values"] != 0).flatten(2).any(2).sum(1).tolist()
    assert min(sizes) < max(sizes)
    for change in (cropped, noised):
        pixels = change(given, DRAW).media["pixel_values"]
        assert (pixels != 0).flatten(2).any(2).sum(1).tolist() == sizes
    top, left, high, wide = window(DRAW.uniforms("crop", 4)[0].tolist(), (16, 16), (0.01, 0.2), (3 / 4, 4 / 3))
    tiles = given.media["pixel_values"][0]
    expected = vision.resized_crop(tiles, top, left, high, wide, [16, 16], antialias=True)
    assert torch.allclose(cropped(given, DRAW).media["pixel_values"][0], expected, atol=1e-5)


def test_nothing_to_see_is_no_padding_to_idefics() -> None:
    given = pairs("idefics")
    values, found = given.media["pixel_values"], blank(given).media["pixel_values"]
    assert torch.equal((values != 0).flatten(2).any(2), (found != 0).flatten(2).any(2))
    assert float(found.max()) == FAINT
    assert float(blank(pairs("llava")).media["pixel_values"].abs().max()) == 0.0


def test_shuffled_pictures_are_the_next_records() -> None:
    given = pairs("llava")
    before, after = (each.media["pixel_values"] for each in (given, shuffled(given, DRAW)))
    assert torch.equal(after, before[[1, 2, 0, 4, 5, 3]])
    with pytest.raises(ValueError, match="micro_batch of 2 or more"):
        shuffled(given, Draws(0, ("a",), (0,)))
    with pytest.raises(ValueError, match="different sizes"):
        shuffled(pairs("qwen"), DRAW)


def test_a_records_second_picture_draws_its_own() -> None:
    same = torch.randn(1, 3, 8, 8).expand(6, -1, -1, -1)
    found = noised(about({"pixel_values": same}, 3), DRAW).media["pixel_values"]
    assert not torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="show no picture"):
        noised(about({}, 3), DRAW)
    with pytest.raises(ValueError, match=r"\(6, 5\) are not laid out"):
        noised(about({"pixel_values": torch.zeros(6, 5)}, 3), DRAW)
    with pytest.raises(ValueError, match="4 pictures in 3 dialogues"):
        noised(about({"pixel_values": torch.zeros(4, 3, 8, 8)}, 3), DRAW)
    with pytest.raises(ValueError, match="4 dialogues cannot be about 3 records"):
        cropped(about({"pixel_values": torch.zeros(4, 3, 8, 8)}, 4), DRAW)
    with pytest.raises(ValueError, match="crop, noise, speckle, blank, shuffle; not by 'blur'"):
        corruption("blur")
    video = qwen(photographs()) | {"image_grid_thw": torch.tensor([[2, 4, 23]])}
    with pytest.raises(ValueError, match="not Qwen's"):
        noised(about(video, 3), DRAW)
    with pytest.raises(ValueError, match="a video"):
        moments = {"pixel_values": torch.zeros(8, 96), "image_grid_thw": torch.tensor([[2, 2, 2]])}
        noised(about(moments, 1), Draws(0, ("a",), (0,)))


def test_records_of_unlike_numbers_of_pictures_keep_their_own_draws() -> None:
    """One record of one picture and one of three: each is changed as it is alone."""
    pixels = torch.randn(4, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    both = replace(about({"pixel_values": pixels}, 2), shown=torch.tensor([1, 3]))
    draw = Draws(0, ("a", "b"), (0, 0))
    whole = noised(both, draw).media["pixel_values"]
    first = noised(about({"pixel_values": pixels[:1]}, 1), Draws(0, ("a",), (0,))).media["pixel_values"]
    second = noised(about({"pixel_values": pixels[1:]}, 1), Draws(0, ("b",), (0,))).media["pixel_values"]
    assert torch.equal(whole, torch.cat([first, second]))
    with pytest.raises(ValueError, match="as many"):
        shuffled(both, draw)
    with pytest.raises(ValueError, match="there are 4"):
        noised(replace(both, shown=torch.tensor([1, 2])), draw)
