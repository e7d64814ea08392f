"""CLIP as transformers has it: towers for PickScore, CLIPScore, the aesthetic predictors and MPS.

Its tokenizer is made of the word list that open_clip carries, so a file of weights is all that must be on the machine.
It differs from open_clip's in that HTML entities ("&amp;") stay as they are written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from visalign.models import states

from .clip import PathLike, Tokenizer, device_of, dtype_of, exp_scale, unit_vectors

FILES = ("model.safetensors", "pytorch_model.bin")  # of a model folder, in order of preference


def _shape(patch: int, wide: int, deep: int, text: int, text_deep: int, joint: int, activation: str) -> dict[str, Any]:
    """The configuration of a CLIP with heads of 64 (80 in ViT-H) and layers four times as wide inside."""
    heads = 16 if wide >= 1024 else wide // 64
    return {
        "projection_dim": joint,
        "vision_config": {
            "hidden_size": wide, "intermediate_size": 4 * wide, "num_hidden_layers": deep, "num_attention_heads": heads,
            "image_size": 224, "patch_size": patch, "projection_dim": joint, "hidden_act": activation,
        },
        "text_config": {
            "hidden_size": text, "intermediate_size": 4 * text, "num_hidden_layers": text_deep,
            "num_attention_heads": text // 64, "projection_dim": joint, "hidden_act": activation,
            "eos_token_id": 49407, "bos_token_id": 49406, "pad_token_id": 49407,
        },
    }  # fmt: skip


SHAPES = {
    "ViT-B-32": _shape(32, 768, 12, 512, 12, 512, "quick_gelu"),
    "ViT-B-16": _shape(16, 768, 12, 512, 12, 512, "quick_gelu"),
    "ViT-L-14": _shape(14, 1024, 24, 768, 12, 768, "quick_gelu"),
    "ViT-H-14": _shape(14, 1280, 32, 1024, 24, 1024, "gelu"),
}


class HfClip:
    """A `transformers.CLIPModel`.

    Args:
        network: the model.
        tokenizer: prompts to ids, cut to the context; None is CLIP's own. One of one's own cannot say what it cut.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer | None = None) -> None:
        self.network, self.tokenizer = network, tokenizer
        self.context = int(network.config.text_config.max_position_embeddings)

    def images(self, pixels: Tensor) -> Tensor:
        """(n, d) unit vectors."""
        pooled = self.network.vision_model(pixel_values=pixels.to(dtype_of(self.network))).pooler_output
        return unit_vectors(self.network.visual_projection(pooled))

    def texts(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool | None]]:
        """(n, d) unit vectors, and which prompts were cut. What follows the end mark is not seen: no padding mask."""
        ids, cut = self.tokens(prompts)
        pooled = self.network.text_model(input_ids=ids).pooler_output
        return unit_vectors(self.network.text_projection(pooled)), cut

    def tokens(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool | None]]:
        """(n, context) ids on the network's device, padded with the end mark, and which prompts were cut."""
        if self.tokenizer is not None:
            return self.tokenizer(prompts).to(device_of(self.network)), [None] * len(prompts)
        reader = clip_tokenizer()
        whole = reader(prompts, verbose=False)["input_ids"]
        kept = [ids[: self.context - 1] + [reader.eos_token_id] * max(1, self.context - len(ids)) for ids in whole]
        ids = torch.tensor([each[: self.context] for each in kept], device=device_of(self.network))
        return ids, [len(each) > self.context for each in whole]

    def scale(self) -> Tensor:
        """exp(logit_scale)."""
        return exp_scale(self.network)


@cache
def clip_tokenizer() -> Any:
    """transformers' CLIP tokenizer, of the vocabulary and merges that open_clip ships."""
    from open_clip import SimpleTokenizer
    from transformers import CLIPTokenizer

    words = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {marks.get(word, word): number for word, number in words.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(words.bpe_ranks))


def hf_clip_network(
    weights: Path, config: str | Mapping[str, Any] | PathLike, dtype: torch.dtype, prefix: str = ""
) -> Any:
    """A `transformers.CLIPModel` with the weights of a file or of a model folder, loaded strictly.

    `config` is one of SHAPES, a mapping of `CLIPConfig`'s arguments, or a config.json; a folder's own goes first.
    """
    folder = weights / "config.json"
    network = empty_clip(folder if folder.is_file() else config)
    file = weights_file(weights)
    states.load_into(network, official(states.read(file)), str(file), dtype)
    return with_positions(network)


def empty_clip(config: str | Mapping[str, Any] | PathLike) -> Any:
    """A `transformers.CLIPModel` without memory, to load weights into."""
    from transformers import CLIPConfig, CLIPModel

    with torch.device("meta"):
        return CLIPModel(CLIPConfig(**clip_config(config)))


def clip_config(config: str | Mapping[str, Any] | PathLike) -> dict[str, Any]:
    """The arguments of `CLIPConfig`."""
    if isinstance(config, Mapping):
        return dict(config)
    if str(config) in SHAPES:
        return SHAPES[str(config)]
    if not Path(config).is_file():
        raise ValueError(
            f"no CLIP is named {str(config)!r}; known are {', '.join(SHAPES)}, mappings and config.json files"
        )
    return dict(json.loads(Path(config).read_text(encoding="utf-8")))


def weights_file(path: Path) -> Path:
    """The file itself, or the one of a model folder."""
    if not path.is_dir():
        return path
    found = next((path / name for name in FILES if (path / name).is_file()), None)
    if found is None:
        raise states.WeightsError(f"{path} holds none of {', '.join(FILES)}")
    return found


def official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the counted positions that older releases of transformers saved."""
    return {name: each for name, each in state.items() if not name.endswith("position_ids")}


def with_positions(network: nn.Module) -> nn.Module:
    """The network with its counted positions, the one buffer that files do not hold."""
    for module in network.modules():
        positions = getattr(module, "position_ids", None)
        if isinstance(positions, Tensor) and positions.is_meta:
            module.position_ids = torch.arange(positions.shape[-1])[None]
    return network
