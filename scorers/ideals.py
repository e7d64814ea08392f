"""Heads on frozen features for voters of several minds: PAL's ideal points and prototypes, GPM's skew-symmetric scores.

PAL (arXiv 2406.08469): a user is a mixture w = softmax(W_u) of K prototypes that all users share, so that a new user
costs K - 1 numbers. GPM (arXiv 2410.02197): items are points in planes, and who beats whom may go in circles.

`lead(first, second, …)` is how far the first item is liked better, which swapping the two negates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from visalign.draws import generator
from visalign.losses.pairwise import hinge
from visalign.losses.rewards import bradley_terry, skew_score

Variant = Literal["paper", "release"]
TEMPERATURE = 0.07  # PAL-B's logits start at cos / 0.07 and never exceed 100 cos, as CLIP's
RIDGE = 0.1  # on the spread of the population's W, where fewer users were seen than there are prototypes


@dataclass(frozen=True)
class UserVotes:
    """m votes of several users on items that are told by features."""

    better: Tensor  # (m, d)
    worse: Tensor  # (m, d)
    user: Tensor  # (m,) int64, a row of the head's table
    prompt: Tensor  # (m, p) features of the prompt; PAL-A does not look at them
    confidence: Tensor  # (m,) P(the better is really better)

    def of(self, user: int) -> UserVotes:
        """One user's."""
        own = self.user == user
        return UserVotes(self.better[own], self.worse[own], self.user[own], self.prompt[own], self.confidence[own])


class IdealPoint(nn.Module):
    """PAL-A: a user likes what is near their ideal point, f(w P); f has two hidden layers, or is left out.

    The paper compares squared distances through the logistic function; variant "release" (RamyaLab/
    pluralistic-alignment, pal_rm_a) distances themselves through the hinge max(0, 1 - lead).
    """

    def __init__(
        self, width: int, users: int, *, prototypes: int = 2, hidden: int | None = 64, variant: Variant = "paper",
        seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__()
        self.variant = variant
        self.project = nn.Identity() if hidden is None else mlp(width, hidden)
        self.prototypes = nn.Parameter(torch.zeros(prototypes, width))
        self.mixture = nn.Parameter(torch.zeros(users, prototypes))
        start(self, seed)
        with torch.no_grad():  # rows of length 1, as the release has them
            self.prototypes.div_(self.prototypes.norm(dim=1, keepdim=True))

    def ideal(self, mixture: Tensor) -> Tensor:
        """(..., d) f(softmax(W) P)."""
        found: Tensor = self.project(mixture.softmax(-1) @ self.prototypes)
        return found

    def distance(self, items: Tensor, mixture: Tensor) -> Tensor:
        """(m,) of items (m, width) from users' ideal points, squared unless it is the release's."""
        apart = self.project(items) - self.ideal(mixture)
        squared: Tensor = apart.square().sum(-1)
        return apart.norm(dim=-1) if self.variant == "release" else squared

    def lead(self, first: Tensor, second: Tensor, prompt: Tensor, mixture: Tensor) -> Tensor:
        """(m,) how much nearer the first item is."""
        return self.distance(second, mixture) - self.distance(first, mixture)

    def objective(self, lead: Tensor) -> Tensor:
        """(m,) logistic, or the release's hinge."""
        nothing = torch.zeros_like(lead)
        found: Tensor = hinge(lead, nothing, beta=1.0) if self.variant == "release" else bradley_terry(lead, nothing)
        return found


class Prototypes(nn.Module):
    """PAL-B: prototypes are answers to the prompt, a(c) = sum_k w_k g_k(c), and a user likes what points their way."""

    def __init__(
        self, width: int, prompt: int, users: int, *, prototypes: int = 2, hidden: int = 64, seed: int = 0
    ) -> None:
        super().__init__()
        self.project = mlp(width, hidden)
        self.answers = nn.ModuleList(mlp(prompt, hidden) for _ in range(prototypes))
        self.mixture = nn.Parameter(torch.zeros(users, prototypes))
        start(self, seed)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / TEMPERATURE)))

    def lead(self, first: Tensor, second: Tensor, prompt: Tensor, mixture: Tensor) -> Tensor:
        """(m,) the difference of the two logits."""
        answers = torch.stack([each(prompt) for each in self.answers], dim=-2)
        wanted = (mixture.softmax(-1)[..., None] * answers).sum(-2)
        one, other = (cosine_logit(wanted, self.project(each), self.log_scale) for each in (first, second))
        return one - other

    def objective(self, lead: Tensor) -> Tensor:
        """(m,) cross-entropy of the two logits."""
        found: Tensor = bradley_terry(lead, torch.zeros_like(lead))
        return found


