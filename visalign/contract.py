"""What the parts promise each other: protocols, and the few values that cross between rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor

from .batches import Comparisons, Condition, Dialogues
from .process import Process


class Reference(Enum):
    """What a method compares its policy with; the engine loads no more than this."""

    NONE = "none"
    FROZEN = "frozen"
    EMA = "ema"


@dataclass(frozen=True)
class Loss:
    """A method's answer. The engine divides the weighted sum once, over the whole window and all ranks."""

    each: Tensor  # (b,) one loss an element
    metrics: Mapping[str, Tensor] = field(default_factory=dict)  # name -> (b,) detached values, one an element
    weight: Tensor | None = None  # (b,) None: the batch's own weights


@dataclass(frozen=True)
class Passes:
    """What one record asks of the networks, in pictures that go through one: a guided answer counts twice.

    Recomputation for activation checkpointing is not counted.
    """

    policy: float = 0.0  # with gradient
    free: float = 0.0  # without: the reference, a teacher, inversion, drawing
    held: float | None = None  # with gradient, at a time: fewer than `policy` where steps are recomputed one by one


@runtime_checkable
class Denoiser(Protocol):
    """Any diffusion or flow model together with its reference."""

    @property
    def process(self) -> Process:
        """The path that its times belong to."""

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The network's raw answer, (n, ...) like x_t, with gradient."""

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """The reference's raw answer, without gradient: LoRA off, a frozen copy, or an EMA."""


@dataclass(frozen=True)
class Rated:
    """What a reward model says of b prompts' K pictures."""

    score: Tensor  # (b, K) higher is better; the sigmoid of a gap is P(first is better)
    items: Mapping[str, Tensor] = field(default_factory=dict)  # (b, K, ...) what else it says of each: "log_sigma", …
    shared: Mapping[str, Tensor] = field(default_factory=dict)  # (b, ...) what it says of each prompt: "route", …
    crossed: Tensor | None = None  # (b, K, b) scores of each picture for every prompt of the batch, where it can say


@runtime_checkable
class RewardModel(Protocol):
    """Anything that learns to give pictures a number."""

    def rewards(self, batch: Comparisons) -> Rated:
        """The scores (b, K) of the batch's pictures for their prompts, with gradient."""


@dataclass(frozen=True)
class Spoken:
    """What a language model says of n answers, at the places that predict their tokens and nowhere else."""

    logits: (
        Tensor  # (n, A, V) of each counted token of an answer, A the most of a row; what the mask leaves out is junk
    )
    ids: Tensor  # (n, A) those tokens
    mask: Tensor  # (n, A) bool, True for tokens, which come first
    hidden: Tensor | None = None  # (n, L, width) the layer that was asked for, at every place of the dialogues


@runtime_checkable
class LanguageModel(Protocol):
    """A language model that sees, together with its reference.

    `hidden` asks for a layer's states too: 0 are the embeddings with the pictures put in, -1 what the head reads.
    """

    def policy(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        """What the model says of the answers, with gradient."""

    def reference(self, dialogues: Dialogues, *, hidden: int | None = None) -> Spoken:
        """What the reference says, without gradient: LoRA off, a frozen copy, or an EMA."""


@dataclass(frozen=True)
class Criticised:
    """What a critic says in n critiques, and the reward that it gives behind each."""

    spoken: Spoken  # of the critiques' tokens
    score: Tensor  # (n,) higher is better


@runtime_checkable
class Critic(Protocol):
    """A language model that says what it makes of an answer, and then how good that is."""

    def criticise(self, dialogues: Dialogues) -> Criticised:
        """What it says of n critiques, and its scores once it has read them, with gradient."""


class Method(Protocol):
    """A paper: hyper-parameters as dataclass fields, and `loss`."""

    @property
    def batch_type(self) -> type:
        """Which view of the data it is fed: Pairs, Singles, Prompts, …"""

    @property
    def reference(self) -> Reference:
        """Which reference it calls."""

    @property
    def passes(self) -> Passes:
        """What one record of the batch costs; a mean where it depends on the draw."""

    def loss(self, batch: Any, model: Any) -> Loss:
        """The loss of one batch; no backward, no ranks, no files in here."""


@runtime_checkable
class LatentScorer(Protocol):
    """A judge of pictures that are still noisy: what a scorer is for finished ones."""

    @property
    def asks(self) -> int:
        """How many pictures go through the denoiser for one score; 0 if it looks for itself."""

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """(n,) scores of x_t (n, ...) at times t (n,), without gradient: higher is better, NaN where it cannot say.

        The sigmoid of two scores' difference is the probability that the first is better.
        """


@runtime_checkable
class Reading(Protocol):
    """A latent scorer that needs more than latents: it judges one batch, once it knows the model and the words."""

    @property
    def asks(self) -> int:
        """As of a LatentScorer."""

    def of(self, model: Denoiser, texts: Sequence[str]) -> LatentScorer:
        """The judge of n noisy pictures whose prompts are these n, in this order."""


@runtime_checkable
class Following(Protocol):
    """A method of Reference.EMA: it says how slowly its reference follows what is trained."""

    @property
    def decay(self) -> float:
        """After each update the reference is decay x itself + (1 - decay) x the trained weights."""


@runtime_checkable
class Recalling(Protocol):
    """A method for language models that takes the reference's log-probabilities of the records' own answers from a
    cache, where there is one. Methods that are not this ask the reference for more, and a cache is refused."""

    @property
    def recalls(self) -> Literal["all", "some"]:
        """Whether they are "all" that it asks of the reference, which then need not be held, or "some" of it."""


@runtime_checkable
class Looking(Protocol):
    """A method for language models that goes by which words a picture shows: it cannot do without `data.relevance`."""

    @property
    def looks(self) -> Literal[True]:
        """That it does."""


class View(Protocol):
    """Records as batches of one type: a map from indices to tensors, with no random state of its own."""

    def __len__(self) -> int:
        """How many usable records there are."""

    def key(self, index: int) -> str:
        """The key of a record: names it in draws, quarantine and error messages."""

    def weight(self, index: int) -> float:
        """The record's weight, known without reading any picture."""

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Any:
        """The batch of these records at these visits, on the CPU; a pure function of its arguments."""


class Encoders(Protocol):
    """Pictures or clips and prompts to what a denoiser sees. Never trained.

    A size is (height, width) of pictures and (frames, height, width) of clips, in pixels.
    """

    @property
    def fingerprint(self) -> str:
        """A hash of every weight and setting that changes what they return: caches are kept under it."""

    @property
    def factor(self) -> int:
        """Pixels along a side of a latent, or of a transformer's token: sides are multiples of it."""

    @property
    def stride(self) -> int:
        """Frames of a clip per latent frame after the first, which holds one; 1 where each is encoded by itself."""

    @property
    def wants_time_ids(self) -> bool:
        """Whether the denoiser is told original size and crop, as SDXL's is."""

    @property
    def guidance(self) -> float | None:
        """How much guidance the denoiser is told of in training, as FLUX.1-dev's is; None if it is told of none."""

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation of the posterior, scaled as the denoiser sees it, of pixels in [-1, 1]: (n, 3, h, w), or
        (n, 3, f, h, w) of clips."""

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one latent of a picture or clip of this size: (c, h, w) or (c, f, h, w)."""

    def encode_prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Hidden states (n, tokens, width) and pooled text (n, width), where there is one."""
