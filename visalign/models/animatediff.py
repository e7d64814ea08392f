"""AnimateDiff (arXiv 2307.04725): Stable Diffusion's UNet over each frame, whose frames meet in attention over time.

Every frame of a clip is encoded by the autoencoder of pictures by itself: latents are (n, c, frames, h, w), one latent
frame for each. What is read is what `AnimateDiffPipeline.save_pretrained` writes: `unet/` holds a `UNetMotionModel`,
motion modules included. A `motion_adapter/` beside it holds the same modules once more and is not looked at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..batches import Condition
from ..records import DataError
from .encoders import PictureCoder
from .family import Config, Family
from .stable_diffusion import factor, read_one
from .users import told

if TYPE_CHECKING:
    from .folder import Folder

FRAMES = 16  # what motion modules are trained on (section 5.1)
AT_ONCE = 16  # frames through the autoencoder, as many as diffusers' pipeline decodes


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """(n, c, frames, h, w) of a `UNetMotionModel`, which wants its text once for each frame, unlike its own docs."""
    dtype, frames = network.conv_in.weight.dtype, x_t.shape[2]
    user = None if condition.user is None else condition.user.repeat_interleave(frames, dim=0)
    states = told(network, condition.text.to(dtype).repeat_interleave(frames, dim=0), user)
    answer: Tensor = network(x_t.to(dtype), time, states, return_dict=False)[0]
    return answer


class FrameCoder:
    """The autoencoder of pictures on each frame by itself; `most` frames are all that the network has places for."""

    def __init__(self, folder: Folder, device: torch.device) -> None:
        self.pictures = PictureCoder(folder, device)
        self.most = longest(folder.network_config())

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Of pixels (n, 3, frames, h, w)."""
        each = [self.pictures.encode(part) for part in apart(pixels).split(AT_ONCE)]
        mean, deviation = (together(torch.cat(parts), pixels) for parts in zip(*each, strict=True))
        return mean, deviation

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (n, 3, frames, h, w) in [-1, 1]."""
        return together(torch.cat([self.pictures.decode(part) for part in apart(latents).split(AT_ONCE)]), latents)

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """(channels, frames, height, width); DataError for more frames than the network knows."""
        frames, *sides = size
        if not 1 <= frames <= self.most:
            raise DataError(f"this model draws clips of 1 to {self.most} frames, not of {frames}")
        channels, height, width = self.pictures.latent_shape(tuple(sides))
        return channels, frames, height, width


def apart(clips: Tensor) -> Tensor:
    """The frames of (n, c, f, h, w) as pictures, (n f, c, h, w)."""
    return clips.transpose(1, 2).flatten(0, 1)


def together(pictures: Tensor, clips: Tensor) -> Tensor:
    """Pictures (n f, c, h, w) as clips (n, c, f, h, w), as many as the given ones."""
    frames: Tensor = pictures.unflatten(0, (len(clips), -1)).transpose(1, 2).contiguous()
    return frames


def longest(config: Config) -> int:
    """The most frames that the network's motion modules have places for."""
    return int(config.get("motion_max_seq_length", 32))


def size(config: Config, per_latent: int) -> tuple[int, int, int]:
    """The frames of the paper, or as many as there are places, and the square that the UNet was made for."""
    side = int(config["sample_size"]) * per_latent
    return min(FRAMES, longest(config)), side, side


def example(config: Config, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Condition]:
    """A latent of (frames, height, width) and its condition, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(1, int(config.get("in_channels", 4)), *shape)
        return x, Condition(torch.empty(1, tokens, int(config.get("cross_attention_dim", 1280))))


ANIMATEDIFF = Family(
    "animatediff", "AnimateDiffPipeline", "unet", "UNetMotionModel", ask, FrameCoder, read_one, factor, size, example,
    clips=True,
)  # fmt: skip
