"""State dicts of files that others made: found or downloaded, read without running what is in them, loaded strictly.

Safetensors, or pickles under torch's restricted unpickler (`weights_only=True`). Files that hold a whole pickled module
instead of a state dict are refused by `read`; `convert` takes the tensors out of them without importing a class.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, Tensor]
NESTS = ("state_dict", "model_state_dict", "module", "model")  # where training scripts put a state dict
SHOWN = 4  # names in a message


class WeightsError(ValueError):
    """A file of weights is missing, cannot be read, or does not fit; says the mend."""


def located(weights: str | os.PathLike[str] | None, repo: str, file: str, *, allow_download: bool = False) -> Path:
    """The file or folder `weights`; if None, the hub's `file` of `repo`: cached or, if allowed, downloaded."""
    if weights is not None:
        path = Path(weights).expanduser()
        if not path.exists():
            raise WeightsError(f"no weights at {path}: give the official file ({file} of {repo}) or a converted one")
        return path
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repo, file, local_files_only=not allow_download))
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        mend = "check the network" if allow_download else "give weights=PATH, or allow_download=True"
        raise WeightsError(f"{file} of {repo} is not on this machine: {mend} ({type(error).__name__})") from error


def read(path: Path) -> State:
    """The tensors of a file by name, unwrapped from what training scripts put around them, on the CPU."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} is not a whole safetensors file ({error})") from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged archive raises whatever it leads to
        raise WeightsError(
            f"{path} cannot be read as plain tensors ({type(error).__name__}): if it holds a pickled module, "
            f"make a safetensors file of it with `visalign scorers convert {path} OUT.safetensors`"
        ) from error
    return unwrapped(found, str(path))


def unwrapped(found: Any, where: str) -> State:
    """The tensors in a loaded object, without the nests of training scripts and the prefix of DataParallel."""
    while isinstance(found, Mapping) and (nest := next((key for key in NESTS if _holds_more(found, key)), None)):
        found = found[nest]
    if not isinstance(found, Mapping):
        raise WeightsError(f"{where} holds a {type(found).__name__} and no state dict")
    tensors = {str(name).removeprefix("module."): each for name, each in found.items() if isinstance(each, Tensor)}
    if not tensors:
        raise WeightsError(f"{where} holds no tensors but {', '.join(map(str, list(found)[:SHOWN]))}")
    return tensors


def _holds_more(found: Mapping[Any, Any], key: str) -> bool:
    return isinstance(found.get(key), Mapping)


def load_into(module: nn.Module, state: Mapping[str, Tensor], where: str, dtype: torch.dtype = torch.float32) -> None:
    """Load strictly, in `dtype`, also into a module on the meta device; WeightsError names what does not fit."""
    known = module.state_dict()
    missing, foreign = known.keys() - state.keys(), state.keys() - known.keys()
    if missing or foreign:
        raise WeightsError(f"{where} does not fit: it lacks {_some(missing)}, and has {_some(foreign)} too many")
    if wrong := [name for name, each in known.items() if each.shape != state[name].shape]:
        ours, theirs = tuple(known[wrong[0]].shape), tuple(state[wrong[0]].shape)
        raise WeightsError(f"{where} does not fit: {wrong[0]} should be {ours} and is {theirs}")
    given = {name: each.to(dtype) if each.is_floating_point() else each for name, each in state.items()}
    module.load_state_dict(given, assign=True)


def _some(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:SHOWN])
    return f"{len(names)} tensors ({shown}{', …' if len(names) > SHOWN else ''})" if names else "nothing"


class Inert:
    """Stands for any class of a pickled module: it keeps what it is given and does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        vars(self).update(state if isinstance(state, dict) else {})


def convert(source: Path, target: Path) -> State:
    """Write the tensors of an official file as safetensors; no class that a pickle names is imported or run.

    Returns what was written. Tensors that share memory are written apart. Raises WeightsError.
    """
    from safetensors.torch import save_file

    if not source.is_file():
        raise WeightsError(f"no such file: {source}")
    if target.suffix != ".safetensors":
        raise WeightsError(f"{target} should end in .safetensors")
    state = read(source) if source.suffix == ".safetensors" else _out_of_pickle(source)
    written = {name: each.detach().clone().contiguous() for name, each in state.items()}
    draft = target.with_name(f".{target.name}.tmp")
    try:
        save_file(written, draft)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
    return written


def _out_of_pickle(path: Path) -> State:
    """The state dict of a pickle, or of the module in it with every unknown class replaced by Inert."""
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        stands: list[Any] = [(type("Inert", (Inert,), {}), name) for name in unknown]
        with torch.serialization.safe_globals(stands):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} cannot be read without running it ({type(error).__name__}: {error})") from error
    return dict(_tensors(found)) if isinstance(found, Inert) else unwrapped(found, str(path))


def _tensors(module: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers of an inert module, by their names in a state dict."""
    inside = vars(module)
    passing = inside.get("_non_persistent_buffers_set", set())
    for kind in ("_parameters", "_buffers"):
        for name, each in (inside.get(kind) or {}).items():
            if isinstance(each, Tensor) and name not in passing:
                yield f"{prefix}{name}", each
    for name, child in (inside.get("_modules") or {}).items():
        if child is not None:
            yield from _tensors(child, f"{prefix}{name}.")
