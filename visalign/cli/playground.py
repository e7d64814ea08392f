"""visalign playground: the shapes world, shown or built anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXAMPLE = "visalign playground show --out runs/playground"


def add(commands: words.Commands) -> None:
    """The command and its jobs."""
    made = words.command(commands, "playground", "the small world that ships with the package", EXAMPLE, show)
    jobs = made.add_subparsers(metavar="JOB", required=True)
    look = words.command(
        jobs, "show", "draw held-out prompts: true, and as the shipped model draws them", EXAMPLE, show
    )
    look.add_argument("--count", type=int, default=24, help="prompts (24)")
    look.add_argument("--split", default="heldout", help="of which split (heldout)")
    look.add_argument("--out", default="runs/playground", metavar="DIR", help="where to (runs/playground)")
    build_example = "visalign playground build --out runs/playground_model"
    build = words.command(
        jobs,
        "build",
        "train the playground's base anew, an hour on two cores, or another of its models",
        build_example,
        make,
    )
    build.add_argument("--only", choices=("base", "moving", "scorer", "seeing"), default="base", help="which (base)")
    build.add_argument("--seed", type=int, default=0, help="of the corpus and the training (0)")
    build.add_argument("--out", default="runs/playground_model", metavar="DIR", help="where to (runs/playground_model)")
    elect_example = "visalign playground users --out runs/playground_users"
    voted = words.command(jobs, "users", "let simulated users with tastes vote on candidates", elect_example, elect)
    voted.add_argument("--count", type=int, default=96, help="users (96)")
    voted.add_argument("--first", type=int, default=0, metavar="N", help="the first of them (0)")
    voted.add_argument("--votes", type=int, default=24, help="of each user: prompts, or pairs (24)")
    voted.add_argument("--pairs", action="store_true", help="single votes on two, not on every two of a prompt")
    voted.add_argument("--records", metavar="FILE", help="with the candidates (those that ship)")
    voted.add_argument("--seed", type=int, default=0, help="of who votes on what, and how (0)")
    voted.add_argument("--out", default="runs/playground_users", metavar="DIR", help="where to (runs/playground_users)")
    figure = words.command(
        jobs, "subject", "a figure that the base has never seen, paired with the base's own pictures",
        "visalign playground subject --out runs/zorp", subject,
    )  # fmt: skip
    figure.add_argument("--count", type=int, default=4, help="pictures of the figure (4)")
    figure.add_argument("--others", type=int, default=16, help="the base's pictures of each of its prompts (16)")
    figure.add_argument("--balance", type=float, default=0.0, help="lambda of the reward, likeness against text (0.0)")
    figure.add_argument("--out", default="runs/zorp", metavar="DIR", help="where to (runs/zorp)")


def subject(given: Any) -> int:
    """The figure's pictures, the base's, and records of every two with the harmonic reward of both, for RPO."""
    from pathlib import Path

    from .. import playground
    from ..data import store
    from ..drawing import Settings, draw
    from ..evaluation.report import png
    from ..playground.subject import CAPTION, OTHERS, portrait
    from ..records import Preference
    from .screen import Screen

    screen, out = Screen(), Path(given.out)
    asked = [prompt for prompt in OTHERS for _ in range(given.others)]
    how = Settings(playground.STEPS, playground.GUIDANCE)
    drawn = draw("playground", asked, range(len(asked)), how, screen, title="draw with the base")
    pictures = {f"subject/{row}.png": portrait(row) for row in range(given.count)}
    pictures |= {f"others/{row:04d}.png": each for row, each in enumerate(drawn)}
    for name, picture in pictures.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(png(picture))
    told = dict(zip(pictures, [CAPTION] * given.count + asked, strict=True))
    values = rewards(told, out, given.balance)
    records = []
    for row, text in enumerate(asked):
        items = (f"subject/{row % given.count}.png", f"others/{row:04d}.png")
        scores = [values[item] for item in items]
        records.append(Preference(CAPTION, items, scores, judge="harmonic", captions=(CAPTION, text)))  # type: ignore[arg-type]
    store.write(records, out / "records.parquet")
    screen.say(f"{len(records)} pairs in {out / 'records.parquet'}, the figure's pictures in {out / 'subject'}")
    screen.say("next: visalign train playground_rpo")
    return 0


def rewards(told: dict[str, str], root: Any, balance: float) -> dict[str, float]:
    """The lambda-harmonic reward of each picture under its text: likeness to the figure, and cosine to the text."""
    import torch

    from .. import registry, transforms
    from ..scoring import Sample

    samples = [Sample(text, image=root / name) for name, text in told.items()]
    likeness = registry.build("scorer", {"name": "likeness", "exemplars": str(root / "subject")}).score(samples)
    faithful = registry.build("scorer", "playground_hps").score(samples)
    both = torch.stack([likeness.values.double(), (faithful.values.double() + 1) / 2])
    return dict(zip(told, transforms.harmonic(both, balance=balance).tolist(), strict=True))


def show(given: Any) -> int:
    """Write a page with the true picture of each prompt beside the model's, and what the checker says of both."""
    from pathlib import Path

    from .. import playground, registry
    from ..drawing import Settings, draw
    from ..evaluation import comparison
    from .screen import Screen

    screen = Screen()
    prompts = words.prompts(f"playground:{given.split}:{given.count}")
    how = Settings(playground.STEPS, playground.GUIDANCE)
    drawn = {"true": rendered(prompts), "base": draw("playground", prompts, range(len(prompts)), how, screen)}
    found = comparison.Comparison.of(prompts, drawn, [registry.build("scorer", "rules")])
    screen.show(comparison.standings_table(found.first))
    page = found.report("The playground", settings={"drawing": words.yaml_of(how)}, shown=len(prompts)).write(
        Path(given.out)
    )
    screen.say(f"page: {page}")
    return 0


