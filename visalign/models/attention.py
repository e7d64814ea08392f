"""Which attention kernel runs: asked, probed, answered with the reason, and installed.

xformers' kernels for attention are torch's own (`cutlass` and `fa2` call `aten::_efficient_attention_*` and
`_flash_attention_*`), so it brings compatibility, not speed, over `scaled_dot_product_attention`; `auto` is SDPA.
`unet.set_attention_backend("xformers")` is accepted and silently ignored by diffusers' UNets (0.42.1) and changes a
process-wide default on the way, by which a network elsewhere then fails: we install processors ourselves, tell those
that can be told, and never call it.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CHOICES = ("auto", "sdpa", "xformers", "flash")

Kernel = Callable[[Tensor, Tensor, Tensor], Tensor]  # (b, heads, tokens, width) three times -> the same


class AttentionError(ValueError):
    """The attention that was asked for cannot run, and `strict` was set."""


@dataclass(frozen=True)
class Setting:
    """What attention will be run on: the facts that decide which kernels can serve."""

    device: torch.device
    dtype: torch.dtype
    head_widths: tuple[int, ...]  # width of one head, every value that occurs in the model


@dataclass(frozen=True)
class Resolution:
    """What was asked, what will run, and why: goes into the run's manifest as it is."""

    requested: str
    resolved: str  # "sdpa", "xformers" or "flash"
    reason: str
    refused: dict[str, str]  # candidate -> why it was not taken


def computed_in(precision: str, stored: torch.dtype) -> torch.dtype:
    """What attention is computed in: a run's `precision` "bf16" or "fp16", which autocast takes queries, keys and
    values to whatever the network is stored in, or what it is stored in ("no")."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, stored)


def resolve(requested: str, setting: Setting, *, strict: bool = False) -> Resolution:
    """Choose the kernel before training starts. An explicit choice that cannot run is an error if `strict`."""
    if requested not in CHOICES:
        raise AttentionError(f"attention {requested!r} is not one of {', '.join(CHOICES)}")
    refused = {name: why for name, probe in PROBES.items() if (why := probe(setting)) is not None}
    if requested in ("auto", "sdpa"):
        why = "torch's own kernels; xformers calls the same ones" if requested == "auto" else "asked for"
        return Resolution(requested, "sdpa", why, refused)
    if requested not in refused:
        return Resolution(requested, requested, "asked for; agrees with sdpa forward and backward in a probe", refused)
    return instead(requested, refused, strict=strict)


def instead(requested: str, refused: dict[str, str], *, strict: bool) -> Resolution:
    """SDPA in the place of what was refused, with a warning; AttentionError if `strict`."""
    why = refused[requested]
    if strict:
        raise AttentionError(
            f"attention {requested!r} cannot run here: {why}. Set attention: auto, or strict_attention: false"
        )
    logging.getLogger(__name__).warning("attention %r cannot run here (%s): using sdpa", requested, why)
    return Resolution(requested, "sdpa", f"{requested} refused: {why}", refused)


def refuse_xformers(setting: Setting) -> str | None:
    """Why xformers cannot serve, or None."""
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed"
    if setting.device.type != "cuda":
        return f"xformers has no attention kernel for {setting.device.type}"
    if why := unloaded():
        return why
    if setting.dtype == torch.float32 and torch.cuda.get_device_capability(setting.device) >= (10, 0):
        return "xformers has no float32 kernel beyond sm90; use bf16 or fp16"
    if torch.are_deterministic_algorithms_enabled():
        return "xformers' backward is not deterministic, and deterministic algorithms were asked for"
    return disagreement(xformers_kernel, setting)


def unloaded() -> str | None:
    """Why xformers' own library does not load here, without which it attends on no GPU; None if it does.

    That of 0.0.35 wants CUDA 12's runtime, and torch 2.14 from PyPI brings CUDA 13's alone.
    """
    from xformers import _cpp_lib

    error: BaseException | None = _cpp_lib._cpp_library_load_exception
    if error is None:
        return None
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"xformers' CUDA library does not load: {str(error).strip().splitlines()[0]}"


def refuse_flash(setting: Setting) -> str | None:
    """Why torch's flash kernel cannot serve, or None."""
    if setting.device.type != "cuda":
        return f"the flash kernel is asked for on a GPU, not on {setting.device.type}"
    if setting.dtype not in (torch.float16, torch.bfloat16):
        return f"the flash kernel needs fp16 or bf16, not {setting.dtype}"
    if torch.are_deterministic_algorithms_enabled():
        return "the flash kernel's backward is not deterministic, and deterministic algorithms were asked for"
    return disagreement(flash_kernel, setting)


