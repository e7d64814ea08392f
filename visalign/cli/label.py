"""visalign label: a scorer or a judge looks at pictures; what it says becomes preference records.

What a scorer said is kept beside the output, a batch at a time, until the records are written: a run that was stopped
goes on, and ends in the records that it would have written in one go.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import chosen, judge, score, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.scored import ScoreFile
    from ..records import Preference
    from ..scoring import Sample, Scorer
    from .screen import Screen

EXAMPLE = "visalign label runs/pictures/records.jsonl --scorer rules"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
OWN = "labels-"  # how a file of labels is named where nothing else is said
Place = tuple["Preference", str]  # a record, and one of its items


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "label", "let a scorer judge pictures and write preference records", EXAMPLE, run)
    made.add_argument(
        "pictures", metavar="PATH", help="records, or a folder of pictures, or of clips, with NAME.txt prompts"
    )
    who = made.add_mutually_exclusive_group(required=True)
    who.add_argument("--scorer", metavar="NAME", help="who scores each picture (visalign list scorer)")
    who.add_argument("--judge", metavar="YAML", help="who compares them two by two: a name, or {name: vlm, backend: …}")
    chosen.options(made)
    made.add_argument(
        "--out", metavar="FILE", help="a .parquet or .jsonl file (labels-NAME.parquet beside the records)"
    )
    made.add_argument("--batch", type=int, default=64, help="pictures at a time (64)")


def run(given: Any) -> int:
    """Score every item of every record, or compare them two by two; exit code 1 if nothing could be judged."""
    from pathlib import Path

    from ..data import sources
    from .screen import Screen

    words.at_least_one(given, "batch")
    if given.judge and (given.set or given.device or given.allow_download):
        raise words.UsageError("--set, --device and --allow-download are for --scorer; a judge is set in --judge")
    out = words.out_file(given.out) if given.out else None
    made = None if given.judge else chosen.built([given.scorer], given)[given.scorer]
    screen, path = Screen(), Path(given.pictures).expanduser()
    records = bare(path) if path.is_dir() and not _holds_records(path) else sources.open_source(path)
    if made is None:
        return judge.label(given.judge, records, sources.root(path), out, given.batch, screen)
    return label(*made, records, sources.root(path), out, given.batch, screen)


def label(
    scorer: Scorer,
    asked: dict[str, Any],
    records: Sequence[Preference],
    root: Path,
    out: Path | None,
    batch: int,
    screen: Screen,
) -> int:
    """Write the records with a score for every item; what cannot be judged has none, and the first reason is told."""
    from ..data import store
    from ..data.scored import ScoreFile

    out = out or root / f"{OWN}{scorer.name}.parquet"
    places = [(record, item) for record in records for item in record.items]
    file = ScoreFile(out.with_name(f".{out.name}.scores.jsonl"))
    try:
        file.admit({scorer.name: score.described(scorer, asked)})
        keep(file, scorer, places, root, batch, screen)
        rows = [file.rows[_key(place, scorer)] for place in places]
        made = labelled(records, [_value(row.value) for row in rows], scorer.name, root, out.parent)
        store.write(made, out)
        file.discard()
    finally:
        file.release()
    score.summary({scorer.name: rows}, screen)
    unjudged = [row for row in rows if row.value is None]
    if unjudged:
        why_not = next((f": {row.reason}" for row in unjudged if row.reason), "")
        screen.warn(f"{len(unjudged)} of {len(rows)} items could not be judged; their score is empty{why_not}")
    screen.say(f"{len(made)} records in {out}")
    if len(unjudged) < len(rows):
        screen.say(f"next: visalign train RECIPE data.path={out}")
    return int(len(unjudged) == len(rows))


def keep(file: ScoreFile, scorer: Scorer, places: Sequence[Place], root: Path, batch: int, screen: Screen) -> None:
    """Have every item's score in the file; a batch that is there already is passed over."""
    from ..data.scored import rows

    with screen.stage(f"judge with {scorer.name}", total=len(places)) as stage:
        for part in together(places, batch):
            keys = [_key(place, scorer) for place in part]
            # Half a batch is scored again: a number may depend on its batch in its last bit.
            if any(key not in file for key in keys):
                found = samples(part, root, moves=chosen.moves(scorer))
                file.add(rows(scorer, [(*key[:2], each) for key, each in zip(keys, found, strict=True)]))
            stage(stage.done + len(part))


