"""visalign answer: what models answer to questions about pictures, a file each, one line an answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..data.questions import Question
    from .screen import Screen

EXAMPLE = "visalign answer playground runs/playground_mllm_dpo --questions playground:all:100 --out runs/answers"
QUESTIONS = """MODEL is playground, a folder of a transformers image-text-to-text model or of adapters to one, a run's
folder, or a hub id. QUESTIONS is one of
  votes.parquet                  records: their prompts, about their media
  coco_pope_random.json          rows with a question (or query, text), an image and an id; --images says where from
  playground:heldout:50          the playground's: a description each of 50 pictures; random, popular and adversarial
                                 are its yes/no questions about them, and all is everything
  playground                     those of its votes, which are what is trained on
With one MODEL, --out is a file; with several it is a folder, with a file for each under its last name, as
`visalign evaluate --answers runs/answers/*.jsonl` reads them. The same command goes on where it stopped: what has an
answer is not asked again. A temperature samples by a seed for each question, whatever else is asked."""


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "answer", "answer questions about pictures, as answers to be measured", EXAMPLE, run)
    made.epilog = f"{made.epilog}\n\n{QUESTIONS}"
    made.add_argument("models", nargs="+", metavar="MODEL", help="who answers, as below")
    made.add_argument("--questions", required=True, metavar="QUESTIONS", help="what is asked, as below")
    made.add_argument("--format", metavar="NAME", help="of the records (visalign list source); told from the file")
    made.add_argument("--images", metavar="DIR", help="the folder of the pictures (that of the questions)")
    made.add_argument("--out", metavar="FILE|DIR", help="where to (runs/answers.jsonl; several: runs/answers)")
    made.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="longest answer (512)")
    made.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest tokens (0)")
    made.add_argument("--top-p", type=float, default=1.0, help="sample among tokens that have this chance together (1)")
    made.add_argument("--seed", type=int, default=0, help="of sampling (0)")
    made.add_argument("--batch", type=int, default=8, help="questions at a time (8)")
    made.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (auto)")
    made.add_argument("--allow-download", action="store_true", help="let a model be fetched from the hub")


def run(given: Any) -> int:
    """Answer with every model what has no answer by it yet; the worst of their exit codes."""
    from pathlib import Path

    from .. import answering, playground
    from ..data.questions import questions
    from ..jobs import dialogues
    from .screen import Screen

    if given.batch < 1:
        raise words.UsageError(f"--batch must be at least 1, got {given.batch}")
    how = answering.Settings(given.max_new_tokens, given.temperature, given.top_p, given.seed)
    images = Path(given.images).expanduser() if given.images else None
    shipped = given.questions == "playground"
    named = str(playground.shipped_votes(dialogues.SHIPPED)) if shipped else given.questions
    asked, screen = questions(named, pictures=images, format=given.format), Screen()
    return max(ask(given, model, asked, out, how, screen) for model, out in files(given).items())


def files(given: Any) -> dict[str, Path]:
    """Where each model's answers go."""
    from pathlib import Path

    if len(set(given.models)) < len(given.models):
        raise words.UsageError(f"the same model is given twice: {', '.join(given.models)}")
    if len(given.models) == 1:
        return {given.models[0]: Path(given.out or "runs/answers.jsonl")}
    folder = Path(given.out or "runs/answers")
    if folder.suffix:
        raise words.UsageError(f"several models answer into a folder, a file each: --out {folder.with_suffix('')}")
    return {model: folder / f"{name}.jsonl" for model, name in zip(given.models, short(given.models), strict=True)}


def short(models: list[str]) -> list[str]:
    """The last part of each path, or where that is one of two alike all of it, its slashes as dashes."""
    last = [model.rstrip("/").split("/")[-1] for model in models]
    return last if len(set(last)) == len(last) else [model.strip("/").replace("/", "-") for model in models]


def ask(given: Any, model: str, asked: list[Question], out: Path, how: Any, screen: Screen) -> int:
    """One model's answers."""
    from .. import answering
    from ..drawing import Settings
    from ..models.seeing import SeeingFolder

    folder = SeeingFolder.open(answering.weights_of(model), allow_download=given.allow_download)
    with screen.stage(f"open {model}"):
        opened = folder.model(train="none", dtype=given.dtype, device=Settings(device=given.device).place)
        answerer = answering.Answerer(opened.network, folder.reader(), how)
    with screen.stage(f"answer {len(asked)} questions", total=len(asked)) as stage:
        count, bad = answering.answer_all(
            answerer, asked, out, model=model, fingerprint=opened.fingerprint, batch=given.batch, progress=stage
        )
    return summarize(len(asked), count, answering.warned(bad), out, screen)


def summarize(asked: int, count: int, warning: str, out: Any, screen: Screen) -> int:
    """What was done; 1 if questions could not be asked."""
    before = f"; {asked - count} had one, or cannot be asked" if count < asked else ""
    screen.say(f"{count} answers in {out}{before}")
    if warning:
        screen.warn(warning)
    return 1 if warning else 0
