"""Captioners and rewriters over local transformers folders: image-to-text and text-to-text models as they are saved."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ..images import ImageError
from ..scoring import Sample, opened


@dataclass(frozen=True)
class LocalCaptioner:
    """An image-to-text model of transformers (BLIP, LLaVA, Qwen-VL, …) that says what a picture shows, greedily.

    Where the folder has a chat template the instruction is a user's turn with the picture, else it is the beginning of
    the text, which for BLIP may be empty. Pictures go one by one, so that a batch is its members.
    """

    folder: Path
    instruction: str = "Describe this image in one sentence."
    longest: int = 60  # new tokens; CLIP's text encoders read 77 of their own
    device: str = "cpu"

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.folder).name

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoModelForImageTextToText, AutoProcessor

        path = _there(self.folder)
        model = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, use_safetensors=True)
        return AutoProcessor.from_pretrained(path, local_files_only=True), model.eval().to(self.device)

    def caption(self, samples: Sequence[Sample]) -> list[str | None]:
        """A caption of each, None for a picture that cannot be read or of which the model says nothing."""
        return [None if isinstance(each, ImageError) else self._one(each) for each in opened(samples)]

    @torch.no_grad()
    def _one(self, picture: Image.Image) -> str | None:
        processor, model = self._parts
        text = self.instruction
        if getattr(processor, "chat_template", None):
            turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": self.instruction}]}
            text = processor.apply_chat_template([turn], add_generation_prompt=True)
        given = processor(images=picture, text=text or None, return_tensors="pt").to(self.device)
        ids = model.generate(**given, max_new_tokens=self.longest, do_sample=False)
        asked = given["input_ids"].shape[1] if "input_ids" in given else 0
        begun = asked if asked and torch.equal(ids[0, :asked], given["input_ids"][0]) else 0
        return _worded(processor.decode(ids[0, begun:], skip_special_tokens=True))


@dataclass(frozen=True)
class LocalRewriter:
    """A language model of transformers that says a text again, sampled from the top 75 % as DCPO's perturbation is.

    `template` is what it is told, {text} the text. DIPPER, which DCPO uses, is told "lexical = 40, order = 100
    Paraphrase and perturb the following image caption. <sent> {text} </sent>", where 40 is 100 less the diversity.
    """

    folder: Path
    template: str = "Paraphrase and perturb the following image caption. {text}"
    top_p: float = 0.75
    longest: int = 256  # new tokens
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        if "{text}" not in self.template:
            raise ValueError(f"the template has no place for the text, {{text}}: {self.template!r}")

    @property
    def name(self) -> str:
        """The folder's name."""
        return Path(self.folder).name

    @cached_property
    def _parts(self) -> tuple[Any, Any]:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

        path = _there(self.folder)
        pair = bool(AutoConfig.from_pretrained(path, local_files_only=True).is_encoder_decoder)
        kind = AutoModelForSeq2SeqLM if pair else AutoModelForCausalLM
        model = kind.from_pretrained(path, local_files_only=True, use_safetensors=True)
        return AutoTokenizer.from_pretrained(path, local_files_only=True), model.eval().to(self.device)

    def rewrite(self, texts: Sequence[str], keys: Sequence[str]) -> list[str | None]:
        """Each text in other words, None where the model says nothing; one by one, each from a seed of its own."""
        return [self._one(text, key) for text, key in zip(texts, keys, strict=True)]

    @torch.no_grad()
    def _one(self, text: str, key: str) -> str | None:
        tokenizer, model = self._parts
        told = self.template.replace("{text}", text)
        if getattr(tokenizer, "chat_template", None):
            turn = {"role": "user", "content": told}
            told = tokenizer.apply_chat_template([turn], add_generation_prompt=True, tokenize=False)
        given = tokenizer(told, return_tensors="pt").to(self.device)
        with torch.random.fork_rng():  # transformers samples from the global generator alone
            torch.manual_seed(zlib.crc32(f"{self.seed}\n{key}\n{text}".encode()))
            ids = model.generate(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=self.longest,
                do_sample=True, top_p=self.top_p,
            )  # fmt: skip
        begun = 0 if model.config.is_encoder_decoder else given["input_ids"].shape[1]
        return _worded(tokenizer.decode(ids[0, begun:], skip_special_tokens=True))


def _there(folder: Path) -> Path:
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise ValueError(f"no config.json in {path}: give the folder of a transformers model")
    return path


def _worded(text: str) -> str | None:
    """The text on one line; None if there is nothing in it."""
    return " ".join(text.split()) or None
