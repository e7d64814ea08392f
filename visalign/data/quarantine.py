"""Records that cannot be trained on: who, why, and how many are too many."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..records import DataError
from .shards import replace_file

ALWAYS_ALLOWED = 10  # records, however small the data are
NAMED = 5  # records that an error names


@dataclass(frozen=True)
class Bad:
    """One record that was set aside."""

    key: str
    reason: str
    path: str  # the item that was at fault; "" for the repetition of a key, of which the first stays


def limit(count: int, share: float) -> int:
    """How many of `count` records may be bad: 10, or the share if that is more."""
    return max(ALWAYS_ALLOWED, int(share * count))


def check(bad: Sequence[Bad], count: int, share: float, listed: Path) -> None:
    """Raise DataError, naming the first few, once more than `limit` of `count` records are bad."""
    if len(bad) <= limit(count, share):
        return
    write(bad, listed)
    raise DataError(
        f"{len(bad)} of {count} records cannot be used so far, more than {limit(count, share)}: {named(bad)}. "
        f"All are listed in {listed}. Mend the files or leave the records out; or raise data.max_bad (now {share:g})"
    )


def named(bad: Sequence[Bad]) -> str:
    """The first few, in words."""
    first = "; ".join(f"{each.key} ({each.path + ': ' if each.path else ''}{each.reason})" for each in bad[:NAMED])
    return first + (f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else "")


def write(bad: Sequence[Bad], path: Path) -> None:
    """One JSON object a line: key, reason, path. An empty file says that nothing was set aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, "".join(json.dumps(asdict(each)) + "\n" for each in bad).encode())


def read(path: Path) -> list[Bad]:
    """What `write` wrote."""
    return [Bad(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
