"""Readers of preference data by name: what people have, as records."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..records import DataError, Preference
from . import benches, dialogue_sources, quarantine, store
from .dialogue_rows import columns_of
from .quarantine import Bad

if TYPE_CHECKING:
    from torch import Tensor

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
PICKAPIC = ("caption", "jpg_0", "jpg_1", "label_0", "label_1")  # needed; the rest of its columns may be absent
PICKAPIC_MORE = ("model_0", "model_1", "user_id", "has_label")
MAX_BAD = 0.01  # the share of rows that may make no record
SIGNS: tuple[tuple[str, set[str]], ...] = (  # the first format of which all these columns are there
    ("pickapic", {"jpg_0"}),
    ("rlhf_v", {"text", "image", "idx"}),
    ("rlaif_v", {"question", "chosen", "rejected", "image"}),
    ("mdpo", {"img_path", "prompt", "chosen", "rejected"}),
    *(("mm_rlhf", {"prompt", "chosen", "rejected", name}) for name in ("chosen_reason", "is_tie", "ls_factor")),
    *(("trl_vision", {"prompt", "chosen", "rejected", name}) for name in ("image", "images")),
    ("llama_factory", {"conversations", "chosen", "rejected"}),
    ("ms_swift", {"messages", "rejected_response"}),
)


def open_source(
    path: str | Path, format: str | None = None, *, bad: list[Bad] | None = None, max_bad: float = MAX_BAD
) -> list[Preference]:
    """The records at a path; `format` is one of FORMATS, None to tell it from what is there.

    Items are relative to `root(path)`. Rows of foreign data that make no record are added to `bad`; where no such list
    is given they are named in a warning, or, if they are more than ten and more than the share `max_bad`, in an error.
    Raises DataError.
    """
    path = Path(path)
    name = format or told(path)
    if name not in FORMATS:
        raise DataError(f"data format {name!r} is not one of {', '.join(FORMATS)}")
    found = FORMATS[name](path)
    records = [each for each in found if isinstance(each, Preference)]
    aside = [each for each in found if isinstance(each, Bad)]
    if not records and not (aside and bad is not None):
        raise DataError(f"{path} holds no records" + (f" that can be read: {quarantine.named(aside)}" if aside else ""))
    if bad is not None:
        bad.extend(aside)
    elif aside:
        _warn(path, aside, len(found), max_bad)
    return records


def _warn(path: Path, bad: Sequence[Bad], count: int, max_bad: float) -> None:
    said = f"{len(bad)} of {count} rows of {path} make no record: {quarantine.named(bad)}"
    if len(bad) > quarantine.limit(count, max_bad):
        raise DataError(f"{said}. Mend or delete them; `visalign data check` lists them")
    logging.getLogger(__name__).warning("%s", said)


def root(path: str | Path) -> Path:
    """The folder that the items of a source are relative to: the source itself, or the folder of its file."""
    path = Path(path)
    return path if path.is_dir() else path.parent


def told(path: Path) -> str:
    """The format of what is at a path."""
    if (path / "win").is_dir() and (path / "lose").is_dir():
        return "pairs_folder"
    if path.suffix == ".txt" and path.is_file():
        return "prompts"
    first = store.files(path)[0]
    columns = columns_of(first)
    sign = next((name for name, needed in SIGNS if needed <= columns), None)
    if sign is None and first.suffix not in (".jsonl", ".parquet"):
        raise DataError(f"cannot tell the format of {path}: name it, one of {', '.join(FORMATS)}")
    return sign or first.suffix.removeprefix(".")


def pairs_folder(path: Path) -> list[Preference]:
    """win/NAME.png and lose/NAME.png, the prompt in win/NAME.txt; lose/NAME.txt may give the loser its own caption."""
    winners, losers = _pictures(path / "win"), _pictures(path / "lose")
    if lonely := sorted(winners.keys() ^ losers.keys()):
        raise DataError(f"{len(lonely)} pictures in {path} have no partner of that name: {', '.join(lonely[:5])}")
    return [_folder_pair(path, name, winners[name], losers[name]) for name in sorted(winners)]


def _folder_pair(path: Path, name: str, winner: Path, loser: Path) -> Preference:
    prompt = beside(winner.with_suffix(".txt"))
    if prompt is None:
        raise DataError(f"{winner} has no prompt: write it to {winner.with_suffix('.txt')}")
    other = beside(loser.with_suffix(".txt"))
    return Preference(
        prompt=prompt,
        items=(winner.relative_to(path).as_posix(), loser.relative_to(path).as_posix()),
        verdict="first",
        judge="folder",
        captions=() if other in (None, prompt) else (prompt, str(other)),
        key=name,
    )


def _pictures(folder: Path) -> dict[str, Path]:
    """The pictures of a folder by their names without ending."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}; pairs lie in win/ and lose/")
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in PICTURES and file.stem in found:
            raise DataError(f"{found[file.stem]} and {file} have one name: which is meant?")
        if file.suffix.lower() in PICTURES:
            found[file.stem] = file
    return found


