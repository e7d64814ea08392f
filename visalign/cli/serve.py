"""visalign serve: scorers over HTTP."""

from __future__ import annotations

import ipaddress
import os
from typing import Any

from . import chosen, words

EXAMPLE = "visalign serve --scorers rules,playground_hps --port 8090"


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "serve", "scorers over HTTP, in batches across requests", EXAMPLE, run)
    made.add_argument("--scorers", required=True, metavar="A,B", help="by name (visalign list scorer)")
    chosen.options(made)
    made.add_argument("--host", default="127.0.0.1", metavar="NAME", help="listen here (127.0.0.1); others need a key")
    made.add_argument("--port", type=int, default=8090, metavar="N", help="listen here (8090)")
    made.add_argument("--key", help="what callers must send; better in the variable VISALIGN_API_KEY")
    made.add_argument("--allow-host", nargs="*", default=[], metavar="NAME", help="other names it is called by")
    made.add_argument("--batch", type=int, default=64, metavar="N", help="samples scored together, at most (64)")
    made.add_argument("--wait", type=float, default=5, metavar="MS", help="the first of a batch waits so long (5)")
    made.add_argument("--max-body", type=int, default=64, metavar="MB", help="of a request (64)")
    made.add_argument("--max-pixels", type=float, default=16, metavar="M", help="of a picture, in millions (16)")


def run(given: Any) -> int:
    """Serve until Ctrl-C."""
    import uvicorn

    from .. import registry
    from .screen import Screen

    key = given.key or os.environ.get("VISALIGN_API_KEY")
    if not key and not local(given.host):
        raise words.UsageError(f"--host {given.host} lets others in: give --key, or set VISALIGN_API_KEY")
    screen, names = Screen(), chosen.apart(given.scorers)
    with screen.stage(f"load {', '.join(names)}"):
        scorers = {name: scorer for name, (scorer, _) in chosen.built(names, given).items()}
    app = registry.load("app", "score_api")(
        scorers, limits=limits(given), key=key, hosts=[given.host, *given.allow_host]
    )
    screen.say(f"serve: http://{given.host}:{given.port}/docs   ({', '.join(names)}; Ctrl-C ends it)")
    uvicorn.run(app, host=given.host, port=given.port, log_level="warning", server_header=False)
    return 0


def limits(given: Any) -> dict[str, Any]:
    """The fields of the app's Limits."""
    for name in ("batch", "max_body", "max_pixels"):
        if getattr(given, name) <= 0:
            raise words.UsageError(f"--{name.replace('_', '-')} must be positive, got {getattr(given, name)}")
    if given.wait < 0:
        raise words.UsageError(f"--wait must not be negative, got {given.wait}")
    return {
        "body": given.max_body * 2**20,
        "pixels": int(given.max_pixels * 1e6),
        "batch": given.batch,
        "wait": given.wait / 1000,
    }


def local(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
