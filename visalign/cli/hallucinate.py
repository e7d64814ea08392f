"""visalign hallucinate: rejected answers from a model that hardly sees, beside the true ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from ..answering.hallucinations import Hallucinated, Maker, Settings
    from .screen import Screen

EXAMPLE = "visalign hallucinate playground --model playground --out runs/bdhs.parquet --limit 16"


def add(commands: words.Commands) -> None:
    """The command."""
    about = "make up answers with the picture hidden, as rejected ones beside the true (BDHS, arXiv 2407.02477)"
    made = words.command(commands, "hallucinate", about, EXAMPLE, run)
    made.add_argument("records", metavar="PATH", help='records with a true answer each, or "playground"')
    made.add_argument("--model", required=True, metavar="FOLDER", help="who answers: a folder, or playground")
    made.add_argument("--out", required=True, metavar="FILE", help="a .parquet or .jsonl file of pairs")
    made.add_argument("--by", choices=("mask", "noise"), default="mask", help="how the picture is hidden (mask)")
    made.add_argument("--threshold", type=float, default=0.99, help="mask: share of embeddings that are hidden (0.99)")
    made.add_argument("--step", type=int, default=500, help="noise: how much of it, 0 … 999 (500)")
    made.add_argument("--iterations", type=int, default=5, help="tries, the last one free; 1: only that (5)")
    made.add_argument(
        "--alike", type=float, default=0.97, help="an answer less similar to the true one is taken (0.97)"
    )
    made.add_argument("--similarity", default="words", metavar="NAME|YAML",
                      help="words, or an encoder: {name: sentences, folder: …} (words)")  # fmt: skip
    made.add_argument("--temperature", type=float, default=0.0, help="0: the likeliest token at each place (0)")
    made.add_argument("--max-new-tokens", type=int, default=256, metavar="N", help="of what is made up (256)")
    made.add_argument("--with-own", action="store_true", help="write the records' own pairs too, to train on both")
    made.add_argument("--limit", type=int, metavar="N", help="the first N records alone")
    made.add_argument("--seed", type=int, default=0, help="of masks, breaks and noise (0)")
    made.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the weights (fp32)")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (auto)")


def run(given: Any) -> int:
    """Make answers up, going on where an interrupted call stopped; write the pairs and say how they came about."""
    from pathlib import Path

    from .. import playground
    from ..answering import hallucinations
    from ..data import sources, store
    from ..jobs import dialogues
    from .screen import Screen

    screen, out, how = Screen(), Path(given.out), settings(given)
    path = playground.found(given.records, dialogues.SHIPPED)
    records, root = sources.open_source(path)[: given.limit], sources.root(path)
    with screen.stage(f"open {given.model}"):
        maker, fingerprint = opened(given, how)
    with screen.stage("make answers up", total=len(records)) as stage:
        made = hallucinations.hallucinate(
            maker, records, root, out, model=given.model, fingerprint=fingerprint,
            done=lambda done, total: stage(done, total=total),
        )  # fmt: skip
    own = hallucinations.beside(records, made.records, root, out.parent) if given.with_own else made.records
    store.write(own, out)
    told(made, maker, screen)
    screen.say(f"{len(own)} records in {out}")
    screen.say(f"next: visalign train RECIPE method.name=mllm_dpo data.path={out}")
    return 0


def settings(given: Any) -> Settings:
    """What the words on the line say; a wrong one is a UsageError."""
    from ..answering import Settings as Sampling
    from ..answering.blinded import Blindfold
    from ..answering.hallucinations import Settings

    try:
        blindfold = Blindfold(given.by, given.threshold, given.step)
    except ValueError as error:
        raise words.UsageError(str(error)) from None
    sampling = Sampling(given.max_new_tokens, given.temperature, seed=given.seed)
    return Settings(blindfold, sampling, given.iterations, given.alike)


def opened(given: Any, how: Settings) -> tuple[Maker, str]:
    """The model, its picture hidden, with who says how similar answers are; and what the model is known by."""
    from .. import answering, registry
    from ..answering.blinded import Blinded
    from ..answering.hallucinations import Maker
    from ..drawing import Settings as Drawing
    from ..models.seeing import SeeingFolder

    similarity = registry.build("similarity", words.named(given.similarity))
    folder = SeeingFolder.open(answering.weights_of(given.model))
    model = folder.model(train="none", dtype=given.dtype, device=Drawing(device=given.device).place)
    blinded = Blinded(model.network, folder.reader(), how.blindfold, how.sampling)
    return Maker(blinded, similarity, how), model.fingerprint


def told(made: Hallucinated, maker: Maker, screen: Screen) -> None:
    """The share of answers taken in each iteration, and what was left out."""
    total, last = max(len(made.records), 1), maker.how.iterations
    rows = [
        [f"{number}, free" if number == last else f"{number}", str(count), f"{100 * count / total:.1f} %"]
        for number in range(1, last + 1)
        if (count := made.accepted[number]) or number == 1
    ]
    note = f"Taken: similarity ({maker.similarity.name}) to the true answer below {maker.how.alike:g}."
    screen.table("Answers made up", ["iteration", "taken", "share"], rows, note)
    for reason, count in made.left_out.items():
        screen.say(f"{count} records left out: {reason}")
