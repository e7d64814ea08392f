"""Simulated users with tastes: each likes some looks of a picture more than others, whatever its caption says.

A look is measured on the pixels alone: how warm the background is, how large the things are, how far apart, how hollow,
how warm their colours. A taste is a direction in the space of looks, drawn from a seed. A user's utility of a picture
is its likeness to the taste plus, by a stated weight, how well it shows its caption: two users agree on what is wrong
and differ on what is pretty. Votes are Bradley-Terry on that utility (Bradley & Terry, 1952), as in `voters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..draws import generator
from .checker import scores
from .voters import Voters
from .world import COLOURS

# Mean and spread of each look over clean pictures of the training split: looks are told in these spreads.
SPREAD: dict[str, tuple[float, float]] = {
    "warmth": (3.2, 10.5), "size": (8.84, 1.07), "distance": (8.60, 1.41), "hollowness": (0.045, 0.065),
    "heat": (0.17, 0.53),
}  # fmt: skip
LOOKS = tuple(SPREAD)
WORDS = {
    "warmth": ("cool backgrounds", "warm backgrounds"), "size": ("small things", "large things"),
    "distance": ("things close together", "things far apart"), "hollowness": ("filled things", "hollow things"),
    "heat": ("cold colours", "hot colours"),
}  # fmt: skip
HOT = {"red": 1.0, "orange": 1.0, "yellow": 1.0, "pink": 0.5, "purple": -0.5, "blue": -1.0, "green": -1.0, "black": 0.0}
ELECTORATE = Voters(temperature=0.35, tie=0.1)  # on the users' scale of utility, wider than the voters'
FAITHFULNESS = 3.0  # so that tastes are a third of what differs between candidates of a prompt (benchmarks/personal.py)
STANDS_OUT = 60.0  # grey levels between the background and what counts as a thing


@dataclass(frozen=True)
class User:
    """Somebody with a taste; `name` is what a record's `user` says."""

    name: str
    taste: Mapping[str, float]  # for each look how much more of it is liked, a unit vector
    faithfulness: float = FAITHFULNESS  # weight of the checker's overall score beside the taste

    def utility(self, pictures: Sequence[np.ndarray] | np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """(n,) utilities of n pictures for their captions; differences of 1 are plain to see."""
        return self.likes(looks(pictures), scores(pictures, captions)["overall"])

    def likes(self, seen: Mapping[str, np.ndarray], overall: np.ndarray) -> np.ndarray:
        """(n,) utilities where looks and the checker's overall scores, (n,) each, are known already."""
        pretty = sum((self.taste[name] * seen[name] for name in LOOKS), np.zeros(len(overall)))
        return np.asarray(pretty + self.faithfulness * overall)

    def vote(self, first: float, second: float, *, seed: int, key: str) -> str:
        """ "first", "second" or "tie" for two utilities: a pure function of (seed, user, record key)."""
        return ELECTORATE.vote(first, second, seed=seed, key=f"{self.name}/{key}")

    def describe(self, most: int = 2) -> str:
        """The strongest likings in words: "likes warm backgrounds and small things"."""
        strongest = sorted(LOOKS, key=lambda name: -abs(self.taste[name]))[:most]
        return "likes " + " and ".join(WORDS[name][self.taste[name] > 0] for name in strongest)


def users(count: int, seed: int = 0) -> list[User]:
    """`count` users "user-0", "user-1", … with tastes in every direction alike; the first ones stay."""
    return [_user(f"user-{index}", seed) for index in range(count)]


def _user(name: str, seed: int) -> User:
    direction = generator(seed, name, 0, "taste").standard_normal(len(LOOKS))
    unit = direction / np.linalg.norm(direction)
    return User(name, {look: float(value) for look, value in zip(LOOKS, unit, strict=True)})


def looks(pictures: Sequence[np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
    """Every look of n (32, 32, 3) uint8 pictures in spreads around the mean, each (n,), cut off at 3 spreads."""
    raw = np.array([measured(picture) for picture in pictures]).reshape(-1, len(LOOKS))
    mean, spread = np.array(list(SPREAD.values())).T
    told = np.clip((raw - mean) / spread, -3.0, 3.0)
    return {name: told[:, index] for index, name in enumerate(LOOKS)}


def measured(picture: np.ndarray) -> tuple[float, float, float, float, float]:
    """The looks of one picture in their own units: grey levels, pixels, pixels, share, and -1 (cold) to 1 (hot)."""
    pixels = picture.astype(np.float32)
    ground = np.median(pixels.reshape(-1, 3), axis=0)
    things = np.linalg.norm(pixels - ground, axis=-1) > STANDS_OUT
    warmth = float(ground[0] - ground[2])
    if not things.any():
        return warmth, 0.0, 0.0, 0.0, 0.0
    solid = np.asarray(ndimage.binary_fill_holes(things))
    count = max(int(ndimage.label(solid)[1]), 1)
    size = float(np.sqrt(solid.sum() / count))
    places = np.argwhere(things)
    distance = float(np.sqrt(places.var(0).sum()))
    hollowness = 1.0 - float(things.sum() / solid.sum())
    return warmth, size, distance, hollowness, _heat(pixels[things])


def _heat(pixels: np.ndarray) -> float:
    """How hot the nearest palette colours of pixels (n, 3) are on average."""
    palette = np.array(list(COLOURS.values()), dtype=np.float32)
    nearest = np.linalg.norm(pixels[:, None] - palette, axis=-1).argmin(1)
    return float(np.array([HOT[name] for name in COLOURS])[nearest].mean())
