"""The path between pictures and noise: x_t = a(t) x0 + s(t) noise, for DDPM and flow models alike.

A network's answer is also affine, answer = p(t) x0 + q(t) noise, with (p, q) = (0, 1) for epsilon, (-s, a) for v
(Salimans & Ho, arXiv 2202.00512, appendix D), (1, 0) for sample prediction and (-1, 1) for flow matching (Lipman et
al., arXiv 2210.02747). Two linear equations in two unknowns give x0 and noise back, so one `step` is DDIM (Song et
al., arXiv 2010.02502, eq. 12 with eta = 0), DDIM inversion, and flow Euler at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from .batches import moved
from .draws import Draws
from .shifts import Growing, growing

PREDICTIONS = ("epsilon", "v_prediction", "sample")
SPACINGS = ("leading", "trailing", "linspace")
ENDS = ("shifted", "first", "spread", "even")
OTHER_SIGMAS = ("shift_terminal", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "invert_sigmas")


@dataclass(frozen=True)
class Noised:
    """Pictures at a point of the path, and what the network should answer there."""

    x: Tensor  # (b, ...)
    t: Tensor  # (b,) times of the process
    target: Tensor  # (b, ...) in the network's own parameterisation


class Process(Protocol):
    """What samplers and methods may ask of a path. Times are numbers of the process; `network_time` is the
    network's."""

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a(t) and s(t), each broadcastable to `like`, in float32 at least."""

    def times(self, draws: Draws, stream: str = "t") -> Tensor:
        """One training time a record, shape (b,), from the process's training distribution."""

    def grid(self, steps: int) -> Tensor:
        """steps + 1 times from the clean end to the noisy end."""

    def network_time(self, t: Tensor) -> Tensor:
        """What the network is told: diffusers' `timestep` argument."""

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """The point of the path at t, with the network's training target there."""

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The x0 and the noise that a prediction at (x_t, t) implies."""

    def step(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at the time `to`, in either direction, holding the implied x0 and noise fixed."""


