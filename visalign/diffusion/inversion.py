"""From a picture to the noise that a network would draw it from: DDIM inversion, and ReNoise's refinement of it.

DDIM inversion (Song et al., arXiv 2010.02502, section 4.3) walks the process up from the picture. A hop from one level
to the next needs the noise at its end, which is not known yet, and takes the network's answer at its start instead;
ReNoise (Garibi et al., arXiv 2403.14602, algorithm 1) asks again at the end that this gave and averages the answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..batches import Condition, Pairs
from ..contract import Denoiser
from ..process import Ddpm, Noised, Process
from .guidance import Predict

Semantics = Literal["exact", "diffusers_0_20", "diffusers_0_22"]
Inverts = Literal["policy", "reference"]
Fresh = Callable[[int], Tensor]  # the place of a hop -> (n, ...) standard normal numbers
SEMANTICS = ("exact", "diffusers_0_20", "diffusers_0_22")
INVERTS = ("policy", "reference")
STABLE = Ddpm(torch.ones(1000, dtype=torch.float64), offset=1)  # Stable Diffusion's times, whatever its levels


@dataclass(frozen=True)
class Hop:
    """One step up of n pictures: where each is, where it goes, which time the network is told, and who still goes."""

    source: Tensor  # (n,)
    to: Tensor  # (n,)
    told: Tensor  # (n,)
    goes: Tensor  # (n,) bool


@dataclass(frozen=True)
class Inversion:
    """How pictures are inverted: n pictures, each to a time of its own, as a point of the path.

    A grid of `steps` levels is walked from the clean end. `semantics` says where a walk to time t ends and what the
    network is told:
    - exact: the levels below t, then t itself; the network is told where each hop goes. The default.
    - diffusers_0_22: what `DDIMInverseScheduler` of diffusers 0.22 and later does with the times below t: told where
      the hop goes, it ends at the last level below t.
    - diffusers_0_20: what it did before (huggingface/diffusers pull request 5145): told where the hop starts, which
      for the first is a time below 0, it ends at the first level not below t, or at the last one.
    In the last two x lies at another level than the time t that the method then says it does. Both are of DDPM
    schedulers, with "leading" times: a flow path knows `exact` alone.

    `renoise` is how often a hop's end is asked again; the plain mean of all its answers moves x. `eta` adds that share
    of the standard deviation of DDPM's posterior after each hop. `inverts` says whose answers move the pictures.
    """

    steps: int
    semantics: Semantics = "exact"
    renoise: int = 0
    eta: float = 0.0
    inverts: Inverts = "policy"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.renoise < 0 or not self.eta >= 0:
            raise ValueError(
                "inversion needs at least 1 step, and no negative renoise or eta; "
                f"got steps {self.steps}, renoise {self.renoise}, eta {self.eta}"
            )
        if self.semantics not in SEMANTICS:
            raise ValueError(f"inversion semantics {self.semantics!r} is not one of {', '.join(SEMANTICS)}")
        if self.inverts not in INVERTS:
            raise ValueError(f"pictures are inverted by {' or '.join(INVERTS)}, not by {self.inverts!r}")

    @property
    def passes(self) -> float:
        """Mean passes a picture at uniform times of a process like Stable Diffusion's; each goes only as far as its
        t."""
        going = sum(float(hop.goes.double().mean()) for hop in self.hops(STABLE, torch.arange(STABLE.length)))
        return going * (1 + self.renoise)

    def hops(self, process: Process, t: Tensor) -> Iterator[Hop]:
        """The hops of n pictures to the times t (n,); later ones are of fewer pictures."""
        levels = process.grid(self.steps)
        if self.semantics == "exact":
            for place, source in enumerate(levels):
                to = torch.minimum(levels[place + 1], t) if place < self.steps else t
                yield Hop(source.expand_as(t), to, to, source < t)
            return
        if not isinstance(process, Ddpm):
            raise ValueError(f"{self.semantics} inverts along a DDPM scheduler's times, not {process!r}; use exact")
        back = process.length // self.steps if self.semantics == "diffusers_0_20" else 0
        for source, to in pairwise(levels):
            told = (to - back).expand_as(t)
            yield Hop(source.expand_as(t), to.expand_as(t), told, told < t)

    @torch.no_grad()
    def __call__(
        self, process: Process, predict: Predict, x0: Tensor, t: Tensor, condition: Condition, fresh: Fresh
    ) -> Noised:
        """x0 (n, ...) at the times t (n,), with the noise that leads there from x0 as the target."""
        x = x0
        for place, hop in enumerate(self.hops(process, t)):
            if bool(hop.goes.any()):
                x = self._moved(process, predict, x, hop, condition, fresh, place)
        a, s = process.coefficients(t, x0)
        return process.noised(x0, (x - a * x0) / s, t)

    def _moved(
        self, process: Process, predict: Predict, x: Tensor, hop: Hop, condition: Condition, fresh: Fresh, place: int
    ) -> Tensor:
        """All pictures after a hop, which only those who still go are asked for."""
        rows = hop.goes.nonzero().flatten()
        here, source, to, told = x[rows], hop.source[rows], hop.to[rows], hop.told[rows]
        wanted = picked(condition, rows)
        noises = [process.split(predict(here, told, wanted), here, source)[1]]
        for _ in range(self.renoise):
            there = carried(process, sum(noises) / len(noises), here, source, to)
            noises.append(process.split(predict(there, told, wanted), there, to)[1])
        there = carried(process, sum(noises) / len(noises), here, source, to)
        if self.eta:
            there = there + self.eta * deviation(process, here, source, to) * fresh(place)[rows]
        return x.index_copy(0, rows.to(x.device), there.to(x.dtype))


def carried(process: Process, noise: Tensor | float, x: Tensor, source: Tensor, to: Tensor) -> Tensor:
    """x (n, ...) taken from the times `source` to the times `to`, both (n,), holding this noise fixed."""
    (a, s), (a_to, s_to) = process.coefficients(source, x), process.coefficients(to, x)
    return a_to / a * x + (s_to - a_to / a * s) * noise


def deviation(process: Process, like: Tensor, source: Tensor, to: Tensor) -> Tensor:
    """Standard deviation of the posterior of x at `source` given x at the noisier `to` and x0, shaped as `like`.

    DDIM's sigma at eta = 1 (arXiv 2010.02502, eq. 16), for any affine path: s^2 (1 - a_to^2 s^2 / (a^2 s_to^2)).
    """
    (a, s), (a_to, s_to) = process.coefficients(source, like), process.coefficients(to, like)
    return s * (1 - (a_to * s / (a * s_to)).square()).clamp(min=0).sqrt()


def picked(condition: Condition, rows: Tensor) -> Condition:
    """The conditions of these pictures."""
    parts = {each.name: getattr(condition, each.name) for each in fields(condition)}
    return replace(condition, **{name: part[rows] for name, part in parts.items() if part is not None})


def invert_pairs(inversion: Inversion, model: Denoiser, pairs: Pairs) -> Noised:
    """Winners, then losers, each inverted to one time for the two of a pair; no gradient goes through it.

    What noise `eta` adds is one for the two, too: apart, as JaydenLyh/InPO draws it, it would add to the difference of
    errors what is no difference of the pictures.
    """
    t = model.process.times(pairs.draw)

    def fresh(place: int) -> Tensor:
        noise = pairs.draw.normal(f"eta/{place}", pairs.win.shape[1:], like=pairs.win)
        return torch.cat([noise, noise])

    predict = model.policy if inversion.inverts == "policy" else model.reference
    return inversion(model.process, predict, pairs.items, torch.cat([t, t]), pairs.condition, fresh)
