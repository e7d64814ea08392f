"""Whole trajectories from pictures to noise: every latent on the way of a DDIM inversion, and what was named there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from ..batches import Condition, Pairs
from ..contract import Denoiser
from ..draws import Draws
from ..process import Process
from .guidance import Answer, guided
from .inversion import carried, picked

Told = Literal["source", "destination"]


@dataclass(frozen=True)
class Latents:
    """One latent of the trajectory of each of n pictures."""

    x: Tensor  # (n, ...)
    noise: Tensor  # (n, ...) that the reference named there
    level: Tensor  # (n,) the time at which x lies
    told: Tensor  # (n,) the time that networks are told

    def implied(self, process: Process, x0: Tensor) -> Tensor:
        """The noise (n, ...) that leads from the pictures x0 to x; there is none where the path has no noise yet."""
        a, s = process.coefficients(self.level, self.x)
        return (self.x - a * x0) / s

    def weight(self, process: Process) -> Tensor:
        """(n,) 1 / (2 abar) at the time that is told, as Inversion-DPO weighs them; ValueError at pure noise."""
        a, _ = process.coefficients(self.told, self.x.new_zeros(len(self.x)))
        if bool((a == 0).any()):
            raise ValueError("at pure noise the weight 1 / (2 abar) is infinite; tell each latent its own time: source")
        return 0.5 / a.square()


@dataclass(frozen=True)
class Trajectories:
    """Where n pictures pass on the way to noise: N latents each, the first of them the picture."""

    x: Tensor  # (n, N, ...)
    noise: Tensor  # (n, N, ...) that the network named there, by which x moves on
    levels: Tensor  # (N,) the times at which x lies
    told: Tensor  # (N,) the times that the network was told

    def at(self, place: Tensor) -> Latents:
        """Of each picture the latent of its own place (n,)."""
        rows = torch.arange(len(self.x))
        return Latents(self.x[rows, place], self.noise[rows, place], self.levels[place], self.told[place])

    def of(self, rows: Sequence[int]) -> Trajectories:
        """Those of these pictures alone, in tensors of their own."""
        return Trajectories(self.x[list(rows)], self.noise[list(rows)], self.levels, self.told)


@torch.no_grad()
def trajectories(process: Process, answer: Answer, x0: Tensor, steps: int, told: Told) -> Trajectories:
    """DDIM inversion of x0 (n, ...) with everything on the way kept; its end, at pure noise, is never asked for.

    The network is told the time of the latent that it sees (source; the picture's own is the first that there is) or
    of where the hop goes (destination, as diffusers' `DDIMInverseScheduler` since 0.22).
    """
    levels = process.grid(steps)
    times = (levels[1:] if told == "destination" else levels[:-1]).clamp(min=0)
    x, passed, noises = x0, [], []
    for source, to, time in zip(levels[:-1], levels[1:], times, strict=True):
        here, there, asked = (each.expand(len(x0)) for each in (source, to, time))
        passed.append(x)
        noises.append(process.split(answer(x, asked), x, here)[1])
        x = carried(process, noises[-1], x, here, there).to(x0.dtype)
    return Trajectories(torch.stack(passed, 1), torch.stack(noises, 1), levels[:-1], times)


def walk_pairs(model: Denoiser, pairs: Pairs, steps: int, guidance: float, told: Told) -> Trajectories:
    """Winners' trajectories, then losers', by the guided reference."""
    answer = guided(model.reference, pairs.condition, unprompted(pairs), guidance)
    return trajectories(model.process, answer, pairs.items, steps, told)


def unprompted(pairs: Pairs) -> Condition:
    """The conditions (2b, ...) of empty prompts; ValueError if the batch came without."""
    if pairs.empty is None:
        raise ValueError("guidance needs the empty prompt's condition of each picture: give Pairs its `empty`")
    return pairs.empty


def compared_at(draws: Draws, first: int, steps: int, points: int | None = None) -> Tensor:
    """(K, b) numbers of latents first … steps - 1 at which each record is compared: all of them, or `points` at random.

    Other ones at each visit, none of them twice; every latent is as likely as any other, so that the mean over those is
    unbiased for the mean over all.
    """
    if points is None:
        return torch.arange(first, steps)[:, None].expand(-1, len(draws))
    like = torch.zeros((), dtype=torch.float64)
    return (draws.normal("points", (steps - first,), like).argsort(dim=1) + first)[:, :points].T


class Kept:
    """Trajectories of the records used last, at most `room` of them, on the device where they were made.

    A record's are found again only for the same latents and conditions, bit for bit. Where latents are samples of a
    VAE's posterior, one a visit, as the views of visalign.data make them, or prompts are dropped, two visits differ
    and nothing is found: it serves batches of latents that stay. A record takes 4 N latents. What is found was computed
    among other records, so a resumed run, which starts empty, equals an uninterrupted one within rounding only.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self._found: OrderedDict[str, tuple[Pairs, Trajectories]] = OrderedDict()

    def walked(self, pairs: Pairs, walk: Callable[[Pairs], Trajectories]) -> Trajectories:
        """What `walk` gives for these pairs, called for those alone that are not kept."""
        if not self.room:
            return walk(pairs)
        single = [alone(pairs, [place]) for place in range(len(pairs))]
        found = {place: self._get(one) for place, one in enumerate(single)}
        if missing := [place for place, each in found.items() if each is None]:
            made = walk(alone(pairs, missing))
            for number, place in enumerate(missing):
                found[place] = self._put(single[place], made.of([number, len(missing) + number]))
        whole = [each for each in found.values() if each is not None]
        x, noise = (torch.stack([getattr(each, name) for each in whole], 1).flatten(0, 1) for name in ("x", "noise"))
        return Trajectories(x, noise, whole[0].levels, whole[0].told)

    def _get(self, one: Pairs) -> Trajectories | None:
        pairs, known = self._found.get(one.draw.keys[0], (None, None))
        if pairs is None or not torch.equal(pairs.items, one.items) or not alike(pairs.condition, one.condition):
            return None
        self._found.move_to_end(one.draw.keys[0])
        return known

    def _put(self, one: Pairs, made: Trajectories) -> Trajectories:
        """Keep them, and let go of the record that was used longest ago."""
        self._found[one.draw.keys[0]] = (one, made)
        self._found.move_to_end(one.draw.keys[0])
        while len(self._found) > self.room:
            self._found.popitem(last=False)
        return made


def alone(pairs: Pairs, places: Sequence[int]) -> Pairs:
    """The batch of these pairs."""
    both = torch.tensor([*places, *(len(pairs) + place for place in places)])
    told, drawn, rows = pairs.condition, pairs.draw, both[: len(places)]
    return Pairs(
        win=pairs.win[rows],
        lose=pairs.lose[rows],
        condition=picked(told, both),
        draw=Draws(drawn.seed, tuple(drawn.keys[i] for i in places), tuple(drawn.visits[i] for i in places)),
        confidence=pairs.confidence[rows],
        weight=pairs.weight[rows],
        scores=None if pairs.scores is None else pairs.scores[rows],
        empty=None if pairs.empty is None else picked(pairs.empty, both),
    )


def alike(one: Condition, other: Condition) -> bool:
    """Whether two conditions are equal, bit for bit."""

    def same(left: Tensor | None, right: Tensor | None) -> bool:
        return left is right or (left is not None and right is not None and torch.equal(left, right))

    return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(Condition))