PROBES: dict[str, Callable[[Setting], str | None]] = {"xformers": refuse_xformers, "flash": refuse_flash}


def disagreement(kernel: Kernel, setting: Setting, tokens: int = 256) -> str | None:
    """Run a kernel and SDPA forward and backward in the real dtype and head widths; None if they agree."""
    for width in setting.head_widths:
        found = []
        for candidate in (functional.scaled_dot_product_attention, kernel):
            generator = torch.Generator("cpu").manual_seed(0)
            inputs = [
                torch.randn(2, 4, tokens, width, generator=generator).to(setting.device, setting.dtype).requires_grad_()
                for _ in range(3)
            ]
            try:
                answer = candidate(*inputs)
                answer.float().square().sum().backward()
            except (RuntimeError, NotImplementedError, ValueError) as error:
                return f"a probe with head width {width} failed: {str(error).strip().splitlines()[0]}"
            found.append([answer.detach().float(), *(one.grad.float() for one in inputs if one.grad is not None)])
        gap = max(float((a - b).abs().max() / a.abs().max()) for a, b in zip(*found, strict=True))
        limit = 1e-4 if setting.dtype == torch.float32 else 5e-2
        if not gap <= limit:
            return (
                f"its answers differ from sdpa's by {gap:.1e} of the largest (limit {limit:.0e}) at head width {width}"
            )
    return None


def xformers_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """xformers' attention on (b, heads, tokens, width)."""
    from xformers.ops import memory_efficient_attention

    swapped = [each.transpose(1, 2) for each in (query, key, value)]
    answer: Tensor = memory_efficient_attention(*swapped).transpose(1, 2)
    return answer


def flash_kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """SDPA restricted to torch's flash kernel."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return functional.scaled_dot_product_attention(query, key, value)


class FlashProcessor:
    """A diffusers processor on torch's SDPA, restricted to the flash kernel."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return self.inner(*args, **kwargs)


def layers(network: nn.Module) -> dict[str, Any]:
    """Every attention layer of a diffusers network, by name: of UNets and Stable Diffusion 3, and of later kinds."""
    from diffusers.models.attention import AttentionModuleMixin
    from diffusers.models.attention_processor import Attention

    return {name: each for name, each in network.named_modules() if isinstance(each, Attention | AttentionModuleMixin)}


def head_widths(network: nn.Module) -> tuple[int, ...]:
    """Every head width of a diffusers network's attention layers."""
    return tuple(sorted({each.inner_dim // each.heads for each in layers(network).values()}))


def install(network: Any, resolution: Resolution) -> None:
    """Give every attention layer of a diffusers network the resolved kernel, and nothing else in the process.

    A processor that can be told its kernel is replaced by one that is told, the others by one on that kernel. Raises
    AttentionError for a layer that cannot have it, or kept what it had.
    """
    fitted = {name: with_kernel(name, each.processor, resolution.resolved) for name, each in layers(network).items()}
    for name, each in layers(network).items():
        each.set_processor(fitted[name])
    if wrong := [name for name, each in layers(network).items() if each.processor is not fitted[name]]:
        raise AttentionError(f"{len(wrong)} attention layers kept another processor, the first {wrong[0]!r}")


def with_kernel(name: str, processor: Any, kernel: str) -> Any:
    """A new processor that does what the layer's own does, on a kernel."""
    from diffusers.models import attention_processor as known

    if hasattr(processor, "_attention_backend"):
        return told(processor, kernel)
    on_xformers: dict[type, type] = {
        known.AttnProcessor2_0: known.XFormersAttnProcessor,
        known.JointAttnProcessor2_0: known.XFormersJointAttnProcessor,
    }
    if type(processor) not in on_xformers:
        raise AttentionError(f"the attention layer {name!r} has a {type(processor).__name__}, which is not known here")
    if kernel == "xformers":
        return on_xformers[type(processor)]()
    return type(processor)() if kernel == "sdpa" else FlashProcessor(type(processor)())


def told(processor: Any, kernel: str) -> Any:
    """A copy of a processor with its own backend, so that no default of the process concerns it, and it changes none.

    What diffusers calls "flash" is another package; torch's flash kernel is "_native_flash".
    """
    from diffusers.models.attention_dispatch import AttentionBackendName

    made = copy.copy(processor)
    made._attention_backend = {
        "sdpa": AttentionBackendName.NATIVE,
        "flash": AttentionBackendName._NATIVE_FLASH,
        "xformers": AttentionBackendName.XFORMERS,
    }[kernel]
    return made
