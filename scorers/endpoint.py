"""A backend over the network: any server that speaks OpenAI's chat completions (vLLM, SGLang, transformers serve, …).

Retried are timeouts, broken connections, 408, 409, 425, 429, 5xx and bodies that are no answer, each question at most
`tries` times, with exponential waits and jitter, never before the server's Retry-After. What else a server refuses is
that question's failure; 401 and 404 concern every question, and raise.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
import tenacity

from .chat import Answer, Question, Sampling, Token

AGAIN = {408, 409, 425, 429}  # and every 5xx
FOR_ALL = {401: "the key is not accepted", 404: "there is no such address or model"}
QUOTED = 200  # characters of a server's words in a reason
MOST = 64 * 2**20  # bytes of an answer
SURE = 1e-3  # how far above 0 rounding may bring a log-probability
Told = Callable[[tuple[int, Answer]], None]


class EndpointError(RuntimeError):
    """The endpoint cannot be used at all."""


class Again(Exception):
    """This try failed, another may not; `after` is how many seconds the server wants to be left alone."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True)
class _End:
    error: BaseException | None


class Endpoint:
    """Asks a server, several questions at a time.

    Args:
        url: what stands before "/chat/completions", "http://localhost:8000/v1" for one.
        model: the name that the server knows.
        key_from: the environment variable that holds the key; "": none is sent. It is neither logged nor kept.
        concurrency: questions under way at once.
        timeout: seconds of one try, from the first byte sent to the last received.
        tries: of each question.
        patience: seconds; a server that wants to be left alone for longer has failed.
        limit: what the server calls the greatest number of tokens.
        extra: fields of the request besides ours, or in their place; None takes one out ({"seed": None}).
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_from: str = "",
        concurrency: int = 8,
        timeout: float = 120.0,
        tries: int = 5,
        patience: float = 60.0,
        limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens",
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        _check_url(url)
        if min(concurrency, tries) < 1 or min(timeout, patience) <= 0:
            raise ValueError("concurrency and tries are at least 1, timeout and patience above 0 seconds")
        if key_from and not os.environ.get(key_from):
            raise ValueError(f"key_from names the environment variable {key_from}, which is not set")
        self.url, self.model, self.key_from = url.rstrip("/"), model, key_from
        self.concurrency, self.timeout, self.tries, self.patience = concurrency, timeout, tries, patience
        self.limit, self.extra = limit, dict(extra or {})
        self.backoff = tenacity.wait_exponential_jitter(multiplier=0.5, max=patience, jitter=0.5)

    @property
    def identity(self) -> Mapping[str, Any]:
        """Address, model and extra fields."""
        return {"kind": "endpoint", "url": self.url, "model": self.model, "limit": self.limit, "extra": self.extra}

    def chat(self, questions: Sequence[Question], sampling: Sampling) -> Iterator[tuple[int, Answer]]:
        """Answers as they come. Leaving early gives up what is under way; raises EndpointError."""
        told: SimpleQueue[Any] = SimpleQueue()
        # A loop in a thread of its own, since a notebook's thread has one that runs; with a factory, it is set nowhere.
        runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        loop = runner.get_loop()
        thread = Thread(target=_drive, args=(runner, self._all(questions, sampling, told.put), told.put), daemon=True)
        thread.start()
        try:
            while not isinstance(each := told.get(), _End):
                yield each
            if each.error is not None:
                raise each.error
        finally:
            with suppress(RuntimeError):  # the loop is closed: there is nothing left to give up
                loop.call_soon_threadsafe(_give_up, loop)
            thread.join()

    async def _all(self, questions: Sequence[Question], sampling: Sampling, tell: Told) -> None:
        rest = iter(enumerate(questions))  # shared: each worker takes the next
        key = os.environ.get(self.key_from, "") if self.key_from else ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        limits = httpx.Limits(max_connections=self.concurrency)
        async with httpx.AsyncClient(headers=headers, timeout=self.timeout, limits=limits) as client:
            work = [self._work(client, rest, sampling, tell) for _ in range(min(self.concurrency, len(questions)))]
            await asyncio.gather(*work)

    async def _work(
        self, client: httpx.AsyncClient, rest: Iterator[tuple[int, Question]], sampling: Sampling, tell: Told
    ) -> None:
        for place, question in rest:
            tell((place, await self._answer(client, self._body(question, sampling))))

    async def _answer(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        """The answer after as many tries as it takes, or the reason why there is none."""
        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Again), wait=self._wait, stop=self._enough, reraise=True
        )
        try:
            found: Answer = await again(self._once, client, body)
            return found
        except Again as error:
            tries = again.statistics.get("attempt_number", 1)
            return Answer(failure=f"{error} (tried {tries} time{'s' * (tries > 1)})")

    def _wait(self, state: tenacity.RetryCallState) -> float:
        return _after(state) + self.backoff(state)

    def _enough(self, state: tenacity.RetryCallState) -> bool:
        return state.attempt_number >= self.tries or _after(state) > self.patience

    async def _once(self, client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
        try:
            async with (
                asyncio.timeout(self.timeout),
                client.stream("POST", f"{self.url}/chat/completions", json=body) as response,
            ):
                content = await _content(response)
        except (TimeoutError, httpx.TimeoutException):
            raise Again(f"no answer within {self.timeout:g} s") from None
        except httpx.RequestError as error:
            raise Again(f"connection broken ({type(error).__name__}: {_quoted(str(error), client)})") from None
        return _read(response, content, _quoted(content.decode(errors="replace"), client), self.url)

    def _body(self, question: Question, sampling: Sampling) -> dict[str, Any]:
        made: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": [_part(each) for each in question.parts]}],
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            self.limit: sampling.tokens,
        }
        if sampling.top_logprobs:
            made |= {"logprobs": True, "top_logprobs": sampling.top_logprobs}
        return {name: value for name, value in (made | self.extra).items() if value is not None}


async def _content(response: httpx.Response) -> bytes:
    """The body, unpacked; Again for one without end."""
    content = bytearray()
    async for part in response.aiter_bytes():
        content += part
        if len(content) > MOST:
            raise Again(f"the body is longer than {MOST} bytes")
    return bytes(content)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url should look like http://localhost:8000/v1, got {url!r}")
    if parts.username or parts.password or parts.query:
        raise ValueError("url holds a user, a password or a query: keys belong in the variable that key_from names")


def _drive(runner: asyncio.Runner, work: Coroutine[Any, Any, None], tell: Callable[[_End], None]) -> None:
    """Run the work until it ends, however it does; what it leaves behind is cancelled."""
    error: BaseException | None = None
    try:
        with runner:
            runner.run(work)
    except BaseException as raised:  # told to the thread that waits
        error = raised
    tell(_End(error))


def _give_up(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()


def _part(part: str | bytes) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(part).decode()}"}}


def _quoted(text: str, client: httpx.AsyncClient) -> str:
    """The beginning of a server's words in one line, without the key should it repeat that."""
    key = client.headers.get("Authorization", "").removeprefix("Bearer ")
    return " ".join((text.replace(key, "…") if key else text).split())[:QUOTED]


