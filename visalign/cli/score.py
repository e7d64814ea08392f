"""visalign score: what scorers say of pictures, as a table, JSON lines or parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import chosen, words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.inputs import Input
    from ..data.scored import Row, ScoreFile
    from ..scoring import Sample, Scorer
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
    from ..data.scored import rows
    from ..data.sources import PICTURES

    endings = (*PICTURES, *clips.ENDINGS) if any(map(chosen.moves, scorers)) else PICTURES
    found = chain.from_iterable(inputs(path, file.own, endings) for path in paths)
    with screen.stage("score") as stage:
        for part in batches(prompted(found, given, any(map(reads_prompts, scorers)))):
            for scorer in scorers:
                missing = [each for each in part if (each.name, each.prompt or "", scorer.name) not in file]
                if missing:
                    file.add(rows(scorer, list(named(missing, moves=chosen.moves(scorer)))))
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


def named(found: Sequence[Input], *, moves: bool) -> Iterator[tuple[str, str, Sample | str]]:
    """Each picture, or clip where it `moves`, as a sample with its name and prompt; or why it cannot be read."""
    from ..images import ImageError
    from ..scoring import Sample

    seen = "video" if moves else "image"
    for each in found:
        prompt = each.prompt or ""
        try:
            yield each.name, prompt, Sample(prompt, **{seen: _read(each, moves)})
        except ImageError as error:
            yield each.name, prompt, str(error)


def _read(found: Input, moves: bool) -> Any:
    """A picture, or the path or the frames of a clip. Raises ImageError."""
    from pathlib import Path

    from ..data.clips import Clip

    content = found.read()
    return Clip(Path(found.name), (content,)).decoded()[0] if moves and isinstance(content, bytes) else content


def show(wanted: Sequence[tuple[str, str]], file: ScoreFile, scorers: Sequence[str], screen: Screen, out: Any) -> int:
    """The table of few pictures, the summary of all; the exit code."""
    wanted = list(dict.fromkeys(wanted))
    if len(wanted) <= SHOWN or not out:
        lines = [
            [image, prompt, *(_cell(file.rows[image, prompt, each]) for each in scorers)] for image, prompt in wanted
        ]
        screen.table("Scores", ["picture", "prompt", *scorers], lines)
    parts = {name: [file.rows[(*key, name)] for key in wanted] for name in scorers}
    summary(parts, screen)
    if out:
        screen.say(f"{len(wanted)} pictures by {len(scorers)} scorers in {out}")
    return 0 if any(row.value is not None for part in parts.values() for row in part) else 1


def summary(parts: Mapping[str, Sequence[Row]], screen: Screen) -> None:
    """The table of what each scorer said of everything."""
    lines = [[name, *_summed(part)] for name, part in parts.items()]
    screen.table("Summary", ["scorer", "judged", "mean", "least", "greatest", "not judged", "prompts cut"], lines)


def _cell(row: Row) -> str:
    return f"{row.value:.4f}" if row.value is not None else f"– ({row.reason or 'could not be judged'})"


def _summed(part: Sequence[Row]) -> list[str]:
    values = [row.value for row in part if row.value is not None]
    numbers = [sum(values) / len(values), min(values), max(values)] if values else []
    cut = str(sum(bool(row.truncated) for row in part)) if any(row.truncated is not None for row in part) else "–"
    shown = [f"{each:.4f}" for each in numbers] or ["–"] * 3
    return [str(len(values)), *shown, str(len(part) - len(values)), cut]
