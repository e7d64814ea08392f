"""What learns: method and model as one module, the optimizer, the average of the weights. One step at a time."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..batches import moved
from ..config import ConfigError, Run
from ..contract import Following, Loss, Method, Reference
from ..draws import generator
from .checkpoint import CheckpointError
from .distributed import Ranks
from .schedule import averaging


class Step(nn.Module):
    """Method and model as one module, so that DDP sees exactly one forward a step.

    A method's own modules (a running average, a learnt threshold) are registered too, so that they are moved and saved.
    """

    def __init__(self, method: Method, model: nn.Module) -> None:
        super().__init__()
        self.method, self.model = method, model
        self.state = nn.ModuleDict({name: part for name, part in vars(method).items() if isinstance(part, nn.Module)})

    def forward(self, batch: Any) -> Loss:
        """The method's loss of one micro-batch."""
        return self.method.loss(batch, self.model)


@runtime_checkable
class Reducing(Protocol):
    """State that must agree over processes: it takes its batch's numbers to their mean through `reduce`."""

    reduce: Callable[[Tensor], Tensor]


@runtime_checkable
class Follower(Protocol):
    """A model whose reference can follow its trained weights."""

    def follower(self) -> Mapping[str, Tensor]:
        """The reference's weights by name; empty if they stay."""

    def follow(self, decay: float) -> None:
        """Take the reference along: decay x itself + (1 - decay) x what is trained."""


@dataclass(frozen=True)
class Measured:
    """A window's numbers on the host: n records over all micro-batches and ranks, rank by rank."""

    loss: NDArray[np.float64]  # (n,)
    weight: NDArray[np.float64]  # (n,)
    metrics: Mapping[str, NDArray[np.float64]]  # name -> (n,)
    norm: float  # of the gradient of the weighted mean, before clipping; NaN or inf as it was found
    asked: bool  # whether any process was asked to stop

    @property
    def total(self) -> float:
        """The sum of the weights."""
        return math.fsum(self.weight)


