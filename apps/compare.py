"""`visalign compare`: models side by side in the browser, blind votes, a leaderboard, and training from the votes.

Gradio serves the pages, the queue and the public API; what stands on the pages is drawn by the scripts beside this
file from the routes in routes.py. Nothing is asked of any other host.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, TypeVar

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported

import gradio as gr
from fastapi.middleware import Middleware

from .desk import Desk, Setup
from .routes import router
from .safety import LOOPBACK, Guard, Policy, Refused, said
from .taste import Taste

T = TypeVar("T")
PAGES = {"": "Grid", "vote": "Vote", "leaderboard": "Leaderboard", "answers": "Answers", "runs": "Runs"}
WAITING = 64  # calls of the public API that may wait for their turn


@dataclass(frozen=True)
class Door:
    """Where the app listens, and whom it lets in."""

    host: str = "127.0.0.1"
    port: int | None = None  # None: the first free one from 7860
    login: tuple[str, str] | None = None  # user and password
    share: bool = False  # a public link through Gradio's tunnel
    hosts: Sequence[str] = ()  # other names that the app may be called by
    open_votes: bool = False  # votes by the public API too
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    def __post_init__(self) -> None:
        if (self.share or self.host not in LOOPBACK) and self.login is None:
            where = "--share" if self.share else f"--host {self.host}"
            raise Refused(f"{where} opens the app to others: give --auth USER:PASSWORD, or VISALIGN_AUTH")

    def policy(self) -> Policy:
        """What the guard goes by."""
        local = self.host in LOOPBACK
        hosts = {*LOOPBACK, *(each.lower() for each in self.hosts)}
        if not local:
            hosts |= {self.host.lower(), socket.gethostname().lower()}
        return Policy(self.key, hosts, addresses=not local, login=self.login)


@dataclass(frozen=True)
class Served:
    """An app that runs."""

    desk: Desk
    blocks: gr.Blocks
    url: str
    public: str  # of the tunnel; "" without

    def wait(self) -> None:
        """Until Ctrl-C."""
        self.blocks.block_thread()

    def close(self) -> None:
        """Stop serving and drawing, and put the votes into one file."""
        self.blocks.close()
        self.desk.close()


def compare(setup: Mapping[str, Any], door: Mapping[str, Any]) -> Served:
    """`serve` with the fields of Setup and Door as mappings: what `visalign compare` calls through the registry."""
    return serve(Setup(**{**setup, "taste": Taste(**setup["taste"])}), Door(**door))


def serve(setup: Setup, door: Door) -> Served:
    """Open the app and return while it runs; pictures are drawn in the background from now on."""
    desk, policy = Desk(setup), door.policy()
    blocks = pages(desk, door)
    _, url, public = blocks.launch(
        server_name=door.host, server_port=door.port, share=door.share, prevent_thread_lock=True, quiet=True,
        run_history=False, footer_links=[], enable_monitoring=False, mcp_server=False, ssr_mode=False, pwa=False,
        max_file_size="1b", show_error=False, strict_cors=True, head=head(door), theme=theme(),
        app_kwargs={"routes": router(desk).routes, "middleware": [Middleware(Guard, policy=policy)],
                    "docs_url": None, "redoc_url": None, "openapi_url": None},
    )  # fmt: skip
    if public:
        policy.hosts.add(public.partition("://")[2].rstrip("/").lower())
    desk.start()
    return Served(desk, blocks, url.rstrip("/"), public or "")


def pages(desk: Desk, door: Door) -> gr.Blocks:
    """Gradio's side of the app: a page for each view, and the API."""
    with gr.Blocks(title="visalign compare", analytics_enabled=False, fill_width=True) as blocks:
        _page("grid")
        api(desk, door.open_votes)
    for path, name in list(PAGES.items())[1:]:
        with blocks.route(name, f"/{path}"):
            _page(path)
    blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
    return blocks


def _page(script: str) -> None:
    """The place where a view's script draws."""
    load = f"import(new URL('look/{script}.js', document.baseURI).href).then(view => view.mount(element))"
    gr.HTML(elem_id="visalign", html_template="<div></div>", js_on_load=load, apply_default_css=False)


def head(door: Door) -> str:
    """What every page needs before its script: the style, the key, and how wide a phone is."""
    return (
        f'<meta name="visalign-key" content="{escape(door.key)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="stylesheet" href="look/look.css"><link rel="modulepreload" href="look/page.js">'
    )


def theme() -> Any:
    """Letters that Gradio brings along, in the weights of which it ships the whole alphabet: none are fetched."""
    text, code = (gr.themes.LocalFont(name, weights=(400, 700)) for name in ("IBM Plex Sans", "IBM Plex Mono"))
    return gr.themes.Base(font=[text, "system-ui", "sans-serif"], font_mono=[code, "monospace"])


def api(desk: Desk, votes: bool) -> None:
    """What programs may call, by gradio_client or MCP-free HTTP; documented in docs/compare.md."""

    def models() -> list[dict[str, Any]]:
        """The models: name, spec, hash of the weights ("" before they are loaded)."""
        return list(desk.about()["models"])

    def draw(prompt: str, seed: int = 0) -> dict[str, Any]:
        """Ask for a prompt from seeds 0 … seed, and say how its pictures are doing; call again until they are ready."""
        text = told(lambda: desk.ask(prompt, int(seed) + 1))
        row = next(each for each in desk.row(text)["seeds"] if each["seed"] == int(seed))
        return {"prompt": text, **row, "proof": desk.proofs(text, int(seed))}

    def leaderboard(aspect: str = "overall", rater: str = "") -> dict[str, Any]:
        """The leaderboard's numbers."""
        return desk.board(said(aspect, "aspect", 64), said(rater, "rater", 64))

    for each in (models, draw, leaderboard):
        gr.api(each, api_name=each.__name__, api_visibility="public")
    if votes:
        _open_votes(desk)


def _open_votes(desk: Desk) -> None:
    """Votes by program: asked for with --open-votes."""

    def next_pair(rater: str) -> dict[str, Any]:
        """A blind pair for a rater: its id, prompt, and pictures at /desk/blind/NAME, left and right."""
        return told(lambda: desk.shown(desk.booth.next(desk.rater(rater)), rater))

    def vote(trial: str, rater: str, verdict: str) -> dict[str, Any]:
        """Answer a pair: left, right, tie or both_bad; says who drew what."""
        return told(lambda: desk.revealed(desk.booth.vote(trial, desk.rater(rater), verdict)))

    for each in (next_pair, vote):
        gr.api(each, api_name=each.__name__, api_visibility="public", concurrency_limit=16)


def told(work: Callable[[], T]) -> T:
    """The result of `work`; a refusal becomes an error that the caller may read."""
    try:
        return work()
    except Refused as error:
        raise gr.Error(str(error), print_exception=False) from None
