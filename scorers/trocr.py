"""TrOCR: Li et al., "TrOCR", 2021 (arXiv 2109.10282): an image encoder and a text decoder that reads one line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from .clip import PathLike
from .ocr import Read, Word
from .running import running

TOKENS = 64  # of a line, at most


class TrOCR:
    """Reads each picture as one line of text, one picture at a time; its confidence is the mean one of the tokens.

    It finds no lines: a picture with text in several places wants a reader that does.

    Args:
        folder: of a `VisionEncoderDecoderModel`, weights in safetensors, with its image processor and tokenizer.
    """

    def __init__(self, folder: PathLike, *, tokens: int = TOKENS, device: str = "cpu", dtype: str = "fp32") -> None:
        import transformers

        self.folder, self.tokens = Path(folder).expanduser(), tokens
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"no text reader at {folder}: give the folder of a VisionEncoderDecoderModel")
        run = running(device, dtype)
        if tokens < 1:
            raise ValueError(f"tokens are at least 1, got {tokens}")
        self.images: Any = transformers.AutoImageProcessor.from_pretrained(self.folder, local_files_only=True)
        self.words: Any = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        self.network: Any = transformers.VisionEncoderDecoderModel.from_pretrained(
            self.folder, dtype=run.dtype, use_safetensors=True, local_files_only=True
        )
        self.network.to(run.device).eval().requires_grad_(False)

    def read(self, images: Sequence[Image.Image]) -> list[Read]:
        """The line of each picture, its box the whole picture; nothing where the line is empty."""
        return [self._line(each) for each in images]

    @torch.no_grad()
    def _line(self, image: Image.Image) -> list[Word]:
        pixels = self.images(images=image, return_tensors="pt")["pixel_values"]
        made = self.network.generate(
            pixels.to(self.network.device, self.network.dtype), do_sample=False, num_beams=1,
            max_new_tokens=self.tokens, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        text = self.words.decode(made.sequences[0], skip_special_tokens=True).strip()
        sure = torch.stack([each[0].float().softmax(-1).max() for each in made.logits]).mean()
        return [Word(text, (0.0, 0.0, float(image.width), float(image.height)), float(sure))] if text else []
