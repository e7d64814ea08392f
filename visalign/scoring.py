"""What judges look at and say: samples, scores, the protocols of scorers and judges, and P(first is better).

A scorer gives each sample a number on a scale of its own, higher is better; a judge compares two samples. The bridge
between them is a link function: logistic (Bradley & Terry, 1952) or normal (Thurstone, 1927). What a scorer can do
beyond `score` (say what it is, let gradients through, score all pairs cheaply) are small protocols of their own, and
`prefer` and `score_matrix` work with any scorer.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from . import images
from .images import ImageError, Misuse, Picture


@dataclass(frozen=True)
class Sample:
    """One thing to be judged: a prompt, and the image, video or answer that was made for it."""

    prompt: str
    image: Picture | None = None  # whatever `visalign.images.load` reads
    video: Sequence[Picture] | str | os.PathLike[str] | None = None  # frames in order, or a clip's path
    answer: str | None = None
    user: str | None = None  # whose taste to judge by
    source: Picture | None = None  # what the prompt shows: the image of a question, the original of an edit

    def __post_init__(self) -> None:
        if not isinstance(self.prompt, str):
            raise TypeError(f"a prompt is a text, got {self.prompt!r}; where there is none it is empty")


@dataclass(frozen=True)
class Scores:
    """What a scorer says about n samples. Where it could not judge, `valid` is False and the value NaN, never 0."""

    values: Tensor  # (n,) higher is better, on the scorer's own scale
    aspects: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (n,)
    sigma: Tensor | None = None  # (n,) standard deviation of the value, where the scorer knows it
    valid: Tensor | None = None  # (n,) bool; None: all of them
    right: Tensor | None = None  # (n,) bool: good enough to count as right, where the scorer draws such a line
    truncated: Tensor | None = None  # (n,) bool: the prompt was longer than what the scorer reads, and was cut
    reasons: Mapping[int, str] = field(default_factory=dict)  # row -> why it could not be judged, where that is known

    def __post_init__(self) -> None:
        n = len(self.values)
        parts = {"sigma": self.sigma, "valid": self.valid, "right": self.right, "truncated": self.truncated}
        parts |= self.aspects
        ragged = {name: tuple(part.shape) for name, part in parts.items() if part is not None and part.shape != (n,)}
        if self.values.ndim != 1 or ragged:
            raise ValueError(f"scores of {n} samples need shape ({n},) each, got {ragged or tuple(self.values.shape)}")
        if not torch.isfinite(self.values[self.judged]).all():
            raise ValueError("a score is not finite although its sample counts as judged: mark it in `valid`")
        if wrong := [row for row in self.reasons if not 0 <= row < n or self.judged[row]]:
            raise ValueError(f"reasons are for samples that could not be judged, of {n}; got one for row {wrong[0]}")

    @classmethod
    def scattered(
        cls,
        count: int,
        rows: Sequence[int],
        values: Tensor,
        reasons: Mapping[int, str],
        truncated: Tensor | None = None,
    ) -> Scores:
        """Scores of `count` samples from the `values` of the `rows` that could be judged; NaN and invalid elsewhere."""
        spread = torch.full((count,), torch.nan, dtype=values.dtype)
        spread[list(rows)] = values
        valid = torch.zeros(count, dtype=torch.bool)
        valid[list(rows)] = True
        return cls(spread, valid=valid, truncated=truncated, reasons=dict(reasons))

    @property
    def judged(self) -> Tensor:
        """(n,) bool: which samples the scorer could judge."""
        return torch.ones(len(self.values), dtype=torch.bool) if self.valid is None else self.valid

    def __len__(self) -> int:
        return len(self.values)


@runtime_checkable
class Scorer(Protocol):
    """Anything that gives samples a number."""

    @property
    def name(self) -> str:
        """What records and reports call it."""

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; a batch scores as its samples do one by one."""


