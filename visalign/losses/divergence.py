"""f-divergences as score transforms: what stands in for the log-ratio x when the penalty is not the reverse KL.

f'(e^x) for the divergence f that ties the policy to its reference (f-DPO, arXiv 2309.16240, table 1). A transform
goes before a loss of the gap (kind h), where its constants cancel. All of them need x in nats: near zero every one
is a straight line, so that on denoising errors (x about 1e-4) they would change nothing but the slope.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor
from torch.nn.functional import logsigmoid

from .arithmetic import bounded_expm1, wide

Transform = Callable[[Tensor], Tensor]


def reverse_kl(ratio: Tensor) -> Tensor:
    """x itself: the KL of DPO."""
    return wide(ratio)


def forward_kl(ratio: Tensor) -> Tensor:
    """1 - e^-x; the exponent stops at 40, below x = -40 the gradient is zero."""
    return -bounded_expm1(-wide(ratio))


def js(ratio: Tensor) -> Tensor:
    """Jensen-Shannon: log 2 + log s(x). Its slope at zero is 1/2, so that it starts like DPO with half the beta."""
    return math.log(2.0) + logsigmoid(wide(ratio))


def alpha(ratio: Tensor, *, alpha: float = 0.5) -> Tensor:
    """(e^((alpha - 1) x) - 1) / (alpha - 1), as TRL >= 0.29 counts: 0 is the forward KL, 1 the reverse KL."""
    power = alpha - 1
    return wide(ratio) if power == 0 else bounded_expm1(power * wide(ratio)) / power


def alpha_paper(ratio: Tensor, *, alpha: float = 0.5) -> Tensor:
    """(1 - u^-alpha) / alpha, as the f-DPO paper and TRL <= 0.28 count: 1 is the forward KL, 0 the reverse KL."""
    return _alpha(ratio, alpha=1 - alpha)


_alpha = alpha
TRANSFORMS: Mapping[str, Transform] = {
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
    "js": js,
    "alpha": alpha,
    "alpha_paper": alpha_paper,
}


def resolve(spec: str | Mapping[str, Any]) -> Transform:
    """A transform by name, or {name: alpha, alpha: 0.3}; ValueError lists the names."""
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(settings.pop("name", None))
    if name not in TRANSFORMS:
        raise ValueError(f"unknown divergence {name!r}; there are {', '.join(TRANSFORMS)}")
    if settings and (name not in ("alpha", "alpha_paper") or settings.keys() != {"alpha"}):
        raise ValueError(f"divergence {name} does not know {', '.join(settings)}; alpha and alpha_paper know alpha")
    return partial(TRANSFORMS[name], **settings) if settings else TRANSFORMS[name]
