"""visalign users: whose taste a record is, read from a few votes of each user and written for training and drawing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from ..records import Preference

EXAMPLE = "visalign users runs/playground_users/records.parquet --out runs/users"
USERS, TASTES, RECORDS = "users.safetensors", "tastes.safetensors", "records.parquet"


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "users", "read users' tastes from a few votes each", EXAMPLE, run)
    made.add_argument("records", metavar="RECORDS", help="preference records that name their `user`")
    made.add_argument("--reader", default="tastes", metavar="NAME", help="who reads (visalign list reader; tastes)")
    made.add_argument("--tastes", metavar="FILE", help="a population learned before; without, it is learned from these")
    made.add_argument("--features", metavar="NAME", help="what pictures are told by: checker, or a scorer's embeddings")
    made.add_argument("--vlm", metavar="FOLDER", help="the folder of the vision-language model that `profile` asks")
    made.add_argument("--shots", type=int, default=4, metavar="N", help="votes that an embedding is read from (4)")
    made.add_argument("--out", default="runs/users", metavar="DIR", help="where to (runs/users)")


def run(given: Any) -> int:
    """Write DIR/users.safetensors, the records that name its embeddings, and the population if it was learned."""
    from pathlib import Path

    from .. import registry
    from ..data import sources, store
    from ..diffusion import personal
    from .screen import Screen

    screen, path, out = Screen(), Path(given.records).expanduser(), Path(given.out)
    said = {"tastes": given.tastes, "features": given.features, "folder": given.vlm}
    asked = {name: value for name, value in said.items() if value is not None}
    reader: personal.Reader = registry.build("reader", {"name": given.reader, **asked})
    found = personal.votes(sources.open_source(path), sources.root(path))
    made = personal.grouped(found, given.shots)
    out.mkdir(parents=True, exist_ok=True)
    if isinstance(reader, personal.Learner) and not reader.learned:
        with screen.stage(f"learn how the tastes of {len(found)} users are spread"):
            reader.learn([made.groups[user] for user in found])
        reader.save(out / TASTES)
    with screen.stage(f"read {len(made.groups)} embeddings"):
        read = dict(zip(made.groups, reader.read(list(made.groups.values())), strict=True))
    write(read, out / USERS)
    store.write(placed(made.records, sources.root(path), out), out / RECORDS)
    screen.say(
        f"{len(found)} users, {len(read)} embeddings of {tuple(next(iter(read.values())).shape)} in {out / USERS}"
    )
    screen.say(f"next: visalign train playground_ppd data.path={out / RECORDS} data.users={out / USERS}")
    return 0


def write(users: Mapping[str, Tensor], path: Path) -> None:
    """A safetensors file with an embedding (tokens, width) of each user."""
    from safetensors.torch import save_file

    save_file({name: each.contiguous() for name, each in users.items()}, path)


def placed(records: list[Preference], root: Path, folder: Path) -> list[Preference]:
    """The records as they are read from another folder: items become absolute there, and keys stay."""
    from dataclasses import replace

    if folder.resolve() == root.resolve():
        return records
    return [replace(each, items=tuple(str((root / item).resolve()) for item in each.items)) for each in records]
