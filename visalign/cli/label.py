"""visalign label: a scorer or a judge looks at pictures; what it says becomes preference records."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import chosen, judge, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..records import Preference
    from ..scoring import Sample, Scorer
    from .screen import Screen

EXAMPLE = "visalign label runs/pictures/records.jsonl --scorer rules"
ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
OWN = "labels-"  # how a file of labels is named where nothing else is said


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
    scorer = None if given.judge else chosen.built([given.scorer], given)[given.scorer][0]
    screen, path = Screen(), Path(given.pictures).expanduser()
    records = bare(path) if path.is_dir() and not _holds_records(path) else sources.open_source(path)
    if scorer is None:
        return judge.label(given.judge, records, sources.root(path), out, given.batch, screen)
    return label(scorer, records, sources.root(path), out, given.batch, screen)


def label(
    scorer: Scorer, records: Sequence[Preference], root: Path, out: Path | None, batch: int, screen: Screen
) -> int:
    """Write the records with a score for every item; what cannot be judged has none, and the first reason is told."""
    from ..data import store

    out = out or root / f"{OWN}{scorer.name}.parquet"
    places = [(record, item) for record in records for item in record.items]
    values: list[float] = []
    reasons: list[str] = []
    with screen.stage(f"judge with {scorer.name}", total=len(places)) as stage:
        for start in range(0, len(places), batch):
            said, why = judged(scorer, list(samples(places[start : start + batch], root, moves=chosen.moves(scorer))))
            values, reasons = values + said, reasons + why
            stage(len(values))
    made = labelled(records, values, scorer.name, root, out.parent)
    store.write(made, out)
    unjudged = sum(value != value for value in values)
    if unjudged:
        why_not = f": {reasons[0]}" if reasons else ""
        screen.warn(f"{unjudged} of {len(values)} items could not be judged; their score is empty{why_not}")
    screen.say(f"{len(made)} records in {out}")
    screen.say(f"next: visalign train RECIPE data.path={out}")
    return int(unjudged == len(values))


def _holds_records(path: Path) -> bool:
    found = [file.name for file in path.iterdir() if file.suffix in (".jsonl", ".parquet")]
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
    good = [each for each in found if not isinstance(each, str)]
    said = scorer.score(good) if good else None
    rest = iter(said.values.double().tolist() if said else [])
    values = [float("nan") if isinstance(each, str) else next(rest) for each in found]
    return values, [*(each for each in found if isinstance(each, str)), *(said.reasons.values() if said else ())]


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
