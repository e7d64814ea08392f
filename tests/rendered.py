"""True pictures of the playground after the shipped autoencoder, and captions that are wrong about them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch

from visalign import playground
from visalign.playground import captions, corpus, world
from visalign.playground.world import Scene

COUNT = 1_000  # true renderings, and changed captions of each kind


@cache
def pipeline() -> Any:
    """The shipped model as plain diffusers loads it, upcast to float32."""
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(playground.folder(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@torch.no_grad()
def through_vae(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, 32, 32, 3) uint8 as the shipped autoencoder gives them back."""
    vae = pipeline().vae
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
    back = torch.cat([vae.decode(vae.encode(each).latent_dist.mean).sample for each in pixels.split(100)])
    return np.asarray(((back + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1))


@cache
def rendered() -> tuple[tuple[Scene, ...], np.ndarray]:
    """True pictures of scenes of every split after the autoencoder: what the checker is calibrated on."""
    random = np.random.default_rng(20)
    counts = {"heldout": COUNT // 2, "train": COUNT // 4, "scorers": COUNT // 4}
    scenes = [scene for split, count in counts.items() for scene in corpus.scenes(split, count, seed=7)]
    placed = tuple(world.place(each, random) for each in scenes)
    return placed, through_vae(np.stack([world.draw(each) for each in placed]))


def other_relation(scene: Scene, random: np.random.Generator) -> Scene:
    """Any relation but the one it has."""
    others = [each for each in world.RELATIONS if each != scene.relation]
    return replace(scene, relation=str(random.choice(others))) if scene.relation else scene


def other_count(scene: Scene, random: np.random.Generator) -> Scene:
    """One thing less; two equal things become three."""
    if len(scene.things) == 1:
        return scene
    if scene.relation is None and len(set(map(bare, scene.things))) == 1 and random.random() < 0.5:
        return replace(scene, things=(*scene.things, scene.things[0]))
    return replace(scene, things=scene.things[:-1], relation=None)


def bare(thing: world.Thing) -> tuple[str, str, str | None]:
    """What a caption says of a thing."""
    return thing.shape, thing.colour, thing.size


def other_size(scene: Scene, random: np.random.Generator) -> Scene:
    """One named size turned round."""
    named = [index for index, thing in enumerate(scene.things) if thing.size]
    if not named:
        return scene
    things, index = list(scene.things), int(random.choice(named))
    things[index] = replace(things[index], size="small" if things[index].size == "large" else "large")
    return replace(scene, things=tuple(things))


CHANGES: dict[str, Callable[[Scene, np.random.Generator], Scene]] = {
    "colour": corpus.wrong_colour, "shape": corpus.wrong_shape, "relation": other_relation, "count": other_count,
    "size": other_size,
}  # fmt: skip


def changed_captions(kind: str, count: int) -> list[tuple[int, str]]:
    """(picture, caption with one attribute changed): going round the pictures until there are `count`."""
    random, scenes = np.random.default_rng(21), rendered()[0]
    found: list[tuple[int, str]] = []
    for index in itertools.cycle(range(len(scenes))):
        text = captions.caption(CHANGES[kind](scenes[index], random))
        if text != captions.caption(scenes[index]):
            found.append((index, text))
        if len(found) == count:
            return found
    raise AssertionError("unreachable")
