"""GRPO of drawings: Liu et al., "Flow-GRPO: Training Flow Matching Models via Online RL", arXiv 2505.05470; Xue et al.,
"DanceGRPO: Unleashing GRPO on Visual Generation", arXiv 2505.07818."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from visalign.batches import Condition, Prompts
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion.guidance import Answer, guided, walked
from visalign.diffusion.inversion import picked
from visalign.diffusion.stochastic import diffused, divergence, log_prob, preserving, steadily, transition
from visalign.latent_judge import Given, LatentJudge
from visalign.process import Flow, Process, column
from visalign.strict import check_choices
from visalign.transforms import GUARD, group_centred, group_deviation, group_zscore

Law = Callable[[Process, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
LAWS = {  # with the papers' levels
    "flow_grpo": (diffused, 0.7), "dance": (steadily, 0.3), "cps": (preserving, 0.8), "ddim": (transition, 1.0),
}  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """m drawings, from noise to pictures."""

    path: Tensor  # (steps, m, ...) where each was, all but the last step's end
    final: Tensor  # (m, ...)
    times: Tensor  # (steps + 1,) noisiest first

    def at(self, place: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Each drawing's step number place[i] (m,): from x (m, ...) to x (m, ...), from t (m,) to t (m,)."""
        rows, place = torch.arange(len(place), device=self.path.device), place.to(self.path.device)
        hop = place.to(self.times.device)
        return self.path[place, rows], self.path[place + 1, rows], self.times[hop], self.times[hop + 1]