def together(places: Sequence[Place], batch: int) -> Iterator[list[Place]]:
    """The items, `batch` at most at a time: those of a prompt in one batch, or if they are more, in some of their own.

    Scorers encode a prompt when they first meet it, along with those of its batch, and in other company its last bits
    may differ: so no batch meets a prompt that another has brought, and none depends on what was done before it.
    """
    prompts: dict[str, list[Place]] = {}
    for place in places:
        prompts.setdefault(place[0].prompt, []).append(place)
    held: list[Place] = []
    for part in prompts.values():
        if len(held) + len(part) > batch:
            yield from _cut(held, batch)
            held = []
        held = held + part
    yield from _cut(held, batch)


def _cut(held: Sequence[Place], batch: int) -> Iterator[list[Place]]:
    return (list(held[start : start + batch]) for start in range(0, len(held), batch))


def _key(place: Place, scorer: Scorer) -> tuple[str, str, str]:
    record, item = place
    return f"{record.key} {item}", record.prompt, scorer.name


def _value(value: float | None) -> float:
    return float("nan") if value is None else value


def _holds_records(path: Path) -> bool:
    listed = (file.name for file in path.iterdir() if file.suffix in (".jsonl", ".parquet"))
    found = [name for name in listed if not name.startswith(".")]  # those are of a run that was stopped
    told = any(file.suffix.lower() in ENDINGS and file.with_suffix(".txt").is_file() for file in path.iterdir())
    given = [name for name in found if not (told and name.startswith(OWN))]  # beside pictures that is what we wrote
    return bool(given) or ((path / "win").is_dir() and (path / "lose").is_dir())


def bare(folder: Path) -> list[Preference]:
    """Records of a folder of pictures with their prompts beside them; pictures of one prompt share a record.

    A sub-folder with NAME.txt beside it is a clip, by its frames, and so is a film.
    """
    from ..data import clips, sources
    from ..records import Preference

    items: dict[str, list[str]] = {}
    for file in sorted(folder.iterdir()):
        words_file = file.with_name(f"{file.name if file.is_dir() else file.stem}.txt")
        if file.suffix.lower() in (*ENDINGS, *clips.ENDINGS) or (file.is_dir() and words_file.is_file()):
            prompt = sources.beside(words_file)
            if prompt is None:
                raise words.UsageError(f"{file} has no prompt: write it to {words_file}")
            items.setdefault(prompt, []).append(file.name)
    if not items:
        known = ", ".join((*ENDINGS, *clips.ENDINGS))
        raise words.UsageError(f"{folder} holds neither records nor pictures nor clips ({known})")
    return [Preference(prompt, tuple(names)) for prompt, names in items.items()]


def samples(places: Sequence[tuple[Preference, str]], root: Path, *, moves: bool = False) -> Iterator[Sample | str]:
    """Items of records as samples, or why one cannot be opened."""
    from ..images import ImageError

    for record, item in places:
        try:
            yield judge.shown(record, item, root, moves=moves)[0]
        except ImageError as error:
            yield str(error)


def judged(scorer: Scorer, found: Sequence[Sample | str]) -> tuple[list[float], list[str]]:
    """A scorer's values, NaN for what it could not judge, and the reasons."""
    from ..data.scored import rows

    made = rows(scorer, [("", "", each) for each in found])
    return [_value(row.value) for row in made], [row.reason for row in made if row.reason]


def labelled(
    records: Sequence[Preference], values: Sequence[float], judge: str, root: Path, beside: Path
) -> list[Preference]:
    """The records with the judge's scores; their paths are as the folder `beside` sees them."""
    from dataclasses import replace

    from ..data.media import seen_from

    rest, made = iter(values), []
    for record in records:
        scores = [[next(rest)] for _ in record.items]
        items = record.items if record.answers else seen_from(record.items, root, beside)
        seen = replace(record, items=items, media=seen_from(record.media, root, beside))
        made.append(seen.judged(scores, scale="utility", judge=judge))
    return made
