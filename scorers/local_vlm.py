"""A backend on this machine: an image-text-to-text model of transformers, in a folder of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .chat import Answer, Question, Sampling, Token
from .clip import PathLike
from .running import running

BLOCK = 2**20  # bytes


class LocalVLM:
    """Answers one question at a time, so that an answer does not depend on its neighbours.

    Args:
        folder: the model's folder, weights in safetensors, with its processor and chat template.
        dtype: of the weights: fp32, bf16 or fp16.
    """

    def __init__(self, folder: PathLike, *, dtype: str = "fp32", device: str = "cpu") -> None:
        import transformers

        self.folder = Path(folder).expanduser()
        if not (self.folder / "config.json").is_file():
            raise ValueError(f"no vision-language model at {folder}: give the folder of a transformers model")
        run = running(device, dtype)
        self.processor: Any = transformers.AutoProcessor.from_pretrained(self.folder, local_files_only=True)
        self.network: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            self.folder, dtype=run.dtype, use_safetensors=True, local_files_only=True
        )
        self.network.to(run.device).eval().requires_grad_(False)
        self.identity: Mapping[str, Any] = {
            "kind": "local", "model": self.folder.name, "files": digest(self.folder), "dtype": dtype,
            "device": run.device.type, "transformers": transformers.__version__, "torch": torch.__version__,
        }  # fmt: skip

    def chat(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answers in order. A question that does not fit the model is that question's failure."""
        for place, question in enumerate(questions):
            yield place, self._answer(question, sampling)

    def _answer(self, question: Question, sampling: Sampling) -> Answer:
        marks = self.processor.tokenizer.all_special_tokens
        texts = [each for each in question.parts if isinstance(each, str)]
        if held := next((mark for mark in marks for text in texts if mark in text), None):
            return Answer(failure=f"the text holds {held!r}, a mark of the model's own")  # it would be taken for one
        try:
            inputs = self._inputs(question)
        except ValueError as error:
            return Answer(failure=f"the question does not fit the model: {error}")
        return self._written(inputs, sampling)

    @torch.no_grad()
    def _written(self, inputs: Any, sampling: Sampling) -> Answer:
        drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_p": None, "top_k": None, "num_beams": 1}
        if sampling.temperature:
            drawn |= {"do_sample": True, "temperature": sampling.temperature}
        with torch.random.fork_rng(devices=self._cards()):
            torch.manual_seed(sampling.seed)
            made = self.network.generate(
                **inputs, **drawn, max_new_tokens=sampling.tokens, output_logits=sampling.top_logprobs > 0,
                return_dict_in_generate=True,
            )  # fmt: skip
        written = made.sequences[0, inputs["input_ids"].shape[1] :]
        logits = [each[0] for each in made.logits] if sampling.top_logprobs else []
        kept = [step for step in range(len(written)) if int(written[step]) not in self._ends()]
        tokens = tuple(self._token(written[step], logits[step], sampling.top_logprobs) for step in kept if logits)
        text = self.processor.decode(written, skip_special_tokens=True)
        return Answer(text, tokens, cut=len(kept) == sampling.tokens)

    def text(self, question: Question) -> str:
        """The question in the model's own chat template."""
        content = [
            {"type": "text", "text": each} if isinstance(each, str) else {"type": "image"} for each in question.parts
        ]
        chat = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    def _inputs(self, question: Question) -> Any:
        shown = [Image.open(BytesIO(each)) for each in question.parts if isinstance(each, bytes)]
        made = self.processor(text=[self.text(question)], images=shown or None, return_tensors="pt")
        return made.to(self.network.device)

    def _token(self, chosen: Tensor, logits: Tensor, count: int) -> Token:
        chances = logits.float().log_softmax(-1)  # of the model itself: before temperature
        values, ids = chances.topk(min(count, len(chances)))
        top: dict[str, float] = {}
        for each, value in zip(ids.tolist(), values.tolist(), strict=True):
            top.setdefault(self.processor.decode([each]), value)  # ids that read alike: the likelier one
        text = self.processor.decode([int(chosen)])
        return Token(text, {text: float(chances[chosen])} | top)

    def _ends(self) -> set[int]:
        ends = self.network.generation_config.eos_token_id
        return set(ends) if isinstance(ends, list) else {ends}

    def _cards(self) -> list[torch.device]:
        device = torch.device(self.network.device)
        return [device] if device.type == "cuda" else []


def digest(folder: Path) -> str:
    """sha256 of everything in a model's folder that answers depend on: weights, settings, tokenizer, templates."""
    found = hashlib.sha256()
    for file in sorted(each for each in folder.iterdir() if each.suffix in (".safetensors", ".json", ".jinja", ".txt")):
        found.update(file.name.encode() + b"\0")
        with file.open("rb") as content:
            while block := content.read(BLOCK):
                found.update(block)
    return found.hexdigest()
