"""ImageReward: Xu et al., "ImageReward", 2023 (arXiv 2304.05977); github.com/THUDM/ImageReward.

BLIP's image tower and cross-attending text tower, here transformers' own modules, and a head of five linear layers
without activations, which is one affine map. Its number is normalized to mean 0 and deviation 1 over the authors' data.
Unlike the official code, palettes and alpha become RGB before the resize and not after it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from visalign.images import Picture
from visalign.models import states
from visalign.scoring import Prefers, Sample, Scores, Spec, several

from . import reading
from .affine import Affine, collapsed
from .clip import PathLike, device_of, dtype_of, frozen
from .hf_clip import official, with_positions
from .preprocess import CROPPED, Crop, asked, checked
from .running import full_precision, running

REPO = "THUDM/ImageReward"
FILE = "ImageReward.pt"
BERT = "google-bert/bert-base-uncased"
MEAN, STD = 0.16717362830052426, 1.0333394966054072
CONTEXT = 35
LAYERS = tuple(f"mlp.layers.{number}" for number in (0, 2, 4, 6, 7))
UNUSED = ("blip.vision_proj.", "blip.text_proj.")
VISION = {
    "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "patch_size": 16, "image_size": 224, "layer_norm_eps": 1e-6,
}  # fmt: skip
TEXT = {
    "vocab_size": 30524, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "encoder_hidden_size": 1024, "max_position_embeddings": 512, "layer_norm_eps": 1e-12,
}  # fmt: skip
RENAMED = (
    ("blip.visual_encoder.", "vision."),
    ("blip.text_encoder.", "text."),
    ("vision.cls_token", "vision.embeddings.class_embedding"),
    ("vision.pos_embed", "vision.embeddings.position_embedding"),
    ("vision.patch_embed.proj.", "vision.embeddings.patch_embedding."),
    ("vision.blocks.", "vision.encoder.layers."),
    ("vision.norm.", "vision.post_layernorm."),
    (".attn.qkv.", ".self_attn.qkv."),
    (".attn.proj.", ".self_attn.projection."),
    (".norm1.", ".layer_norm1."),
    (".norm2.", ".layer_norm2."),
)


class ImageReward(Prefers):
    """(raw - 0.167) / 1.033: about -2.3 … 2, higher is better.

    Args:
        weights: the official ImageReward.pt, one that `visalign scorers convert` made of it, or None for the hub's.
        tokenizer: bert-base-uncased, as a folder or a loaded transformers tokenizer; None is the hub's.
        config: other shapes, `{"vision": {...}, "text": {...}}`, of `BlipVisionConfig` and `BlipTextConfig`.
        allow_download: whether the hub may be asked for what is not in its cache.
    """

    def __init__(
        self,
        weights: PathLike | None = None,
        *,
        tokenizer: Any = None,
        config: Mapping[str, Mapping[str, Any]] | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
        allow_download: bool = False,
    ) -> None:
        run = running(device, dtype, batch)
        path = states.located(weights, REPO, FILE, allow_download=allow_download)
        blip, head = parts(states.read(path), str(path))
        self.network, size = empty_blip(config or {})
        states.load_into(self.network, blip, str(path), run.dtype)
        with_positions(frozen(self.network)).to(run.device)
        self.head = head.to(run.device)
        self.tokenizer = read_tokenizer(tokenizer, allow_download)
        self.geometry, self.batch = Crop(size, halves="even"), batch
        self.tokens = reading.Remembered(self._tokens)
        self.spec = replace(self.describe(), preprocessing=CROPPED.format(size))
        self.name = self.spec.name

    @staticmethod
    def describe() -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name="image_reward",
            scale="reward, normalized by the authors' mean and deviation",
            range=(float("-inf"), float("inf")),
            typical=(-2.3, 2.0),
            files=(f"{REPO}: {FILE}",),
            license="Apache-2.0 (code and weights)",
            temperature=1 / STD,  # P(first is better) = sigmoid of the difference of raw rewards
            preprocessing=CROPPED.format(224),
            antialias=True,
            context=CONTEXT,
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; prompts longer than 35 tokens are cut, and counted in `truncated`."""
        device, cut = device_of(self.network), self.tokens.cut
        return reading.scores(samples, self.geometry, self._values, batch=self.batch, device=device, cut=cut)

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) scores of pixels (n, 3, h, w) in [0, 1], with their graph."""
        return self._values(self.geometry.pixels(checked(pixels)), asked(pixels, prompts))

    def _tokens(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool]]:
        """(n, 35) ids, padded, and which prompts were cut."""
        whole = self.tokenizer(prompts, verbose=False)["input_ids"]
        ids = self.tokenizer(
            prompts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt"
        )["input_ids"]  # fmt: skip
        return ids, [len(each) > CONTEXT for each in whole]

    def score_matrix(self, images: Sequence[Picture], prompts: Sequence[str]) -> Tensor:
        """(images, prompts): one pass of the image tower an image, the text tower for each pair."""
        device, texts = device_of(self.network), several(prompts)
        return reading.crossed(images, texts, self.geometry, self._seen, self._met, batch=self.batch, device=device)

    @full_precision()
    def _values(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._met(self._seen(pixels), prompts)

    def _seen(self, pixels: Tensor) -> Tensor:
        """(n, image tokens, d)."""
        seen: Tensor = self.network["vision"](pixel_values=pixels.to(dtype_of(self.network))).last_hidden_state
        return seen

    def _met(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) values of images as `_seen` has them."""
        ids = self.tokens(prompts).to(seen.device)
        told = self.network["text"](
            input_ids=ids,
            attention_mask=(ids != self.tokenizer.pad_token_id).long(),
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones(seen.shape[:2], dtype=torch.long, device=seen.device),
            is_decoder=False,  # all words see all words; cross attention stays
        ).last_hidden_state
        return (self.head(told[:, 0]) - MEAN) / STD  # [CLS]; the [ENC] that BLIP adds is never used


