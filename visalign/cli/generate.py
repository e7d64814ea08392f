"""visalign generate: pictures from a model, as candidates that can be judged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..diffusion.source import Source

MODELS = """MODEL is playground, a pipeline folder, a run's folder, a hub id, or BASE+LORA. Others may take part:
  runs/dpo,negative=runs/npo             npo answers for the empty prompt, mixed: base + (dpo - base) + (npo - base)
  runs/dpo,negative=runs/npo,alpha=0.5,beta=1    base + alpha (dpo - base) + beta (npo - base); base=MODEL if not known
  runs/dpo,weak=playground,reflect=11    the first 11 steps are reflected: down by dpo, back up by the weak model
  playground,weak_guidance=0             reflected between guidance and none; likewise strong_guidance
  playground+style,scale=.8,strong_scale=1.5,weak_scale=-1.5     a LoRA at one scale, between two others
  …,variant=release                      the reflection as its authors' code does it, a level off"""
EXAMPLE = 'visalign generate playground --prompts "a red circle left of a blue square" --seeds 4 --out runs/pictures'


def add(commands: words.Commands) -> None:
    """The command."""
    made = words.command(commands, "generate", "draw pictures, as candidates that can be labelled", EXAMPLE, run)
    made.add_argument("model", metavar="MODEL", help="what draws, as below")
    made.add_argument(
        "--prompts", required=True, metavar="FILE|TEXT", help="a file with a prompt a line, or one prompt"
    )
    made.add_argument(
        "--weak-prompts", metavar="FILE|TEXT", help="what the weak side of a reflection is told, line for line"
    )
    made.add_argument("--seeds", type=int, default=1, metavar="N", help="pictures a prompt (1), from seeds 0 … N-1")
    made.add_argument("--first-seed", type=int, default=0, metavar="S", help="start at this seed (0)")
    made.add_argument("--lora", metavar="PATH", help="adapters to load: a file, a folder, or a run's folder")
    made.add_argument("--out", default="runs/pictures", metavar="DIR", help="where to (runs/pictures)")
    made.add_argument("--allow-download", action="store_true", help="let a model be fetched from the hub")
    drawing_options(made)


def drawing_options(made: Any) -> None:
    """How to draw: what the commands that draw share, the grammar of models included."""
    made.epilog = f"{made.epilog}\n\n{MODELS}"
    made.add_argument("--steps", type=int, default=25, help="steps of the sampler, DDIM or flow Euler (25)")
    made.add_argument("--guidance", type=float, default=5.0, help="classifier-free guidance (5.0); 1 is none")
    made.add_argument("--size", type=int, metavar="PIXELS", help="side of a picture (what the model was made for)")
    made.add_argument("--batch", type=int, default=32, help="pictures at a time (32)")
    made.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (auto)")


def settings(given: Any) -> Any:
    """Those options as `drawing.Settings`, checked."""
    from ..drawing import Settings

    for name, low in (("steps", 1), ("batch", 1), ("seeds", 1)):
        if getattr(given, name) < low:
            raise words.UsageError(f"--{name} must be at least {low}, got {getattr(given, name)}")
    return Settings(given.steps, given.guidance, given.size, given.batch, given.dtype, given.device)


def run(given: Any) -> int:
    """Draw every prompt from every seed; write the pictures and a records file that nobody judged yet."""
    from pathlib import Path

    from ..diffusion.source import Source
    from ..drawing import Drawer
    from .screen import Screen

    screen, out = Screen(), Path(given.out)
    prompts = words.prompts(given.prompts)
    weaker = words.prompts(given.weak_prompts) if given.weak_prompts else None
    how = settings(given)
    source = Source.find(given.model, given.lora, allow_download=given.allow_download)
    if weaker is not None:
        fitting(weaker, len(prompts), source)
    with screen.stage(f"open {given.model}"):
        drawer = Drawer(source, how)
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    each, number = repeated(prompts, len(seeds)), seeds * len(prompts)
    drawn = drawer.draw(each, number, screen, weak_prompts=weaker and repeated(weaker, len(seeds)))
    listed = save(drawn, prompts, seeds, out, source)
    screen.say(f"{len(drawn)} pictures of {len(prompts)} prompts in {out}")
    screen.say(f"next: visalign label {listed} --scorer NAME")
    return 0


def fitting(weaker: list[str], count: int, source: Source) -> None:
    """Refuse weak prompts that are not one for each prompt, or that nobody would be told."""
    if source.gap is None:
        raise words.UsageError(f"--weak-prompts are a reflection's, and {source.name} does not reflect: add ,reflect=N")
    if source.gap.weak_guidance == 0.0:
        raise words.UsageError("--weak-prompts are told to nobody under weak_guidance=0: add ,weak_guidance=1")
    if len(weaker) != count:
        raise words.UsageError(f"--weak-prompts gives one for each of {count} prompts, got {len(weaker)}")


def repeated(prompts: list[str], times: int) -> list[str]:
    """Each prompt so many times, in order."""
    return [prompt for prompt in prompts for _ in range(times)]


def save(drawn: Any, prompts: list[str], seeds: list[int], out: Path, source: Source) -> Path:
    """Write PNG files and records.jsonl, a record a prompt with every seed's picture; return the records' path."""
    from ..data import store
    from ..evaluation.report import png
    from ..records import Preference

    (out / "pictures").mkdir(parents=True, exist_ok=True)
    names = [[f"pictures/{row:05d}-{seed}.png" for seed in seeds] for row in range(len(prompts))]
    for name, picture in zip((name for row in names for name in row), drawn, strict=True):
        (out / name).write_bytes(png(picture))
    models = (source.name,) * len(seeds)
    records = [
        Preference(prompt, tuple(row), seeds=tuple(seeds), models=models)
        for prompt, row in zip(prompts, names, strict=True)
    ]
    store.write(records, out / "records.jsonl")
    return out / "records.jsonl"
