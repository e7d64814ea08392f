"""SPO: Liang et al., "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step Preference
Optimization", arXiv 2406.04314."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visalign import registry
from visalign.batches import Prompts
from visalign.contract import Denoiser, LatentScorer, Loss, Passes, Reading, Reference
from visalign.guidance import Answer, guided
from visalign.losses import LossSpec, resolve
from visalign.process import Process


@dataclass
class SPO:
    """Draws with the policy, branches at every step, and prefers the step that a judge of noisy pictures likes best.

    From one x_t `candidates` for x_(t-1) are sampled (DDIM with eta = 1); best and worst, as `scorer` sees them, are a
    pair whose log-ratio is that of two normal densities, clamped to log(1 - clip) … log(1 + clip); and a random
    candidate goes on, so that the next pair starts from neither. The first `divert` steps of
    `steps` do not branch. Policy and reference answer under `guidance` in drawing and in training alike.

    A step whose best and worst differ by no more than `threshold` in |P(best is better) - P(worst is better)| is a tie:
    it has no weight, and a record's weight is its share of steps that are none. Dropping the pictures' sum for a mean
    in the log-densities is the released code's choice (RockeyCoss/SPO, ddim_with_logprob.py), and `beta` is on its
    scale. It scores what the policy makes of a candidate at the next step; here the candidate itself is scored.

    trains="negative" is Diffusion-NPO's recipe for online methods (arXiv 2505.11245): the reference answers the prompt,
    the policy is the branch that guidance pushes away from.
    """

    steps: int = 20
    divert: int = 4
    candidates: int = 4
    guidance: float = 5.0
    threshold: float = 0.3
    beta: float = 10.0
    clip: float = 0.1
    scorer: str | Mapping[str, Any] | LatentScorer | Reading = "playground"
    trains: Literal["policy", "negative"] = "policy"
    preference: LossSpec = "dpo"
    recompute: bool = True  # of each step's activations: the memory of one step, a third more time
    batch_type = Prompts
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        if not 0 <= self.divert < self.steps - 1 or self.candidates < 2:
            raise ValueError(
                f"0 <= divert < steps - 1, candidates >= 2: {self.divert}, {self.steps}, {self.candidates}"
            )
        if not 0 < self.clip < 1 or not 0 <= self.threshold < 1 or not self.beta > 0:
            raise ValueError(f"0 < clip < 1, 0 <= threshold < 1, beta > 0: {self.clip}, {self.threshold}, {self.beta}")
        if self.trains not in ("policy", "negative") or (self.trains == "negative" and not self.guidance > 1):
            raise ValueError(f"trains is policy, or negative at a guidance above 1: {self.trains!r}, {self.guidance}")
        named = {"name": self.scorer} if isinstance(self.scorer, str) else self.scorer
        self._asks = (
            registry.load("latent_scorer", named.get("name", "")).asks if isinstance(named, Mapping) else named.asks
        )
        self._loss = resolve(self.preference)

    @cached_property
    def judge(self) -> LatentScorer | Reading:
        """The scorer, made when first asked for: what a step costs can be told without its weights."""
        if isinstance(self.scorer, str | Mapping):
            made: LatentScorer | Reading = registry.build("latent_scorer", self.scorer)
            return made
        return self.scorer

    @property
    def passes(self) -> Passes:
        """A branching step asks policy and reference, under guidance twice each; on a path whose last step is noisy."""
        branching, asked = self.steps - self.divert, 1 if self.guidance in (0.0, 1.0) else 2
        policy, besides = (1, 1) if self.trains == "negative" else (asked, 0)
        judged = self.candidates * self._asks
        free = asked * self.divert + branching * (asked + besides + judged)
        return Passes(policy=branching * policy, free=free, held=policy if self.recompute else None)

    def loss(self, batch: Prompts, model: Denoiser) -> Loss:
        """(n,) losses of n prompts: each the mean over its steps that are no ties."""
        judge = self.judge.of(model, batch.texts) if isinstance(self.judge, Reading) else self.judge
        policy, reference = self.answers(batch, model)
        x = batch.draw.normal("start", batch.shape, batch.weight)
        found: list[dict[str, Tensor]] = []
        for place, (here, there) in enumerate(walk(model.process, self.steps)):
            t, to = here.expand(len(batch)), there.expand(len(batch))
            if place < self.divert:
                with torch.no_grad():
                    mean, spread = transition(model.process, policy(x, t), x, t, to)
                    x = mean + spread * batch.draw.normal(f"noise {place}", batch.shape, x)
                continue
            mean, spread = transition(model.process, self.asked(policy, x, t), x, t, to)
            with torch.no_grad():
                anchor, _ = transition(model.process, reference(x, t), x, t, to)
                noise = batch.draw.normal(f"noise {place}", (self.candidates, *batch.shape), x)
                drawn = (mean[:, None] + spread[:, None] * noise).unbind(1)
                scores = torch.stack([judge(each, to, batch.condition) for each in drawn], dim=1)
            found.append(self.compared(drawn, scores, mean, anchor, spread))
            x = chosen(drawn, batch.draw.integers(f"next {place}", 0, self.candidates).to(x.device))
        table = {name: torch.stack([step[name] for step in found]) for name in found[0]}
        return gathered(table, batch.weight)

    def answers(self, batch: Prompts, model: Denoiser) -> tuple[Answer, Answer]:
        """What policy and reference answer under guidance."""
        reference = guided(model.reference, batch.condition, batch.empty, self.guidance)
        if self.trains == "negative":
            negative = guided(model.reference, batch.condition, batch.empty, self.guidance, negative=model.policy)
            return negative, reference
        return guided(model.policy, batch.condition, batch.empty, self.guidance), reference

    def asked(self, policy: Answer, x: Tensor, t: Tensor) -> Tensor:
        """The policy's answer with gradient; its activations are kept, or made again when they are needed."""
        answer: Tensor = checkpoint(policy, x, t, use_reentrant=False) if self.recompute else policy(x, t)
        return answer

    def compared(
        self, drawn: tuple[Tensor, ...], scores: Tensor, mean: Tensor, anchor: Tensor, spread: Tensor
    ) -> dict[str, Tensor]:
        """One step's losses (n,), which of them count, and what to tell of it, from `scores` (n, candidates)."""
        unknown = scores.isnan()
        best, win = scores.masked_fill(unknown, -math.inf).max(1)
        worst, lose = scores.masked_fill(unknown, math.inf).min(1)
        kept = torch.tanh((best - worst) / 2) > self.threshold
        ratios = []
        for row in (win, lose):
            x = chosen(drawn, row)
            ratio = log_prob(x, mean, spread) - log_prob(x, anchor, spread)
            ratios.append(ratio.clamp(math.log(1 - self.clip), math.log(1 + self.clip)))
        each = self._loss(*ratios, beta=self.beta)
        margin = self.beta * (ratios[0] - ratios[1]).detach()
        score = scores.nanmean(1)
        return {"loss": each, "kept": kept.to(each.dtype), "margin": margin, "score": score.to(each.dtype)}