def empty_blip(config: Mapping[str, Mapping[str, Any]]) -> tuple[nn.ModuleDict, int]:
    """`vision` and `text` without memory, to load weights into, and the side of the pictures they read."""
    from transformers import BlipTextConfig, BlipVisionConfig, BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    if unknown := config.keys() - {"vision", "text"}:
        raise ValueError(f"the config has parts vision and text, got {', '.join(sorted(unknown))}")
    vision = BlipVisionConfig(**VISION | dict(config.get("vision", {})))
    text = BlipTextConfig(**TEXT | dict(config.get("text", {})), is_decoder=True)
    with torch.device("meta"):
        towers = {"vision": BlipVisionModel(vision), "text": BlipTextModel(text, add_pooling_layer=False)}
        return nn.ModuleDict(towers), vision.image_size


def parts(state: Mapping[str, Tensor], where: str) -> tuple[dict[str, Tensor], Affine]:
    """An official state dict as the towers' state under transformers' names, and the head as one affine map."""
    head = {name: each for name, each in state.items() if name.startswith("mlp.")}
    towers = {
        renamed(name): each
        for name, each in official(state).items()
        if name not in head and not name.startswith(UNUSED)
    }
    return towers, collapsed(head, LAYERS, where)


def renamed(name: str) -> str:
    """An official name as transformers has it."""
    for theirs, ours in RENAMED:
        name = name.replace(theirs, ours)
    return name


def read_tokenizer(tokenizer: Any, allow_download: bool) -> Any:
    """A loaded tokenizer as it is; one of a folder, or bert-base-uncased of the hub."""
    if tokenizer is not None and not isinstance(tokenizer, str | os.PathLike):
        return tokenizer
    from transformers import AutoTokenizer

    name = BERT if tokenizer is None else str(tokenizer)
    try:
        return AutoTokenizer.from_pretrained(name, local_files_only=not allow_download)
    except (OSError, ValueError) as error:
        mend = "check the name and the network" if allow_download else "give tokenizer=FOLDER, or allow_download=True"
        raise states.WeightsError(f"no tokenizer {name!r} on this machine: {mend} ({type(error).__name__})") from error