def _after(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    return error.after if isinstance(error, Again) else 0.0


def _retry_after(response: httpx.Response) -> float:
    """Seconds from now: the header holds a number of them, or a date (RFC 9110, section 10.2.3)."""
    given = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d+(\.\d*)?", given, re.ASCII):  # a fraction is against the RFC, and common
        return float(given)
    try:
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _read(response: httpx.Response, content: bytes, words: str, url: str) -> Answer:
    status = response.status_code
    if status in FOR_ALL:
        raise EndpointError(f"{url} answers {status}, {FOR_ALL[status]}: {words}")
    if status in AGAIN or status >= 500:
        raise Again(f"HTTP {status}: {words}", _retry_after(response))
    if status != 200:
        return Answer(failure=f"HTTP {status}: {words}")
    try:
        return _completion(json.loads(content))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise Again(f"the body is no chat completion: {words}") from None


def _completion(values: Mapping[str, Any]) -> Answer:
    """The answer in a chat completion; raises what a wrong shape leads to."""
    choice = values["choices"][0]
    message, reason = choice["message"], choice.get("finish_reason")
    if message.get("refusal") or reason == "content_filter":
        return Answer(failure=f"refused: {message.get('refusal') or 'by a content filter'}")
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise TypeError(text)
    told = (choice.get("logprobs") or {}).get("content") or ()
    return Answer(text, tuple(map(_token, told)), cut=reason == "length")


def _token(values: Mapping[str, Any]) -> Token:
    top = {str(each["token"]): _logprob(each) for each in values.get("top_logprobs") or ()}
    return Token(str(values["token"]), {str(values["token"]): _logprob(values)} | top)


def _logprob(values: Mapping[str, Any]) -> float:
    found = float(values["logprob"])
    if not found <= SURE:  # NaN too
        raise ValueError(f"no log-probability: {found}")
    return min(found, 0.0)
