"""CLIP-FlanT5: a CLIP eye before a T5 (arXiv 2404.01291, section 4); github.com/linzhiqiu/CLIP-FlanT5.

Two oddities of the released code are part of what the weights have learned: the chat is tokenized in two pieces, so an
end of sequence stands before the picture too; and the picture is padded to a square with the mean colour.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from visalign.models import states

from . import vlm
from .clip import device_of, dtype_of, frozen
from .hf_clip import with_positions
from .image_reward import read_tokenizer
from .preprocess import MEAN, Crop
from .running import Running

HUMAN, PICTURE, BOT = "USER", "<image>", "ASSISTANT"  # of the Vicuna chat, which the weights were tuned in
OPENING = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
EYE: dict[str, Any] = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "image_size": 336, "patch_size": 14, "hidden_act": "quick_gelu",
}  # fmt: skip
LAYER = -2  # of the eye's hidden states
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # other names of shared.weight


class ClipT5:
    """CLIP-FlanT5 of a folder: config.json (with the eye's shape in "vision_config" where it is not ViT-L/14 at 336)
    and weights under the released names, in one file or several.
    """

    def __init__(self, folder: Path, tokenizer: Any, run: Running) -> None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = read_tokenizer(folder if tokenizer is None else tokenizer, False)
        self.network: Any = empty(config)
        states.load_into(self.network, renamed(vlm.gathered(folder)), str(folder), run.dtype)
        with_positions(frozen(self.network)).to(run.device)
        self.crop = Crop(int(config.get("vision_config", EYE)["image_size"]))

    def clean(self, prompt: str) -> str:
        """The prompt itself; raises Unjudged if it holds a token that means something to the model."""
        if PICTURE in prompt:
            raise vlm.Unjudged(f"the prompt holds {PICTURE}, which stands for the picture")
        return vlm.plain(prompt, self.tokenizer)

    def logprobs(self, pictures: Sequence[Image.Image], questions: Sequence[str], answer: str, *, end: bool) -> Tensor:
        """(n, tokens) log-probability of each token of the answer, with that of the end after it where asked."""
        pixels = torch.stack([self.crop.image(square(each)) for each in pictures])
        seen = self.look(pixels.to(device_of(self.network), dtype_of(self.network)))
        rows = [self._row(*each) for each in zip(seen, questions, strict=True)]
        lengths = torch.tensor([len(each) for each in rows], device=seen.device)
        inputs = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.arange(inputs.shape[1], device=seen.device) < lengths[:, None]
        text, wanted = self.network["t5"], self._answer(answer, end).to(seen.device).expand(len(rows), -1)
        fed = torch.cat([torch.full_like(wanted[:, :1], text.config.decoder_start_token_id), wanted[:, :-1]], -1)
        logits = text(inputs_embeds=inputs, attention_mask=mask.long(), decoder_input_ids=fed).logits
        told: Tensor = logits.float().log_softmax(-1)
        return told.gather(-1, wanted[..., None])[..., 0]

    def look(self, pixels: Tensor) -> Tensor:
        """(n, patches, width of T5) of (n, 3, size, size) normalized: without the eye's class token."""
        layers = self.network["vision"](pixel_values=pixels, output_hidden_states=True).hidden_states
        found: Tensor = self.network["projector"](layers[LAYER][:, 1:])
        return found

    def _row(self, seen: Tensor, question: str) -> Tensor:
        before = self._embedded(f"{OPENING} {HUMAN}: ")
        after = self._embedded(f"\n{question} {BOT}: ")
        return torch.cat([before, seen, after])

    def _embedded(self, text: str) -> Tensor:
        """(tokens, width), an end of sequence after them."""
        ids = torch.tensor(self.tokenizer(text)["input_ids"], device=device_of(self.network))
        found: Tensor = self.network["t5"].get_input_embeddings()(ids)
        return found

    def _answer(self, answer: str, end: bool) -> Tensor:
        ids = torch.tensor(self.tokenizer(answer)["input_ids"])
        if len(ids) < 2 or int(ids[-1]) != self.tokenizer.eos_token_id:
            raise ValueError("the tokenizer puts no end of sequence after a text, as T5's does: give tokenizer=FOLDER")
        return ids if end else ids[:-1]


def square(image: Image.Image) -> Image.Image:
    """Centred on a square of CLIP's mean colour, rounded down."""
    side = max(image.size)
    whole = Image.new("RGB", (side, side), tuple(int(255 * each) for each in MEAN))
    whole.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return whole


def empty(config: Mapping[str, Any]) -> nn.ModuleDict:
    """`t5`, `vision` and `projector` without memory, to load weights into."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

    vision = CLIPVisionConfig(**config.get("vision_config", EYE))
    text = T5Config(**{name: each for name, each in config.items() if name not in ("model_type", "vision_config")})
    with torch.device("meta"):
        towers = {"vision": CLIPVisionModel(vision), "t5": T5ForConditionalGeneration(text)}
        layers = nn.Linear(vision.hidden_size, text.d_model), nn.GELU(), nn.Linear(text.d_model, text.d_model)
        return nn.ModuleDict(towers | {"projector": nn.Sequential(*layers)})


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A released state dict under the names of `empty`, with every name of the one table of embeddings."""
    if "shared.weight" not in state:
        raise states.WeightsError("these are no weights of CLIP-FlanT5: there is no shared.weight")
    shared = {f"t5.{name}": state["shared.weight"] for name in TIED}
    kept = {_new(name): each for name, each in state.items() if name not in (*TIED, "embed_tokens.weight")}
    return {name: each for name, each in kept.items() if not name.endswith("position_ids")} | shared


def _new(name: str) -> str:
    if name.startswith("mm_projector."):
        return name.replace("mm_projector.", "projector.", 1)
    if name.startswith("vision_tower."):
        return (
            f"vision.{name.removeprefix('vision_tower.').removeprefix('vision_tower.').removeprefix('vision_model.')}"
        )
    return f"t5.{name}"