def walk(process: Process, steps: int) -> list[tuple[Tensor, Tensor]]:
    """The (from, to) times of a drawing, noisiest first, as far as a step leaves anything to chance.

    The last one ends at time 0 of a DDPM path, not at its clean end, as in the released code; a flow's last step is
    certain and left out.
    """
    times = process.grid(steps).clamp(min=0).flip(0)
    like = torch.zeros(1, dtype=torch.float64)
    return [(t, to) for t, to in pairwise(times) if float(transition(process, like, like, t[None], to[None])[1]) > 0]


def transition(process: Process, prediction: Tensor, x: Tensor, t: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (n, ...) and deviation (n, 1, …) of x at the time `to`, given x at t: DDIM with eta = 1 (arXiv 2010.02502,
    eq. 12 and 16), written for any Gaussian path."""
    (a, s), (a_to, s_to) = process.coefficients(t, x), process.coefficients(to, x)
    x0, noise = process.split(prediction, x, t)
    variance = (s_to / s).square() * (s.square() - (a / a_to * s_to).square()).clamp(min=0)
    return a_to * x0 + (s_to.square() - variance).clamp(min=0).sqrt() * noise, variance.sqrt()


def log_prob(x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    """(n,) log-density of x under independent normals, averaged over the latent as in the released code."""
    each = -((x - mean) / spread).square() / 2 - spread.log() - math.log(2 * math.pi) / 2
    return each.flatten(1).mean(1)


def chosen(drawn: tuple[Tensor, ...], row: Tensor) -> Tensor:
    """Candidate number row[i] of record i: (n, ...)."""
    return torch.stack(drawn, dim=1)[torch.arange(len(row), device=row.device), row]


def gathered(table: Mapping[str, Tensor], weight: Tensor) -> Loss:
    """A record's loss and margin are means over its steps that count, and its weight is their share."""
    kept = table["kept"]
    count = kept.sum(0)
    each, margin = ((table[name] * kept).sum(0) / count.clamp(min=1) for name in ("loss", "margin"))
    share = kept.mean(0)
    return Loss(each, {"margin": margin, "kept": share, "score": table["score"].nanmean(0)}, weight * share)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("spo")
