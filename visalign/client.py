"""A client of `visalign serve`: scores over HTTP, as a scorer like any other.

scorer = ScoreClient("http://127.0.0.1:8090", scorer="hpsv2.1", key="…")
scorer.score([Sample("a red circle", image="picture.png")]).values
"""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .images import ImageError, Misuse, load
from .scoring import Sample, Scores

if TYPE_CHECKING:
    import httpx

TRIES = 5  # when the server is too busy


class ServerError(RuntimeError):
    """The server refused, or cannot be reached; its own words."""


class ScoreClient:
    """A scorer that asks a server. Samples go in requests of `batch`; one whose picture cannot be opened is not sent.

    Raises ServerError for whatever the server refuses. While it is too busy (503), a request is sent again after the
    time that the server names, at most TRIES times.
    """

    def __init__(
        self, url: str, scorer: str | None = None, *, key: str | None = None, batch: int = 64, timeout: float = 120.0
    ) -> None:
        import httpx

        self.scorer, self.batch = scorer, batch
        headers = {} if key is None else {"x-api-key": key}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    @property
    def name(self) -> str:
        """The server's scorer."""
        return self.scorer or "server"

    def health(self) -> dict[str, Any]:
        """Version, scorers, and how many samples wait."""
        return self._asked("GET", "/health")

    def scorers(self) -> dict[str, Any]:
        """The specs of the server's scorers."""
        return self._asked("GET", "/scorers")

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Scores of the samples, in order."""
        sent, reasons = _packed(samples)
        rows = list(sent)
        said: list[Mapping[str, Any]] = []
        for start in range(0, len(rows), self.batch):
            part = [sent[row] for row in rows[start : start + self.batch]]
            said += self._asked("POST", "/score", {"samples": part, "scorer": self.scorer})["results"]
        return _scores(len(samples), dict(zip(rows, said, strict=True)), reasons)

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,), as the server's scorer has it; NaN where either could not be judged."""
        if len(first) != len(second):
            raise ValueError(f"{len(first)} first and {len(second)} second samples are no pairs")
        (left, one), (right, other) = _packed(first), _packed(second)
        chances = torch.full((len(first),), torch.nan, dtype=torch.float64)
        rows = [row for row in range(len(first)) if row not in one and row not in other]
        for start in range(0, len(rows), max(1, self.batch // 2)):
            part = rows[start : start + max(1, self.batch // 2)]
            asked = {"first": [left[row] for row in part], "second": [right[row] for row in part]}
            found = self._asked("POST", "/prefer", {**asked, "scorer": self.scorer})["probabilities"]
            chances[part] = torch.tensor([math.nan if each is None else each for each in found], dtype=torch.float64)
        return chances

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        import httpx

        for _ in range(TRIES):
            try:
                answer = self._http.request(method, path, json=body)
            except httpx.HTTPError as error:
                raise ServerError(f"{self._http.base_url}: {type(error).__name__}: {error}") from error
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(float(answer.headers.get("retry-after", 1)))
        if answer.is_error:
            raise ServerError(f"{path}: {answer.status_code}, {_detail(answer)}")
        found: dict[str, Any] = answer.json()
        return found


def _detail(answer: httpx.Response) -> str:
    """What the server says is wrong."""
    try:
        said = answer.json()
    except ValueError:
        return answer.text[:200]
    return str(said.get("detail", said)) if isinstance(said, dict) else str(said)


def _packed(samples: Sequence[Sample]) -> tuple[dict[int, dict[str, Any]], dict[int, str]]:
    """What is sent of each sample by its row, and why others are not sent."""
    sent: dict[int, dict[str, Any]] = {}
    reasons: dict[int, str] = {}
    for row, sample in enumerate(samples):
        try:
            sent[row] = {"prompt": sample.prompt, "image": _encoded(sample), "user": sample.user}
        except Misuse:
            raise
        except ImageError as error:
            reasons[row] = str(error)
    return sent, reasons


def _encoded(sample: Sample) -> str:
    """The picture as a PNG in base64."""
    if sample.image is None:
        raise ImageError("the sample has no image")
    file = BytesIO()
    load(sample.image).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def _scores(count: int, said: Mapping[int, Mapping[str, Any]], reasons: Mapping[int, str]) -> Scores:
    """The server's results as scores."""

    def column(values: Mapping[int, Any], missing: float | bool) -> Tensor:
        found = [missing if values.get(row) is None else values[row] for row in range(count)]
        return torch.tensor(found, dtype=torch.bool if missing is False else torch.float64)

    values = {row: each["value"] for row, each in said.items()}
    aspects = {name for each in said.values() for name in each["aspects"]}
    flags = {
        name: column({row: each[name] for row, each in said.items()}, False)
        for name in ("right", "truncated")
        if any(each[name] is not None for each in said.values())
    }
    why = {row: each["reason"] for row, each in said.items() if each["reason"] and not each["valid"]}
    return Scores(
        column(values, math.nan),
        {name: column({row: each["aspects"].get(name) for row, each in said.items()}, math.nan) for name in aspects},
        valid=column({row: each["valid"] for row, each in said.items()}, False),
        reasons={**reasons, **why},
        **flags,
    )
