"""A question about pictures and an answer to it as the tokens and pixels of a model, by the model's own processor.

The answer is tokenised apart from the question, so that all answers to a question share its tokens. The question's own
words are found by their characters: the tokenizer tells the span of each token of the text in which a picture is one
mark, and the run of tokens that lies within the question is looked up, from the end, in what the processor made of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..batches import Dialogues, packed
from .wording import PALIGEMMA, Unreadable, Wording

__all__ = ["Asked", "Read", "Reader", "Unreadable"]

ANSWERED = {PALIGEMMA: {"token_type_ids": 1}}  # the kind of an answer's tokens, where it is not 0
OWN = ("input_ids", "attention_mask", "labels")  # what processors make and we make ourselves


@dataclass(frozen=True)
class Asked:
    """A question with its pictures, up to where the answer begins."""

    ids: Tensor  # (P,) int64
    prompt: Tensor  # (P,) bool, tokens of the question's own words
    kinds: Mapping[str, Tensor]  # (P,) int64 each
    media: Mapping[str, Tensor]  # rows of this question's pictures
    text: str  # as the chat template writes it, one mark for each picture


@dataclass(frozen=True)
class Read:
    """One dialogue: a question with its pictures, and an answer."""

    ids: Tensor  # (L,) int64
    answer: Tensor  # (L,) bool, the answer's tokens, its end mark included
    prompt: Tensor  # (L,) bool, tokens of the question's own words
    kinds: Mapping[str, Tensor]  # (L,) int64 each
    media: Mapping[str, Tensor]  # rows of this dialogue's pictures
    cut: int = 0  # how many tokens of the answer, its end mark included, there was no room for


class Reader:
    """Reads dialogues by a transformers processor.

    `ends` are ids that end an answer besides the tokenizer's own (a model's `generation_config.eos_token_id`).
    `max_length` counts all tokens: an answer that is too long loses its end, and its end mark with it; a question and
    its pictures never lose anything.
    """

    def __init__(self, processor: Any, *, ends: Sequence[int] = (), max_length: int | None = None) -> None:
        self.processor, self.tokenizer, self.max_length = processor, processor.tokenizer, max_length
        self.kind = type(processor).__name__
        self.wording = Wording(processor, frozenset(ends) | {self.tokenizer.eos_token_id})
        added = {each.content for each in self.tokenizer.added_tokens_decoder.values() if each.special}
        self.marks = added | set(self.tokenizer.all_special_tokens) | set(processor.all_special_multimodal_tokens)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, max_length: int | None = None) -> Reader:
        """The reader of a model's folder."""
        from transformers import AutoProcessor, GenerationConfig

        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        ends: Any = None
        if os.path.isfile(os.path.join(folder, "generation_config.json")):
            ends = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
        given = ends if isinstance(ends, list) else [ends]
        return cls(processor, ends=[each for each in given if each is not None], max_length=max_length)

    def read(self, prompt: str, pictures: Sequence[Image.Image], answer: str) -> Read:
        """One dialogue; raises Unreadable."""
        return self.answered(self.ask(prompt, pictures), answer)

    def ask(self, prompt: str, pictures: Sequence[Image.Image]) -> Asked:
        """A question about its pictures; raises Unreadable."""
        text = self.wording.question(self._unmarked(prompt, "question"), len(pictures))
        made = self._processed(text, pictures)
        ids = made["input_ids"][0]
        kinds = {name: each[0] for name, each in made.items() if name.endswith("type_ids")}
        media = {name: each for name, each in made.items() if name not in kinds and name not in OWN}
        return Asked(ids, self._words(text, prompt, ids), kinds, media, text)

    def answered(self, asked: Asked, answer: str) -> Read:
        """A question with an answer to it; raises Unreadable if there is no room for any of it."""
        said = self._behind(asked.text, self.wording.lead + self._unmarked(answer, "answer")) + self.wording.tail
        taken = len(asked.ids)
        room = len(said) if self.max_length is None else self.max_length - taken
        if room <= 0:
            raise Unreadable(f"the question alone has {taken} tokens, and max_length is {self.max_length}")
        kept = torch.tensor(said[:room])
        given = ANSWERED.get(self.kind, {})
        kinds = {
            name: torch.cat([each, torch.full_like(kept, given.get(name, 0))]) for name, each in asked.kinds.items()
        }
        ids = torch.cat([asked.ids, kept])
        words = functional.pad(asked.prompt, (0, len(kept)))
        return Read(ids, torch.arange(len(ids)) >= taken, words, kinds, asked.media, len(said) - len(kept))

    def words(self, read: Read | Asked) -> list[str]:
        """The text of each token of the question's own words, in order: of the True places of `prompt`."""
        return [str(self.tokenizer.decode([each])) for each in read.ids[read.prompt].tolist()]

    def collated(self, reads: Sequence[Read], *, left: bool = False) -> Dialogues:
        """The batch of these dialogues, padded on the right, or on the left."""
        length = max(len(each.ids) for each in reads)

        def table(rows: Sequence[Tensor], value: float = 0) -> Tensor:
            sides = [(length - len(row), 0) if left else (0, length - len(row)) for row in rows]
            return torch.stack([functional.pad(row, side, value=value) for row, side in zip(rows, sides, strict=True)])

        media = {name: [each.media[name] for each in reads if name in each.media] for name in _names(reads)}
        return Dialogues(
            table([each.ids for each in reads], self._pad),
            table([torch.ones_like(each.answer) for each in reads]),
            table([each.answer for each in reads]),
            {name: packed(rows) for name, rows in media.items()},
            {name: table([each.kinds[name] for each in reads]) for name in reads[0].kinds},
            table([each.prompt for each in reads]),
            shown=torch.tensor([_shown(each.media) for each in reads]),
        )

    def generation(self, questions: Sequence[Asked]) -> dict[str, Tensor]:
        """What `network.generate` is given for these questions, padded on the left; pixels in float32."""
        silent = [Read(one.ids, torch.zeros_like(one.prompt), one.prompt, one.kinds, one.media) for one in questions]
        batch = self.collated(silent, left=True)
        return {"input_ids": batch.ids, "attention_mask": batch.attention.long(), **batch.kinds, **batch.media}

    @property
    def _pad(self) -> int:
        """What fills up; it may be the end mark too, since nothing is told apart by it."""
        pad = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if pad is None else pad)

    def _unmarked(self, text: str, what: str) -> str:
        """The text itself; raises Unreadable if it holds a token that means something to the model."""
        found = next((mark for mark in sorted(self.marks) if mark in text), None)
        if found is not None:
            raise Unreadable(f"the {what} holds {found}, which means something else to the model")
        return text

    def _processed(self, text: str, pictures: Sequence[Image.Image]) -> Mapping[str, Tensor]:
        """What the processor makes of one text; a template that writes its own first token needs no second one."""
        begun = bool(self.tokenizer.bos_token) and text.startswith(self.tokenizer.bos_token)
        try:
            made = self.processor(
                text=[text.removesuffix("\n") if self.kind == PALIGEMMA else text],
                images=[list(pictures)] if pictures else None,
                return_tensors="pt",
                **({"add_special_tokens": False} if begun else {}),
            )
        except ValueError as error:  # marks and pictures are not as many, mostly
            raise Unreadable(f"the model's processor refuses it: {error}") from error
        return dict(made)

    def _behind(self, before: str, text: str) -> list[int]:
        """The ids of a text as it is tokenised behind another whose ids stay, or by itself if they would not."""
        head, whole = self._ids(before), self._ids(before + text)
        return whole[len(head) :] if whole[: len(head)] == head else self._ids(text)

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _words(self, text: str, prompt: str, ids: Tensor) -> Tensor:
        """(P,) bool, the tokens that consist of the question's own characters and of the blanks before it alone."""
        start, end = self.wording.place(text, prompt)
        whole = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans: Sequence[tuple[int, int]] = whole["offset_mapping"]
        own = [b <= end and bool(text[max(a, start) : b].strip()) and not text[a:start].strip() for a, b in spans]
        places = [place for place, each in enumerate(own) if each]
        found = torch.zeros(len(ids), dtype=torch.bool)
        if places:
            run = slice(places[0], places[-1] + 1)
            at = _last(whole["input_ids"][run], ids.tolist(), len(spans) - run.stop)
            found[at : at + run.stop - run.start] = torch.tensor(own[run])
        return found


def _last(run: list[int], ids: list[int], behind: int) -> int:
    """Where a run of ids stands last among others, with at least `behind` more after it."""
    starts = range(len(ids) - behind - len(run), -1, -1)
    found = next((at for at in starts if ids[at : at + len(run)] == run), None)
    if found is None:
        raise Unreadable("the model's processor changes the question")
    return found


def _names(reads: Sequence[Read]) -> list[str]:
    return list(dict.fromkeys(name for each in reads for name in each.media))


def _shown(media: Mapping[str, Tensor]) -> int:
    """How many pictures a dialogue's media hold, as `visalign.text.packing.pictures_of` counts them."""
    return len(media.get("image_grid_thw", media.get("pixel_values", ())))
