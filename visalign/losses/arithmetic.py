"""Arithmetic that the losses share: the precision they work in, and forms that survive the ends of the number line."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus

EXPONENT_LIMIT = 40.0
"""Exponents stop here: e^40 squared is still finite in float32. Beyond it the gradient is exactly zero."""


def wide(values: Tensor) -> Tensor:
    """The values in float32 at least; float64 stays float64. bfloat16 cannot tell -300 from -301."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def difference(first: Tensor, second: Tensor) -> Tensor:
    """first - second, each widened before and not after the subtraction."""
    return wide(first) - wide(second)


def log1pexp(values: Tensor) -> Tensor:
    """log(1 + e^x) = -log s(-x). Linear above 40, not from torch's 20 on, where float64 still sees the difference.

    Half the cost of -logsigmoid once a loss has more terms: there is no buffer to keep, and no sign to turn back.
    """
    return softplus(values, threshold=EXPONENT_LIMIT)


def bounded_exp(exponent: Tensor) -> Tensor:
    """e^min(exponent, 40): saturates, with zero gradient, where float32 would overflow."""
    return exponent.clamp(max=EXPONENT_LIMIT).exp()


def bounded_expm1(exponent: Tensor) -> Tensor:
    """e^min(exponent, 40) - 1, exact near zero."""
    return exponent.clamp(max=EXPONENT_LIMIT).expm1()


def log1mexp(logarithm: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, by the branch that keeps its digits (Maechler 2012, eq. 7).

    Each branch is fed only numbers that it likes: torch.where passes inf * 0 = NaN back through the one not taken.
    """
    near = logarithm > -math.log(2.0)
    close = torch.where(near, logarithm, -1.0)
    far = torch.where(near, -1.0, logarithm)
    return torch.where(near, (-close.expm1()).log(), (-far.exp()).log1p())


def log_odds(logarithm: Tensor) -> Tensor:
    """log(p / (1 - p)) from log p; p is held below 1 - eps, where the odds are infinite and the gradient is zero."""
    log_p = logarithm.clamp(max=-torch.finfo(logarithm.dtype).eps)
    return log_p - log1mexp(log_p)
