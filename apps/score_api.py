"""Scorers over HTTP: `visalign serve`. JSON and multipart, batches across requests, caps, a key, metrics.

Nothing that a caller sends is ever taken for a path: pictures come as bytes, are decoded under a cap on their pixels,
and one that cannot be decoded is `valid: false` with its reason while the others are scored.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, File, Form, HTTPException, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from visalign import __version__
from visalign.config import plain
from visalign.scoring import Scorer, Specified

from .batching import Overloaded
from .safety import Asgi, Message, Policy, Receive, Send
from .service import Asked, Compared, Item, Limits, Preferred, Read, Scored, Service, chances, read, results, unpacked

OPEN = ("/health",)  # answered without a key
Next = Callable[[Request], Awaitable[Response]]
Files = Annotated[list[UploadFile], File(description="PNG, JPEG or WebP")]
OnePrompt = Annotated[str, Form()]
Named = Annotated[str | None, Form()]
Prompts = Annotated[list[str], Form(description="one for all, or one a picture")]


def create(
    scorers: Mapping[str, Scorer],
    *,
    limits: Mapping[str, Any] | None = None,
    key: str | None = None,
    hosts: Sequence[str] = (),
) -> Asgi:
    """The app. `key`: what callers must send as `Authorization: Bearer …` or `X-API-Key`; None: nobody is asked.

    `hosts` are names that it answers to besides localhost, so that no re-bound host name reaches it.
    """
    service = Service(scorers, Limits(**limits or {}))

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        for each in service.batchers.values():
            each.start()
        yield
        for each in service.batchers.values():
            await each.stop()

    about = "Scores of images for prompts. Pictures are sent as bytes; a scorer is named as in /scorers."
    app = FastAPI(title="visalign scorers", version=__version__, description=about, lifespan=running)
    _questions(app, service)
    _scoring(app, service)
    _answers(app, service, key)
    return Gate(app, Policy("", {*Policy("").hosts, *hosts}, addresses=True), service.limits.body)


def _questions(app: FastAPI, service: Service) -> None:
    """What can be asked without a picture."""

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it is up, and how much waits."""
        waiting = {name: each.waiting for name, each in service.batchers.items()}
        return {"status": "ok", "version": __version__, "scorers": list(service.scorers), "waiting": waiting}

    @app.get("/scorers")
    async def scorers() -> dict[str, Any]:
        """Each scorer's spec: scale, range, license, what it reads; null where it has none."""
        return {
            name: plain(each.spec) if isinstance(each, Specified) else None for name, each in service.scorers.items()
        }

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _scoring(app: FastAPI, service: Service) -> None:
    """Where pictures are sent to."""
    pixels = service.limits.pixels

    @app.post("/score")
    async def score(asked: Asked) -> Scored:
        """Score samples."""
        name = service.named(asked.scorer)
        return Scored(scorer=name, results=results(await service.score(name, await items(service, asked.samples))))

    @app.post("/score/upload")
    async def score_upload(files: Files, prompt: Prompts, scorer: Named = None) -> Scored:
        """Score pictures sent as files."""
        name, samples = service.named(scorer), await uploads(service, files, prompt)
        return Scored(scorer=name, results=results(await service.score(name, samples)))

    @app.post("/prefer")
    async def prefer(asked: Compared) -> Preferred:
        """P(first is better) of each pair, by score."""
        if len(asked.first) != len(asked.second):
            raise HTTPException(422, f"{len(asked.first)} first and {len(asked.second)} second samples are no pairs")
        name, count = service.named(asked.scorer), len(asked.first)
        found = await service.score(name, await items(service, [*asked.first, *asked.second]))
        return Preferred(scorer=name, probabilities=chances(found, count, service.scorers[name]))

    @app.post("/prefer/upload")
    async def prefer_upload(
        first: UploadFile,
        second: UploadFile,
        prompt: Annotated[str, Form()],
        scorer: Annotated[str | None, Form()] = None,
    ) -> Preferred:
        """P(first is better) of two pictures sent as files."""
        name, samples = service.named(scorer), await uploads(service, [first, second], [prompt])
        found = await service.score(name, samples)
        return Preferred(scorer=name, probabilities=chances(found, 1, service.scorers[name]))

    async def uploads(service: Service, files: Sequence[UploadFile], prompts: Sequence[str]) -> list[Read]:
        _few_enough(len(files), service)
        if len(prompts) not in (1, len(files)):
            raise HTTPException(422, f"{len(files)} pictures and {len(prompts)} prompts: give one for all, or one each")
        told = list(prompts) * (len(files) if len(prompts) == 1 else 1)
        sent = [await each.read() for each in files]
        return await asyncio.to_thread(
            lambda: [read(data, prompt, None, pixels) for data, prompt in zip(sent, told, strict=True)]
        )

    async def items(service: Service, sent: Sequence[Item]) -> list[Read]:
        _few_enough(len(sent), service)
        return await asyncio.to_thread(lambda: [unpacked(each, pixels) for each in sent])


def _few_enough(count: int, service: Service) -> None:
    if not 0 < count <= service.limits.samples:
        raise HTTPException(422, f"a request holds 1 to {service.limits.samples} samples, got {count}")


def _answers(app: FastAPI, service: Service, key: str | None) -> None:
    """Errors in one line, the key, and the counting."""
    metrics = service.metrics

    @app.exception_handler(LookupError)
    async def unknown(request: Request, error: LookupError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    @app.exception_handler(Overloaded)
    async def busy(request: Request, error: Overloaded) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "1"})

    @app.middleware("http")
    async def counted(request: Request, call_next: Next) -> Response:
        began = time.perf_counter()
        try:
            refused = key is not None and request.url.path not in OPEN and not _knows(request, key)
            answer = JSONResponse({"detail": "a key is needed"}, 401) if refused else await call_next(request)
        except Exception as error:  # a scorer's own failure: said in a line, without a traceback
            answer = JSONResponse({"detail": f"the scorer failed: {type(error).__name__}: {error}"}, 500)
        route = getattr(request.scope.get("route"), "path", "other")
        metrics.requests.labels(route, str(answer.status_code)).inc()
        metrics.seconds.labels(route).observe(time.perf_counter() - began)
        return answer


def _knows(request: Request, key: str) -> bool:
    """Whether the caller has the key, compared in constant time."""
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    given = request.headers.get("x-api-key") or bearer
    return hmac.compare_digest(given.encode(), key.encode())


@dataclass(frozen=True)
class Gate:
    """The outermost layer: a host that is known, and a body that is not too long, whatever it says of its length."""

    app: Asgi
    policy: Policy
    body: int

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        length = headers.get("content-length", "0")
        if not self.policy.knows(headers.get("host", "")):
            refusal: tuple[int, str] | None = (403, f"this server does not answer to the host {headers.get('host')!r}")
        elif urlsplit(headers.get("origin", "")).netloc not in ("", headers["host"]):
            refusal = (403, "asked from another web page")
        elif not length.isdecimal() or int(length) > self.body:
            refusal = (413, f"a body has at most {self.body} bytes, this says {length}")
        else:
            refusal = None
        if refusal:
            await JSONResponse({"detail": refusal[1]}, refusal[0])(scope, receive, send)
        else:
            await self.app(scope, self._counted(receive), send)

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return message if seen <= self.body else {"type": "http.disconnect"}

        return counted
