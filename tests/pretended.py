"""A GPU that is none: tensors that say they are on cuda:0, refuse what a GPU would refuse, and compute on the CPU.

No accelerator is needed to find out that two devices are mixed, that a generator is of the other device, or that
autocast for a GPU, whose lists of operations are not the CPU's, hands something on in another dtype. Numbers are real,
so what is computed can be compared with the CPU's. What it cannot do is a backward pass: torch's engine asks the driver
for streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
COPIES = (aten.copy_.default, aten._to_copy.default)  # between devices, as is their purpose
INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)  # a GPU's tensor by the CPU's numbers
STRICT = (aten.cat.default, aten.stack.default)  # of which a single number of the CPU may not be a part either


class Mixed(RuntimeError):
    """What a GPU would have refused."""


class Pretended(Tensor):
    """A tensor of the GPU that is none; its `numbers` are on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        made: Pretended = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=GPU,
        )  # fmt: skip
        made.numbers = inner
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, op: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return computed(op, args, kwargs or {})

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(torch.tensor(key) if isinstance(key, list) else key)  # torch would ask the driver

    def tolist(self) -> Any:
        return self.numbers.tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Pretended({self.numbers})"


class Pretending(TorchDispatchMode):
    """Operations that make tensors on a GPU make these."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(op, args, kwargs or {})


def computed(op: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation's answer, from the CPU, on the device where a GPU would have left it; Mixed if it would not."""
    flat, spec = tree_flatten((args, kwargs))
    there, asked = [each for each in flat if isinstance(each, Pretended)], kwargs.get("device")
    if op not in COPIES:
        refuse(op, flat, there)
    refuse_generator(kwargs.get("generator"), there, asked)
    inner = [each.numbers if isinstance(each, Pretended) else CPU if each == GPU else each for each in flat]
    given, named = tree_unflatten(inner, spec)
    if asked is not None:
        named["device"] = CPU
    answer = op(*given, **named)
    on_gpu = torch.device(asked).type == "cuda" if asked is not None else isinstance(first(flat), Pretended)
    wrapped = {id(each.numbers): each for each in there}  # what is changed in place stays what it is

    def placed(each: Any) -> Any:
        if not isinstance(each, Tensor):
            return each
        return wrapped[id(each)] if id(each) in wrapped else Pretended(each)

    return tree_map(placed, answer) if on_gpu or (there and op not in COPIES and asked is None) else answer


def first(flat: list[Any]) -> Any:
    """The first tensor of these arguments: of a copy, where it goes."""
    return next((each for each in flat if isinstance(each, Tensor)), None)


def refuse(op: Any, flat: list[Any], there: list[Pretended]) -> None:
    """Raise Mixed for tensors of both devices; the CPU's single numbers may go with a GPU's tensors."""
    here = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, Pretended)]
    left = here if op in STRICT else [each for each in here if each.ndim]
    if op in INDEXED and isinstance(flat[0], Pretended):
        left = [each for each in left if each.dtype not in (torch.int64, torch.bool)]
    if there and left:
        shapes = [tuple(each.shape) for each in left]
        raise Mixed(f"{op} is given tensors of the GPU and, of the CPU, {shapes}")


def refuse_generator(generator: torch.Generator | None, there: list[Pretended], asked: Any) -> None:
    """Raise Mixed for numbers drawn on a GPU by the CPU's generator."""
    if generator is not None and generator.device.type == "cpu" and (there or str(asked).startswith("cuda")):
        raise Mixed("a generator of the CPU draws on the GPU")


@contextmanager
def gpu() -> Iterator[torch.device]:
    """Within it there is a GPU; attention is torch's plain one, which is the same wherever it runs."""
    torch._C._ensureCUDADeviceGuardSet()
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # `module.to` puts these in the place of parameters
    there: dict[str, Any] = {
        "is_available": lambda: True, "_lazy_init": lambda: None, "is_bf16_supported": lambda *_: True,
        "get_device_capability": lambda *_: (9, 0),
    }  # fmt: skip
    written = mock.patch.object(torch, "tensor", partial(of_numbers, torch.tensor))
    try:
        with mock.patch.multiple(torch.cuda, **there), written, sdpa_kernel(SDPBackend.MATH), Pretending():  # type: ignore[no-untyped-call]
            yield GPU
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def of_numbers(make: Callable[..., Tensor], data: Any, *, device: Any = None, **given: Any) -> Tensor:
    """torch.tensor, which would ask the driver for a place on the device."""
    made = make(
        tree_map(lambda each: each.item() if isinstance(each, Tensor) and not each.ndim else each, data), **given
    )
    return made if device is None else made.to(device)


def real(value: Tensor) -> Tensor:
    """The numbers of a tensor of either device, on the CPU."""
    detached = value.detach()
    return detached.numbers if isinstance(detached, Pretended) else detached