@runtime_checkable
class Judge(Protocol):
    """Anything that compares two samples of one prompt."""

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,) in [0, 1]; NaN where it could not say."""


class Prefers:
    """What makes a scorer a judge too: it prefers the higher score, as sure of it as its spec says."""

    def prefer(self: Scorer, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,), at the spec's temperature: 1, 0 or 1/2 where none is known; NaN if unjudged."""
        return by_score(self, first, second)


@dataclass(frozen=True)
class Spec:
    """What a scorer is made of and how its number reads; kept beside results, since scales are not comparable."""

    name: str
    scale: str  # what the number is, "cosine" for one
    range: tuple[float, float]  # what the number can be
    files: tuple[str, ...] = ()  # "hub id: file" of the official weights
    license: str = ""  # of code and weights
    typical: tuple[float, float] | None = None  # where the numbers of ordinary pictures lie
    temperature: float | None = None  # P(first is better) = sigmoid(gap / temperature); None: not known
    reads: tuple[str, ...] = ("prompt", "image")  # the fields of Sample that the score depends on
    preprocessing: str = ""
    antialias: bool | None = None  # of the resize; None: there is none, or it knows no other way
    context: int | None = None  # tokens of a prompt that are read, marks included; longer ones are cut and counted

    @property
    def uses_prompt(self) -> bool:
        """Whether the score depends on the prompt."""
        return "prompt" in self.reads

    @property
    def uses_source(self) -> bool:
        """Whether the score depends on the source image of an edit or a question."""
        return "source" in self.reads


@runtime_checkable
class Specified(Scorer, Protocol):
    """A scorer that says what it is."""

    @property
    def spec(self) -> Spec:
        """Files, license, scale, preprocessing."""


@runtime_checkable
class Differentiable(Protocol):
    """A scorer that lets gradients through to the pixels."""

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) scores of pixels (n, 3, h, w) in [0, 1], with their graph."""


@runtime_checkable
class Matrix(Protocol):
    """A scorer that scores every image against every prompt in less than the product of both."""

    def score_matrix(self, images: Sequence[Picture], prompts: Sequence[str]) -> Tensor:
        """(images, prompts); NaN in the row of an image that could not be judged."""


def picture(sample: Sample) -> Image.Image:
    """The sample's image upright in RGB. ImageError says why there is none; Misuse, its child, is for the caller."""
    if sample.image is None:
        raise ImageError("the sample has no image")
    return images.load(sample.image)


def opened(samples: Iterable[Sample]) -> Iterator[Image.Image | ImageError]:
    """Each sample's image, or why it cannot be judged, in order; raises Misuse for the caller's mistakes."""
    for sample in samples:
        try:
            yield picture(sample)
        except Misuse:
            raise
        except ImageError as error:
            yield error


def paired(pictures: Iterable[Picture] | Tensor, prompts: str | Iterable[str]) -> list[Sample]:
    """One sample an image: with the one prompt given as text, or with its own of as many."""
    if isinstance(pictures, images.ONE) or getattr(pictures, "ndim", 4) != 4:
        raise TypeError(f"images must be a list or a 4-d batch, got one {type(pictures).__name__}: put it in a list")
    shown: list[Picture] = list(pictures)
    texts = [prompts] * len(shown) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(shown):
        raise ValueError(
            f"{len(shown)} images and {len(texts)} prompts: give one prompt as text for all, or one an image; "
            "every image with every prompt is score_matrix"
        )
    return [Sample(text, image=each) for text, each in zip(texts, shown, strict=True)]


def several(prompts: Sequence[str]) -> list[str]:
    """Prompts as a list; TypeError for one text, whose letters would otherwise be taken for prompts."""
    if isinstance(prompts, str):
        raise TypeError(f"prompts must be a list of texts, got one: {prompts!r}; put it in a list")
    return list(prompts)


