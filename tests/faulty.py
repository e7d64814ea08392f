"""A server of OpenAI's chat completions that fails as it is told to, question by question."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

HANG = 3.0  # seconds


class Server(ThreadingHTTPServer):
    """Answers a question with its own text, after the faults that its script has for that text."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.scripts: dict[str, list[str]] = {}
        self.always: str | None = None
        self.replies: dict[str, Any] = {}  # question -> message, in place of its own text
        self.asked: Counter[str] = Counter()
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.pause = 0.0
        self.lock = Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = body["messages"][0]["content"][0]["text"]
        with self.server.lock:
            self.server.asked[text] += 1
            self.server.times[text].append(time.monotonic())
            self.server.bodies.append(body)
            self.server.headers.append(dict(self.headers))
            self.server.now += 1
            self.server.most = max(self.server.most, self.server.now)
            script = self.server.scripts.get(text) or []
            fault = script.pop(0) if script else self.server.always
        time.sleep(self.server.pause)
        with self.server.lock:
            self.server.now -= 1
        getattr(self, f"_{(fault or 'good').split()[0]}")(text, *(fault or "").split()[1:])

    def _good(self, text: str) -> None:
        message = dict(self.server.replies.get(text, {"content": f"you said {text}"}))
        finish = "length" if message.pop("cut", False) else "stop"
        choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
        self._send(200, json.dumps({"choices": [choice]}).encode())

    def _status(self, text: str, status: str, *after: str) -> None:
        words = f"no: {self.headers.get('Authorization', '')}"  # some servers repeat what they were sent
        self._send(int(status), words.encode(), {"Retry-After": " ".join(after)} if after else {})

    def _hang(self, text: str) -> None:
        time.sleep(HANG)

    def _garbage(self, text: str) -> None:
        self._send(200, b'{"choices": [{"message"')

    def _shape(self, text: str) -> None:
        self._send(200, b'{"choices": []}')

    def _deep(self, text: str) -> None:
        self._send(200, b"[" * 200_000)

    def _packed(self, text: str) -> None:
        self._send(200, b"not packed at all", {"Content-Encoding": "gzip"})

    def _unsure(self, text: str, logprob: str) -> None:
        token = f'{{"token": "A", "logprob": {logprob}, "top_logprobs": []}}'
        told = f'"logprobs": {{"content": [{token}]}}, "finish_reason": "stop"'
        self._send(200, f'{{"choices": [{{"message": {{"content": "A"}}, {told}}}]}}'.encode())

    def _endless(self, text: str) -> None:
        self.send_response(200)
        self.end_headers()
        self.close_connection = True
        with suppress(OSError):
            while True:
                self.wfile.write(b" " * 2**20)

    def _cut(self, text: str) -> None:
        self._send(200, b'{"choices": [', length=5000)
        self.close_connection = True

    def _slam(self, text: str) -> None:
        self.close_connection = True

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length or len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: Any) -> None:
        """Tests are quiet."""


@contextmanager
def serving(scripts: dict[str, Sequence[str]] | None = None, always: str | None = None) -> Iterator[Server]:
    """The server, for a while."""
    with Server() as server:
        server.scripts = {text: list(script) for text, script in (scripts or {}).items()}
        server.always = always
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()