def column(values: Tensor, like: Tensor) -> Tensor:
    """(b,) or () numbers shaped to multiply `like` (b, ...), on its device, in float32 at least."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return moved(values.to(dtype), like.device).reshape(-1, *([1] * (like.ndim - 1)))


class Affine:
    """The arithmetic that every affine path shares; a path says `coefficients` and `answer_weights`."""

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def answer_weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) of answer = p x0 + q noise, where the path is at (a, s)."""
        raise NotImplementedError

    def noised(self, x0: Tensor, noise: Tensor, t: Tensor) -> Noised:
        """The point of the path at t (b,) with the network's target there; both in float32 at least."""
        a, s = self.coefficients(t, x0)
        p, q = self.answer_weights(a, s)
        return Noised(a * x0 + s * noise, t, p * x0 + q * noise)

    def split(self, prediction: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The x0 and noise implied by a prediction (b, ...) at x_t: the two linear equations, solved."""
        a, s = self.coefficients(t, x_t)
        p, q = self.answer_weights(a, s)
        scale = a * q - s * p
        return (q * x_t - s * prediction) / scale, (a * prediction - p * x_t) / scale

    def step(self, prediction: Tensor, x_t: Tensor, t: Tensor, to: Tensor) -> Tensor:
        """x at time `to`: DDIM with eta = 0, its inversion, or a flow Euler step, by what the path is."""
        x0, noise = self.split(prediction, x_t, t)
        a, s = self.coefficients(to, x_t)
        return a * x0 + s * noise


@dataclass(frozen=True)
class Ddpm(Affine):
    """A discrete-time variance-preserving path: a = sqrt(abar[t]), s = sqrt(1 - abar[t]), t in 0 … T-1.

    Time -1 is the clean end; its abar is `final`, which diffusers calls `final_alpha_cumprod`: abar[0] when
    `set_alpha_to_one` is false (Stable Diffusion), 1 otherwise.
    """

    alphas_cumprod: Tensor  # (T,) float64
    prediction: str = "epsilon"
    final: float = 1.0
    spacing: str = "leading"
    offset: int = 0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"prediction type {self.prediction!r} is not one of {', '.join(PREDICTIONS)}")
        if self.spacing not in SPACINGS:
            raise ValueError(f"timestep spacing {self.spacing!r} is not one of {', '.join(SPACINGS)}")

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Ddpm:
        """The path that a diffusers scheduler config describes (scheduler/scheduler_config.json)."""
        alphas = torch.cumprod(1.0 - betas(config), dim=0)
        if config.get("rescale_betas_zero_snr", False):
            alphas = zero_terminal_snr(alphas)
        return cls(
            alphas_cumprod=alphas,
            prediction=config.get("prediction_type", "epsilon"),
            final=1.0 if config.get("set_alpha_to_one", True) else float(alphas[0]),
            spacing=config.get("timestep_spacing", "leading"),
            offset=int(config.get("steps_offset", 0)),
        )

    @property
    def length(self) -> int:
        """T, the number of training times."""
        return len(self.alphas_cumprod)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) at integer times in -1 … T-1, looked up and rooted in float64."""
        t = t.reshape(-1).to(device="cpu", dtype=torch.int64)
        if bool((t < -1).any()) or bool((t >= self.length).any()):
            raise ValueError(f"times must lie in -1 … {self.length - 1}, got {t.tolist()}")
        abar = torch.where(t < 0, torch.tensor(self.final, dtype=torch.float64), self.alphas_cumprod[t.clamp(min=0)])
        return column(abar.sqrt(), like), column((1.0 - abar).sqrt(), like)

    def answer_weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(p, q) by the prediction type."""
        zero, one = torch.zeros_like(a), torch.ones_like(a)
        return {"epsilon": (zero, one), "v_prediction": (-s, a), "sample": (one, zero)}[self.prediction]

    def times(self, draws: Draws, stream: str = "t") -> Tensor:
        """Uniform integers in 0 … T-1, one a record."""
        return draws.integers(stream, 0, self.length)

    def grid(self, steps: int) -> Tensor:
        """-1 and then `steps` increasing times, spaced as diffusers' DDIMScheduler.set_timesteps does."""
        if not 1 <= steps <= self.length:
            raise ValueError(f"steps must lie in 1 … {self.length}, got {steps}")
        if self.spacing == "leading":
            levels = torch.arange(steps) * (self.length // steps) + self.offset
        elif self.spacing == "trailing":
            ends = self.length - torch.arange(steps, dtype=torch.float64) * (self.length / steps)
            levels = ends.round().long().flip(0) - 1
        else:
            levels = torch.linspace(0, self.length - 1, steps, dtype=torch.float64).round().long()
        return torch.cat([torch.tensor([-1]), levels.clamp(max=self.length - 1)])

    def network_time(self, t: Tensor) -> Tensor:
        """The integer time itself."""
        return t


@dataclass(frozen=True)
class Flow(Affine):
    """Rectified flow: x_t = (1 - t) x0 + t noise, answer = noise - x0, t in [0, 1].

    `shift` moves training and sampling times towards noise, t -> shift t / (1 + (shift - 1) t) (Esser et al.,
    arXiv 2403.03206, eq. 23); training times are logit-normal(0, 1) before it, or uniform. A shift that depends on the
    size (`Growing`) is the same in training and drawing; until `sized` was told the size there are no times.

    The grid is a line from 1 to where `ends` says, shifted: to the scheduler's first training time, which a fixed shift
    has then moved already ("shifted") and one by size has not ("first"); to one even step above the first time, as the
    multistep solvers of Wan's folders go ("spread"); or to 1 / steps, where a pipeline hands the scheduler a line of
    its own ("even", as FLUX's does).
    """

    shift: float | Growing = 1.0
    timing: str = "logit_normal"
    scale: float = 1000.0  # the network is told t * scale
    ends: str = "shifted"  # where the grid's last step starts, before the shift: one of ENDS

    def __post_init__(self) -> None:
        if self.timing not in ("logit_normal", "uniform"):
            raise ValueError(f"timing {self.timing!r} is not one of logit_normal, uniform")
        if self.ends not in ENDS:
            raise ValueError(f"a flow's grid ends {self.ends!r} is not one of {', '.join(ENDS)}")

    def sized(self, tokens: int) -> Flow:
        """The path for pictures of so many tokens; itself where its shift does not depend on them."""
        return replace(self, shift=self.shift(tokens)) if isinstance(self.shift, Growing) else self

    def shifted(self, t: Tensor) -> Tensor:
        """Times after the shift."""
        if isinstance(self.shift, Growing):
            raise ValueError("the shift of this path depends on the picture's size: take `sized(tokens)` of it")
        return self.shift * t / (1.0 + (self.shift - 1.0) * t)

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 - t and t."""
        t = t.to(torch.float64)
        return column(1.0 - t, like), column(t, like)

    def answer_weights(self, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity: noise - x0."""
        return -torch.ones_like(a), torch.ones_like(a)

    def times(self, draws: Draws, stream: str = "t") -> Tensor:
        """One time a record in (0, 1), float64."""
        if self.timing == "uniform":
            return self.shifted(draws.uniform(stream))
        like = torch.zeros((), dtype=torch.float64)
        return self.shifted(torch.sigmoid(draws.normal(stream, (), like)))

    def grid(self, steps: int) -> Tensor:
        """0 and then `steps` increasing times to 1, as FlowMatchEulerDiscreteScheduler spaces its sigmas."""
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        first = 1.0 / self.scale
        shifted = float(self.shifted(torch.tensor(first, dtype=torch.float64)))
        lowest = {
            "shifted": shifted, "first": first, "spread": first + (1.0 - first) / steps, "even": 1.0 / steps
        }[self.ends]  # fmt: skip
        levels = torch.linspace(lowest, 1.0, steps, dtype=torch.float64) if steps > 1 else torch.ones(1)
        return torch.cat([torch.zeros(1, dtype=torch.float64), self.shifted(levels)])

    def network_time(self, t: Tensor) -> Tensor:
        """t times `scale`, as diffusers' flow models expect."""
        return t * self.scale


def betas(config: Mapping[str, Any]) -> Tensor:
    """The beta schedule of a diffusers scheduler config, in float64."""
    if config.get("trained_betas") is not None:
        return torch.tensor(config["trained_betas"], dtype=torch.float64)
    start, end = config.get("beta_start", 0.0001), config.get("beta_end", 0.02)
    count, schedule = int(config.get("num_train_timesteps", 1000)), config.get("beta_schedule", "linear")
    if schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    if schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    raise ValueError(f"beta schedule {schedule!r} is not one of linear, scaled_linear; give trained_betas instead")


def zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """Rescale the schedule so that the last time is pure noise (Lin et al., arXiv 2305.08891, algorithm 1)."""
    root = alphas_cumprod.sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * (first / (first - last))) ** 2


def from_scheduler(config: Mapping[str, Any]) -> Ddpm | Flow:
    """The path of a diffusers scheduler config: flow if its class or its prediction type says so, DDPM otherwise.

    Wan's folders name a multistep solver of the same path, whose settings have other names. Raises ValueError for a
    flow whose scheduler spaces its sigmas in a way that is not known here.
    """
    scale = float(config.get("num_train_timesteps", 1000))
    if config.get("prediction_type") == "flow_prediction":
        return Flow(shift=float(config.get("flow_shift", 1.0)), scale=scale, ends="spread")
    if "FlowMatch" not in str(config.get("_class_name", "")):
        return Ddpm.from_config(config)
    if unknown := [name for name in OTHER_SIGMAS if config.get(name)]:
        raise ValueError(f"the scheduler's {unknown[0]}={config[unknown[0]]} is not known here; leave it out")
    if config.get("use_dynamic_shifting", False):
        return Flow(growing(config), scale=scale, ends="first")
    return Flow(float(config.get("shift", 1.0)), scale=scale)