def beside(path: Path) -> str | None:
    """The text of a file without white space around it; None if there is no such file. Raises DataError."""
    try:
        return path.read_text(encoding="utf-8").strip() if path.is_file() else None
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text") from None


def pickapic(path: Path) -> list[Preference]:
    """Pick-a-Pic v1 and v2 parquet files (arXiv 2305.01569) as they are published; pictures stay where they are.

    label_0 and label_1 are P(jpg_0 is better) and P(jpg_1 is better): 1 and 0, or 1/2 each for a tie. Rows without a
    label become records that nobody judged.
    """
    return [record for file in store.files(path) for record in _pickapic_file(file, root(path))]


def _pickapic_file(path: Path, folder: Path) -> Iterator[Preference]:
    file = store.opened(path)
    names = file.schema_arrow.names
    if missing := [name for name in PICKAPIC if name not in names]:
        raise DataError(f"{path} has no column {missing[0]!r} but {', '.join(names)}: is it Pick-a-Pic?")
    columns = [name for name in (*PICKAPIC, *PICKAPIC_MORE) if name in names and not name.startswith("jpg_")]
    place = path.relative_to(folder).as_posix()
    for number, row in enumerate(store.rows(file, columns)):
        yield store.record_of(_pickapic_row(row, f"{place}#{number}"), f"{path} row {number}")


def _pickapic_row(row: dict[str, Any], place: str) -> dict[str, Any]:
    labelled = row.get("has_label") is not False
    models = [row.get("model_0"), row.get("model_1")]
    return {
        "prompt": row["caption"] or "",
        "items": [f"{place}#jpg_0", f"{place}#jpg_1"],
        "scores": [row["label_0"] if labelled else math.nan, row["label_1"] if labelled else math.nan],
        "scale": "probability",
        "judge": "pickapic",
        "user": None if row.get("user_id") is None else str(row["user_id"]),
        "models": models if all(models) else [],
    }


def prompts(path: Path) -> list[Preference]:
    """A text file with a prompt a line, for methods that train on what the model draws itself."""
    lines = (beside(path) or "").splitlines()
    return [Preference(line) for line in dict.fromkeys(line.strip() for line in lines) if line]


def users(path: Path) -> dict[str, Tensor]:
    """Each user's embedding (tokens, width) from a safetensors file; all of one shape."""
    from safetensors.torch import load_file

    if not path.is_file():
        raise DataError(f"data.users: no such file: {path}")
    found = {name: value.float() for name, value in load_file(path).items()}
    if len({value.shape for value in found.values()}) != 1 or next(iter(found.values())).ndim != 2:
        shapes = sorted({tuple(value.shape) for value in found.values()})
        raise DataError(f"{path} must hold a tensor (tokens, width) for each user, all alike; it has shapes {shapes}")
    return found


FORMATS: dict[str, Callable[[Path], Sequence[Preference | Bad]]] = {
    "parquet": store.read,
    "jsonl": store.read,
    "pairs_folder": pairs_folder,
    "pickapic": pickapic,
    "prompts": prompts,
    "hpd": benches.hpd,
    "image_reward": benches.image_reward,
    "genai_bench": benches.genai_bench,
    "rlhf_v": dialogue_sources.rlhf_v,
    "rlaif_v": dialogue_sources.rlaif_v,
    "mm_rlhf": dialogue_sources.mm_rlhf,
    "mdpo": dialogue_sources.mdpo,
    "trl_vision": dialogue_sources.trl_vision,
    "llama_factory": dialogue_sources.llama_factory,
    "ms_swift": dialogue_sources.ms_swift,
}
