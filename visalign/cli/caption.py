"""visalign caption: a text for each of a pair, for methods that tell winner and loser apart in words."""

from __future__ import annotations

from typing import Any

from . import words

EXAMPLE = "visalign caption playground --mode hybrid --out runs/captions.parquet"


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "caption", "write a caption for each of a pair, as DCPO needs", EXAMPLE, run)
    made.add_argument("records", metavar="PATH", help='judged records, or "playground" for its votes')
    made.add_argument("--mode", default="hybrid", metavar="MODE", help="caption, perturb, or hybrid (hybrid)")
    made.add_argument("--captioner", default="checker", metavar="NAME|YAML", help="visalign list captioner (checker)")
    made.add_argument("--rewriter", default="grammar", metavar="NAME|YAML", help="visalign list rewriter (grammar)")
    made.add_argument("--out", required=True, metavar="FILE", help="a .parquet or .jsonl file")
    made.add_argument("--batch", type=int, default=16, help="records at a time (16)")


def run(given: Any) -> int:
    """Caption the winner and the loser of every record that has them."""
    from dataclasses import replace

    from .. import playground
    from ..data import captions, media, sources, store
    from .screen import Screen

    words.at_least_one(given, "batch")
    screen, out = Screen(), words.out_file(given.out)
    path = playground.found(given.records, "records.parquet")
    records, root = sources.open_source(path), sources.root(path)
    how = captions.Dual(given.mode, *writers(given))
    with screen.stage(f"caption in mode {given.mode}") as stage:
        made = how.of(records, root, batch=given.batch, done=lambda done, total: stage(done, total=total))
    for reason, count in made.left_out.items():
        screen.say(f"{count} records left out: {reason}")
    seen = [replace(each, items=media.seen_from(each.items, root, out.parent)) for each in made.records]
    store.write(seen, out)
    screen.say(f"{len(seen)} records in {out}")
    screen.say(f"next: visalign train RECIPE method.name=dcpo data.path={out}")
    return 0


def writers(given: Any) -> tuple[Any, Any]:
    """The captioner and the rewriter that the mode needs, each a name or a YAML mapping with one."""
    from .. import registry

    captioner = None if given.mode == "perturb" else registry.build("captioner", words.named(given.captioner))
    rewriter = None if given.mode == "caption" else registry.build("rewriter", words.named(given.rewriter))
    return captioner, rewriter
