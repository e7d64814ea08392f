"""Clips in segments: where they are cut, who is better in each, and what that says of a clip and of latent frames.

The labels of DenseDPO (arXiv 2506.03517): a segment is a second, a clip's own label the majority of its segments.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..records import Preference
from ..scoring import bradley_terry

STUB = 0.5  # of a segment: a shorter rest belongs to the segment before it, as the 121st frame of 5 seconds does


def segments(frames: int, length: float) -> list[range]:
    """The frames of each segment of `length` frames; frame f is in segment floor(f / length), a stub in the one before.

    121 frames at 24 a second are 5 segments, the last of 25 frames.
    """
    whole = int(frames // length)
    starts = _starts(max(1, whole + (frames - whole * length >= STUB * length)), length)
    return [range(start, end) for start, end in zip(starts, [*starts[1:], frames], strict=True) if end > start]


def _starts(count: int, length: float) -> list[int]:
    """The first frame of each segment."""
    return [int(np.ceil(place * length)) for place in range(count)]


def chance(scale: str, first: NDArray[np.float64], second: NDArray[np.float64], temperature: float) -> Tensor:
    """P(first is better), float64, from scores of a scale, NaN where one is NaN or nobody voted.

    The first one's share of the two's probability or votes; of utilities Bradley-Terry at `temperature` (0: certain).
    """
    one, other = torch.from_numpy(first), torch.from_numpy(second)
    return bradley_terry(one, other, temperature) if scale == "utility" else one / (one + other)


def chances(record: Preference, temperature: float = 0.0) -> Tensor:
    """(S,) P(the first of two items is better) in each segment; of a verdict alone (1,). NaN: nobody looked."""
    found = chance(record.scale, record.scores[0].copy(), record.scores[1].copy(), temperature)
    said = {"first": 1.0, "second": 0.0, "tie": 0.5}.get(record.verdict or "")
    return torch.tensor([said], dtype=torch.float64) if said is not None and bool(found.isnan().all()) else found


def majority(label: Tensor) -> Tensor:
    """1, 0 or 1/2 by more segments above or below 1/2; NaN where all are NaN."""
    votes = torch.sign(label - 0.5)[~label.isnan()]
    return (torch.sign(votes.sum()) + 1) / 2 if len(votes) else label.new_tensor(torch.nan)


def share(label: Tensor) -> float:
    """The share of the segments in which the first is better, ties counted half; NaN where all are NaN."""
    votes = torch.sign(label - 0.5)[~label.isnan()]
    return float((votes.mean() + 1) / 2)


def by_frame(label: Tensor, frames: int, length: float | None, whole: int) -> Tensor:
    """(frames,) of (S,): what was said of the segment that each of a clip's first frames is in.

    Segments are of `length` frames, the last with all that follow; None: S equal parts of the `whole` clip's frames.
    """
    frame, count = np.arange(frames), len(label)
    if length is None:
        place = (frame * count // whole).clip(max=count - 1)
    else:
        place = np.searchsorted(_starts(count, length), frame, side="right") - 1
    return label[torch.from_numpy(place)]


def by_latent(label: Tensor, stride: int) -> Tensor:
    """(1 + (f - 1) / stride,) of pixel frames (f,): what more than half of a latent frame's pixel frames say, else 0.

    The first latent frame holds one, as in VAEs that are causal in time, each other `stride`.
    """
    rest = label[1:].reshape(-1, stride)
    agreeing = (rest[:, :, None] == rest[:, None, :]).sum(2)
    most = agreeing.argmax(1, keepdim=True)
    agreed = 2 * agreeing.gather(1, most) > stride
    return torch.cat([label[:1], rest.gather(1, most).where(agreed, 0.0).flatten()])


def labels(label: Tensor, *, frames: int, stride: int, length: float | None, whole: int) -> Tensor:
    """(F,) float32 labels of the latent frames of a clip's first frames, from (S,) chances: 1 the first is better for
    sure, -1 the second, 0 a tie or nobody looked. Other arguments as of `by_frame` and `by_latent`."""
    signed = (2 * label - 1).where(~label.isnan(), 0.0)
    return by_latent(by_frame(signed, frames, length, whole), stride).float()
