"""What stands between the app and everybody else: hosts, origins, passwords, sizes, and what a page may load.

Gradio by itself answers any `Host` (so a web page whose name is re-bound to 127.0.0.1 can talk to it) and takes uploads
from any page. Nothing here is needed by a person at the keyboard; all of it is against pages and strangers.
"""

from __future__ import annotations

import base64
import hmac
import ipaddress
import json
import unicodedata
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
KEY_HEADER = "x-visalign-key"
PRIVATE = "/desk/"  # where the pages' own calls go; what changes anything asks for the page's key
UNGUARDED = "/gradio_api/startup-events"  # asked by Gradio itself before the app is announced
# Gradio's doors that this app has no use for: files in and out, other servers, the record of runs, who is here.
API = "/gradio_api/"
DOORS = ("upload", "upload_progress", "file", "stream", "proxy", "deep_link", "runs", "mcp", "vibe", "dev")
CLOSED = (*(f"{API}{name}" for name in DOORS), "/monitoring", "/svelte", "/proxy=", "/file")
MAX_BODY = 64 * 2**10  # bytes: the longest thing anybody says here is a prompt
HEADERS = {
    # Gradio's pages need inline scripts and eval; nothing needs another host.
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; form-action 'self'; "
    "frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


class Refused(ValueError):
    """Something asked for cannot be; one sentence for whoever asked."""


@dataclass
class Policy:
    """Who may ask."""

    key: str  # the pages of this launch carry it
    hosts: set[str] = field(default_factory=lambda: set(LOOPBACK))  # names that the app answers to
    addresses: bool = False  # answer to any IP address too: a re-bound host is a name, never an address
    login: tuple[str, str] | None = None  # user and password

    def knows(self, host: str) -> bool:
        """Whether a Host header (with or without port) is one of ours."""
        name = _name(host)
        return name in self.hosts or (self.addresses and _is_address(name))

    def opens(self, authorization: str) -> bool:
        """Whether an Authorization header holds the password, compared in constant time."""
        if self.login is None:
            return True
        scheme, _, given = authorization.partition(" ")
        expected = base64.b64encode(":".join(self.login).encode()).decode()
        return scheme.lower() == "basic" and hmac.compare_digest(given.strip().encode(), expected.encode())


def _name(host: str) -> str:
    """Without port, brackets and case."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Guard:
    """The outermost layer of the server: refuses what the policy does not know, and says what pages may load."""

    app: Asgi
    policy: Policy

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self.refusal(scope, headers)
        if refusal:
            await _answer(scope, send, *refusal)
        else:
            await self.app(scope, _capped(receive), _marked(send))

    def refusal(self, scope: MutableMapping[str, Any], headers: dict[str, str]) -> tuple[int, str] | None:
        """Status and sentence for a request that is refused; None for one that is not."""
        path, host = scope["path"], headers.get("host", "")
        if not self.policy.knows(host):
            return 403, f"this app does not answer to the host {host!r}; start it with --allow-host if it should"
        if _is_foreign(headers, host):
            return 403, "asked from another web page"
        if not self.policy.opens(headers.get("authorization", "")) and path != UNGUARDED:
            return 401, "a user and a password are needed"
        if path.startswith(CLOSED):
            return 404, "not part of this app"
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            return self._change(path, headers)
        return None

    def _change(self, path: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """What is refused of requests with a body."""
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return 411, "say how long the body is"
        if int(length) > MAX_BODY:
            return 413, f"{length} bytes are too many, at most {MAX_BODY}"
        if path.startswith(PRIVATE) and not hmac.compare_digest(headers.get(KEY_HEADER, ""), self.policy.key):
            return 403, "this is for the app's own pages; start it with --open-votes to vote by other means"
        return None


def _is_foreign(headers: dict[str, str], host: str) -> bool:
    """Whether another site's page asks: by its Origin, or by what the browser says of a request without one."""
    origin = headers.get("origin")
    if origin is not None:
        return urlsplit(origin).netloc.lower() != host.lower()
    fetched = headers.get("sec-fetch-site") in ("cross-site", "same-site")
    return fetched and headers.get("sec-fetch-mode") != "navigate"


def _capped(receive: Receive) -> Receive:
    """A body that turns out longer than it said ends the connection."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= MAX_BODY else {"type": "http.disconnect"}

    return counted


def _marked(send: Send) -> Send:
    """Every answer carries HEADERS, and says nothing of the server."""

    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            message["headers"] = [*message.get("headers", []), *own]
        await send(message)

    return marked


async def _answer(scope: MutableMapping[str, Any], send: Send, status: int, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": why}).encode()
    head = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        head.append((b"www-authenticate", b'Basic realm="visalign", charset="UTF-8"'))
    await _marked(send)({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})


def said(value: Any, name: str, most: int) -> str:
    """A text from a stranger: one line of at most `most` characters, without control characters; raises Refused."""
    if not isinstance(value, str):
        raise Refused(f"{name} must be a text")
    text = " ".join(_visible(value).split())
    if len(text) > most:
        raise Refused(f"{name} has {len(text)} characters, at most {most}")
    return text


def _visible(text: str) -> str:
    """Without what changes direction, hides or breaks (categories Cc, Cf, Cs, Co, Cn); breaks become blanks."""
    return "".join(" " if each in "\t\r\n" else each for each in text if each in "\t\r\n" or _shown(each))


def _shown(character: str) -> bool:
    return not unicodedata.category(character).startswith("C")


def chosen(value: Any, name: str, known: Iterable[str]) -> str:
    """One of the known texts; raises Refused listing them."""
    known = list(known)
    if value not in known:
        raise Refused(f"{name} must be one of {', '.join(known)}")
    return str(value)
