"""Moves that diffusion methods share: noising a pair alike, errors of policy and reference, log-ratios.

Every method gets the policy's and the reference's errors from `errors`, so that this one function decides how the
reference is run: first and without gradient, its activations gone before the policy's graph is built. `frame_errors`
is the same for clips, frame by frame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..batches import Condition, Labelled, Pairs, Singles
from ..contract import Denoiser
from ..process import Noised, Process


@dataclass(frozen=True)
class Errors:
    """Mean squared errors of n noisy items, whole or by frame, in float32 at least."""

    policy: Tensor  # (n,) or (n, F) with gradient
    reference: Tensor  # the same without


def noise_pairs(process: Process, pairs: Pairs, *, shared: bool = True) -> Noised:
    """Winners, then losers, at one time and with one noise for the two of a pair, or one each if not `shared`.

    Sharing both is what Diffusion-DPO's released code does (and its supplement S4 derives): what is left in the
    difference of errors is the difference of the pictures.
    """
    t = process.times(pairs.draw)
    streams = ("noise", "noise" if shared else "noise/lose")
    noise = [pairs.draw.normal(stream, pairs.win.shape[1:], like=pairs.win) for stream in streams]
    return process.noised(pairs.items, torch.cat(noise), torch.cat([t, t]))


def noise_singles(process: Process, singles: Singles | Labelled) -> Noised:
    """Each item at a time and with a noise of its own."""
    t = process.times(singles.draw)
    noise = singles.draw.normal("noise", singles.x.shape[1:], like=singles.x)
    return process.noised(singles.x, noise, t)


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(n,) mean squared error of each item."""
    return _squares(prediction, target).flatten(1).mean(1)


def frame_error(prediction: Tensor, target: Tensor) -> Tensor:
    """(n, F) mean squared error of each latent frame of clips (n, c, F, h, w); a picture (n, c, h, w) is one frame."""
    squares = _squares(prediction, target)
    squares = squares.unsqueeze(2) if squares.ndim == 4 else squares
    return squares.movedim(2, 1).flatten(2).mean(2)


def _squares(prediction: Tensor, target: Tensor) -> Tensor:
    """(n, ...) squares of the differences.

    Both are cast up before they are subtracted: the difference of two errors is multiplied by thousands, and squaring
    in half precision alone gives a logit noise of 0.06 to 0.5 while policy and reference are equal.
    """
    dtype = torch.promote_types(torch.promote_types(prediction.dtype, target.dtype), torch.float32)
    return (prediction.to(dtype) - target.to(dtype)).square()


def errors(model: Denoiser, at: Noised, condition: Condition) -> Errors:
    """Errors (n,) of reference and policy at the same noisy items (n, ...), by two calls of n items each."""
    return _measured(squared_error, model, at, condition)


def frame_errors(model: Denoiser, at: Noised, condition: Condition) -> Errors:
    """The same by latent frame, (n, F) each, of noisy clips (n, c, F, h, w)."""
    return _measured(frame_error, model, at, condition)


def _measured(measure: Callable[[Tensor, Tensor], Tensor], model: Denoiser, at: Noised, condition: Condition) -> Errors:
    with torch.no_grad():
        reference = measure(model.reference(at.x, at.t, condition), at.target)
    policy = measure(model.policy(at.x, at.t, condition), at.target)
    return Errors(policy, reference)


def log_ratio(found: Errors) -> Tensor:
    """How much likelier an item, or a frame, is under the policy than under the reference, up to one constant factor.

    -(policy error - reference error) / 2 with mean-reduced errors, the scale on which Diffusion-DPO's code uses
    beta = 2000 … 5000 (SalesforceAIResearch/DiffusionDPO train.py:1142; arXiv 2311.12908, eq. 46 for the half).
    """
    return -0.5 * (found.policy - found.reference)


def pair_metrics(found: Errors, margin: Tensor) -> dict[str, Tensor]:
    """What a flat loss curve hides, (b,) each: errors of winner and loser, policy and reference, and the margin."""
    win, lose = found.reference.chunk(2)
    return policy_metrics(found.policy, margin) | {"win_reference_error": win, "lose_reference_error": lose}


def policy_metrics(policy: Tensor, margin: Tensor) -> dict[str, Tensor]:
    """The same where there is no reference: `policy` are the errors (2b,) of winners, then losers."""
    win, lose = policy.detach().chunk(2)
    return {"win_error": win, "lose_error": lose, "margin": margin.detach()}
