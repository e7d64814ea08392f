"""visalign judge: what a judge leans to; and the pairwise half of `visalign label`, which asks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import combinations
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..records import Preference
    from ..rulings import ClipJudge, PairJudge, Ruling
    from ..scoring import Sample
    from .screen import Screen

EXAMPLE = "visalign judge bias runs/pictures/labels-vlm.rulings --own sdxl-dpo"
Chosen = tuple["Preference", int, int]  # a record, and the indices of two of its items


def add(commands: words.Commands) -> None:
    """The command and its one sub-command."""
    made = words.command(commands, "judge", "what a judge leans to: place, size, its own, itself", EXAMPLE, bias)
    made.add_argument("what", choices=["bias"], help="a report on the rulings that visalign label --judge writes")
    made.add_argument("rulings", metavar="FILE", help="the .rulings file")
    made.add_argument("--own", default="", metavar="A,B", help="models of the judge's own family")
    made.add_argument("--against", metavar="RECORDS", help="preferences of people, or of a judge to be trusted")
    made.add_argument("--out", metavar="FILE", help="the report as JSON")


def bias(given: Any) -> int:
    """Print the report, and write it as JSON."""
    from pathlib import Path

    from .. import rulings
    from ..data import sources
    from ..data.shards import replace_file
    from ..evaluation import bias
    from .screen import Screen

    path = Path(given.rulings).expanduser()
    if not path.is_file():
        raise words.UsageError(f"no file of rulings at {path}: visalign label RECORDS --judge … writes one")
    found, screen = list(rulings.read(path)), Screen()
    trusted = bias.trusted(sources.open_source(Path(given.against).expanduser())) if given.against else {}
    if given.against and not (known := sum(bias.known(each, trusted) for each in found)):
        raise words.UsageError(
            f"{given.against} says nothing of the pairs of {path}: their prompts and items must agree"
        )
    if given.against:
        screen.say(f"{known} of {len(found)} rulings are on pairs of {given.against}")
    own = frozenset(each for each in given.own.split(",") if each)
    report = bias.examine(found, own=own, trusted=trusted)
    screen.table(f"What {path.stem} leans to", ["", "measured", "unbiased", "in words"], report.rows())
    if given.out:
        out = Path(given.out).expanduser()
        out.parent.mkdir(parents=True, exist_ok=True)
        replace_file(out, report.text().encode())
        screen.say(f"the report is in {given.out}")
    return 0


def label(asked: str, records: Sequence[Preference], root: Path, out: Path | None, batch: int, screen: Screen) -> int:
    """Ask a judge about every two items of every record, and write preferences and rulings; of clips, segments.

    Answers are kept beside the output as they come: a run that was killed goes on without asking again. The exit code
    is 1 if nothing could be judged.
    """
    from .. import rulings
    from ..data import store
    from . import clips

    judge = _built(asked, (out.parent if out else root) / ".judge-answers")
    out = out or root / f"labels-{judge.name}.parquet"
    pairs = [(record, i, j) for record in records for i, j in combinations(range(len(record.items)), 2)]
    if not pairs:
        raise words.UsageError("no record has two items to compare: a judge compares, a scorer rates (--scorer)")
    if isinstance(judge, rulings.ClipJudge):
        return clips.label(judge, pairs, root, out, screen)
    made: dict[str, Preference] = {}
    said: list[Ruling] = []
    with closing(judge), screen.stage(f"compare with {judge.name}", total=len(pairs)) as stage:
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            for chosen, ruled in zip(part, ruled_on(judge, part, root), strict=True):
                said += ruled
                made |= {each.key: each for each in settled(judge, chosen, ruled, root, out.parent)}
            stage(start + len(part))
    store.write(list(made.values()), out)
    rulings.write(said, out.with_suffix(".rulings"))
    _tell(list(made.values()), said, out, screen)
    return int(not any(each.valid for each in said))


def _built(given: str, book: Path) -> PairJudge | ClipJudge:
    """The judge, with the book of its answers beside the output unless it was told of another."""
    import inspect

    from .. import registry
    from ..rulings import ClipJudge, PairJudge

    named = words.named(given)
    settings = dict(named) if isinstance(named, dict) else {"name": named}
    known = inspect.signature(registry.load("judge", str(settings.get("name")))).parameters
    made = registry.build("judge", {"book": str(book), **settings} if "book" in known else settings)
    if isinstance(made, PairJudge | ClipJudge):
        return made
    raise words.UsageError(f"{settings['name']} says no rulings: a judge needs name, rulings, settled and close")


def ruled_on(judge: PairJudge, pairs: Sequence[Chosen], root: Path) -> list[list[Ruling]]:
    """The rulings on each pair with its items' names, sizes and models; what cannot be opened is not asked about."""
    from dataclasses import replace

    from ..rulings import Ruling

    found = [opened(*each, root) for each in pairs]
    good = [each for each in found if not isinstance(each, str)]
    asked = iter(judge.rulings([one for (one, _), _ in good], [other for (_, other), _ in good]))
    ruled: list[list[Ruling]] = []
    for (record, i, j), each in zip(pairs, found, strict=True):
        items = record.items[i], record.items[j]
        if isinstance(each, str):
            ruled.append([Ruling(record.prompt, items, float("nan"), reason=each)])
            continue
        models = (record.models[i], record.models[j]) if record.models else None
        ruled.append([replace(one, items=items, sizes=each[1], models=models) for one in next(asked)])
    return ruled


