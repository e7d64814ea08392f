"""visalign score: what scorers say of pictures, as a table, JSON lines or parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import chosen, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.inputs import Input
    from ..data.scored import Row, ScoreFile
    from ..scoring import Scorer, Scores
    from .screen import Screen

EXAMPLE = "visalign score pictures/ --prompt 'a red circle' --scorers rules --out scores.jsonl"
BATCH = 256  # pictures read before the scorers are asked; each scorer has its own batch within
SHOWN = 50  # pictures in the table


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(
        commands, "score", "score pictures: files, folders, records, parquet, tar shards", EXAMPLE, run
    )
    made.add_argument("pictures", nargs="+", metavar="PATH", help="files, folders, records, .parquet, WebDataset .tar")
    prompts = made.add_mutually_exclusive_group()
    prompts.add_argument("--prompt", metavar="TEXT", help="one prompt for all (else what lies beside each picture)")
    prompts.add_argument("--prompts", metavar="FILE", help="a prompt for each picture, in order")
    made.add_argument("--scorers", required=True, metavar="A,B", help="by name (visalign scorers list)")
    chosen.options(made)
    made.add_argument("--out", metavar="FILE", help="a .jsonl or .parquet file; an existing one is added to")


def run(given: Any) -> int:
    """Score what is not in the file yet; exit code 1 if nothing could be judged."""
    import tempfile
    from pathlib import Path

    from ..data.scored import ScoreFile
    from .screen import Screen

    screen, made = Screen(), chosen.built(chosen.apart(given.scorers), given)
    scorers = [scorer for scorer, _ in made.values()]
    with tempfile.TemporaryDirectory() as folder:
        file = ScoreFile(Path(given.out).expanduser() if given.out else Path(folder) / "scores.jsonl")
        try:
            file.admit({scorer.name: described(scorer, asked) for scorer, asked in made.values()})
            wanted = list(_score([Path(each).expanduser() for each in given.pictures], given, scorers, file, screen))
            file.close()
        finally:
            file.release()
        return show(wanted, file, [each.name for each in scorers], screen, given.out)


def described(scorer: Scorer, asked: dict[str, Any]) -> dict[str, Any]:
    """What is written down of a scorer."""
    from .. import __version__
    from ..config import plain
    from ..scoring import Specified

    spec = plain(scorer.spec) if isinstance(scorer, Specified) else None
    return {"settings": asked, "spec": spec, "visalign": __version__}


def _score(
    paths: Sequence[Path], given: Any, scorers: Sequence[Scorer], file: ScoreFile, screen: Screen
) -> Iterator[tuple[str, str]]:
    """Picture and prompt of everything at the paths, once it is in the file."""
    from itertools import chain

    from ..data import clips
    from ..data.inputs import inputs
    from ..data.sources import PICTURES

    endings = (*PICTURES, *clips.ENDINGS) if any(map(chosen.moves, scorers)) else PICTURES
    found = chain.from_iterable(inputs(path, file.own, endings) for path in paths)
    with screen.stage("score") as stage:
        for part in batches(prompted(found, given, any(map(reads_prompts, scorers)))):
            for scorer in scorers:
                missing = [each for each in part if (each.name, each.prompt or "", scorer.name) not in file]
                if missing:
                    file.add(rows(scorer, missing))
            stage(stage.done + len(part))
            yield from ((each.name, each.prompt or "") for each in part)


def prompted(found: Iterator[Input], given: Any, needed: bool) -> Iterator[Input]:
    """The pictures with their prompts: the one of all, the next of a file, or their own."""
    from dataclasses import replace

    rest = iter(words.prompts(given.prompts)) if given.prompts else None
    for each in found:
        prompt = given.prompt if rest is None else next(rest, None)
        each = each if prompt is None and rest is None else replace(each, prompt=prompt)
        if each.prompt is None and needed:
            raise words.UsageError(f"{each.name} has no prompt: give --prompt, or a line of --prompts for each picture")
        yield each
    if rest is not None and next(rest, None) is not None:
        raise words.UsageError(f"{given.prompts} has more prompts than there are pictures")


def reads_prompts(scorer: Scorer) -> bool:
    """Whether a scorer needs prompts, as far as it says."""
    from ..scoring import Specified

    return not isinstance(scorer, Specified) or scorer.spec.uses_prompt


def batches(found: Iterator[Input]) -> Iterator[list[Input]]:
    """Lists of BATCH, each picture and prompt once."""
    from itertools import islice

    while part := list(islice(found, BATCH)):
        yield list({(each.name, each.prompt): each for each in part}.values())


def rows(scorer: Scorer, found: Sequence[Input]) -> list[Row]:
    """What a scorer says of pictures, as rows of the file; of one that is not where it should be, why there is none."""
    from ..images import ImageError
    from ..scoring import Sample

    moves = chosen.moves(scorer)
    read = [_read(each, moves) for each in found]
    lost = {row: str(each) for row, each in enumerate(read) if isinstance(each, ImageError)}
    seen = "video" if moves else "image"
    samples = [
        Sample(one.prompt or "", **({} if isinstance(each, ImageError) else {seen: each}))
        for one, each in zip(found, read, strict=True)
    ]
    said = scorer.score(samples)
    return [_row(scorer.name, each, said, row, lost.get(row)) for row, each in enumerate(found)]


def _read(found: Input, moves: bool) -> Any:
    """A picture, the path or the frames of a clip, or why there is none."""
    from pathlib import Path

    from ..data.clips import Clip
    from ..images import ImageError

    try:
        content = found.read()
        return Clip(Path(found.name), (content,)).decoded()[0] if moves and isinstance(content, bytes) else content
    except ImageError as error:
        return error


def _row(scorer: str, found: Input, said: Scores, row: int, lost: str | None) -> Row:
    from ..data.scored import Row, number

    return Row(
        image=found.name,
        prompt=found.prompt or "",
        scorer=scorer,
        value=number(float(said.values[row])) if said.judged[row] and lost is None else None,
        reason=lost or said.reasons.get(row),
        truncated=None if said.truncated is None else bool(said.truncated[row]),
        sigma=None if said.sigma is None else number(float(said.sigma[row])),
        aspects={name: float(part[row]) for name, part in said.aspects.items() if bool(part[row].isfinite())},
    )


def show(wanted: Sequence[tuple[str, str]], file: ScoreFile, scorers: Sequence[str], screen: Screen, out: Any) -> int:
    """The table of few pictures, the summary of all; the exit code."""
    wanted = list(dict.fromkeys(wanted))
    if len(wanted) <= SHOWN or not out:
        lines = [
            [image, prompt, *(_cell(file.rows[image, prompt, each]) for each in scorers)] for image, prompt in wanted
        ]
        screen.table("Scores", ["picture", "prompt", *scorers], lines)
    parts = {name: [file.rows[(*key, name)] for key in wanted] for name in scorers}
    summary = [[name, *_summed(part)] for name, part in parts.items()]
    screen.table("Summary", ["scorer", "judged", "mean", "least", "greatest", "not judged", "prompts cut"], summary)
    if out:
        screen.say(f"{len(wanted)} pictures by {len(scorers)} scorers in {out}")
    return 0 if any(row.value is not None for part in parts.values() for row in part) else 1


def _cell(row: Row) -> str:
    return f"{row.value:.4f}" if row.value is not None else f"– ({row.reason or 'could not be judged'})"


def _summed(part: Sequence[Row]) -> list[str]:
    values = [row.value for row in part if row.value is not None]
    numbers = [sum(values) / len(values), min(values), max(values)] if values else []
    cut = str(sum(bool(row.truncated) for row in part)) if any(row.truncated is not None for row in part) else "–"
    shown = [f"{each:.4f}" for each in numbers] or ["–"] * 3
    return [str(len(values)), *shown, str(len(part) - len(values)), cut]
