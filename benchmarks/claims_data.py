"""The data of the claims benchmark: the shipped votes, and what some claims need instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from visalign import cli, images, playground
from visalign.data import album, media, sources, store
from visalign.data.pairing import paired
from visalign.draws import generator
from visalign.playground import captions, world
from visalign.playground.voters import Voters
from visalign.records import Preference

NOISE = 0.2  # deviation of the noisy scorer's error, on utilities in [0, 1]


def votes(folder: Path) -> Path:
    """The votes that ship with the playground: the best of four candidates against the worst."""
    return playground.shipped_votes()


def shipped() -> list[Preference]:
    """Those records, their items as absolute references."""
    path = playground.shipped_votes()
    root = sources.root(path)
    return [replace(each, items=tuple(str(root / item) for item in each.items)) for each in sources.open_source(path)]


def pictures(record: Preference) -> list[np.ndarray]:
    """Its items as (32, 32, 3) uint8."""
    return [np.asarray(images.load(media.fetch(item, Path("/")))) for item in record.items]


def noisy(folder: Path) -> Path:
    """Two random candidates of each prompt, scored by a scorer that errs: many near ties, about a third mislabelled."""
    made = []
    for record in shipped():
        random = generator(0, record.prompt, 0, "noisy")
        chosen = [int(each) for each in random.choice(len(record.items), 2, replace=False)]
        seen = pictures(record)
        true = Voters().utility([seen[each] for each in chosen], [record.prompt] * 2)
        said = true + NOISE * random.standard_normal(2)
        pair = Preference(record.prompt, tuple(record.items[each] for each in chosen))
        made.append(pair.judged(said, scale="utility", judge="noisy scorer"))
    return written(made, folder)


def captioned(folder: Path) -> Path:
    """The shipped votes with a caption for each of the two, as `visalign caption playground` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    if cli.main(["caption", "playground", "--out", str(folder / "records.parquet")]):
        raise SystemExit("captions could not be written")
    return folder / "records.parquet"


def sets(folder: Path) -> Path:
    """The shipped candidates in a good and a bad set by the voters' taste, as `visalign sets` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    told = ["--reward", "instance", "--scorer", "voters", "--out", str(folder / "records.parquet")]
    if cli.main(["sets", "playground", *told]):
        raise SystemExit("the sets could not be made")
    return folder / "records.parquet"


def unpaired(folder: Path) -> Path:
    """Of each prompt either the best candidate, liked, or the worst, disliked: no two labels of one prompt."""
    made = []
    for number, record in enumerate(shipped()):
        pair = paired(record)
        if isinstance(pair, str):
            continue
        item, label = ((pair.win, 1.0), (pair.lose, 0.0))[number % 2]
        alone = Preference(record.prompt, (record.items[item],))
        made.append(alone.judged([label], scale="probability", judge="votes taken apart"))
    return written(made, folder)


def at_night(prompt: str) -> str:
    """The prompt, asked for in a style that the base never draws."""
    return captions.caption(replace(captions.parse(prompt), style="night"))


def night(folder: Path) -> Path:
    """The winner in a style that the base never draws, rendered; the loser is the base's own picture of the prompt."""
    records, drawn = shipped(), []
    prompts = [at_night(record.prompt) for record in records]
    for prompt in prompts:
        scene = world.place(captions.parse(prompt), generator(0, prompt, 0, "night"))
        drawn.append(world.draw(scene))
    names = album.write(np.stack(drawn), folder / "pictures.parquet")
    made = [
        Preference(prompt, (str((folder / name).resolve()), record.items[0]), verdict="first", judge="style")
        for prompt, name, record in zip(prompts, names, records, strict=True)
    ]
    return written(made, folder)


def written(records: list[Preference], folder: Path) -> Path:
    """The records in a file of the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    store.write(records, folder / "records.parquet")
    return folder / "records.parquet"


MAKERS: dict[str, Callable[[Path], Path]] = {
    "votes": votes,
    "captions": captioned,
    "unpaired": unpaired,
    "sets": sets,
    "noisy": noisy,
    "night": night,
}