@dataclass
class GRPO:
    """Draws every prompt `group` times, and makes the steps of drawings likelier that beat the others of their prompt.

    A drawing's steps are normal densities, its advantage (r - mean) / (std + 1e-4) over the group, bounded by `most`.
    The loss of a step is -advantage p / sg[p] + kl KL(policy || reference), so only its gradient says anything: watch
    `score`. Every drawing serves one update, by the weights that drew it; the importance ratio is 1 and its clipping
    (1e-4 in released code, which takes two updates) has nothing to clip. The last step is certain and is not trained.

    `noise` is where chance enters: "flow_grpo" and "dance" are the papers' SDEs of flows, "cps" keeps the path's share
    of noise at few steps, "ddim" is DDPO's (arXiv 2305.13301), as DanceGRPO has it for Stable Diffusion; "auto" is
    flow_grpo for flows and ddim for others. `level` is how much of it, None the papers'. `window` steps in a row, at a
    random place of the first half, are noisy and trained and the others certain (Flow-GRPO-Fast); 0: all are noisy, and
    `trained` is the share of them that a prompt is trained on, drawn at random (.6 in DanceGRPO). `same_start` draws a
    group from one initial noise, as DanceGRPO does.

    `spread` is whose deviation divides: the "group"'s with ddof 0, or ddof 1 ("sample", DanceGRPO's), that of all
    drawings of the "batch" at hand (Flow-GRPO's released default; it couples a batch), or "none" (arXiv 2503.20783).
    Log-densities and KL are means over the latent. variant="release" (yifan123/flow_grpo) leaves the length of a flow's
    step out of the KL, which makes it |dt| times as large, has no variance in the densities of "cps", and keeps the
    empty prompt's answer out of the gradient.
    """

    scorer: Given = "playground"
    group: int = 24
    steps: int = 10
    guidance: float = 4.5
    noise: Literal["auto", "flow_grpo", "dance", "cps", "ddim"] = "auto"
    level: float | None = None
    window: int = 0
    trained: float = 1.0
    same_start: bool = False
    spread: Literal["group", "sample", "batch", "none"] = "group"
    most: float = 5.0
    kl: float = 0.0
    variant: Literal["paper", "release"] = "paper"
    portion: int = 4  # drawings of a prompt that go through the network at a time
    recompute: bool = True  # of each step's activations: the memory of one portion in one step, a third more time
    batch_type = Prompts

    def __post_init__(self) -> None:
        check_choices(self)
        if self.group < 2 or self.steps < 2 or not 0 <= self.window < self.steps:
            given = f"{self.group}, {self.steps}, {self.window}"
            raise ValueError(f"group >= 2, steps >= 2, 0 <= window < steps: {given}")
        if not 0 < self.trained <= 1 or not self.most > 0 or not self.kl >= 0:
            raise ValueError(f"0 < trained <= 1, most > 0, kl >= 0: {self.trained}, {self.most}, {self.kl}")
        if self.portion < 1:
            raise ValueError(f"a portion is one drawing or more, got {self.portion}")
        if self.level is not None and not self.level > 0:
            raise ValueError(f"a level of noise is above 0, got {self.level}")
        self._judge = LatentJudge(self.scorer)

    @property
    def reference(self) -> Reference:
        """One to stay near, if `kl` asks for it."""
        return Reference.FROZEN if self.kl else Reference.NONE

    @property
    def count(self) -> int:
        """How many steps of a drawing are trained."""
        return self.window or max(1, round(self.trained * (self.steps - 1)))

    @property
    def passes(self) -> Passes:
        """Every drawing, then its trained steps once more; the pictures are finished and judged as they are."""
        asked, learnt = 1 if self.guidance in (0.0, 1.0) else 2, self.group * self.count
        free = self.group * self.steps * asked + learnt * (self.still + (asked if self.kl else 0))
        moving, held = asked - self.still, min(self.portion, self.group)
        return Passes(policy=learnt * moving, free=free, held=held * moving if self.recompute else None)

    @property
    def still(self) -> bool:
        """Whether the empty prompt's answer is kept out of the gradient."""
        return self.variant == "release" and self.guidance not in (0.0, 1.0)

    def loss(self, batch: Prompts, model: Denoiser) -> Loss:
        """(n,) losses of n prompts; a prompt whose drawings score alike has no weight."""
        rows = torch.arange(len(batch), device=batch.condition.text.device).repeat_interleave(self.group)
        told, untold = picked(batch.condition, rows), picked(batch.empty, rows)
        places = self.places(batch)
        policy, reference = self.answers(model, told, untold, self.portion * len(batch))
        with torch.no_grad():
            drawn = self.drawn(batch, model.process, policy, places)
            judge = self._judge.of(model, [text for text in batch.texts for _ in range(self.group)])
            scores = judge(drawn.final, drawn.times[-1].expand(len(rows)), told).reshape(len(batch), self.group)
        advantage = self.advantages(scores)
        ratios, far = self.densities(drawn, places.repeat_interleave(self.group, 0), model.process, policy, reference)
        each = self.kl * far.reshape_as(advantage) - advantage * ratios.reshape_as(advantage)
        differ = (advantage != 0).any(1).to(batch.weight)
        metrics = {"score": scores.nanmean(1), "score_spread": group_deviation(scores, 0).squeeze(1), "kept": differ}
        if self.kl:
            metrics["kl"] = far.detach().reshape_as(advantage).mean(1)
        return Loss(each.mean(1), metrics, batch.weight * differ)

    def places(self, batch: Prompts) -> Tensor:
        """(n, count) which of the steps - 1 noisy steps each prompt is trained on, in order."""
        if self.window:
            first = batch.draw.integers("window", 0, max(1, self.steps // 2 - self.window + 1))
            return first[:, None] + torch.arange(self.window)
        return batch.draw.uniforms("trained", self.steps - 1).argsort(1)[:, : self.count].sort(1).values

    def drawn(self, batch: Prompts, process: Process, answer: Answer, places: Tensor) -> Drawn:
        """Every prompt's drawings, with chance in every step but the last, or only at the `places` of a window."""
        times, law = process.grid(self.steps).flip(0), self.law(process)
        starts = batch.draw.normal("start", (1 if self.same_start else self.group, *batch.shape), batch.weight)
        path = [starts.expand(-1, self.group, *batch.shape).flatten(0, 1)]
        for place, hop in enumerate(pairwise(times[:-1])):
            x = path[-1]
            t, to = (each.expand(len(x)) for each in hop)
            prediction = answer(x, t)
            mean, spread = law(process, prediction, x, t, to)
            after = mean + spread * batch.draw.normal(f"noise {place}", (self.group, *batch.shape), x).flatten(0, 1)
            if self.window:
                noisy = (places == place).any(1).repeat_interleave(self.group).to(x.device)
                after = torch.where(column(noisy, x) > 0, after, process.step(prediction, x, t, to))
            path.append(after)
        return Drawn(torch.stack(path), walked(process, answer, path[-1], times[-2], times[-1]), times)

    def law(self, process: Process) -> Law:
        """Mean and deviation of a step on this path."""
        name = self.noise if self.noise != "auto" else "flow_grpo" if isinstance(process, Flow) else "ddim"
        law, level = LAWS[name]
        return partial(law, level=self.level or level)

    def advantages(self, scores: Tensor) -> Tensor:
        """(n, group) by how much each drawing beats the others of its prompt; 0 for what could not be judged."""
        if self.spread == "none":
            found = group_centred(scores)
        elif self.spread == "batch":
            found = group_centred(scores) / (group_deviation(scores.reshape(1, -1), 0) + GUARD)
        else:
            found = group_zscore(scores, ddof=1 if self.spread == "sample" else 0)
        return torch.where(scores.isnan(), 0.0, found).clamp(-self.most, self.most)

    def answers(self, model: Denoiser, told: Condition, untold: Condition, size: int) -> tuple[Answer, Answer]:
        """What policy and reference answer under guidance, `size` drawings at a time; the policy's activations are made
        again where `recompute` says so."""
        still = torch.no_grad()(model.policy) if self.still and told.guidance is None else None
        policy, reference = [], []
        for rows in torch.arange(len(told), device=told.text.device).split(size):
            asked = picked(told, rows), picked(untold, rows), self.guidance
            answer = guided(model.policy, *asked, still)
            policy.append(partial(checkpoint, answer, use_reentrant=False) if self.recompute else answer)
            reference.append(guided(model.reference, *asked))
        return partial(in_turn, policy, size), partial(in_turn, reference, size)

    def densities(
        self, drawn: Drawn, places: Tensor, process: Process, policy: Answer, reference: Answer
    ) -> tuple[Tensor, Tensor]:
        """Means over the steps at `places` (drawings, count): p / sg[p], and the KL to the reference, (drawings,)."""
        law, ratios, far = self.law(process), [], []
        for place in places.unbind(1):
            x, after, t, to = drawn.at(place)
            mean, spread = law(process, policy(x, t), x, t, to)
            logp = self.log_prob(after, mean, spread)
            ratios.append((logp - logp.detach()).exp())
            if self.kl:
                with torch.no_grad():
                    anchor, _ = law(process, reference(x, t), x, t, to)
                length = t - to if self.variant == "release" and isinstance(process, Flow) else torch.ones_like(logp)
                far.append(length.to(logp) * divergence(mean, anchor, spread))
        return torch.stack(ratios).mean(0), torch.stack(far).mean(0) if far else torch.zeros_like(ratios[0])

    def log_prob(self, x: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
        """(n,) log-density of a step, a mean over the latent."""
        bare = self.variant == "release" and self.noise == "cps"
        return -(x - mean).square().flatten(1).mean(1) if bare else log_prob(x, mean, spread)


def in_turn(answers: Sequence[Answer], size: int, x: Tensor, t: Tensor) -> Tensor:
    """What these answer, each asked about the next `size` of x (m, ...) at t (m,)."""
    return torch.cat([each(*part) for each, *part in zip(answers, x.split(size), t.split(size), strict=True)])


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("grpo")
