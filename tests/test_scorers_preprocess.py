"""Pixels as the released code makes them, HPS v2's letterbox and CLIP's crop, bit for bit; the differentiable way."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as V
from transformers import CLIPImageProcessor, CLIPImageProcessorPil

from visalign.scorers.preprocess import MEAN, STD, Crop, Letterbox, normalized, unit

SIZES = [(512, 768), (768, 512), (224, 100), (57, 31), (1000, 333), (224, 224), (31, 1000), (767, 512)]  # height, width


def noisy(height: int, width: int) -> Image.Image:
    """The hardest picture to resize: neighbours have nothing in common."""
    return Image.fromarray(np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8))


def smooth(height: int, width: int) -> Image.Image:
    small = np.random.default_rng(width).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def shown(pixels: Tensor) -> Tensor:
    """Normalized pixels back on the scale of 0 … 1."""
    return pixels * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]


def released_letterbox(image: Image.Image, antialias: bool) -> Tensor:
    """What github.com/tgxs002/HPSv2's transform does, in torchvision's own functions."""
    pixels = V.to_tensor(image)
    height, width = pixels.shape[1:]
    scale = 224 / max(height, width)
    if scale != 1.0:  # at 1 it forgets to pad
        pixels = V.resize(
            pixels, [round(height * scale), round(width * scale)], InterpolationMode.BICUBIC, antialias=antialias
        )
    down, across = 224 - pixels.shape[1], 224 - pixels.shape[2]
    pixels = V.pad(pixels, [across // 2, down // 2, across - across // 2, down - down // 2])
    made: Tensor = V.normalize(pixels, MEAN, STD)
    return made


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("antialias", [True, False])
def test_the_letterbox_is_hps_v2s_bit_for_bit(size: tuple[int, int], antialias: bool) -> None:
    image = noisy(*size)
    assert torch.equal(Letterbox(224, antialias).image(image), released_letterbox(image, antialias))


def test_bars_are_black_before_the_normalization() -> None:
    corner = Letterbox().image(Image.new("RGB", (448, 100), "white"))[:, 0, 0]
    assert corner.tolist() == pytest.approx([-1.7923, -1.7521, -1.4802], abs=5e-5)


def test_an_odd_rest_leaves_the_smaller_bar_above() -> None:
    light = Letterbox(32).image(Image.new("RGB", (32, 5), "white"))[0] > 0
    assert light.any(1).nonzero().flatten().tolist() == [13, 14, 15, 16, 17]


def test_without_antialias_noise_is_another_picture() -> None:
    """Mean .13 and up to .7 of the range: why tables from before torchvision 0.17 are not met today."""
    image = noisy(512, 768)
    gap = (shown(Letterbox().image(image)) - shown(Letterbox(antialias=False).image(image))).abs()
    assert float(gap.mean()) == pytest.approx(0.1255, abs=1e-3)
    assert float(gap.max()) == pytest.approx(0.687, abs=1e-2)


@pytest.mark.parametrize("size", [(512, 768), (333, 1000), (1024, 1024)])
def test_open_clips_own_longest_side_is_near(size: tuple[int, int]) -> None:
    """It resizes in 8 bits: within one grey level, and a third of one on average."""
    theirs = open_clip.image_transform(
        224, is_train=False, resize_mode="longest", interpolation="bicubic", mean=MEAN, std=STD
    )
    for image in (noisy(*size), smooth(*size)):
        gap = (shown(Letterbox().image(image)) - shown(theirs(image))).abs()
        assert float(gap.mean()) < 1.2e-3
        assert float(gap.max()) < 5e-3


@pytest.mark.parametrize("size", SIZES)
def test_the_crop_is_transformers_pillow_processor_bit_for_bit(size: tuple[int, int]) -> None:
    image = noisy(*size)
    theirs = CLIPImageProcessorPil()(image, return_tensors="pt")["pixel_values"][0]
    assert float((Crop().image(image) - theirs).abs().max()) < 1e-6


@pytest.mark.parametrize("size", SIZES)
def test_the_crop_with_even_halves_is_torchvisions_bit_for_bit(size: tuple[int, int]) -> None:
    resize = transforms.Resize(224, interpolation=InterpolationMode.BICUBIC)
    theirs = transforms.Compose(
        [resize, transforms.CenterCrop(224), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    image = noisy(*size)
    assert float((Crop(224, "even").image(image) - theirs(image)).abs().max()) < 1e-6


def test_the_two_halves_differ_where_the_rest_is_odd() -> None:
    image = noisy(227, 224)
    assert not torch.equal(Crop(224).image(image), Crop(224, "even").image(image))


def test_transformers_torchvision_processor_is_near() -> None:
    """Its default since version 5; on 0 … 1: mean 1.4e-5, at most one grey level."""
    image = noisy(512, 768)
    theirs = CLIPImageProcessor()(image, return_tensors="pt")["pixel_values"][0]
    gap = (shown(Crop().image(image)) - shown(theirs)).abs()
    assert float(gap.mean()) < 1e-4
    assert float(gap.max()) < 4.1e-3


def test_a_ribbon_is_cut_as_it_is_resized() -> None:
    """4 x 4,000 pixels would grow to 224 x 224,000; the one-call way equals the two-step one but for a grey level."""
    ribbon = noisy(4, 4000)
    assert Crop().image(noisy(2, 60_000)).shape == (3, 224, 224)
    grown = ribbon.resize((224_000, 224), Image.Resampling.BICUBIC)
    left = (224_000 - 224) // 2
    two_steps = normalized(unit(grown.crop((left, 0, left + 224, 224))))
    assert float((shown(Crop().image(ribbon)) - shown(two_steps)).abs().max()) < 2.1 / 255


@pytest.mark.parametrize("size", SIZES)
def test_the_differentiable_letterbox_is_the_same_numbers(size: tuple[int, int]) -> None:
    image = noisy(*size)
    assert torch.equal(Letterbox().pixels(V.to_tensor(image)[None])[0], Letterbox().image(image))


@pytest.mark.parametrize("size", SIZES)
def test_the_differentiable_crop_is_within_the_rounding_of_eight_bits(size: tuple[int, int]) -> None:
    """Pillow rounds twice, after each axis: half a grey level each."""
    for image in (noisy(*size), smooth(*size)):
        gap = (shown(Crop().pixels(V.to_tensor(image)[None])[0]) - shown(Crop().image(image))).abs()
        assert float(gap.mean()) < 1.3e-3
        assert float(gap.max()) < 5e-3


def test_a_batch_of_pixels_is_its_pictures() -> None:
    pixels = torch.rand(3, 3, 41, 60, generator=torch.Generator().manual_seed(0))
    for geometry in (Letterbox(32), Crop(32)):
        alone = torch.cat([geometry.pixels(each[None]) for each in pixels])
        torch.testing.assert_close(geometry.pixels(pixels), alone, atol=1e-6, rtol=0)
