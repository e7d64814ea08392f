"""Renderings that look as the base draws: bent things, a few grey strokes, and the autoencoder's softness."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter, map_coordinates

from ..draws import generator
from . import corpus, flawed, folder
from .captions import parse
from .world import FINE, SIDE, Scene, draw, place

SHARES = {"colour": 0.10, "shape": 0.12, "relation": 0.10, "count": 0.06, "size": 0.10, "owners": 0.05}
STROKES = (0, 0, 1, 2, 3, 4, 6)  # any of these is as likely
BENT = 2.0  # pixels that a thing is bent at most, in the mean
PART = 256  # pictures in the autoencoder at once


def pictures(prompts: Sequence[str], count: int, seed: int) -> NDArray[np.uint8]:
    """(n, count, 32, 32, 3) of n prompts: a pure function of its arguments."""
    rows = [rendering(prompt, seed, number) for prompt in prompts for number in range(count)]
    return softened(np.stack(rows)).reshape(len(prompts), count, SIDE, SIDE, 3)


def rendering(prompt: str, seed: int, number: int) -> NDArray[np.uint8]:
    """One picture, (32, 32, 3), as it is before the autoencoder."""
    random = generator(seed, f"{prompt}\x1f{number}", 0, "worn")
    struck = {name for name, share in SHARES.items() if random.random() < share}
    placed = place(flawed.mistaken(parse(prompt), struck, random), random)
    strokes = int(random.choice(STROKES))
    return bent(scribbled(placed, strokes, random) if strokes else draw(placed), random)


def scribbled(placed: Scene, strokes: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """The scene over so many short grey strokes."""
    blank = Image.fromarray(draw(replace(placed, things=())))
    canvas = blank.resize((SIDE * FINE, SIDE * FINE), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(canvas)
    for _ in range(strokes):
        x, y = random.uniform(0, SIDE * FINE, 2)
        angle, length, grey = random.uniform(0, 2 * np.pi), random.uniform(2, 7) * FINE, int(random.uniform(90, 205))
        end = (x + length * np.cos(angle), y + length * np.sin(angle))
        pen.line([(x, y), end], fill=(grey, grey, grey), width=int(random.uniform(1, 2.6) * FINE))
    ground = np.asarray(canvas.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float32)
    return np.asarray(corpus.over(ground, placed))


def bent(picture: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """The picture looked at through uneven glass."""
    reach, far = random.uniform(2, 4), random.uniform(0, BENT)
    shift = np.stack([gaussian_filter(random.normal(size=(SIDE, SIDE)), reach, mode="nearest") for _ in range(2)])
    at = np.mgrid[:SIDE, :SIDE] + shift * (far / shift.std())
    layers = [
        map_coordinates(each.astype(np.float32), at, order=1, mode="nearest") for each in np.moveaxis(picture, 2, 0)
    ]
    return np.stack(layers, -1).round().clip(0, 255).astype(np.uint8)


@torch.no_grad()
def softened(found: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 32, 32, 3) as the base's autoencoder gives them back."""
    from diffusers import AutoencoderKL

    vae = AutoencoderKL.from_pretrained(str(folder()), subfolder="vae").eval()
    parts = torch.from_numpy(found).permute(0, 3, 1, 2).split(PART)
    back = [vae.decode(vae.encode(part.float() / 127.5 - 1).latent_dist.mean).sample for part in parts]
    pixels = (torch.cat(back).clamp(-1, 1) + 1) * 127.5
    return np.asarray(pixels.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous())
