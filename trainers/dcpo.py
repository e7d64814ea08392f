"""DCPO: Saeidi et al., "Dual Caption Preference Optimization for Diffusion Models", arXiv 2502.06023."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from visalign.batches import Condition, Pairs
from visalign.contract import Denoiser, Loss

from .diffusion_dpo import DiffusionDPO


@dataclass
class DCPO(DiffusionDPO):
    """Diffusion-DPO in which winner and loser are each denoised under a caption of its own (eq. 8).

    The captions are data, a text for each item of a record (`visalign caption` writes them), so that the loss is
    Diffusion-DPO's to the letter. Policy and reference read the same ones. On records without captions this is
    Diffusion-DPO, which the metric `captions_differ` shows; so it does where `data.prompt_dropout` empties both.
    """

    beta: float = 500.0

    def loss(self, batch: Pairs, model: Denoiser) -> Loss:
        """(b,) losses of b pairs."""
        found = super().loss(batch, model)
        return Loss(found.each, {**found.metrics, "captions_differ": differing(batch.condition, batch.win)})


def differing(condition: Condition, like: Tensor) -> Tensor:
    """(b,) 1 where the two of a pair are told different texts, 0 where the same; in the dtype of `like`."""
    win, lose = condition.text.flatten(1).chunk(2)
    return torch.ne(win, lose).any(1).to(like.dtype)


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("dcpo")
