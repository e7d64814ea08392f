"""What the scorer API says and does, without HTTP: wire types, limits, metrics, and a line for each scorer."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, Field
from torch import Tensor

from visalign import images
from visalign.images import ImageError
from visalign.scoring import Sample, Scorer, Scores, Specified, bradley_terry

from .batching import Batcher

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    body: int = 64 * MEGABYTE  # bytes
    samples: int = 256
    pixels: int = 16_000_000  # of one picture, checked before it is decoded
    batch: int = 64  # samples that are scored together
    wait: float = 0.005  # seconds that the first of a batch waits for company
    held: int = 4096  # samples that may wait for a scorer


class Item(BaseModel):
    """One sample: a prompt, and a PNG, JPEG or WebP picture in base64."""

    prompt: str = Field(max_length=20_000)
    image: str = Field(description="base64")
    user: str | None = Field(None, max_length=200, description="whose taste, for personal scorers")


class Asked(BaseModel):
    """Samples to be scored."""

    samples: list[Item]
    scorer: str | None = Field(None, description="a name of /scorers; may be left out where there is one")


class Compared(BaseModel):
    """Pairs to be compared: first[i] with second[i]."""

    first: list[Item]
    second: list[Item]
    scorer: str | None = None


class Result(BaseModel):
    """What a scorer says of one sample; without a value where it could not judge."""

    value: float | None
    valid: bool
    reason: str | None = None
    aspects: dict[str, float] = {}
    sigma: float | None = None
    right: bool | None = None
    truncated: bool | None = None


class Scored(BaseModel):
    """Results, in the order of the samples."""

    scorer: str
    results: list[Result]


class Preferred(BaseModel):
    """P(first is better) of each pair; null where either could not be judged."""

    scorer: str
    probabilities: list[float | None]


@dataclass(frozen=True)
class Read:
    """A sample as it came in, and why it has no image if it has none."""

    sample: Sample
    reason: str = ""


@dataclass
class Metrics:
    """What /metrics tells, in a registry of this app alone."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        kept, sizes = self.registry, (1, 2, 4, 8, 16, 32, 64, 128, 256)
        self.requests = Counter("visalign_requests", "answers", ["route", "status"], registry=kept)
        self.seconds = Histogram("visalign_request_seconds", "time to an answer", ["route"], registry=kept)
        self.samples = Counter("visalign_samples", "samples, judged or not", ["scorer", "valid"], registry=kept)
        self.batches = Histogram(
            "visalign_batch_samples", "samples scored together", ["scorer"], buckets=sizes, registry=kept
        )
        self.waiting = Gauge("visalign_waiting_samples", "samples in line", ["scorer"], registry=kept)


@dataclass
class Service:
    """The scorers of one server, each with its line."""

    scorers: Mapping[str, Scorer]
    limits: Limits
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        if not self.scorers:
            raise ValueError("nothing to serve: name at least one scorer")
        self.batchers = {name: self._batcher(name, scorer) for name, scorer in self.scorers.items()}

    def _batcher(self, name: str, scorer: Scorer) -> Batcher:
        limits = self.limits
        noted = self.metrics.batches.labels(name).observe
        made = Batcher(scorer, limits.batch, limits.wait, limits.held, noted)
        self.metrics.waiting.labels(name).set_function(lambda: made.waiting)
        return made

    def named(self, name: str | None) -> str:
        """The scorer asked for, which may be left unsaid where there is one; LookupError lists what there is."""
        if name is None and len(self.scorers) == 1:
            return next(iter(self.scorers))
        if name is None or name not in self.scorers:
            raise LookupError(f"no scorer is named {name!r} here; there are {', '.join(self.scorers)}")
        return name

    async def score(self, name: str, read: Sequence[Read]) -> Scores:
        """Scores of what was read, in order; what could not be decoded is not judged, with its reason."""
        found = await self.batchers[name].score([each.sample for each in read])
        reasons = {row: each.reason for row, each in enumerate(read) if each.reason}
        for valid in (True, False):
            self.metrics.samples.labels(name, str(valid).lower()).inc(int((found.judged == valid).sum()))
        return replace(found, reasons={**found.reasons, **reasons})


def results(scores: Scores) -> list[Result]:
    """A result a sample."""

    def at(values: Tensor | None, row: int) -> float | None:
        value = math.nan if values is None else float(values[row])
        return value if math.isfinite(value) else None

    def flag(values: Tensor | None, row: int) -> bool | None:
        return None if values is None else bool(values[row])

    return [
        Result(
            value=at(scores.values, row) if judged else None,
            valid=judged,
            reason=scores.reasons.get(row),
            aspects={name: value for name, each in scores.aspects.items() if (value := at(each, row)) is not None},
            sigma=at(scores.sigma, row),
            right=flag(scores.right, row) if judged else None,
            truncated=flag(scores.truncated, row),
        )
        for row, judged in enumerate(scores.judged.tolist())
    ]


def read(data: bytes, prompt: str, user: str | None, pixels: int) -> Read:
    """A picture's bytes as a sample; one that cannot be decoded has no image, which no scorer judges."""
    try:
        return Read(Sample(prompt, image=images.load(data, max_pixels=pixels), user=user))
    except ImageError as error:
        return Read(Sample(prompt, user=user), str(error))


def unpacked(item: Item, pixels: int) -> Read:
    """A JSON item as a sample."""
    try:
        data = base64.b64decode(item.image, validate=True)
    except binascii.Error as error:
        return Read(Sample(item.prompt, user=item.user), f"not base64 ({error})")
    return read(data, item.prompt, item.user, pixels)


def chances(found: Scores, count: int, scorer: Scorer) -> list[float | None]:
    """P(first is better) by score, of `count` first and then as many second samples."""
    temperature = scorer.spec.temperature if isinstance(scorer, Specified) else None
    found_chances = bradley_terry(found.values[:count], found.values[count:], temperature or 0.0)
    both = found.judged[:count] & found.judged[count:]
    return [float(each) if judged else None for each, judged in zip(found_chances, both.tolist(), strict=True)]
