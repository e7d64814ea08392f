"""visalign sets: two drawings of each prompt, put into a good and a bad set by a reward of whole sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from ..evaluation.sets import SetReward
    from ..scoring import Sample
    from .screen import Screen

    Features = Callable[[list[Sample], Screen], NDArray[np.float64]]

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
    from pathlib import Path

    from ..data import halves, media, sources, store
    from ..jobs import denoising
    from .label import seen
    from .screen import Screen

    screen, out = Screen(), Path(given.out)
    path = denoising.votes() if given.records == "playground" else Path(given.records).expanduser()
    features, reward = rewarding(given, screen)
    pairs, root = halves.twos(sources.open_source(path)), sources.root(path)
    samples = list(seen(pairs, root))
    made, split = halves.divided(pairs, features(samples, screen), reward, f"dragon:{given.reward}")
    store.write([replace(each, items=media.seen_from(each.items, root, out.parent)) for each in made], out)
    first, second = split.starts
    screen.say(f"reward of all first drawings {first:.4g}, of all second ones {second:.4g}, good set {split.value:.4g}")
    screen.say(f"{len(made)} records in {out}; {len(pairs) - len(made)} left out: a picture could not be read")
    screen.say(f"next: visalign train RECIPE method.name=dragon data.path={out}")
    return 0


def rewarding(given: Any, screen: Screen) -> tuple[Features, SetReward]:
    """What is known of each picture, (n, d), and the reward of a set of that."""
    from ..evaluation import sets

    if given.reward == "instance":
        return scored(given), sets.average
    embedded = embedding(given)
    if given.reward == "vendi":
        return embedded, sets.vendi
    exemplars = embedded(exemplary(given.exemplars), screen)
    if given.reward == "frechet":
        return embedded, sets.Frechet.to(exemplars)
    return (lambda samples, watched: sets.likeness(embedded(samples, watched), exemplars)), sets.average


def scored(given: Any) -> Features:
    """A scorer's values, (n, 1)."""
    import numpy as np

    from .. import registry

    if not given.scorer:
        raise words.UsageError("--reward instance needs --scorer (visalign list scorer)")
    scorer = registry.build("scorer", words.named(given.scorer))

    def score(samples: list[Sample], screen: Screen) -> NDArray[np.float64]:
        values: list[float] = []
        with screen.stage(f"judge with {scorer.name}", total=len(samples)) as stage:
            for start in range(0, len(samples), given.batch):
                values += scorer.score(samples[start : start + given.batch]).values.tolist()
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

    def embed(samples: list[Sample], screen: Screen) -> NDArray[np.float64]:
        rows: list[NDArray[np.float64]] = []
        with screen.stage(f"embed with {embedder.name}", total=len(samples)) as stage:
            for start in range(0, len(samples), given.batch):
                some = [each.image for each in samples[start : start + given.batch] if each.image is not None]
                rows.append(embedder.embed(some).double().numpy())
                stage(start + len(some))
        return np.concatenate(rows)

    return embed


def exemplary(folder: str | None) -> list[Sample]:
    """The pictures of a folder."""
    from pathlib import Path

    from ..scoring import Sample
    from .label import ENDINGS

    if not folder:
        raise words.UsageError("this reward needs --exemplars, a folder of pictures")
    files: list[Path] = sorted(Path(folder).expanduser().glob("*"))
    found = [Sample("", image=file) for file in files if file.suffix.lower() in ENDINGS]
    if len(found) < 2:
        raise words.UsageError(f"{folder} holds {len(found)} pictures; exemplars are two or more")
    return found
