"""visalign label: a scorer or a judge looks at pictures; what it says becomes preference records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import judge, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..records import Preference
    from ..scoring import Sample

EXAMPLE = "visalign label runs/pictures/records.jsonl --scorer rules"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "label", "let a scorer judge pictures and write preference records", EXAMPLE, run)
    made.add_argument(
        "pictures", metavar="PATH", help="records, or a folder of pictures, or of clips, with NAME.txt prompts"
    )
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--scorer", metavar="NAME", help="who scores each picture (visalign list scorer)")
    who.add_argument("--judge", metavar="YAML", help="who compares them two by two: a name, or {name: vlm, backend: …}")
    made.add_argument(
        "--out", metavar="FILE", help="a .parquet or .jsonl file (labels-NAME.parquet beside the records)"
    )
    made.add_argument("--batch", type=int, default=64, help="pictures at a time (64)")


def run(given: Any) -> int:
    """Score every item of every record, or compare them two by two."""
    from pathlib import Path

    from .. import registry
    from ..data import sources, store
    from .screen import Screen

    screen, path = Screen(), Path(given.pictures).expanduser()
    scorer = None if given.judge else registry.build("scorer", given.scorer)
    records = bare(path) if path.is_dir() and not _holds_records(path) else sources.open_source(path)
    root = sources.root(path)
    if scorer is None:
        return judge.label(records, root, given, screen)
    out = Path(given.out) if given.out else root / f"labels-{scorer.name}.parquet"
    samples = list(seen(records, root))
    values: list[float] = []
    with screen.stage(f"judge with {scorer.name}", total=len(samples)) as stage:
        for start in range(0, len(samples), given.batch):
            values += scorer.score(samples[start : start + given.batch]).values.tolist()
            stage(len(values))
    made = labelled(records, values, scorer.name, root, out.parent)
    store.write(made, out)
    unjudged = sum(value != value for value in values)
    if unjudged:
        screen.warn(f"{unjudged} of {len(values)} pictures could not be judged; their score is empty")
    screen.say(f"{len(made)} records in {out}")
    screen.say(f"next: visalign train RECIPE data.path={out}")
    return 0


def _holds_records(path: Path) -> bool:
    found = any(file.suffix in (".jsonl", ".parquet") for file in path.iterdir())
    return found or ((path / "win").is_dir() and (path / "lose").is_dir())


def bare(folder: Path) -> list[Preference]:
    """Records of a folder of pictures with their prompts beside them; pictures of one prompt share a record.

    A sub-folder with NAME.txt beside it is a clip, by its frames.
    """
    from ..records import Preference

    items: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        words_file = file.with_name(f"{file.name if file.is_dir() else file.stem}.txt")
        if file.suffix.lower() in ENDINGS or (file.is_dir() and words_file.is_file()):
            if not words_file.is_file():
                raise words.UsageError(f"{file} has no prompt: write it to {words_file}")
            items.setdefault(words_file.read_text(encoding="utf-8").strip(), []).append(file.name)
    if not items:
        raise words.UsageError(f"{folder} holds neither records nor pictures ({', '.join(ENDINGS)})")
    return [Preference(prompt, tuple(names)) for prompt, names in items.items()]


def seen(records: Sequence[Preference], root: Path) -> Iterator[Sample]:
    """Every item of every record as a sample, in order."""
    from .. import images
    from ..data import media
    from ..scoring import Sample

    for record in records:
        for item in record.items:
            yield Sample(record.prompt, image=images.load(media.fetch(item, root)), user=record.user)


def labelled(
    records: Sequence[Preference], values: Sequence[float], judge: str, root: Path, beside: Path
) -> list[Preference]:
    """The records with the judge's scores; items become absolute where the new file lies in another folder."""
    from dataclasses import replace

    rest, made = iter(values), []
    for record in records:
        scores = [[next(rest)] for _ in record.items]
        if beside.resolve() != root.resolve():
            record = replace(record, items=tuple(str((root / item).resolve()) for item in record.items))
        made.append(record.judged(scores, scale="utility", judge=judge))
    return made
