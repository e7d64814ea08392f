"""Words of a dialogue that a picture has nothing to do with, and other words in their place.

What is drawn is a function of the records' draws alone, and the same whoever asks: policy and reference read the same
words. Image tokens are never touched, nor is any other token that is not plain text (`relevance` is NaN there).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from ..batches import Dialogues, Vocabulary
from ..draws import Draws

By = Literal["mask", "replace"]


def known_relevance(dialogues: Dialogues) -> Tensor:
    """(n, L) float64 cosines of the dialogues' words with their picture; ValueError with the mend if there are none."""
    if dialogues.relevance is None:
        raise ValueError(
            "which words show in the picture is not known: set data.relevance to a scorer that gives cosines"
        )
    return dialogues.relevance.double()


def least_relevant(relevance: Tensor, words: Tensor, omega: float) -> Tensor:
    """(n, L) bool: the words that TARS perturbs (arXiv 2507.21584, eq. 9).

    P_i = -cosine; of the `words` (n, L) the N largest P are taken, N = floor(omega / gap) + 1 with the gap between the
    two largest P, all of them where the gap is 0 or there is but one. (Algorithm 1 of the paper takes the gap of the
    two most similar words instead; its text, followed here, that of the least similar.)
    """
    words = words & ~relevance.isnan()
    lack = (-relevance).masked_fill(~words, -torch.inf)
    sorted_lack, order = lack.sort(dim=1, descending=True, stable=True)
    count = words.sum(1)
    gap = torch.zeros_like(sorted_lack[:, 0])
    if relevance.shape[1] > 1:
        gap = torch.where(count > 1, sorted_lack[:, 0] - sorted_lack[:, 1], 0.0)
    wished = torch.where(gap > 0, (omega / gap).floor() + 1, torch.inf)
    taken = torch.minimum(wished, count.to(wished))
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return rank < taken[:, None]


def drawn_words(similarity: Tensor, real: Tensor, share: float, keys: Tensor) -> Tensor:
    """(n, L) bool: words drawn without replacement, with probability as (1 - similarity), as TARS' code draws them.

    max(1, share L) of a row's L `real` tokens; where `similarity` is NaN it is 1 and never drawn. `keys` (n, L) are
    uniform numbers: the largest of log(weight) + Gumbel noise are a draw without replacement.
    """
    weight = (1 - similarity).masked_fill(similarity.isnan() | ~real, 0.0).clamp(min=0)
    gumbel = weight.log() - (-keys.to(weight).clamp(min=1e-300).log()).log()
    count = (share * real.sum(1)).long().clamp(min=1)
    count = torch.minimum(count, (weight > 0).sum(1))
    rank = gumbel.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return rank < count[:, None]


def attention_to_words(relevance: Tensor, scale: float = 100.0) -> Tensor:
    """(n, L) softmax of scale x cosine over a row's words, NaN where there is none: the similarity in TARS' code.

    At this scale nearly all of it lies on one to three words, so that drawing by 1 - similarity is nearly uniform.
    """
    known = ~relevance.isnan()
    return (scale * relevance).masked_fill(~known, -torch.inf).softmax(1).where(known, torch.nan)


def other_words(dialogues: Dialogues, chosen: Tensor, by: By, keys: Tensor) -> Dialogues:
    """The dialogues with a mask, or a random word, at the chosen places (n, L); `keys` (n, L) are uniform numbers."""
    vocabulary = vocabulary_of(dialogues)
    if by == "mask":
        new = vocabulary.mask.expand_as(dialogues.ids)
    else:
        spot = (keys.to(dialogues.ids.device) * len(vocabulary.words)).long()
        new = vocabulary.words[spot]
    return replace(dialogues, ids=torch.where(chosen, new, dialogues.ids))


def without(dialogues: Dialogues, chosen: Tensor) -> Dialogues:
    """The dialogues with the chosen tokens (n, L) taken out, what is behind them moved up.

    What the mask of TARS' code does: in LLaVA v1 it is the padding token, which never reaches the network.
    """
    kept = dialogues.attention & ~chosen
    order = torch.argsort((~kept).to(torch.int8), dim=1, stable=True)

    def up(table: Tensor) -> Tensor:
        return table.gather(1, order)

    tables = {name: getattr(dialogues, name) for name in ("prompt", "relevance", "importance")}
    moved_up: dict[str, Any] = {name: None if each is None else up(each) for name, each in tables.items()}
    kinds = {name: up(each) for name, each in dialogues.kinds.items()}
    ids, answer = up(dialogues.ids), up(dialogues.answer & kept)
    return replace(dialogues, ids=ids, attention=up(kept), answer=answer, kinds=kinds, **moved_up)


def vocabulary_of(dialogues: Dialogues) -> Vocabulary:
    """The dialogues' vocabulary; ValueError if whoever made them did not say."""
    if dialogues.vocabulary is None or not len(dialogues.vocabulary.words):
        raise ValueError("these dialogues do not say which tokens are words, and no word can be replaced")
    return dialogues.vocabulary


def question(dialogues: Dialogues) -> tuple[Tensor, Tensor]:
    """Cosines (n, L) of the dialogues' words, and which of them are the question's, (n, L) bool."""
    if dialogues.prompt is None:
        raise ValueError("these dialogues do not say which tokens are the question's")
    return known_relevance(dialogues), dialogues.prompt


def twice(draw: Draws, stream: str, count: int) -> Tensor:
    """(2b, count) uniform numbers, the same for the two answers of a pair: they share their question."""
    return draw.uniforms(stream, count).repeat(2, 1)


def each_way(draw: Draws, stream: str, ids: Tensor) -> Tensor:
    """(2b, L) uniform numbers for the tokens (2b, L), others for each answer of a pair, on their device."""
    return torch.cat([draw.uniforms(f"{stream}/{side}", ids.shape[1]) for side in ("win", "lose")]).to(ids.device)
