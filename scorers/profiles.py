"""A user's profile as a vision-language model reads it: PPD's embedding (arXiv 2501.06655).

The model is shown a few pairs and asked what the user likes. What is kept is not its words but the hidden states of
every layer at the last decoding step, after it has written its profile: (layers + 1, width), the embedding of the last
input token first. The authors use LLaVA-OneVision 7B, 4 pairs, greedy decoding of at most 1024 tokens: (29, 3584).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from visalign.diffusion.personal import Vote
from visalign.scoring import picture

from .clip import PathLike
from .running import running

OPENING = (
    "Below are pairs of pictures with their captions. Of each pair one and the same person likes one picture better."
)
CLOSING = (
    "Describe every picture. Explain how the liked ones differ from the others in style, quality and beauty. Close "
    "with a user profile: what this person likes and dislikes, whatever the caption."
)


@dataclass(frozen=True)
class Profile:
    """What the model made of a user."""

    embedding: Tensor  # (layers + 1, width) float32
    text: str  # its answer


class ProfileReader:
    """Asks a vision-language model of transformers for a profile of each user, one at a time.

    Args:
        folder: the model's folder, weights in safetensors, with its processor and chat template.
        tokens: of the answer at most. A profile that is cut short still has an embedding, of an unfinished thought.
        dtype: of the weights: fp32, bf16 or fp16.
    """

    def __init__(self, folder: PathLike, *, tokens: int = 1024, dtype: str = "fp32", device: str = "cpu") -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"no vision-language model at {folder}: give the folder of a transformers model")
        if tokens < 1:
            raise ValueError(f"an answer has at least 1 token, got {tokens}")
        run = running(device, dtype)
        self.processor: Any = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self.network: Any = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=run.dtype, use_safetensors=True, local_files_only=True
        )
        self.network.to(run.device).eval().requires_grad_(False)
        self.tokens = tokens

    def read(self, users: Sequence[Sequence[Vote]]) -> list[Tensor]:
        """(layers + 1, width) for each user's votes."""
        return [self.profile(votes).embedding for votes in users]

    @torch.no_grad()
    def profile(self, votes: Sequence[Vote]) -> Profile:
        """What the model says of the user who cast these votes; ties are left out, as they say nothing."""
        cast = [vote for vote in votes if vote.confidence != 0.5]
        if not cast:
            raise ValueError("a profile needs a vote that is no tie")
        shown: list[Image.Image] = [picture(each) for vote in cast for each in (vote.better, vote.worse)]
        text = self.processor.apply_chat_template(asked(cast), add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=[text], images=shown, return_tensors="pt").to(self.network.device)
        answer = self.network.generate(
            **inputs, max_new_tokens=self.tokens, do_sample=False, temperature=None, top_p=None, top_k=None,
            output_hidden_states=True, return_dict_in_generate=True,
        )  # fmt: skip
        layers = [each[0, -1].float().cpu() for each in answer.hidden_states[-1]]
        written = answer.sequences[0, inputs["input_ids"].shape[1] :]
        return Profile(torch.stack(layers), self.processor.decode(written, skip_special_tokens=True))


def asked(votes: Sequence[Vote]) -> list[dict[str, Any]]:
    """The chat: an opening, each pair with its caption and the liked picture first, and what is wanted."""
    content = [said(OPENING)]
    for number, vote in enumerate(votes, start=1):
        content += [said(f"Pair {number}, caption: {vote.better.prompt}\nLiked:"), {"type": "image"}]
        content += [said("Not liked:"), {"type": "image"}]
    return [{"role": "user", "content": [*content, said(CLOSING)]}]


def said(text: str) -> dict[str, str]:
    """A piece of text in a chat."""
    return {"type": "text", "text": text}