def opened(record: Preference, i: int, j: int, root: Path) -> tuple[tuple[Sample, Sample], tuple[float, float]] | str:
    """Two items as samples with their sizes (bytes of pictures, words of answers), or why one cannot be opened."""
    from ..images import ImageError

    try:
        (one, size), (other, other_size) = (shown(record, record.items[place], root) for place in (i, j))
    except ImageError as error:
        return str(error)
    return (one, other), (size, other_size)


def shown(record: Preference, item: str, root: Path, *, moves: bool = False) -> tuple[Sample, float]:
    """An item as a sample with its size: bytes of a picture's file, frames of a clip where it `moves`, words of an
    answer. Raises ImageError."""
    from ..data import clips, media
    from ..scoring import Sample

    source = media.fetch(record.media[0], root) if record.media else None
    if record.answers:
        return Sample(record.prompt, answer=item, user=record.user, source=source), len(item.split())
    if moves:
        frames = clips.frames(item, root)
        return Sample(record.prompt, video=frames, user=record.user, source=source), len(frames)
    content = media.fetch(item, root)
    return Sample(record.prompt, image=content, user=record.user, source=source), len(content)


def settled(
    judge: PairJudge, chosen: Chosen, ruled: Sequence[Ruling], root: Path, beside: Path
) -> Iterator[Preference]:
    """A record an aspect: P(each item is the better one), and who that makes the winner; empty where it cannot say."""
    from dataclasses import replace

    record, i, j = chosen
    pair = taken(record, i, j, root, beside, paths=not record.answers)
    silent = {each.aspect: each.chance for each in ruled}
    for aspect, chance in (judge.settled(ruled) if any(each.valid for each in ruled) else silent).items():
        verdict = None if chance != chance else "tie" if chance == 0.5 else "first" if chance > 0.5 else "second"
        made = pair.judged([[chance], [1 - chance]], scale="probability", judge=judge.name)
        yield replace(made, aspect=aspect, verdict=verdict, key="")


def taken(record: Preference, i: int, j: int, root: Path, beside: Path, *, paths: bool) -> Preference:
    """Two items of a record, unjudged, as a record in the folder `beside` names them if they are paths."""
    from dataclasses import replace

    import numpy as np

    from ..data.media import seen_from

    items = (record.items[i], record.items[j])
    return replace(
        record,
        items=seen_from(items, root, beside) if paths else items,
        media=seen_from(record.media, root, beside),
        scores=np.full((2, 1), np.nan),
        seeds=(record.seeds[i], record.seeds[j]) if record.seeds else (),
        models=(record.models[i], record.models[j]) if record.models else (),
        captions=(record.captions[i], record.captions[j]) if record.captions else (),
        verdict=None,
        shown_first=None,
        key="",
    )


def _tell(made: Sequence[Preference], said: Sequence[Ruling], out: Path, screen: Screen) -> None:
    from collections import Counter

    reasons = Counter(each.reason for each in said if not each.valid)
    if reasons:
        reason, count = reasons.most_common(1)[0]
        screen.warn(f"{reasons.total()} of {len(said)} rulings are invalid, {count} of them: {reason}")
    empty = sum(each.verdict is None for each in made)
    screen.say(f"{len(made)} records in {out}" + (f", {empty} of them without a verdict" if empty else ""))
    screen.say(f"next: visalign judge bias {out.with_suffix('.rulings')}")
