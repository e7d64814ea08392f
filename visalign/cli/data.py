"""visalign data check: what a source of records holds, and which of its pictures and answers cannot be used."""

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
    known = "records: a file, a folder of shards, win/ and lose/, or published data (visalign list source)"
    check.add_argument("path", metavar="PATH", help=known)
    check.add_argument("--format", metavar="NAME", help="told from what is there if not given (visalign list source)")
    check.add_argument("--frames", type=int, metavar="N", help="items are clips, trained on by their first N frames")


def run(given: Any) -> int:
    """Print what is there; exit code 2 if a record cannot be used."""
    from pathlib import Path

    from ..data import sources
    from .screen import Screen

    if given.frames is not None:
        words.at_least_one(given, "frames")
    screen, path = Screen(), Path(given.path).expanduser()
    bad: list[Bad] = []
    records = sources.open_source(path, given.format, bad=bad)
    screen.table("Records", ["", ""], counted(records))
    bad += unusable(records, sources.root(path), screen, given.frames)
    if not bad:
        screen.say(
            f"every {'picture' if given.frames is None else 'clip'} opens"
            + (", every answer says something" if spoken(records) else "")
        )
        return 0
    rows = [[each.key, each.path, each.reason] for each in bad[:SHOWN]]
    screen.table(f"{len(bad)} records cannot be used", ["key", "item", "why"], rows, hint(records))
    return 2


def spoken(records: Sequence[Preference]) -> list[Preference]:
    """The records whose items are answers."""
    return [record for record in records if record.answers]


def hint(records: Sequence[Preference]) -> str:
    """What becomes of the records that cannot be used."""
    mistaken = any(record.media and not record.answers for record in records)
    return "Training sets these aside." + (
        ' If items are answers and no pictures, say so in their records: "answers": true.' if mistaken else ""
    )


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
        ["pictures", str(len({item for record in records for item in seen(record)}))],
        *answered(spoken(records)),
        ["judges", ", ".join(sorted({record.judge or "nobody" for record in records})[:5])],
        ["users", str(len({record.user for record in records} - {None}))],
    ]


def seen(record: Preference) -> tuple[str, ...]:
    """The pictures of a record."""
    return record.media if record.answers else record.items


def answered(records: Sequence[Preference]) -> list[list[str]]:
    """How many questions and answers there are, and how long they are; nothing where there are none."""
    from ..data.pairing import paired

    if not records:
        return []
    pairs = [pair for record in records if not reason(pair := paired(record)) and not isinstance(pair, str)]
    texts: dict[str, list[str]] = {
        "questions": [record.prompt for record in records],
        "answers": [item for record in records for item in record.items],
        "preferred answers": [pair.record.items[pair.win] for pair in pairs],
        "their rivals": [pair.record.items[pair.lose] for pair in pairs],
    }
    return [[name, f"{len(said)}, {mean_length(said):.1f} words each"] for name, said in texts.items() if said]


def mean_length(texts: Sequence[str]) -> float:
    """Words a text."""
    return sum(len(text.split()) for text in texts) / len(texts)


def reason(pair: Pair | str) -> str:
    """Why a record gives no pair to train on; "" if it gives one."""
    if isinstance(pair, str):
        return pair
    return "tie" if pair.confidence == 0.5 else ""


def unusable(records: Sequence[Preference], root: Path, screen: Screen, frames: int | None = None) -> list[Bad]:
    """Records with a picture or clip that does not open, or an answer that cannot be learned, and why."""
    from ..data.faults import fault

    bad: list[Bad] = []
    with screen.stage("open pictures", total=len(records)) as stage:
        for record in records:
            if found := fault(record, root, frames):
                bad.append(found)
            stage(note=f"{len(bad)} bad")
    return bad
