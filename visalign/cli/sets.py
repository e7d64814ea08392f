"""visalign sets: two drawings of each prompt, put into a good and a bad set by a reward of whole sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import label, words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.sets import Embedder, SetReward
    from ..records import Preference
    from ..scoring import Sample
    from .screen import Screen

    Places = list[tuple[Preference, str]]  # items with the records that they are of
    Features = Callable[[Places, Path, Screen], NDArray[np.float64]]

EXAMPLE = "visalign sets runs/pictures/records.jsonl --reward vendi --embedder playground_hps --out runs/sets.parquet"
REWARDS = {
    "instance": "the mean of a scorer's values (--scorer)",
    "exemplar": "the mean cosine to the pictures of --exemplars",
    "frechet": "minus the Frechet distance to the pictures of --exemplars",
    "vendi": "how many different pictures there are in effect",
}


def add(commands: words.Commands) -> None:
    """The command."""
    about = "divide two drawings of each prompt into a good and a bad set, as DRAGON needs"
    made = words.command(commands, "sets", about, EXAMPLE, run)
    made.add_argument("records", metavar="PATH", help="records with two pictures a prompt or more, or playground")
    made.add_argument("--reward", required=True, choices=REWARDS, help="; ".join(map(": ".join, REWARDS.items())))
    made.add_argument("--embedder", metavar="NAME|YAML", help="a scorer that embeds pictures (all but instance)")
    made.add_argument("--scorer", metavar="NAME|YAML", help="who judges single pictures (instance)")
    made.add_argument("--exemplars", metavar="DIR", help="pictures to be near to (exemplar, frechet)")
    made.add_argument("--out", required=True, metavar="FILE", help="a .parquet or .jsonl file")
    made.add_argument("--batch", type=int, default=64, help="pictures at a time (64)")


def run(given: Any) -> int:
    """Embed or score every picture, divide, and write the records."""
    from dataclasses import replace

    from .. import playground
    from ..data import halves, media, sources, store
    from .screen import Screen

    words.at_least_one(given, "batch")
    screen, out = Screen(), words.out_file(given.out)
    path = playground.found(given.records, "records.parquet")
    features, reward = rewarding(given, screen)
    pairs, root = halves.twos(sources.open_source(path)), sources.root(path)
    places = [(record, item) for record in pairs for item in record.items]
    made, split = halves.divided(pairs, features(places, root, screen), reward, f"dragon:{given.reward}")
    store.write([replace(each, items=media.seen_from(each.items, root, out.parent)) for each in made], out)
    first, second = split.starts
    screen.say(f"reward of all first drawings {first:.4g}, of all second ones {second:.4g}, good set {split.value:.4g}")
    screen.say(f"{len(made)} records in {out}; {len(pairs) - len(made)} left out: a picture could not be read")
    screen.say(f"next: visalign train RECIPE method.name=dragon data.path={out}")
    return 0


def rewarding(given: Any, screen: Screen) -> tuple[Features, SetReward]:
    """What is known of each picture, (n, d), and the reward of a set of that."""
    import numpy as np

    from ..evaluation import sets

    if given.reward == "instance":
        return scored(given), sets.average
    embedded = embedding(given)
    if given.reward == "vendi":
        return embedded, sets.vendi
    exemplars = embedded(*exemplary(given.exemplars), screen)
    if np.isnan(exemplars).any():
        raise words.UsageError(f"{given.exemplars} holds pictures that cannot be read: take them out")
    if given.reward == "frechet":
        return embedded, sets.Frechet.to(exemplars)
    return (lambda places, root, watched: sets.likeness(embedded(places, root, watched), exemplars)), sets.average


def scored(given: Any) -> Features:
    """A scorer's values, (n, 1)."""
    import numpy as np

    from .. import registry

    if not given.scorer:
        raise words.UsageError("--reward instance needs --scorer (visalign list scorer)")
    scorer = registry.build("scorer", words.named(given.scorer))

    def score(places: Places, root: Path, screen: Screen) -> NDArray[np.float64]:
        values: list[float] = []
        with screen.stage(f"judge with {scorer.name}", total=len(places)) as stage:
            for start in range(0, len(places), given.batch):
                values += label.judged(scorer, list(label.samples(places[start : start + given.batch], root)))[0]
                stage(len(values))
        return np.array(values)[:, None]

    return score


def embedding(given: Any) -> Features:
    """An embedder's unit vectors, (n, d)."""
    import numpy as np

    from .. import registry
    from ..evaluation.sets import Embedder

    if not given.embedder:
        raise words.UsageError(f"--reward {given.reward} needs --embedder, a scorer that embeds pictures")
    embedder = registry.build("scorer", words.named(given.embedder))
    if not isinstance(embedder, Embedder):
        raise words.UsageError(f"{given.embedder} embeds no pictures; take a CLIP scorer, such as playground_hps")

    def embed(places: Places, root: Path, screen: Screen) -> NDArray[np.float64]:
        rows: list[NDArray[np.float64]] = []
        with screen.stage(f"embed with {embedder.name}", total=len(places)) as stage:
            for start in range(0, len(places), given.batch):
                rows.append(_embedded(embedder, list(label.samples(places[start : start + given.batch], root))))
                stage(start + len(rows[-1]))
        return np.concatenate(rows)

    return embed


def _embedded(embedder: Embedder, found: Sequence[Sample | str]) -> NDArray[np.float64]:
    """(n, d), NaN in the row of what cannot be opened."""

    pictures = [b"" if isinstance(each, str) or each.image is None else each.image for each in found]
    rows: NDArray[np.float64] = embedder.embed(pictures).double().numpy()  # nothing is no picture: a row of NaN
    return rows


def exemplary(folder: str | None) -> tuple[Places, Path]:
    """The pictures of a folder, and the folder."""
    from pathlib import Path

    from ..records import Preference

    if not folder:
        raise words.UsageError("this reward needs --exemplars, a folder of pictures")
    root = Path(folder).expanduser()
    names = tuple(file.name for file in sorted(root.glob("*")) if file.suffix.lower() in label.ENDINGS)
    if len(names) < 2:
        raise words.UsageError(f"{folder} holds {len(names)} pictures; exemplars are two or more")
    record = Preference("exemplars", names)
    return [(record, name) for name in names], root
