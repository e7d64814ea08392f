"""A judge of pictures that are still noise: what the playground's voters will think of them once they are finished.

A step-aware preference model in the manner of SPO (arXiv 2406.04314, section 3.2), on latents instead of decoded
pictures: E[utility | x_t, t, prompt], over the voters' temperature, so that the sigmoid of two scores' difference is
the probability that a voter prefers the first. It learns the checker's marks, of which the utility is a weighted sum:
to learn five numbers is quicker than to learn one. `step_judge_build` made the weights that ship.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ..batches import Condition

TEMPERATURE = 0.12  # of the voters
LATENT = (4, 8, 8)
TEXT = 128  # width of the text states
WIDTH = 128
WAVES = 32
SHARES = (0.5, 0.125, 0.125, 0.125, 0.125)  # of the overall mark and of each aspect in a voter's utility


class StepJudge(nn.Module):
    """Scores (n,) of playground latents x_t (n, 4, 8, 8) at times t (n,) in 0 … 999; a `LatentScorer`.

    Args:
        weights: a safetensors file of `Tower`; None: what ships.
    """

    asks = 0  # of the denoiser

    def __init__(self, weights: str | None = None) -> None:
        from safetensors.torch import load_file

        super().__init__()
        self.tower = Tower()
        self.tower.load_state_dict({name: each.float() for name, each in load_file(weights or shipped()).items()})
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """Higher is better; in float32. ValueError for what are no playground latents."""
        if x_t.shape[1:] != LATENT or condition.text.shape[-1] != TEXT:
            raise ValueError(
                f"the playground's step judge reads latents (n, 4, 8, 8) and text states of width {TEXT}, got "
                f"{tuple(x_t.shape)} and width {condition.text.shape[-1]}; for other models give "
                "scorer={name: decoded, scorer: NAME, folder: MODEL}"
            )
        dtype = torch.promote_types(x_t.dtype, torch.float32)
        with torch.autocast(x_t.device.type, enabled=False):
            tower = self.tower.to(device=x_t.device, dtype=dtype)
            marks: Tensor = tower(x_t.to(dtype), t.to(x_t.device, dtype), condition.text.to(x_t.device, dtype))
        return utility(marks) / TEMPERATURE


class Tower(nn.Module):
    """Convolutions make 16 tokens of a latent; three layers compare them with the prompt's; their mean is the answer.

    The time is added to every token, and scales and shifts what is read out (the paper's adaptive norm, once).
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(LATENT[0], 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(64, WIDTH, 2, stride=2),
        )
        self.place = nn.Parameter(0.02 * torch.randn(16, WIDTH))
        self.time = nn.Sequential(nn.Linear(2 * WAVES, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.text = nn.Linear(TEXT, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerDecoderLayer(WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.norm = nn.LayerNorm(WIDTH, elementwise_affine=False)
        self.read = nn.Linear(WIDTH, 2 * WIDTH)
        self.out = nn.Linear(WIDTH, len(SHARES))

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Expected marks (n, 5), overall and each aspect, of x_t (n, 4, 8, 8), t (n,), text (n, tokens, 128)."""
        time = self.time(waves(t))
        tokens = self.stem(x_t).flatten(2).mT + self.place + time[:, None]
        words = self.text(text)
        for layer in self.layers:
            tokens = layer(tokens, words)
        scale, shift = self.read(time).chunk(2, dim=-1)
        marks: Tensor = self.out(self.norm(tokens.mean(1)) * (1 + scale) + shift)
        return marks


def utility(marks: Tensor) -> Tensor:
    """A voter's utility (n,) of a picture with these marks (n, 5)."""
    return marks @ marks.new_tensor(SHARES)


def waves(t: Tensor) -> Tensor:
    """(n, 2 WAVES) sines and cosines of times (n,) in 0 … 1000, wavelengths from 6 to 6,000."""
    rates = torch.exp(-math.log(1000.0) * torch.arange(WAVES, device=t.device, dtype=t.dtype) / (WAVES - 1))
    angles = t[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def shipped() -> Path:
    """The weights that ship, float16."""
    return Path(__file__).resolve().parent / "weights" / "step_judge" / "model.safetensors"
