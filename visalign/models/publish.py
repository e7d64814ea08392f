"""Results as the rest of the world loads them: a diffusers LoRA file or a whole pipeline folder, with a model card."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .denoiser import NetworkDenoiser
from .families import family_of
from .folder import Folder
from .users import Users
from .weights import Lora

LORA_FILE = "pytorch_lora_weights.safetensors"


def publish(model: NetworkDenoiser, folder: Folder, out: Path, facts: Mapping[str, Any]) -> Path:
    """Write the trained weights to `out`, whole or not at all, and return it.

    LoRA runs give what `pipeline.load_lora_weights(out)` reads; full runs a pipeline folder for `from_pretrained(out)`;
    runs on users' tastes the layers that visalign puts beside the base's cross-attention.
    """
    with whole(out) as draft:
        if isinstance(model.weights, Lora):
            save_lora(model.weights, folder, draft)
        elif isinstance(model.weights, Users):
            model.weights.save(draft)
        else:
            whole_pipeline(folder, model.network).save_pretrained(draft, safe_serialization=True)
        (draft / "README.md").write_text(card(model, folder, facts))
    return out


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `out` at the end; nothing is left of it after an error."""
    draft = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    draft.mkdir(parents=True)
    try:
        yield draft
        if out.exists():
            shutil.rmtree(out)
        os.replace(draft, out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def merged(base: Folder, lora: Path, out: Path) -> Path:
    """The base with published adapters in its weights, as a pipeline folder at `out`, written whole or not at all."""
    if (out / "model_index.json").is_file():
        return out
    network = base.network()
    attach_lora(network, lora)
    network.fuse_lora()
    network.unload_lora()
    with whole(out) as draft:
        whole_pipeline(base, network).save_pretrained(draft, safe_serialization=True)
    return out


def whole_pipeline(folder: Folder, network: Any) -> Any:
    """The folder's diffusers pipeline with this network in the place of its own."""
    return folder.pipeline(**{folder.family.part: network}, **absent_parts(folder))


def absent_parts(folder: Folder) -> dict[str, None]:
    """Optional parts that the index leaves empty, said so that diffusers does not look for them."""
    index = json.loads((folder.path / "model_index.json").read_text())
    return {name: None for name, entry in index.items() if isinstance(entry, list) and entry == [None, None]}


def save_lora(weights: Lora, folder: Folder, out: Path) -> None:
    """The adapters in diffusers' own format, with the rank and alpha in the file's metadata."""
    import diffusers

    kind, part = getattr(diffusers, folder.pipeline_class), folder.family.part
    metadata = {
        "r": weights.config.r,
        "lora_alpha": weights.config.lora_alpha,
        "target_modules": sorted(weights.config.target_modules),
    }
    layers = {f"{part}_lora_layers": weights.adapters(), f"{part}_lora_adapter_metadata": metadata}
    kind.save_lora_weights(out, safe_serialization=True, **layers)


def card(model: NetworkDenoiser, folder: Folder, facts: Mapping[str, Any]) -> str:
    """The model card: what this is, what it was made from and how, and the lines that load it."""
    what, tag, load = how_to_load(model, folder)
    return page("diffusers", f"preference-alignment{tag}", f"{what} `{folder.path.name}`.", facts, load)


def page(library: str, tags: str, what: str, facts: Mapping[str, Any], load: Sequence[str]) -> str:
    """A model card's text: a sentence, a table of facts, and the lines that load the weights."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return "\n".join([
        "---", f"library_name: {library}", f"tags: [visalign, {tags}]", "---",
        f"# {facts.get('name', 'A model aligned with visalign')}", "", what, "",
        "| setting | value |", "|---|---|", rows, "", *load, "",
    ])  # fmt: skip


def how_to_load(model: NetworkDenoiser, folder: Folder) -> tuple[str, str, list[str]]:
    """What the weights are, the card's tag for it, and the lines that load them."""
    if isinstance(model.weights, Users):
        tokens, width = model.weights.shape.tokens, model.weights.shape.width
        lines = [
            f"Draws by the taste of a user whose embedding, ({tokens}, {width}) numbers, is in a safetensors file:", "",
            "```sh", 'visalign generate "BASE+HERE,user=NAME,users=FILE" --prompts PROMPTS.txt',
            'visalign generate "BASE+HERE,user=0.3*NAME+0.7*OTHER,users=FILE,user_guidance=1.5" --prompts PROMPTS.txt',
            "```",
        ]  # fmt: skip
        return "Cross-attention to users (PPD), beside the frozen network of", ", personalised", lines
    lora = isinstance(model.weights, Lora)
    load = f"pipe = {folder.pipeline_class}.from_pretrained({'BASE' if lora else 'HERE'!r})"
    code = ["```python", f"from diffusers import {folder.pipeline_class}", load]
    if lora:
        return "LoRA weights for", ", lora", [*code, 'pipe.load_lora_weights("HERE")', "```"]
    return "A full pipeline, made from", "", [*code, "```"]


def attach_lora(network: Any, path: Path, name: str | None = None) -> None:
    """Load a published LoRA into a network for drawing, as the adapter `name` (diffusers' own choice if None).

    Raises FileNotFoundError with the mend if there is none.
    """
    file = path / LORA_FILE if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no LoRA at {path}: give a folder that holds {LORA_FILE}, or the file itself")
    import diffusers

    family = family_of(network)
    pipeline = getattr(diffusers, family.pipeline)
    # Some pipelines give the alphas beside the state, some look for them in the metadata, some ask for them anyway.
    state, *alphas, metadata = pipeline.lora_state_dict(file, return_lora_metadata=True, local_files_only=True)
    load = getattr(pipeline, f"load_lora_into_{family.part}")
    wanted = {"network_alphas": alphas[0] if alphas else None, "adapter_name": name, "metadata": metadata}
    known = inspect.signature(load).parameters
    load(state, **{family.part: network}, **{key: each for key, each in wanted.items() if key in known})
