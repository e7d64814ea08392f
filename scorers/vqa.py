"""VQAScore: Lin et al., 2024 (arXiv 2404.01291); github.com/linzhiqiu/t2v_metrics.

The probability that a model which answers questions about pictures says "Yes" to "Does this figure show …?". The model
is the authors' CLIP-FlanT5, or any image-text-to-text model of transformers that decodes from one sequence (LLaVA,
Qwen2-VL, Qwen2.5-VL, PaliGemma, …); of encoder-decoders CLIP-FlanT5 is the only one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from PIL import Image
from torch import Tensor

from visalign.scoring import Prefers, Sample, Scores, Spec, picture

from . import vlm
from .clip import PathLike, device_of, frozen
from .running import Running, one_of, running

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'  # section 3 of the paper
READS = "an encoder-decoder other than CLIP-FlanT5; VQAScore reads that, and models that decode from one sequence"


class Answerer(Protocol):
    """A model that says how likely an answer is."""

    def clean(self, prompt: str) -> str:
        """The prompt itself; raises `vlm.Unjudged` for one that the model would read as something else."""

    def logprobs(self, pictures: Sequence[Image.Image], questions: Sequence[str], answer: str, *, end: bool) -> Tensor:
        """(n, tokens) log-probability of each token of the answer, with that of the end after it where asked."""


class VQAScore(Prefers):
    """P("Yes"), 0 … 1.

    Args:
        folder: the model with its processor, or CLIP-FlanT5's (`zhiqiulin/clip-flant5-xl`, `…-xxl`).
        variant: "paper" is P(answer), the product over its tokens. "release" is the geometric mean over its tokens, and
            for CLIP-FlanT5 the end of the sequence is one of them: sqrt(P("Yes") P(end after "Yes")).
        question: "{}" is where the prompt goes. Casing changes the number.
        answer: whose probability it is.
        tokenizer: CLIP-FlanT5's, a folder or a loaded one (`google/flan-t5-xl`); None: in the model's folder.
    """

    def __init__(
        self,
        folder: PathLike,
        *,
        variant: Literal["paper", "release"] = "paper",
        question: str = QUESTION,
        answer: str = "Yes",
        tokenizer: Any = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 8,
        name: str = "vqascore",
    ) -> None:
        path = Path(folder).expanduser()
        if not (path / "config.json").is_file():
            raise ValueError(f"no vision-language model at {folder}: give the folder of a transformers model")
        run, self.variant = running(device, dtype, batch), one_of("variant", variant, ("paper", "release"))
        if question.count("{}") != 1:
            raise ValueError(f"the question holds {{}} once, where the prompt goes; got {question!r}")
        if not answer.strip():
            raise ValueError("the answer is empty, and nothing is as likely as nothing: give a word, as Yes")
        self.encodes = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") == "clip_t5"
        if self.encodes:
            from .clip_t5 import ClipT5

            self.model: Answerer = ClipT5(path, tokenizer, run)
        else:
            self.model = Decoder(path, run)
        self.question, self.answer, self.batch = question, answer, batch
        self.name, self.spec = name, replace(self.describe(variant, question, answer), name=name)

    @staticmethod
    def describe(variant: str = "paper", question: str = QUESTION, answer: str = "Yes") -> Spec:
        """What it is, before any weights are read."""
        chance = f"P({answer!r})" if variant == "paper" else f"geometric mean of the tokens of {answer!r}"
        return Spec(
            name="vqascore",
            scale=f"{chance} to {question!r}",
            range=(0.0, 1.0),
            files=("zhiqiulin/clip-flant5-xl", "zhiqiulin/clip-flant5-xxl"),
            license="Apache-2.0 (code and CLIP-FlanT5)",
            preprocessing="the model's own; CLIP-FlanT5: padded to a square with the mean colour, 336",
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One probability a sample."""
        found, reasons = vlm.table(samples, self._shown, self._numbers, 1, self.batch)
        return Scores(found[:, 0], valid=found[:, 0].isfinite(), reasons=reasons)

    def _shown(self, sample: Sample) -> tuple[Image.Image, str]:
        return picture(sample), self.question.replace("{}", self.model.clean(sample.prompt))

    def _numbers(self, shown: list[tuple[Image.Image, str]]) -> Tensor:
        pictures, questions = zip(*shown, strict=True)
        release = self.variant == "release"
        said = self.model.logprobs(pictures, questions, self.answer, end=release and self.encodes)
        return (said.mean(-1) if release else said.sum(-1)).exp()[:, None]


class Decoder:
    """An image-text-to-text model that decodes from one sequence; the answer is fed to it, and not drawn."""

    def __init__(self, folder: Path, run: Running) -> None:
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.get_text_config().is_encoder_decoder or config.is_encoder_decoder:
            raise ValueError(f"{folder} is {READS}")
        self.processor = vlm.processor(folder)
        self.network: Any = transformers.AutoModelForImageTextToText.from_pretrained(
            folder, dtype=run.dtype, use_safetensors=True, local_files_only=True
        )
        frozen(self.network).to(run.device)

    def clean(self, prompt: str) -> str:
        """The prompt itself; raises Unjudged if it holds a token that means something to the model."""
        return vlm.plain(prompt, self.processor.tokenizer)

    def logprobs(self, pictures: Sequence[Image.Image], questions: Sequence[str], answer: str, *, end: bool) -> Tensor:
        """(n, tokens); `end` is refused, since chats have many ends."""
        if end:
            raise ValueError("a chat has no one token that ends an answer")
        texts = [self._text(each) + answer for each in questions]
        inputs = self.processor(
            text=texts, images=[[each] for each in pictures], padding=True, padding_side="right", return_tensors="pt"
        ).to(device_of(self.network))  # fmt: skip
        wanted = self._answer(answer).to(inputs["input_ids"].device)
        places = inputs["attention_mask"].sum(-1, keepdim=True) + torch.arange(-len(wanted), 0, device=wanted.device)
        if not bool((inputs["input_ids"].gather(1, places) == wanted).all()):
            raise ValueError(f"the answer {answer!r} runs into what stands before it: try it with a space in front")
        kept, where = (places - 1).unique(return_inverse=True)  # a token is foretold one place before it
        logits = self.network(**inputs, use_cache=False, logits_to_keep=kept).logits
        rows = torch.arange(len(texts), device=wanted.device)[:, None]
        told: Tensor = logits[rows, where].float().log_softmax(-1)
        return told.gather(-1, wanted.expand(len(texts), -1)[..., None])[..., 0]

    def _text(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        chat = [{"role": "user", "content": content}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))

    def _answer(self, answer: str) -> Tensor:
        return torch.tensor(self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"])
