"""More to vote on from the same pictures: turned round, looked at in a mirror, and asked about in other words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..draws import generator
from . import captions, corpus, families
from .world import Scene

Candidates = tuple[list[str], NDArray[np.uint8]]  # n prompts, and (n, 4, 32, 32, 3) pictures
SPLIT = "scorers"  # of the prompts that are voted on
TRIES = 60
ACROSS, DOWN = -1, -2  # the axes of (..., height, width)


def mirror(prompt: str) -> int | None:
    """The axis along which pictures may be mirrored without a change of what the prompt asks; None if there is none.

    Every shape is its own mirror image from left to right; upside down, a triangle is not.
    """
    wanted = captions.parse(prompt)
    if wanted.relation not in ("left of", "right of"):
        return ACROSS
    return DOWN if _stands_on_its_head(wanted) else None


def turning(prompt: str) -> int | None:
    """The axis along which a mirror makes the prompt's relation wrong and nothing else; None if there is none."""
    wanted = captions.parse(prompt)
    if wanted.relation is None:
        return None
    if wanted.relation in ("left of", "right of"):
        return ACROSS
    return DOWN if _stands_on_its_head(wanted) else None


def turned(prompts: Sequence[str], pictures: NDArray[np.uint8], seed: int) -> Candidates:
    """Two candidates of each prompt with a relation, and the same two with that relation turned round."""
    asked, found = [], []
    for prompt, row in zip(prompts, pictures, strict=True):
        axis = turning(prompt)
        if axis is not None:
            two = row[generator(seed, prompt, 0, "turned").choice(len(row), 2, replace=False)]
            asked.append(prompt)
            found.append(np.concatenate([two, np.flip(two, axis - 1)]))  # colours are last
    return asked, np.stack(found)


def reworded(prompts: Sequence[str], pictures: NDArray[np.uint8], seed: int) -> Candidates:
    """The same candidates for another prompt of the split that differs in one thing, where one is found."""
    asked, found = [], []
    for prompt, row in zip(prompts, pictures, strict=True):
        random, scene = generator(seed, prompt, 0, "reworded"), captions.parse(prompt)
        others = (families.changed(scene, random) for _ in range(TRIES))
        told = next((captions.caption(each) for each in others if corpus.split_of(each) == SPLIT), prompt)
        if told != prompt:
            asked.append(told)
            found.append(row)
    return asked, np.stack(found)


def _stands_on_its_head(wanted: Scene) -> bool:
    return all(each.shape != "triangle" for each in wanted.things)
