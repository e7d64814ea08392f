"""Supervised fine-tuning on the preferred items: the baseline that every preference method must beat."""

from __future__ import annotations

from dataclasses import dataclass

from visalign.batches import Singles
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import noise_singles, squared_error


@dataclass
class SFT:
    """The denoising error of the winners (Ho et al., arXiv 2006.11239, eq. 14), each at its own time and noise."""

    batch_type = Singles
    reference = Reference.NONE
    passes = Passes(policy=1)

    def loss(self, batch: Singles, model: Denoiser) -> Loss:
        """(n,) errors of n items."""
        at = noise_singles(model.process, batch)
        each = squared_error(model.policy(at.x, at.t, batch.condition), at.target)
        return Loss(each, {"win_error": each.detach()})


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("sft")
