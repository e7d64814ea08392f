"""The second half of the playground's scorer: HPS v2's objective on votes (arXiv 2306.09341), with CLIP's beside it.

Votes alone make a CLIP forget what few of them turn on, such as which of two things stands left. Of CLIP's two sides
only one goes on, the picture's own text among texts: the other, a text's own picture among pictures, forbids to like
a clean picture better than a cluttered one for every text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, pad

from . import contrast, twists
from .build import Saved, Say, cosine
from .words import Tokenizer

CANDIDATES = 4  # pictures of a prompt; every two of them are a duel
FIRST, SECOND = torch.triu_indices(CANDIDATES, CANDIDATES, 1)


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    steps: int = 5_000
    rate: float = 4.0e-4
    families: int = 4  # a step, of contrast's
    contrast: float = 0.3  # weight of CLIP's own objective
    negatives: float = 0.2  # weight of choosing the liked picture's prompt among a step's
    lead: float = 0.5  # a lead of so many duels is e : 1 in favour
    shift: int = 2  # pixels by which pictures are moved at most
    average: float = 0.999  # decay of the weights' moving average, which is what ships
    scale: float = 15.0  # of cosines, at first
    save_every: int = 100


@dataclass(frozen=True)
class Votes:
    """n prompts, the candidates of each, (n, 4, 32, 32, 3), and how many duels each candidate won, (n, 4)."""

    prompts: list[str]
    pictures: NDArray[np.uint8]
    won: NDArray[np.float64]

    def write(self, file: Path) -> Votes:
        """Keep them in `file`, whole or not at all."""
        draft = file.with_suffix(".tmp.npz")
        np.savez(draft, prompts=np.array(self.prompts), pictures=self.pictures, won=self.won)
        os.replace(draft, file)
        return self

    @classmethod
    def read(cls, file: Path) -> Votes:
        """What `write` wrote."""
        with np.load(file, allow_pickle=False) as held:
            return cls([str(each) for each in held["prompts"]], held["pictures"], held["won"])


class Ballots:
    """Votes as tensors, of which every step reads `count` prompts."""

    def __init__(self, votes: Votes, count: int, reader: Tokenizer, plan: Plan) -> None:
        self.pictures = torch.from_numpy(votes.pictures).permute(0, 1, 4, 2, 3).contiguous()
        self.tokens = reader(votes.prompts)
        self.mirrors = [twists.mirror(each) for each in votes.prompts]
        self.won = torch.from_numpy(votes.won).float() / plan.lead
        self.count, self.shift = count, plan.shift

    def some(self, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 pictures (count, 4, 3, 32, 32), token ids (count, 24), and log odds of what was won (count, 4)."""
        rows = torch.randint(0, len(self.pictures), (self.count,), generator=draw)
        return torch.stack([self._varied(row, draw) for row in rows.tolist()]), self.tokens[rows], self.won[rows]

    def _varied(self, row: int, draw: torch.Generator) -> Tensor:
        """The candidates of a row in a mirror or not, and moved by some pixels: no vote would change."""
        pictures, axis = self.pictures[row], self.mirrors[row]
        if axis is not None and torch.rand((), generator=draw) < 0.5:
            pictures = pictures.flip(axis)
        room = pad(pictures.float(), (self.shift,) * 4, mode="replicate").to(torch.uint8)
        left, top = torch.randint(0, 2 * self.shift + 1, (2,), generator=draw).tolist()
        return room[..., top : top + pictures.shape[-2], left : left + pictures.shape[-1]]


def train(
    clip: Any, groups: Sequence[tuple[Votes, int]], families: tuple[Tensor, Tensor], reader: Tokenizer, plan: Plan,
    seed: int, rooms: Path, say: Say,
) -> None:  # fmt: skip
    """Train `clip` on so many of each group at a step, going on from what `rooms` holds; averaged weights stay."""
    rooms.mkdir(parents=True, exist_ok=True)
    ballots = [Ballots(votes, count, reader, plan) for votes, count in groups]
    sure = torch.nn.Parameter(torch.tensor(math.log(plan.scale)))
    draw = torch.Generator()
    named = {**dict(clip.named_parameters()), "sure": sure}
    saved = Saved(rooms / "votes.safetensors", named, plan.rate, 0.05, (0.9, 0.98), plan.average)
    for step in saved.steps(plan.steps, plan.save_every, seed, draw):
        pictures, tokens, won = (torch.cat(each) for each in zip(*(each.some(draw) for each in ballots), strict=True))
        rows = torch.randint(0, len(families[0]), (plan.families,), generator=draw)
        shown = torch.cat([pictures.flatten(0, 1), families[0][rows].flatten(0, 1)])
        images = clip.encode_image(contrast.normalized(shown), normalize=True)
        texts = clip.encode_text(torch.cat([tokens, families[1][rows].flatten(0, 1)]), normalize=True)
        seen = images[: won.numel()].unflatten(0, tuple(won.shape))
        voted, told = preferred(seen, texts[: len(won)], won, sure.exp(), plan.negatives)
        crossed = clip.logit_scale.exp() * images[won.numel() :] @ texts[len(won) :].T
        loss = voted + plan.contrast * cross_entropy(crossed, torch.arange(len(crossed)))
        saved.update(loss, cosine(step, plan.steps, 50))
        with torch.no_grad():
            clip.logit_scale.clamp_(max=contrast.LARGEST)
        if step % 100 == 0:
            say(f"votes {step}/{plan.steps}: loss {loss.detach():.3f}, of votes {told:.3f}")
    saved.use_average()


def preferred(images: Tensor, texts: Tensor, won: Tensor, scale: Tensor, negatives: float) -> tuple[Tensor, float]:
    """HPS v2's loss on every two of (n, 4, d) images for (n, d) texts, plus PickScore's of the text; the first alone.

    Args:
        won: log odds of each candidate, (n, 4).
        scale: of cosines.
        negatives: weight of choosing the liked image's text among the n.
    """
    score = scale * torch.einsum("nkd,nd->nk", images, texts)
    chance = (won[:, FIRST] - won[:, SECOND]).sigmoid()
    voted = binary_cross_entropy_with_logits(score[:, FIRST] - score[:, SECOND], chance)
    own = torch.arange(len(texts))
    liked = images[own, won.argmax(-1)]
    return voted + negatives * cross_entropy(scale * liked @ texts.T, own), float(voted.detach())