def compared(first: Sequence[Sample], second: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """The two sides as pairs; ValueError where they are not as many."""
    if len(first) != len(second):
        raise ValueError(f"pairs have two sides of the same length, got {len(first)} and {len(second)} samples")
    return list(zip(first, second, strict=True))


def prefer(scorer: Scorer | Judge, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
    """P(first is better), (n,), NaN where it could not say: a judge's own word, or by score.

    Scores become probabilities at the temperature of the scorer's spec; where none is known the higher score wins.
    """
    return scorer.prefer(first, second) if isinstance(scorer, Judge) else by_score(scorer, first, second)


def by_score(scorer: Scorer, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
    """P(first is better), (n,), of a scorer's numbers alone: `ByScore` at the temperature of its spec."""
    temperature = scorer.spec.temperature if isinstance(scorer, Specified) else None
    return ByScore(scorer, temperature or 0.0).prefer(first, second)


def score_matrix(scorer: Scorer, pictures: Sequence[Picture], prompts: Sequence[str]) -> Tensor:
    """Every image with every prompt, (images, prompts); NaN where the scorer could not judge."""
    if isinstance(scorer, Matrix):
        return scorer.score_matrix(pictures, prompts)
    texts = several(prompts)
    if isinstance(scorer, Specified) and not scorer.spec.uses_prompt:
        return scorer.score(paired(pictures, "")).values[:, None].repeat(1, len(texts))
    crossed = [Sample(prompt, image=each) for each in pictures for prompt in texts]
    return scorer.score(crossed).values.reshape(len(pictures), len(texts))


def bradley_terry(first: Tensor, second: Tensor, temperature: float = 1.0) -> Tensor:
    """P(first is better) = sigmoid((first - second) / temperature), the shape of the scores.

    Temperature 0 is a judge without noise: 1, 0, or 1/2 on a draw. NaN in, NaN out.
    """
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    gap = first - second
    if temperature:
        return torch.sigmoid(gap / temperature)
    return ((torch.sign(gap) + 1) / 2).where(~gap.isnan(), torch.nan)  # torch's sign of NaN is 0


def thurstone(first: Tensor, second: Tensor, sigma_first: Tensor, sigma_second: Tensor) -> Tensor:
    """P(first is better) where each score is normal with its own sigma: Phi(gap / sqrt(sum of variances))."""
    spread = torch.sqrt(sigma_first.square() + sigma_second.square())
    if not bool((spread > 0).all()):
        raise ValueError("Thurstone's model needs a positive sigma; use bradley_terry(…, temperature=0) without one")
    chance: Tensor = torch.special.ndtr((first - second) / spread)
    return chance


def from_votes(first: int, second: int, prior: float = 0.0) -> float:
    """Share of votes for the first, with `prior` imaginary votes on each side; 1/2 when nobody voted."""
    total = first + second + 2 * prior
    return 0.5 if total == 0 else (first + prior) / total


@dataclass(frozen=True)
class ByScore:
    """The judge that a scorer makes: it prefers the higher score, through Bradley-Terry at a temperature."""

    scorer: Scorer
    temperature: float = 0.0

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,); NaN where either sample could not be scored."""
        compared(first, second)
        left, right = self.scorer.score(first), self.scorer.score(second)
        chance = bradley_terry(left.values, right.values, self.temperature)
        return torch.where(left.judged & right.judged, chance, torch.nan)


@dataclass(frozen=True)
class BothOrders:
    """A judge asked twice, with the sides exchanged: takes out what it says for the first place alone."""

    judge: Judge

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """The mean of P(first) and 1 - P(second), (n,)."""
        return (self.judge.prefer(first, second) + 1 - self.judge.prefer(second, first)) / 2


def from_utilities(values: Tensor, temperature: float = 1.0) -> Tensor:
    """P(row is better than column), (K, K), among K items; 1/2 on the diagonal."""
    return bradley_terry(values[:, None], values[None, :], temperature)
