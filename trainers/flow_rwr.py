"""Flow-RWR: Liu et al., "Improving Video Generation with Human Feedback", arXiv 2501.13918."""

from __future__ import annotations

import math
from dataclasses import dataclass

from visalign.batches import Rewarded
from visalign.contract import Denoiser, Loss, Passes, Reference
from visalign.diffusion import noise_singles, squared_error
from visalign.losses.arithmetic import wide


@dataclass
class FlowRWR:
    """e^(r / temperature) times the denoising error: fine-tuning on everything, harder on what a scorer likes (eq. 8).

    r is a scorer's value, standardised over the data. The paper leaves out the (1 - t)^2 that the derivation has, and
    takes temperature 1. Weights stop at `most` (20, as in advantage-weighted regression, arXiv 1910.00177), so that no
    item far above the others rules a step; math.inf bounds none. The loss is the plain mean of weighted errors, not
    divided by the weights. Errors are means over the latent. Any path serves, not flow alone.
    """

    temperature: float = 1.0
    most: float = 20.0
    batch_type = Rewarded
    needs = ("rewards",)
    reference = Reference.NONE
    passes = Passes(policy=1)

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not self.most > 1:
            given = f"{self.temperature} and {self.most}"
            raise ValueError(f"temperature must be positive and most above 1, got {given}")

    def loss(self, batch: Rewarded, model: Denoiser) -> Loss:
        """(n,) losses of n items."""
        at = noise_singles(model.process, batch)
        error = squared_error(model.policy(at.x, at.t, batch.condition), at.target)
        exponent = wide(batch.reward).to(error) / self.temperature
        weight = exponent.clamp(max=math.log(self.most)).exp()
        return Loss(weight * error, {"error": error.detach(), "reward_weight": weight})


if __name__ == "__main__":
    from visalign.cli import train_main

    train_main("flow_rwr")
