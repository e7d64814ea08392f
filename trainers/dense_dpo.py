"""DenseDPO: Wu et al., "DenseDPO: Fine-Grained Temporal Preference Optimization for Video Diffusion Models",
arXiv 2506.03517."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visalign.batches import Segments
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import Errors, frame_errors, log_ratio, noise_pairs, pair_metrics
from visalign.losses import LossSpec, resolve
from visalign.strict import check_choices


@dataclass
class DenseDPO:
    """-log sigmoid(beta l_f (r_first - r_second)) of every latent frame f that has a label l_f, averaged over them.

    r is Diffusion-DPO's log-ratio of one frame: -(policy error - reference error) / 2, errors averaged over channels,
    height and width. A label is 1 where the first clip is better, -1 where the second is, 0 for a tie or where nobody
    looked: such a frame pulls nothing. Between, it is 2 P - 1 with P the chance that the first is better, and mixes
    the losses of both orders. The mean is over all labelled frames of the batch, not over clips first: a clip's loss
    is the mean of its own, its weight their number. Labels say all, the batch's `confidence` is not asked.

    The paper prints two losses. reduction="frame" is its pseudo-code (appendix E), on whose scale is beta = 500.
    "clip" is its equation 7, one sigmoid a clip: beta sum_f l_f (r_first - r_second), every clip of one weight. The
    equation has neither the half nor the mean over c h w numbers: its beta is 2 c h w times smaller. A clip whose
    labels all agree is then Diffusion-DPO's at F times the beta.

    `share_noise` gives the two clips one noise, as appendix E does; equation 4 gives each its own. `preference` names
    any pairwise loss on log-ratios, of frames or of clips.
    """

    beta: float = 500.0
    reduction: Literal["frame", "clip"] = "frame"
    share_noise: bool = True
    preference: LossSpec = "dpo"
    batch_type = Segments
    reference = Reference.FROZEN
    passes = Passes(policy=2, free=2)

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.beta > 0:
            raise ValueError(f"beta must be positive, got {self.beta}")
        self._loss = resolve(self.preference)

    def loss(self, batch: Segments, model: Denoiser) -> Loss:
        """(b,) losses of b pairs of clips, weighed by their labelled frames; 0 for a pair without any."""
        at = noise_pairs(model.process, batch, shared=self.share_noise)
        found = frame_errors(model, at, batch.condition)
        ratio = log_ratio(found)
        labels = fitting(batch, ratio)
        win, lose = ordered(ratio, labels)
        judge = self._frames if self.reduction == "frame" else self._clips
        each, weight, margin = judge(win, lose, labels.abs())
        told = by_label(found, labels)
        agreed = (((win - lose).detach().sign() + 1) / 2).where(labels != 0, 0.0).sum(1) / frames(labels)
        shares = {"frame_accuracy": agreed, "labelled": (labels != 0).to(ratio).mean(1)}
        return Loss(each, {**pair_metrics(told, margin), **shares}, weight)

    def _frames(self, win: Tensor, lose: Tensor, sure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Appendix E: (b,) means over labelled frames, how many those are, and the mean margin."""
        flat = self._loss(win.flatten(), lose.flatten(), beta=self.beta, confidence=(1 + sure.flatten()) / 2)
        each = flat.reshape(sure.shape).where(sure > 0, 0.0)
        count = frames(sure)
        return each.sum(1) / count, (sure > 0).sum(1), self.beta * (win - lose).sum(1) / count

    def _clips(self, win: Tensor, lose: Tensor, sure: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Equation 7: (b,) losses of the sums over frames, whether any is labelled, and the margin."""
        win, lose, known = (sure * win).sum(1), (sure * lose).sum(1), (sure > 0).any(1)
        each = self._loss(win, lose, beta=self.beta)
        return each.where(known, 0.0), known, self.beta * (win - lose)


def fitting(batch: Segments, ratio: Tensor) -> Tensor:
    """(b, F) labels as numbers like `ratio` (2b, F); ValueError if they are of another number of latent frames."""
    wanted = (len(batch), ratio.shape[1])
    if batch.labels.shape != wanted:
        raise ValueError(f"{wanted[0]} clips of {wanted[1]} latent frames have labels {tuple(batch.labels.shape)}")
    return batch.labels.to(ratio)


def ordered(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(b, F) values of the better and of the other clip at each frame, of first and second ones (2b, F).

    Where there is no label both are 0 and no gradient goes back.
    """
    first, second = values.where((labels != 0).repeat(2, 1), 0.0).chunk(2)
    return torch.where(labels > 0, first, second), torch.where(labels > 0, second, first)


def by_label(found: Errors, labels: Tensor) -> Errors:
    """Errors (2b,) of what is better, then of the other, averaged over each clip's labelled frames."""
    policy, reference = (
        torch.cat([each.sum(1) / frames(labels) for each in ordered(errors.detach(), labels)])
        for errors in (found.policy, found.reference)
    )
    return Errors(policy, reference)


def frames(labels: Tensor) -> Tensor:
    """(b,) how many frames of each clip have a label; 1 where none has."""
    return (labels != 0).sum(1).clamp(min=1)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("dense_dpo")