def cosine_logit(wanted: Tensor, items: Tensor, log_scale: Tensor) -> Tensor:
    """(m,) min(exp(log_scale), 100) cos(wanted, item)."""
    return log_scale.exp().clamp(max=100.0) * torch.cosine_similarity(wanted, items, dim=-1)


class GeneralPreference(nn.Module):
    """GPM: s(first > second) = sum over planes l of lambda_l (v1 u2 - v2 u1), P = sigmoid(s / temperature).

    Items are v = A x, of length 1 in all; the planes' weights are lambda = planes softmax(B c / sqrt(p)) of the
    prompt's features c, or all 1 without a prompt.
    """

    def __init__(
        self, width: int, *, prompt: int | None = None, planes: int = 4, temperature: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.temperature, self.planes = temperature, planes
        self.items = nn.Linear(width, 2 * planes, bias=False)
        self.weights = None if prompt is None else nn.Linear(prompt, planes, bias=False)
        start(self, seed)

    def scale(self, prompt: Tensor) -> Tensor:
        """(m, planes) lambda."""
        if self.weights is None:
            return torch.ones(len(prompt), self.planes, dtype=prompt.dtype)
        told = self.weights(prompt) / prompt.shape[-1] ** 0.5
        weights: Tensor = self.planes * told.softmax(-1)
        return weights

    def lead(self, first: Tensor, second: Tensor, prompt: Tensor) -> Tensor:
        """(m,) s / temperature."""
        one, other = (nn.functional.normalize(self.items(each), dim=-1) for each in (first, second))
        return skew(one, other, self.scale(prompt)) / self.temperature


def skew(first: Tensor, second: Tensor, scale: Tensor) -> Tensor:
    """(m,) skew-symmetric scores of vectors (m, 2 planes), each plane weighed by scale (m, planes)."""
    return skew_score(first * scale.repeat_interleave(2, -1), second)


def mlp(width: int, hidden: int) -> nn.Sequential:
    """Two hidden layers."""
    return nn.Sequential(
        nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)
    )


@torch.no_grad()
def start(module: nn.Module, seed: int) -> None:
    """Every parameter from (seed, its name): matrices normal with deviation 1 / sqrt(columns), W and P normal."""
    for name, weight in module.named_parameters():
        drawn = torch.from_numpy(generator(seed, name, 0, "head").standard_normal(tuple(weight.shape)))
        own = weight.shape[-1] ** 0.5 if name.endswith("weight") else 1.0
        weight.copy_(drawn / own if not name.endswith("bias") else 0 * drawn)


def fit(head: IdealPoint | Prototypes, votes: UserVotes, *, steps: int = 300, lr: float = 5e-3) -> float:
    """Train a head on a population's votes, all at once a step (Adam); returns the last mean loss."""
    optimizer = torch.optim.Adam(head.parameters(), lr=lr)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = expected(head, votes, head.mixture[votes.user]).mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def expected(head: IdealPoint | Prototypes, votes: UserVotes, mixture: Tensor) -> Tensor:
    """(m,) losses, a vote of confidence c counting c for what it says and 1 - c against it."""
    lead = head.lead(votes.better, votes.worse, votes.prompt, mixture)
    return votes.confidence * head.objective(lead) + (1 - votes.confidence) * head.objective(-lead)


def newcomers(
    head: IdealPoint | Prototypes, votes: UserVotes, count: int, *, steps: int = 200, lr: float = 0.1
) -> Tensor:
    """W (count, K) of users whom the head never saw, each from a few votes of their own: all else is held.

    The release starts at random and is not held back (its new users bring 1 to 100 votes). Here W = mean + root z with
    the population's mean and spread and z ~ N(0, I), so that no votes give the population's mean.
    """
    known = head.mixture.detach()
    mean, spread = known.mean(0), torch.cov(known.T) + RIDGE * torch.eye(known.shape[1], dtype=known.dtype)
    root = torch.linalg.cholesky(spread)
    z = torch.zeros(count, len(mean), dtype=known.dtype, requires_grad=True)
    optimizer = torch.optim.Adam([z], lr=lr)
    for _ in range(steps):
        losses = expected(head, votes, (mean + z @ root.T)[votes.user])
        (z.grad,) = torch.autograd.grad(losses.sum() + z.square().sum() / 2, z)
        optimizer.step()
    placed: Tensor = mean + z.detach() @ root.T
    return placed