def rendered(prompts: Sequence[str]) -> NDArray[np.uint8]:
    """A true picture of each prompt, as the world draws it, (n, 32, 32, 3)."""
    import numpy as np

    from ..draws import generator
    from ..playground.captions import parse
    from ..playground.world import draw, place

    return np.stack([draw(place(parse(prompt), generator(0, prompt, 0, "rendering"))) for prompt in prompts])


def make(given: Any) -> int:
    """Train the playground's models, resuming what was begun."""
    from pathlib import Path

    from ..playground import build, moving_build, seeing_build
    from .screen import Screen

    screen, made = Screen(), Path(given.out)
    if given.only == "scorer":
        from ..jobs import scorer_build

        made = scorer_build.build(made, screen, seed=given.seed)
    else:
        makers: dict[str, Callable[..., Path]] = {
            "base": build.build,
            "moving": moving_build.build,
            "seeing": seeing_build.build,
        }
        makers[given.only](made, seed=given.seed, say=screen.say)
    screen.say(f"built in {made}")
    return 0


def elect(given: Any) -> int:
    """Let simulated users vote on candidates; write records that name their user."""
    from pathlib import Path

    from .. import playground
    from ..data import sources, store
    from ..playground import electorate, users
    from .screen import Screen
    from .users import placed

    screen, out = Screen(), Path(given.out)
    votes = Path(given.records) if given.records else playground.shipped_votes()
    root = sources.root(votes)
    people = users.users(given.first + given.count)[given.first :]
    with screen.stage(f"{given.count} users vote", total=given.count * given.votes) as stage:
        candidates = electorate.Candidates.of(sources.open_source(votes), root)
        cast = electorate.pairwise if given.pairs else electorate.tallied
        records = []
        for record in cast(candidates, people, given.votes, seed=given.seed):
            records.append(record)
            stage()
    out.mkdir(parents=True, exist_ok=True)
    store.write(placed(records, root, out), out / "records.parquet")
    screen.say(f"{len(records)} records of {given.count} users in {out / 'records.parquet'}")
    screen.say(f"next: visalign users {out / 'records.parquet'} --shots {max(given.votes // 2, 1)} --out {out}/read")
    return 0
