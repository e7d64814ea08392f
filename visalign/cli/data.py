"""visalign data check: what a source of records holds, and which of its pictures cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.pairing import Pair
    from ..data.quarantine import Bad
    from ..records import Preference
    from .screen import Screen

EXAMPLE = "visalign data check /path/to/records"
SHOWN = 10


def add(commands: words.Commands) -> None:
    """The command and its one sub-command."""
    made = words.command(commands, "data", "look at records before training on them", EXAMPLE, run)
    jobs = made.add_subparsers(metavar="JOB", required=True)
    check = words.command(jobs, "check", "count records and open every picture of theirs", EXAMPLE, run)
    check.add_argument("path", metavar="PATH", help="records: a file, a folder of shards, win/ and lose/, Pick-a-Pic")
    check.add_argument("--format", metavar="NAME", help="told from what is there if not given (visalign list source)")


def run(given: Any) -> int:
    """Print what is there; exit code 2 if a record cannot be used."""
    from pathlib import Path

    from ..data import sources
    from .screen import Screen

    screen, path = Screen(), Path(given.path).expanduser()
    records = sources.open_source(path, given.format)
    screen.table("Records", ["", ""], counted(records))
    bad = unusable(records, sources.root(path), screen)
    if not bad:
        screen.say("every picture opens")
        return 0
    rows = [[each.key, each.path, each.reason] for each in bad[:SHOWN]]
    screen.table(f"{len(bad)} records cannot be used", ["key", "item", "why"], rows, "Training sets these aside.")
    return 2


def counted(records: Sequence[Preference]) -> list[list[str]]:
    """How many of what."""
    from ..data.pairing import paired

    left_out = Counter(why for record in records if (why := reason(paired(record))))
    usable = len(records) - sum(left_out.values())
    return [
        ["records", str(len(records))],
        ["pairs with a winner", str(usable)],
        *([why, str(count)] for why, count in left_out.items()),
        ["prompts", str(len({record.prompt for record in records}))],
        ["pictures", str(len({item for record in records for item in record.items}))],
        ["judges", ", ".join(sorted({record.judge or "nobody" for record in records})[:5])],
        ["users", str(len({record.user for record in records} - {None}))],
    ]


def reason(pair: Pair | str) -> str:
    """Why a record gives no pair to train on; "" if it gives one."""
    if isinstance(pair, str):
        return pair
    return "tie" if pair.confidence == 0.5 else ""


def unusable(records: Sequence[Preference], root: Path, screen: Screen) -> list[Bad]:
    """Records with a picture that does not open, and why."""
    from .. import images
    from ..data import media
    from ..data.quarantine import Bad

    bad: list[Bad] = []
    with screen.stage("open pictures", total=len(records)) as stage:
        for record in records:
            for item in record.items:
                try:
                    images.load(media.fetch(item, root))
                except images.ImageError as error:
                    bad.append(Bad(record.key, str(error), item))
                    break
            stage(note=f"{len(bad)} bad")
    return bad
