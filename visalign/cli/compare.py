"""visalign compare: models side by side in the browser, blind votes, a leaderboard, training from the votes."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

from . import words
from .evaluate import short
from .generate import drawing_options, settings

if TYPE_CHECKING:
    from pathlib import Path

EXAMPLE = "visalign compare playground runs/demo/dpo --prompts playground:heldout:40 --scorers rules"


def add(commands: words.Commands) -> None:
    """The command."""
    about = "compare models in the browser: grid, blind votes, leaderboard, answers, runs"
    made = words.command(commands, "compare", about, EXAMPLE, run)
    made.add_argument("models", nargs="+", metavar="MODEL", help="two to six, the base of comparison first")
    made.add_argument("--prompts", metavar="FILE|TEXT",
                      help="a file, one prompt, playground:heldout:40 (the default)")  # fmt: skip
    made.add_argument("--seeds", type=int, default=2, metavar="N", help="pictures a prompt, from seeds 0 … N-1 (2)")
    made.add_argument("--scorers", nargs="*", default=[], metavar="NAME", help="who scores every picture")
    made.add_argument("--aspects", nargs="*", default=[], metavar="WORD", help="what else may be voted on")
    made.add_argument("--goal", type=int, default=0, metavar="N", help="votes that each rater is asked for (all pairs)")
    made.add_argument(
        "--taste",
        metavar="FEATURES",
        help="what raters' tastes are read by: checker, hpsv2.1 … (checker on the playground)",
    )
    made.add_argument(
        "--tastes", metavar="FILE", help="a population of tastes that `visalign users` wrote (this one's raters)"
    )
    made.add_argument("--answers", metavar="FILE", help="JSON lines of multimodal models' answers")
    made.add_argument("--runs", nargs="*", default=[], metavar="DIR", help="training runs to watch besides the models'")
    made.add_argument("--out", default="runs/compare", metavar="DIR", help="pictures and votes; kept (runs/compare)")
    drawing_options(made)
    made.set_defaults(steps=None, guidance=None)
    _doors(made)


def _doors(made: Any) -> None:
    """Where the app listens, and whom it lets in."""
    made.add_argument("--host", default="127.0.0.1", metavar="NAME", help="listen here (127.0.0.1); others need --auth")
    made.add_argument("--port", type=int, metavar="N", help="listen here (the first free one from 7860)")
    made.add_argument("--auth", metavar="USER:PASSWORD", help="ask for these; better in the variable VISALIGN_AUTH")
    made.add_argument("--allow-host", nargs="*", default=[], metavar="NAME", help="other names the app is called by")
    made.add_argument("--share", action="store_true", help="a public link through Gradio's servers; needs --auth")
    made.add_argument("--open-votes", action="store_true", help="let programs vote too, by the public API")


def run(given: Any) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from .. import registry
    from .screen import Screen

    screen, (setup, door) = Screen(), (compared(given), opened(given))
    for stop in (signal.SIGINT, signal.SIGTERM):  # the first is ignored in what a script starts in the background
        signal.signal(stop, signal.default_int_handler)
    served = registry.load("app", "compare")(setup, door)
    screen.say(f"compare: {served.url}   (votes and pictures in {given.out}; Ctrl-C ends it)")
    if served.public:
        screen.say(f"public link, through Gradio's servers: {served.public}")
    try:
        served.wait()
    finally:
        served.close()
        screen.say(f"{len(served.desk.booth.votes())} votes in {given.out}")
    return 0


def compared(given: Any) -> dict[str, Any]:
    """What is compared, and how: the fields of the app's Setup."""
    from pathlib import Path

    from .. import registry
    from ..diffusion.source import Source

    if not 2 <= len(set(given.models)) == len(given.models) <= 6:
        raise words.UsageError(
            f"compare takes two to six different models, the base first; got {' '.join(given.models)}"
        )
    sources = {name: Source.find(spec) for name, spec in zip(short(given.models), given.models, strict=True)}
    moving = [name for name, source in sources.items() if source.folder.family.clips]
    if moving and len(moving) < len(sources):
        raise words.UsageError(
            f"clips are compared with clips, and of these models {', '.join(moving)} alone draw them"
        )
    if moving and given.taste:
        raise words.UsageError("--taste reads pictures, and these models draw clips: leave it out")
    return {
        "models": sources,
        "prompts": words.prompts(given.prompts or f"{'playground_moving' if moving else 'playground'}:heldout:40"),
        "settings": how(given),
        "seeds": range(given.seeds),
        "scorers": [registry.build("scorer", name) for name in given.scorers],
        "folder": Path(given.out).expanduser(),
        "aspects": given.aspects,
        "answers": Path(given.answers).expanduser() if given.answers else None,
        "runs": watched(given),
        "taste": {
            "features": given.taste or ("checker" if given.models[0] == "playground" else ""),
            "population": Path(given.tastes).expanduser() if given.tastes else None,
        },
        "goal": given.goal,
    }


def how(given: Any) -> Any:
    """How pictures are drawn: as given, else as suits the playground's model, else as other commands do."""
    from .. import playground

    small = {"playground": playground.GUIDANCE, "playground_moving": playground.MOVING_GUIDANCE}
    given.steps = given.steps or (playground.STEPS if given.models[0] in small else 25)
    given.guidance = given.guidance if given.guidance is not None else small.get(given.models[0], 5.0)
    return settings(given)


def watched(given: Any) -> dict[str, Path]:
    """The runs to watch by name: those among the models, and those given."""
    from pathlib import Path

    among = [model for model in given.models if (Path(model) / "metrics.jsonl").is_file()]
    every = list(dict.fromkeys([*among, *given.runs]))
    if missing := [each for each in given.runs if not Path(each).is_dir()]:
        raise words.UsageError(f"no folder of a training run at {missing[0]}")
    return {name: Path(path).expanduser() for name, path in zip(short(every), every, strict=True)}


def opened(given: Any) -> dict[str, Any]:
    """Where the app listens, and whom it lets in: the fields of its Door."""
    login = given.auth or os.environ.get("VISALIGN_AUTH")
    user, _, password = (login or "").partition(":")
    if login and not (user and password):
        raise words.UsageError("--auth reads USER:PASSWORD, neither of them empty")
    return {
        "host": given.host,
        "port": given.port,
        "login": (user, password) if login else None,
        "share": given.share,
        "hosts": given.allow_host,
        "open_votes": given.open_votes,
    }
