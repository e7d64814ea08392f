"""Results of models that see as the rest of the world loads them: PEFT's folder or transformers', and a model card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .mllm import SeeingModel
from .publish import page, whole
from .weights import Lora

if TYPE_CHECKING:
    from .seeing import SeeingFolder


def publish(model: SeeingModel, folder: SeeingFolder, out: Path, facts: Mapping[str, Any]) -> Path:
    """Write the trained weights to `out`, whole or not at all, with the processor, and return it.

    LoRA runs give adapters that PEFT, transformers' `load_adapter(out)` and `open_model(out)` read, which name the
    model that they belong to; full runs a folder for `from_pretrained(out)`.
    """
    with whole(out) as draft:
        if isinstance(model.weights, Lora):
            model.weights.save(draft, folder.name)
        else:
            model.network.save_pretrained(draft)
        folder.reader().processor.save_pretrained(draft)
        (draft / "README.md").write_text(card(model, folder, facts))
    return out


def card(model: SeeingModel, folder: SeeingFolder, facts: Mapping[str, Any]) -> str:
    """The model card: what this is, what it was made from and how, and the lines that load it."""
    lora = isinstance(model.weights, Lora)
    kind = "AutoModelForImageTextToText"
    code = [
        "```python", f"from transformers import {kind}, AutoProcessor",
        f"model = {kind}.from_pretrained({'BASE' if lora else 'HERE'!r})",
        *(['model.load_adapter("HERE")'] if lora else []), 'processor = AutoProcessor.from_pretrained("HERE")', "```",
    ]  # fmt: skip
    what = f"{'LoRA weights for' if lora else 'A full model, made from'} `{folder.path.name}`."
    return page("transformers", f"preference-alignment{', lora' if lora else ''}", what, facts, code)
