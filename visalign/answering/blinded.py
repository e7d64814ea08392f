"""A model that hardly sees goes on with what was begun: its picture is masked out, or full of noise.

Masked are the picture's embeddings, one by one, in the attention of whatever comes after them. Their places stay
counted: a token's position is what it is with the whole picture, whatever is hidden. Qwen's positions could not even be
made from a mask with gaps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..batches import Dialogues
from ..draws import Draws, generator
from ..models.reading import Asked, Reader
from ..text.corruption import noised
from . import Sampler
from . import Settings as Sampling
from .sentences import up_to_end


@dataclass(frozen=True)
class Blindfold:
    """How the picture is hidden."""

    by: Literal["mask", "noise"] = "mask"
    threshold: float = 0.99  # mask: an embedding is kept if a uniform number reaches this; 0.99 keeps one in a hundred
    step: int = 500  # noise: of 0 … 999, as POVID (arXiv 2402.11411)

    def __post_init__(self) -> None:
        if self.by not in ("mask", "noise"):
            raise ValueError(f"a picture is hidden by mask or noise, not by {self.by!r}")
        if not 0 <= self.threshold <= 1 or not 0 <= self.step <= 999:
            raise ValueError(f"threshold lies in 0 … 1 and step in 0 … 999, got {self.threshold} and {self.step}")


@dataclass(frozen=True)
class Begun:
    """An answer up to where it is gone on with."""

    asked: Asked  # the question and the beginning
    said: Tensor  # (a,) int64 tokens of the beginning


class Blinded:
    """A network with its reader, whose pictures are hidden.

    All beginnings that are given together belong to one record and see the same mask, or the same noise: a function of
    (seed, key, visit) alone, as every other number that is drawn is.
    """

    def __init__(self, network: Any, reader: Reader, blindfold: Blindfold, how: Sampling) -> None:
        self.network, self.reader, self.blindfold, self.how = network.eval(), reader, blindfold, how

    def completed(
        self, key: str, asked: Asked, beginnings: Sequence[str], *, visit: int, whole: bool = False
    ) -> list[str]:
        """What follows each beginning: up to the end of a sentence, or if `whole` to the end of the answer.

        Raises Unreadable for a beginning that means something else to the model.
        """
        begun = [self.begun(asked, each) for each in beginnings]
        given = self.shown(key, [each.asked for each in begun], visit)
        before = given["input_ids"].shape[1]
        ends = None if whole else [_Ends(self, begun, before)]
        rows = tuple(f"{key}/{visit}/{place}" for place in range(len(begun)))
        drawn = [Sampler(self.how, rows, before)] if self.how.temperature else None
        with torch.no_grad():
            made = self.network.generate(
                **given, do_sample=False, num_beams=1, temperature=None, top_p=None, top_k=None,
                max_new_tokens=self.how.max_new_tokens, logits_processor=drawn, stopping_criteria=ends,
            )  # fmt: skip
        tails = self.tails(begun, made[:, before:].cpu())
        return tails if whole else [up_to_end(each) or each for each in tails]

    def begun(self, asked: Asked, beginning: str) -> Begun:
        """The question with the beginning of its answer, as tokens; the end mark is not among them."""
        read = self.reader.answered(asked, beginning)
        count = len(read.ids) - len(self.reader.wording.tail)
        kinds = {name: each[:count] for name, each in read.kinds.items()}
        said = read.ids[len(asked.ids) : count]
        return Begun(Asked(read.ids[:count], read.prompt[:count], kinds, read.media, asked.text), said)

    def shown(self, key: str, questions: Sequence[Asked], visit: int) -> dict[str, Tensor]:
        """What `generate` is given, the pictures hidden."""
        made = self.reader.generation(questions)
        if self.blindfold.by == "noise":
            made |= self._noised(key, made, set(questions[0].media), visit)
        device = self.network.device
        given = {
            name: each.to(device, self.network.dtype if each.is_floating_point() else each.dtype)
            for name, each in made.items()
        }
        if self.blindfold.by == "mask":
            # transformers' own way to positions, since every family has another: made with the whole picture.
            given["position_ids"] = self.network._prepare_position_ids_for_generation(given["input_ids"], given)
            given["attention_mask"] = self._masked(key, given["input_ids"], given["attention_mask"], visit)
        return given

    def _noised(self, key: str, made: Mapping[str, Tensor], names: set[str], visit: int) -> dict[str, Tensor]:
        ids = made["input_ids"]
        media = {name: made[name] for name in names}
        dialogues = Dialogues(ids, made["attention_mask"].bool(), torch.zeros_like(ids, dtype=torch.bool), media)
        found = noised(dialogues, Draws(self.how.seed, (key,), (visit,)), step=self.blindfold.step)
        return dict(found.media)

    def _masked(self, key: str, ids: Tensor, attention: Tensor, visit: int) -> Tensor:
        """(n, L) the attention mask without the embeddings that are hidden: rho < threshold, rho uniform."""
        places = ids == self.network.config.image_token_id
        count = int(places[0].sum())
        if not count or not bool((places.sum(1) == count).all()):
            raise ValueError(f"no picture to hide: {count} tokens of the first question are the picture's")
        rho = torch.from_numpy(generator(self.how.seed, key, visit, "image mask").random(count))
        kept = (rho >= self.blindfold.threshold).to(attention)
        return attention.masked_scatter(places, kept.repeat(len(ids)))

    def tails(self, begun: Sequence[Begun], new: Tensor) -> list[str]:
        """The text of the new tokens (n, m) behind each beginning: blanks between tokens depend on what stands before.

        So both are written out, with and without the new ones, and what they share is taken off.
        """
        return [self._tail(each.said.tolist(), row) for each, row in zip(begun, new.tolist(), strict=True)]

    def _tail(self, said: list[int], new: list[int]) -> str:
        before, whole = (str(self.reader.tokenizer.decode(ids, skip_special_tokens=True)) for ids in (said, said + new))
        shared = next(
            (at for at, pair in enumerate(zip(before, whole, strict=False)) if len(set(pair)) > 1), len(before)
        )
        return whole[shared:]


class _Ends:
    """A stopping criterion: rows in which a sentence has ended."""

    def __init__(self, blinded: Blinded, begun: Sequence[Begun], before: int) -> None:
        self.blinded, self.begun, self.before = blinded, begun, before

    def __call__(self, ids: Tensor, scores: Tensor, **rest: Any) -> Tensor:
        tails = self.blinded.tails(self.begun, ids[:, self.before :].cpu())
        return torch.tensor([up_to_end(each) is not None for each in tails], device=ids.device)
