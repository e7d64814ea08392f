"""From the embeddings of pictures and prompts to scores: a cosine, or a head for an objective that wants more.

A head reads unit vectors, images (b, K, d) and texts (b, d), and gives a `Rated`. `NAMES` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..contract import Rated
from ..losses.rewards import skew_score


class Head(Protocol):
    """What stands on the two embeddings."""

    def __call__(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """Scores and what else it says; `scale` is exp(logit_scale), `user` (b,) whose taste, where it is known."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its weights; none for the cosine."""


class Cosine(nn.Module):
    """exp(logit_scale) times the cosine: HPS v2 and PickScore."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """The scores, and those of every picture for every prompt of the batch."""
        return Rated(
            scale * (images * texts[:, None]).sum(-1), crossed=scale * torch.einsum("bkd,cd->bkc", images, texts)
        )


class Linear(nn.Module):
    """One number of both embeddings and their product."""

    outputs = 1

    def __init__(self, width: int, outputs: int | None = None) -> None:
        super().__init__()
        self.read = nn.Linear(3 * width, self.outputs if outputs is None else outputs)

    def read_off(self, images: Tensor, texts: Tensor) -> Tensor:
        """(b, K, outputs)."""
        told = texts[:, None].expand_as(images)
        found: Tensor = self.read(torch.cat([images, told, math.sqrt(images.shape[-1]) * images * told], -1))
        return found

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """The scores."""
        return Rated(self.read_off(images, texts)[..., 0])


class Gaussian(Linear):
    """A mean and the logarithm of a deviation (HPSv3, arXiv 2508.03789)."""

    outputs = 2

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """The means, and item column "log_sigma"."""
        mean, log_sigma = self.read_off(images, texts).unbind(-1)
        return Rated(mean, {"log_sigma": log_sigma})


class General(Linear):
    """Vectors of `planes` planes, whose weights the prompt gives: planes softmax(.) (GPM, arXiv 2410.02197).

    The score, for metrics and for ranking, is the mean of how far a picture beats each of the others.
    """

    def __init__(self, width: int, planes: int = 4) -> None:
        super().__init__(width, 2 * planes)
        self.weigh = nn.Linear(width, planes)

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """Mean leads, and item column "vector"."""
        unit = nn.functional.normalize(self.read_off(images, texts), dim=-1)
        weight = unit.shape[-1] / 2 * self.weigh(texts).softmax(-1)
        vector = unit * weight.sqrt().repeat_interleave(2, -1)[:, None]
        return Rated(skew_score(vector[:, :, None], vector[:, None]).mean(-1), {"vector": vector})


class Mixture(Linear):
    """K scores, and a router that says for each prompt whose counts (MiCRo, arXiv 2505.24846)."""

    def __init__(self, width: int, heads: int = 3) -> None:
        super().__init__(width, heads)
        self.route = nn.Sequential(nn.Linear(width, 128), nn.ReLU(), nn.Linear(128, heads))

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """The routed mean, item column "heads" and shared column "route"."""
        heads, route = self.read_off(images, texts), self.route(texts)
        return Rated((heads * route.softmax(-1)[:, None]).sum(-1), {"heads": heads}, {"route": route})


class IdealPoint(nn.Module):
    """Minus the squared distance of f(picture, prompt) to a user's ideal point (PAL, arXiv 2406.08469, model A).

    The point is a mixture of `prototypes` shared points by the user's own weights.
    """

    def __init__(self, width: int, users: int = 1, prototypes: int = 4) -> None:
        super().__init__()
        self.place = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, width))
        self.prototypes = nn.Parameter(torch.randn(prototypes, width) / width**0.5)
        self.mixture = nn.Embedding(users, prototypes)

    def forward(self, images: Tensor, texts: Tensor, *, scale: Tensor, user: Tensor | None) -> Rated:
        """The scores; without users everyone is user 0."""
        at = self.place(torch.cat([images, texts[:, None].expand_as(images)], -1))
        who = torch.zeros(len(texts), dtype=torch.long, device=texts.device) if user is None else user
        ideal = self.mixture(who).softmax(-1) @ self.prototypes
        return Rated(-(at - ideal[:, None]).square().sum(-1))


NAMES: dict[str, type[nn.Module]] = {
    "cosine": Cosine, "linear": Linear, "gaussian": Gaussian, "general": General, "mixture": Mixture,
    "ideal_point": IdealPoint,
}  # fmt: skip


def head_of(spec: Mapping[str, Any] | str, width: int, seed: int = 0) -> Any:
    """The head of {name: …, **settings} for embeddings of `width`; ValueError lists the names."""
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = given.pop("name", None)
    if name not in NAMES:
        raise ValueError(f"no head is named {name!r}; there are {', '.join(NAMES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NAMES[name](width, **given)
