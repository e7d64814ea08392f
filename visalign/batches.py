"""What a step is handed: small frozen dataclasses of tensors, batch axis first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from .draws import Draws

T = TypeVar("T")


@dataclass(frozen=True)
class Condition:
    """What a denoiser is told about n pictures, besides the noisy pictures and the time."""

    text: Tensor  # (n, tokens, width) hidden states of the text encoder(s)
    pooled: Tensor | None = None  # (n, width) SDXL's pooled text
    time_ids: Tensor | None = None  # (n, 6) SDXL: original height, width, crop top, left, target height, width
    user: Tensor | None = None  # (n, tokens, width) whose taste, for personalised methods
    guidance: Tensor | None = None  # (n,) how much, where the network is told instead of asked twice (FLUX.1-dev)

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True)
class Pairs:
    """b preference pairs. A condition for each of the 2b items, winners first: captions and crops may differ."""

    win: Tensor  # (b, ...) latents of the preferred item
    lose: Tensor  # (b, ...)
    condition: Condition  # (2b, ...) winners, then losers
    draw: Draws  # of the b pairs
    confidence: Tensor  # (b,) P(win is really better), in [0, 1]
    weight: Tensor  # (b,) 0 takes a pair out (a tie, say); known before any forward
    scores: Tensor | None = None  # (b, 2) a scorer's values of winner and loser, NaN where it gave none
    empty: Condition | None = None  # (2b, ...) the conditions without their prompts, for guidance

    @property
    def items(self) -> Tensor:
        """Winners, then losers: (2b, ...)."""
        return torch.cat([self.win, self.lose])

    def __len__(self) -> int:
        return len(self.win)


@dataclass(frozen=True)
class Anchored(Pairs):
    """b pairs in the order of their records: `win` is the first item (a picture of the subject), whatever its score."""


@dataclass(frozen=True, kw_only=True)
class Segments(Pairs):
    """b pairs of clips in the order of their records: `win` is the first clip, and each latent frame has a label.

    `weight` is the number of frames whose label is not 0: DenseDPO (2506.03517, App. E) averages over those frames.
    """

    labels: Tensor  # (b, F) of F latent frames, in [-1, 1]: 1 the first is better there, -1 the second, 0 nobody knows


@dataclass(frozen=True)
class Singles:
    """n single items: supervised fine-tuning."""

    x: Tensor  # (n, ...) latents
    condition: Condition  # (n, ...)
    draw: Draws  # of the n items
    weight: Tensor  # (n,)
    empty: Condition | None = None  # (n, ...) the conditions without their prompts

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True, kw_only=True)
class Rewarded(Singles):
    """n single items, good and bad, each with what a scorer thinks of it among all items of the data."""

    reward: Tensor  # (n,) standardised over the data: mean 0, deviation 1


@dataclass(frozen=True)
class Labelled:
    """n single items that somebody liked or disliked: unpaired methods."""

    x: Tensor  # (n, ...) latents
    condition: Condition  # (n, ...)
    draw: Draws  # of the n items
    label: Tensor  # (n,) +1 liked, -1 disliked
    weight: Tensor  # (n,)
    empty: Condition | None = None  # (n, ...) the conditions without their prompts

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Prompts:
    """n prompts without pictures: methods that train on what the model itself draws."""

    texts: tuple[str, ...]  # n, for scorers that read
    shape: tuple[int, ...]  # of one latent
    condition: Condition  # (n, ...)
    empty: Condition  # (n, ...) the conditions without their prompts
    draw: Draws  # of the n prompts
    weight: Tensor  # (n,)

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Comparisons:
    """b prompts with K pictures each and what was thought of them: what a reward model learns from.

    A record of fewer pictures is filled up to K; nothing is known of what fills it.
    """

    pictures: Tensor  # (b, K, ...) as the image tower reads them, or (b, K, d) features of a tower that is not trained
    texts: Tensor  # (b, L) token ids, or (b, d) features
    scores: Tensor  # (b, K) higher is better, NaN where nobody looked
    confidence: Tensor  # (b, K, K) P(row is better than column), 1/2 a tie; NaN where the two are not compared
    repeats: Tensor  # (b,) how many records of the data have this prompt, this one included
    draw: Draws  # of the b records
    weight: Tensor  # (b,)
    user: Tensor | None = None  # (b,) int64, whose taste: a row of the model's table

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Vocabulary:
    """What a token may be replaced by."""

    words: Tensor  # (k,) int64 ids of plain text: no special, no image token
    mask: Tensor  # () int64 the id that stands for a hidden word


@dataclass(frozen=True)
class Dialogues:
    """n questions with what they show and an answer each, as a language model reads them; padded on the right.

    `media` is what the model's processor made of the pictures, row after row in the order of the dialogues, so that two
    batches are put together by putting their rows behind one another, whatever a family calls and packs them.
    """

    ids: Tensor  # (n, L) int64 tokens: prompt, then answer
    attention: Tensor  # (n, L) bool, False for padding
    answer: Tensor  # (n, L) bool, the tokens whose log-probability counts: the answer's, its end mark included
    media: Mapping[str, Tensor] = field(default_factory=dict)  # "pixel_values", "image_grid_thw", …
    kinds: Mapping[str, Tensor] = field(default_factory=dict)  # (n, L) int64 by name: "token_type_ids", …
    prompt: Tensor | None = None  # (n, L) bool, the words of the question alone: no template, image or special token
    relevance: Tensor | None = None  # (n, L) cosine of each token of plain text with the picture, NaN elsewhere
    importance: Tensor | None = None  # (n, L) weight of each token of the answer
    vocabulary: Vocabulary | None = None  # the model's, for methods that put other words in
    shown: Tensor | None = None  # (n,) how many pictures each is about, in the media's order; None: all as many

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AnswerPairs:
    """b pairs of answers to one question each."""

    answers: Dialogues  # (2b, L) the preferred ones, then the others: the same questions and pictures
    draw: Draws  # of the b pairs
    confidence: Tensor  # (b,) P(the first is really better), in [0, 1]
    weight: Tensor  # (b,) 0 takes a pair out
    scores: Tensor | None = None  # (b, 2) a scorer's values of the two, NaN where it gave none
    cached: Tensor | None = None  # (2b, A) the reference's log-probability of each token of the answers

    def __len__(self) -> int:
        return len(self.weight)


@dataclass(frozen=True)
class Critiques(AnswerPairs):
    """b pairs of critiques: what is said of a preferred answer and of another, each asked with the answer it is about.

    So the two of a pair share the pictures, and not the question. A tie has confidence 1/2.
    """


@dataclass(frozen=True)
class Answers:
    """n questions with an answer each: supervised fine-tuning."""

    answers: Dialogues  # (n, L)
    draw: Draws  # of the n records
    weight: Tensor  # (n,)

    def __len__(self) -> int:
        return len(self.weight)


def stacked(first: Dialogues, second: Dialogues) -> Dialogues:
    """Two batches of dialogues, one behind the other, padded to a common length; ValueError if one lacks a part."""
    length = max(first.ids.shape[1], second.ids.shape[1])

    def both(name: str, empty: float = 0) -> Tensor | None:
        left, right = (getattr(each, name) for each in (first, second))
        wide = [each if each is None else _wide(each, length, empty) for each in (left, right)]
        return _both(wide[0], wide[1], "batches")

    def named(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if left.keys() != right.keys():
            raise ValueError(f"one of the two batches lacks {sorted(left.keys() ^ right.keys())}")
        return {name: packed([each, right[name]]) for name, each in left.items()}

    found = {name: both(name) for name in ("ids", "attention", "answer", "prompt")}
    return Dialogues(
        vocabulary=first.vocabulary,
        shown=None if first.shown is None or second.shown is None else torch.cat([first.shown, second.shown]),
        media=named(first.media, second.media),
        kinds=named(first.kinds, second.kinds),
        relevance=both("relevance", float("nan")),
        importance=both("importance", 1.0),
        **found,  # type: ignore[arg-type]
    )


def halves(dialogues: Dialogues) -> tuple[Dialogues, Dialogues]:
    """The first and the second half of the rows: of a batch of pairs, the preferred answers and the others."""

    def half(value: Any, second: bool) -> Any:
        if isinstance(value, Mapping):
            return {name: half(each, second) for name, each in value.items()}
        return None if value is None else value.chunk(2)[second]

    def of(second: bool) -> Dialogues:
        names = [each.name for each in fields(Dialogues) if each.name != "vocabulary"]
        return replace(dialogues, **{name: half(getattr(dialogues, name), second) for name in names})

    if len(dialogues) % 2 or any(len(each) % 2 for each in dialogues.media.values()):
        raise ValueError(f"{len(dialogues)} dialogues about other pictures are no pairs")
    return of(False), of(True)


def packed(tables: Sequence[Tensor]) -> Tensor:
    """The rows of several tables behind one another, other axes filled up with zeros: a picture of fewer tiles, say."""
    shape = [max(sizes) for sizes in zip(*(each.shape[1:] for each in tables), strict=True)]

    def filled(table: Tensor) -> Tensor:
        room = [(0, size - now) for size, now in zip(shape, table.shape[1:], strict=True)]
        return torch.nn.functional.pad(table, [each for pair in reversed(room) for each in pair])

    return torch.cat([filled(each) for each in tables])


def _wide(table: Tensor, length: int, value: float) -> Tensor:
    """(n, length) of a table (n, L), padded on the right."""
    return torch.nn.functional.pad(table, (0, length - table.shape[1]), value=value)


def joined(first: Condition, second: Condition) -> Condition:
    """Two conditions, one behind the other on the batch axis; ValueError if only one has a part."""
    names = [each.name for each in fields(Condition)]
    parts = {name: _both(getattr(first, name), getattr(second, name), "conditions") for name in names}
    return Condition(**parts)  # type: ignore[arg-type]


def _both(left: Tensor | None, right: Tensor | None, what: str) -> Tensor | None:
    if (left is None) != (right is None):
        raise ValueError(f"one of the two {what} lacks a part that the other has")
    return None if left is None or right is None else torch.cat([left, right])


def moved(value: T, device: torch.device | str) -> T:
    """The same batch on another device: every tensor of every nested dataclass and mapping.

    What comes from the CPU does not wait for what the device still has to do; what comes from the device is there.
    """
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=value.device.type == "cpu")  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {name: moved(each, device) for name, each in value.items()}  # type: ignore[return-value]
    if is_dataclass(value) and not isinstance(value, type):
        changes: dict[str, Any] = {field.name: moved(getattr(value, field.name), device) for field in fields(value)}
        return replace(value, **changes)
    return value