class Learner:
    """Everything that an optimizer step changes."""

    def __init__(self, run: Run, method: Method, model: nn.Module, ranks: Ranks) -> None:
        self.run, self.ranks = run, ranks
        self.step = Step(method, model).train()
        self.wrapped = ranks.wrap(self.step)
        for part in self.step.state.modules():
            if isinstance(part, Reducing):
                part.reduce = ranks.mean
        self.weights = {name: each for name, each in self.step.named_parameters() if each.requires_grad}
        if not self.weights:
            raise ConfigError("no parameter of the model requires a gradient: there is nothing to train")
        self.average = {name: each.detach().clone() for name, each in self.weights.items()} if run.ema else {}
        self.follower, self.decay = _follower(method, model)
        self.updates = 0
        self.optimizer = torch.optim.AdamW(
            self.weights.values(),
            betas=run.optimizer.betas,
            eps=run.optimizer.eps,
            weight_decay=run.optimizer.weight_decay,
            fused=ranks.device.type in ("cpu", "cuda"),
        )

    def gradient(self, micro_batches: Iterable[tuple[int, Any]], count: int, asked: bool) -> Measured:
        """Forward and backward of a window of `count` micro-batches, each with its place in the run's order.

        Leaves in .grad the gradient of the weighted sum of losses over the constant `run.batch`; `update` puts the sum
        of the weights in its place once it is known. DDP averages over ranks, hence the factor of their count.
        """
        self.optimizer.zero_grad(set_to_none=True)
        scale, tables, names = self.ranks.count / self.run.batch, [], []
        for number, (place, batch) in enumerate(micro_batches, start=1):
            torch.manual_seed(int(generator(self.run.seed, "torch", place, "dropout").integers(2**63)))
            with self.ranks.accumulating(self.wrapped, last=number == count):
                here = moved(batch, self.ranks.device)
                loss = self.wrapped(here)
                each, weight = _weighed(loss, here)
                self.ranks.backward((each * weight).sum() * scale)
            names = sorted(loss.metrics)
            tables.append(torch.stack([each.detach(), weight, *(loss.metrics[name] for name in names)]).double())
        return self._to_host(torch.cat(tables, dim=1), names, asked)

    def _to_host(self, table: Tensor, names: list[str], asked: bool) -> Measured:
        """The step's one transfer: (2 + metrics, n) numbers of this rank, the gradient's norm and the wish to stop."""
        if self.ranks.scaler is not None:
            self.ranks.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(self._gradients()).double()
        extra = torch.stack([norm, torch.full_like(norm, float(asked))])
        gathered = self.ranks.gather(torch.cat([table.flatten(), extra])).cpu().numpy()
        rows = np.concatenate([each.reshape(table.shape) for each in gathered[:, :-2]], axis=1)
        total = math.fsum(rows[1])
        norm_of_mean = float(gathered[0, -2]) * (self.run.batch / total if total else 1.0)
        metrics = dict(zip(names, rows[2:], strict=True))
        return Measured(rows[0], rows[1], metrics, norm_of_mean, bool(gathered[:, -1].any()))

    def update(self, measured: Measured, rate: float) -> bool:
        """Divide by the weights' sum, clip and step; whether weights moved (fp16's scaler leaves overflows out)."""
        clip = self.run.optimizer.clip
        factor = self.run.batch / measured.total
        if clip and measured.norm > clip:
            factor *= clip / measured.norm
        if factor != 1.0:
            torch._foreach_mul_(self._gradients(), factor)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self.ranks.scaler is None:
            self.optimizer.step()
        else:
            self.ranks.scaler.step(self.optimizer)
        moved_on = self.ranks.scaler is None or math.isfinite(measured.norm)
        self.end()
        if moved_on:
            self.updates += 1
            self._average()
        return moved_on

    def end(self) -> None:
        """Close the step, also one without an update: fp16's scale follows what it saw."""
        if self.ranks.scaler is not None:
            self.ranks.scaler.update()

    @torch.no_grad()
    def _average(self) -> None:
        if self.average:
            decay = averaging(self.run.ema, self.updates)
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1.0 - decay)
        if self.follower is not None:
            self.follower.follow(self.decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The model with its averaged weights; with the trained ones again on the way out. Without an EMA, as it is."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        """Trained and averaged weights change places one by one, so that no third copy of all is held."""
        for name, average in self.average.items():
            trained = self.weights[name].clone()
            self.weights[name].copy_(average)
            average.copy_(trained)

    @torch.no_grad()
    def put(self, values: Mapping[str, Tensor]) -> None:
        """Copy values into the weights of these names."""
        for name, value in values.items():
            self.weights[name].copy_(value)

    def _gradients(self) -> list[Tensor]:
        return [each.grad for each in self.weights.values() if each.grad is not None]

    # What a checkpoint holds -----------------------------------------------------------------------------------------

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Trained weights, the method's buffers, the optimizer's moments, the average and a reference that follows."""
        names, moments = list(self.weights), self.optimizer.state_dict()["state"].items()
        optimizer = {f"{names[number]}:{key}": value for number, state in moments for key, value in state.items()}
        files = self._copied() | {"optimizer": optimizer}
        return {file: group for file, group in files.items() if group}

    def load(self, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take a checkpoint's tensors in; CheckpointError if they are of another model."""
        for file, group in self._copied().items():
            _copy_into(group, tensors.get(file, {}), file)
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": self._moments(tensors.get("optimizer", {})), "param_groups": groups})

    def _moments(self, saved: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
        """By the parameter's number, as torch wants them; cloned, because load_state_dict keeps what it is given."""
        numbers = {name: number for number, name in enumerate(self.weights)}
        moments: dict[int, dict[str, Tensor]] = {}
        for full_name, value in saved.items():
            name, _, key = full_name.rpartition(":")
            moments.setdefault(numbers[name], {})[key] = value.clone()
        return moments

    def _copied(self) -> dict[str, dict[str, Tensor]]:
        buffers = dict(self.step.state.named_buffers())
        following = dict(self.follower.follower()) if self.follower is not None else {}
        return {"trainable": {**self.weights}, "buffers": buffers, "ema": self.average, "reference": following}


def _follower(method: Method, model: nn.Module) -> tuple[Follower | None, float]:
    """The model and the decay of its reference, if the method wants one that follows; ConfigError if it cannot."""
    if method.reference is not Reference.EMA:
        return None, 1.0
    if not isinstance(method, Following) or not 0.0 <= method.decay <= 1.0:
        raise ConfigError("a method of Reference.EMA needs a `decay` in 0 … 1")
    if not isinstance(model, Follower) or not model.follower():
        raise ConfigError("the method's reference follows what is trained: make the model with Reference.EMA")
    return model, method.decay


def _weighed(loss: Loss, batch: Any) -> tuple[Tensor, Tensor]:
    """(b,) losses in float32 at least and (b,) weights: the loss's own, or else the batch's."""
    each = loss.each.to(torch.promote_types(loss.each.dtype, torch.float32))
    weight = batch.weight if loss.weight is None else loss.weight
    if each.shape != (len(batch),) or weight.shape != each.shape:
        raise ValueError(
            f"a method gives one loss and one weight a record: got {tuple(each.shape)} losses and "
            f"{tuple(weight.shape)} weights for {len(batch)} records"
        )
    return each, weight.to(each)


@torch.no_grad()
def _copy_into(targets: Mapping[str, Tensor], saved: Mapping[str, Tensor], file: str) -> None:
    differing = {name for name in targets.keys() & saved.keys() if targets[name].shape != saved[name].shape}
    differing |= targets.keys() ^ saved.keys()
    if differing:
        raise CheckpointError(
            f"{file}.safetensors is of another model; it differs in {', '.join(sorted(differing)[:8])}"
        )
    for name, target in targets.items():
        target.copy_(saved[name])
