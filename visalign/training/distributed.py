"""One process or many: what the engine asks of accelerate, and how a run is asked to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from ..config import ConfigError

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # for the main process while it encodes, draws or saves; NCCL's own is ten minutes
ALIKE = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)


class Ranks:
    """The processes of a run. Each holds the whole model (DDP); they differ in the records that they see."""

    def __init__(self, precision: str) -> None:
        """Join the processes that `accelerate launch` or torchrun started. Precision is "no", "bf16" or "fp16"."""
        # accelerate keeps one state a process and refuses a second run in another precision; processes stay joined.
        AcceleratorState._reset_state(reset_partial_state=False)
        # Every rank's buffers move alike, so none need be sent; gradients may live in the buckets that are reduced.
        ddp = DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
        waits = InitProcessGroupKwargs(timeout=PATIENCE)
        self.accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[ddp, waits])
        self.count: int = self.accelerator.num_processes
        self.index: int = self.accelerator.process_index
        self.device: torch.device = self.accelerator.device
        self._refuse(precision)

    @property
    def main(self) -> bool:
        """Whether this process writes files."""
        return self.index == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """The module on its device, under autocast, and under DDP if there are several processes."""
        wrapped: nn.Module = self.accelerator.prepare(module)
        return wrapped

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """What a wrapped module computes under: for what is asked outside it."""
        made: contextlib.AbstractContextManager[Any] = self.accelerator.autocast()
        return made

    def accumulating(self, module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
        """No exchange of gradients but at the last micro-batch of a step."""
        quiet: contextlib.AbstractContextManager[Any] = self.accelerator.no_sync(module)
        return contextlib.nullcontext() if last else quiet

    def backward(self, loss: Tensor) -> None:
        """Backward, through fp16's loss scale if there is one."""
        self.accelerator.backward(loss)

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """fp16's loss scaler."""
        return self.accelerator.scaler  # type: ignore[no-any-return]

    def gather(self, values: Tensor) -> Tensor:
        """The same-shaped (n,) values of every rank, (ranks, n)."""
        gathered: Tensor = self.accelerator.gather(values)
        return gathered.reshape(self.count, *values.shape)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a value over the processes, the same on each: what modules with a `reduce` are given."""
        reduced: Tensor = self.accelerator.reduce(value, reduction="mean")
        return reduced

    def told(self, value: T) -> T:
        """The main process's value, on every process."""
        told: T = broadcast_object_list([value])[0]
        return told

    def wait(self) -> None:
        """Until every process is here."""
        self.accelerator.wait_for_everyone()

    def _refuse(self, precision: str) -> None:
        kind = self.accelerator.distributed_type
        if kind not in ALIKE:
            raise ConfigError(
                f"{kind.value} shards the model, which checkpoints here cannot hold; launch it as MULTI_GPU"
            )
        if self.accelerator.gradient_accumulation_steps != 1:
            raise ConfigError(
                "accelerate was told to accumulate gradients; set batch and micro_batch of the run instead"
            )
        if precision == "fp16" and self.device.type == "cpu":
            raise ConfigError("precision: fp16 needs an accelerator, this is a CPU; use bf16 or no")


class Signals:
    """SIGTERM or Ctrl-C asks the run to finish its step and save; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[Signals]:
        """Listen, if this is the main thread (Python hands signals to no other), and put the handlers back after."""
        listening = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if listening else ()
        before = {number: signal.signal(number, self._ask) for number in numbers}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        signal.signal(number, signal.SIG_DFL)
