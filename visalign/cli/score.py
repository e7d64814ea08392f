"""visalign score: what scorers say of pictures, as a table, JSON lines or parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.inputs import Input
    from ..data.scored import Row, ScoreFile
    from ..scoring import Scorer
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
    made.add_argument(
        "--set", action="append", default=[], metavar="SCORER.KEY=VALUE", help="a setting, as in hpsv2.1.weights=FILE"
    )
    made.add_argument("--device", help="where scorers with a network run (cpu)")
    made.add_argument("--allow-download", action="store_true", help="whether scorers may ask the hub for their weights")
    made.add_argument("--out", metavar="FILE", help="a .jsonl or .parquet file; an existing one is added to")


def run(given: Any) -> int:
    """Score what is not in the file yet; exit code 1 if nothing could be judged."""
    import tempfile
    from pathlib import Path

    from ..data.scored import ScoreFile
    from .screen import Screen

    screen, names = Screen(), [each for each in given.scorers.split(",") if each]
    made = {name: built(name, given) for name in dict.fromkeys(names)}
    with tempfile.TemporaryDirectory() as folder:
        file = ScoreFile(Path(given.out).expanduser() if given.out else Path(folder) / "scores.jsonl")
        file.admit({scorer.name: said for scorer, said in made.values()})
        scorers = [scorer for scorer, _ in made.values()]
        wanted = list(_score([Path(each).expanduser() for each in given.pictures], given, scorers, file, screen))
        file.close()
        return show(wanted, file, [each.name for each in scorers], screen, given.out)


def built(name: str, given: Any) -> tuple[Scorer, dict[str, Any]]:
    """A scorer with its settings, and what is written down of it."""
    import inspect

    from .. import __version__, registry
    from ..config import plain
    from ..scoring import Specified

    asked = settings(name, given.set, given.scorers.split(","))
    known = inspect.signature(registry.load("scorer", name)).parameters
    everyone = {"device": given.device, "allow_download": given.allow_download or None}
    shared = {key: value for key, value in everyone.items() if value is not None and key in known}
    scorer: Scorer = registry.build("scorer", {**shared, **asked, "name": name})
    spec = plain(scorer.spec) if isinstance(scorer, Specified) else None
    return scorer, {"settings": asked, "spec": spec, "visalign": __version__}


def settings(name: str, changes: Sequence[str], scorers: Sequence[str]) -> dict[str, Any]:
    """The settings of one scorer among `SCORER.KEY=VALUE` changes; a scorer's name may have dots."""
    import yaml

    found: dict[str, Any] = {}
    for change in changes:
        path, equals, value = change.partition("=")
        owner, _, key = path.rpartition(".")
        if not equals or owner not in scorers or not key:
            raise words.UsageError(f"--set {change} is not SCORER.KEY=VALUE with a scorer of {', '.join(scorers)}")
        if owner == name:
            found[key] = yaml.safe_load(value)
    return found


def _score(
    paths: Sequence[Path], given: Any, scorers: Sequence[Scorer], file: ScoreFile, screen: Screen
) -> Iterator[tuple[str, str]]:
    """Picture and prompt of everything at the paths, once it is in the file."""
    from itertools import chain

    from ..data.inputs import inputs

    found = chain.from_iterable(map(inputs, paths))
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
    """What a scorer says of pictures, as rows of the file."""
    from ..data.scored import Row, number
    from ..scoring import Sample

    said = scorer.score([Sample(each.prompt or "", image=each.read()) for each in found])
    return [
        Row(
            image=each.name,
            prompt=each.prompt or "",
            scorer=scorer.name,
            value=number(float(said.values[row])) if said.judged[row] else None,
            reason=said.reasons.get(row),
            truncated=None if said.truncated is None else bool(said.truncated[row]),
            sigma=None if said.sigma is None else number(float(said.sigma[row])),
            aspects={name: float(part[row]) for name, part in said.aspects.items() if bool(part[row].isfinite())},
        )
        for row, each in enumerate(found)
    ]


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
