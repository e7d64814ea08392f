"""SPO: Liang et al., "Aesthetic Post-Training Diffusion Models from Generic Preferences with Step-by-step Preference
Optimization", arXiv 2406.04314."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visalign.batches import Prompts
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion.guidance import Answer, guided
from visalign.diffusion.stochastic import chosen, extremes, log_prob, over_steps, transition, walk
from visalign.latent_judge import Given, LatentJudge
from visalign.losses import LossSpec, resolve
from visalign.strict import check_choices


@dataclass
class SPO:
    """Draws with the policy, branches at every step, and prefers the step that a judge of noisy pictures likes best.

    From one x_t `candidates` for x_(t-1) are sampled (DDIM with eta = 1); best and worst, as `scorer` sees them, are a
    pair whose log-ratio is that of two normal densities, clamped to log(1 - clip) … log(1 + clip); and a random
    candidate goes on, so that the next pair starts from neither. The first `divert` steps of
    `steps` do not branch. Policy and reference answer under `guidance` in drawing and in training alike.

    A step whose best and worst differ by no more than `threshold` in |P(best is better) - P(worst is better)| is a tie:
    it has no weight, and a record's weight is its share of steps that are none. Log-densities are means over the
    latent, as in the released code (RockeyCoss/SPO, ddim_with_logprob.py), and `beta` is on that scale. It scores what
    the policy makes of a candidate at the next step; here the candidate itself is scored.

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
    scorer: Given = "playground"
    trains: Literal["policy", "negative"] = "policy"
    preference: LossSpec = "dpo"
    recompute: bool = True  # of each step's activations: the memory of one step, a third more time
    batch_type = Prompts
    reference = Reference.FROZEN

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.divert < self.steps - 1 or self.candidates < 2:
            given = f"{self.divert}, {self.steps}, {self.candidates}"
            raise ValueError(f"0 <= divert < steps - 1, candidates >= 2: {given}")
        if not 0 < self.clip < 1 or not 0 <= self.threshold < 1 or not self.beta > 0:
            raise ValueError(f"0 < clip < 1, 0 <= threshold < 1, beta > 0: {self.clip}, {self.threshold}, {self.beta}")
        if self.trains == "negative" and not self.guidance > 1:
            raise ValueError(f"trains is negative at a guidance above 1 alone, got {self.guidance}")
        self._judge, self._loss = LatentJudge(self.scorer), resolve(self.preference)

    @property
    def negative_branch(self) -> bool:
        """What guidance pushes away from."""
        return self.trains == "negative"

    @property
    def passes(self) -> Passes:
        """A branching step asks policy and reference, under guidance twice each; on a path whose last step is noisy."""
        branching, asked = self.steps - self.divert, 1 if self.guidance in (0.0, 1.0) else 2
        policy, besides = (1, 1) if self.trains == "negative" else (asked, 0)
        judged = self.candidates * self._judge.asks
        free = asked * self.divert + branching * (asked + besides + judged)
        return Passes(policy=branching * policy, free=free, held=policy if self.recompute else None)

    def loss(self, batch: Prompts, model: Denoiser) -> Loss:
        """(n,) losses of n prompts: each the mean over its steps that are no ties."""
        process, draw, judge = model.process, batch.draw, self._judge.of(model, batch.texts)
        policy, reference = self.answers(batch, model)
        x = draw.normal("start", batch.shape, batch.weight)
        found: list[dict[str, Tensor]] = []
        for place, hop in enumerate(walk(process, self.steps)):
            t, to = (each.expand(len(batch)) for each in hop)
            if place < self.divert:
                with torch.no_grad():
                    mean, spread = transition(process, policy(x, t), x, t, to)
                x = mean + spread * draw.normal(f"noise {place}", batch.shape, x)
                continue
            mean, spread = transition(process, policy(x, t), x, t, to)
            with torch.no_grad():
                anchor, _ = transition(process, reference(x, t), x, t, to)
                noise = draw.normal(f"noise {place}", (self.candidates, *batch.shape), x)
                drawn = mean[:, None] + spread[:, None] * noise
                scores = torch.stack([judge(each, to, batch.condition) for each in drawn.unbind(1)], dim=1)
            found.append(self.compared(drawn, scores, mean, anchor, spread))
            x = chosen(drawn, draw.integers(f"next {place}", 0, self.candidates).to(x.device))
        return over_steps(found, batch.weight)

    def answers(self, batch: Prompts, model: Denoiser) -> tuple[Answer, Answer]:
        """What policy and reference answer under guidance; `recompute` makes the policy's activations again."""
        reference = guided(model.reference, batch.condition, batch.empty, self.guidance)
        trained, negative = (model.reference, model.policy) if self.trains == "negative" else (model.policy, None)
        policy = guided(trained, batch.condition, batch.empty, self.guidance, negative)
        return partial(checkpoint, policy, use_reentrant=False) if self.recompute else policy, reference

    def compared(
        self, drawn: Tensor, scores: Tensor, mean: Tensor, anchor: Tensor, spread: Tensor
    ) -> dict[str, Tensor]:
        """One step's losses (n,), which of them count, and what to tell of it, from `scores` (n, candidates)."""
        win, lose, gap = extremes(scores)
        ratios = []
        for row in (win, lose):
            x = chosen(drawn, row)
            ratio = log_prob(x, mean, spread) - log_prob(x, anchor, spread)
            ratios.append(ratio.clamp(math.log(1 - self.clip), math.log(1 + self.clip)))
        each = self._loss(*ratios, beta=self.beta)
        kept, margin = torch.tanh(gap / 2) > self.threshold, self.beta * (ratios[0] - ratios[1]).detach()
        return {"loss": each, "kept": kept.to(each), "margin": margin, "score": scores.nanmean(1).to(each)}


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("spo")
