"""Readers of published files of ranked, paired and voted pictures: what scorers are trained on and measured by."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..records import DataError, Preference
from . import store

STYLES = ("anime", "concept-art", "paintings", "photo")
VOTES = {"leftvote": "first", "rightvote": "second", "tievote": "tie", "bothbad_vote": "both_bad"}


def hpd_v2(path: Path) -> list[Preference]:
    """HPD v2's test.json (arXiv 2306.09341): prompt, image_path, and rank, 1 the best, averaged over its raters.

    Scores are the ranks, negated. Pictures lie in the folder `test` beside the file, or beside it.
    """
    folder = "test/" if (path.parent / "test").is_dir() else ""
    return [_ranked(row, "image_path", "rank", where, "hpd_v2", folder) for where, row in _listed(path)]


def hpd(path: Path) -> list[Preference]:
    """HPD v2's train.json (arXiv 2306.09341): prompt, file_path of two pictures, human_preference [1, 0] …

    Pictures lie in the folder `train` beside the file, or beside it.
    """
    folder = "train/" if (path.parent / "train").is_dir() else ""
    return [_pair(row, where, folder) for where, row in _listed(path)]


def _pair(row: Mapping[str, Any], where: str, folder: str) -> Preference:
    _holding(row, where, "file_path", "human_preference")
    try:
        items, votes = tuple(f"{folder}{name}" for name in row["file_path"]), np.asarray(row["human_preference"], float)
        return Preference(row["prompt"], items, votes, scale="votes", judge="hpd")
    except (DataError, ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from None


def image_reward(path: Path) -> list[Preference]:
    """ImageReward's test.json (arXiv 2304.05977): prompt, generations, and ranking, 1 the best; equal are ties."""
    return [_ranked(row, "generations", "ranking", where, "image_reward", "") for where, row in _listed(path)]


def genai_bench(path: Path) -> list[Preference]:
    """TIGER's GenAI-Bench (arXiv 2406.04485) in parquet: prompt, left_image, right_image, vote_type of an arena."""
    root = path if path.is_dir() else path.parent
    return [record for file in store.files(path) for record in _votes(file, root)]


def drawn(path: Path, prompts: Path) -> dict[str, list[Preference]]:
    """Pictures that a model drew for the HPS v2 benchmark: {style}/{number:05d}.jpg, by style and in order.

    `prompts` is the folder of its prompt lists, {style}.json. A picture that is missing is named: left out, it would
    move every later prompt into another group.
    """
    found: dict[str, list[Preference]] = {}
    for style in STYLES:
        texts = _json(prompts / f"{style}.json")
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise DataError(f"{prompts / f'{style}.json'} must be a list of prompts")
        names = [f"{style}/{number:05d}.jpg" for number in range(len(texts))]
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise DataError(f"{len(missing)} of {len(names)} pictures of {style} are missing in {path}: {missing[0]} …")
        found[style] = [Preference(text, (name,)) for text, name in zip(texts, names, strict=True)]
    return found


def _listed(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a JSON list, each with where it stands."""
    rows = _json(path)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path} must be a JSON list of objects")
    return ((f"{path} row {number}", row) for number, row in enumerate(rows))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error})") from None


def _ranked(row: Mapping[str, Any], items: str, ranks: str, where: str, judge: str, folder: str) -> Preference:
    """A record of one prompt's pictures and their ranks."""
    _holding(row, where, items, ranks)
    if len(row[items]) != len(row[ranks]):
        raise DataError(f"{where}: {len(row[items])} pictures and {len(row[ranks])} ranks")
    names = tuple(f"{folder}{name}" for name in row[items])
    try:
        return Preference(row["prompt"], names, -np.asarray(row[ranks], dtype=np.float64), judge=judge)
    except (DataError, ValueError, TypeError) as error:
        raise DataError(f"{where}: {error}") from None


def _holding(row: Mapping[str, Any], where: str, *lists: str) -> None:
    """DataError for a row without a prompt, or where one of these is no list."""
    if missing := [name for name in ("prompt", *lists) if name not in row]:
        raise DataError(f"{where} has no {missing[0]!r} but {', '.join(row)}")
    if not isinstance(row["prompt"], str):
        raise DataError(f"{where}: prompt is a text, got {row['prompt']!r}")
    if wrong := [name for name in lists if not isinstance(row[name], list)]:
        raise DataError(f"{where}: {wrong[0]} is a list, got {row[wrong[0]]!r}")


def _votes(path: Path, folder: Path) -> Iterator[Preference]:
    file, place = store.opened(path), path.relative_to(folder).as_posix()
    names = file.schema_arrow.names
    if missing := [name for name in ("prompt", "left_image", "right_image", "vote_type") if name not in names]:
        raise DataError(f"{path} has no column {missing[0]!r} but {', '.join(names)}: is it GenAI-Bench?")
    for number, row in enumerate(store.rows(file, ["prompt", "vote_type"])):
        if row["vote_type"] not in VOTES:
            raise DataError(f"{path} row {number}: vote_type {row['vote_type']!r} is not one of {', '.join(VOTES)}")
        items = (f"{place}#{number}#left_image", f"{place}#{number}#right_image")
        yield Preference(row["prompt"], items, verdict=VOTES[row["vote_type"]], judge="genai_bench")
