"""Sequences of states seen by their frequencies: TARS' spectral terms (arXiv 2507.21584, eq. 10 and 11).

Everything is taken over a row's own length: the transform of a padded sequence is another one (its energy grows with
the padding), and a loss must not depend on its neighbours in the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor


def power(states: Tensor, mask: Tensor) -> Tensor:
    """(n,) sum over frequencies and width of (Re sum_l z_l exp(-2 pi i k l / L))^2, of states (n, A, width).

    Real part first, then the square: not Parseval's energy. With sum_k cos(k l) cos(k m) = L / 2 at m = l and at
    m = -l (mod L), it is L / 2 times the sum of z_l (z_l + z_(-l mod L)), and no transform is needed. `mask` (n, A)
    says which places are real; they come first.
    """
    z = states.to(torch.promote_types(states.dtype, torch.float32)).where(mask[..., None], 0.0)
    length = mask.sum(1)
    place = torch.arange(mask.shape[1], device=mask.device)
    turned = (-place % length.clamp(min=1)[:, None]).clamp(max=mask.shape[1] - 1)
    mirrored = z.gather(1, turned[..., None].expand_as(z))
    found: Tensor = length / 2 * (z * (z + mirrored)).sum((1, 2))
    return found


def log_power_ratio(policy: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """(n,) log F(policy's states) - log F(reference's), both (n, A, width): what eq. 11 compares."""
    return power(policy, mask).log() - power(reference, mask).log()


def magnitudes(states: Tensor, length: int) -> Tensor:
    """(length, width) |FFT| along the sequence of one row's states (L, width), cut or filled with zeros to `length`."""
    wide = states.to(torch.promote_types(states.dtype, torch.float32))
    found: Tensor = torch.fft.fft(wide, n=length, dim=0).abs()
    return found


def triplet_hinge(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float = 0.5) -> Tensor:
    """() relu(MSE(|FFT| of anchor and positive) - MSE(of anchor and negative) + margin), each (L, width).

    TARS' released code (KejiaZhang-Robust/TARS, llava_trainer.py:835-862). Rows of unlike lengths are filled with zeros
    to the longest of the three, as its batches of one pair are.
    """
    length = max(len(anchor), len(positive), len(negative))
    a, p, n = (magnitudes(each, length) for each in (anchor, positive, negative))
    return ((a - p).square().mean() - (a - n).square().mean() + margin).relu()


def hinges(policy: Tensor, attention: Tensor, clean: Tensor, attention_clean: Tensor) -> Tensor:
    """(b,) the release's term: the policy's changed winner against the reference's winner and loser as they were."""
    pairs = len(clean) // 2
    rows = [policy[row, attention[row]] for row in range(pairs)]
    win, lose = ([clean[row, attention_clean[row]] for row in range(first, first + pairs)] for first in (0, pairs))
    return torch.stack([triplet_hinge(*each) for each in zip(rows, win, lose, strict=True)])
