"""visalign generate: pictures or clips from a model, as candidates that can be judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from . import words

if TYPE_CHECKING:
    from pathlib import Path

    from ..diffusion.source import Source
    from ..evaluation.report import Card, Picture

MODELS = """MODEL is playground, playground_moving, a pipeline folder, a run's folder, a hub id, or BASE+LORA. Others
may take part:
  runs/dpo,negative=runs/npo             npo answers for the empty prompt, mixed: base + (dpo - base) + (npo - base)
  runs/dpo,negative=runs/npo,alpha=0.5,beta=1    base + alpha (dpo - base) + beta (npo - base); base=MODEL if not known
  runs/dpo,weak=playground,reflect=11    the first 11 steps are reflected: down by dpo, back up by the weak model
  playground,weak_guidance=0             reflected between guidance and none; likewise strong_guidance
  playground+style,scale=.8,strong_scale=1.5,weak_scale=-1.5     a LoRA at one scale, between two others
  …,variant=release                      the reflection as its authors' code does it, a level off"""
AT_ONCE = "by the size of their latents: 32 of 512 x 512 pixels by Stable Diffusion, 8 of 1024 x 1024, 1 clip by Wan"
SHEET = 12  # clips on the sheet of frames
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


def drawing_options(made: Any, *, steps: int = 25, models: bool = True) -> None:
    """How to draw: what the commands that draw share; those that take a MODEL tell its grammar."""
    if models:
        made.epilog = f"{made.epilog}\n\n{MODELS}"
    made.add_argument("--steps", type=int, default=steps, help=f"of the sampler, DDIM or flow Euler ({steps})")
    made.add_argument("--guidance", type=float, default=5.0, help="classifier-free guidance (5.0); 1 is none")
    made.add_argument(
        "--size", type=size, metavar="PIXELS", help="a side, or HEIGHTxWIDTH (what the model was made for)"
    )
    made.add_argument("--frames", type=int, metavar="N", help="of a clip (what the model was made for)")
    made.add_argument("--batch", type=int, metavar="N", help=f"pictures or clips at a time ({AT_ONCE})")
    made.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), default="fp32")
    made.add_argument("--device", default="auto", help="cpu, cuda, cuda:1 … (auto)")


def size(given: str) -> int | tuple[int, int]:
    """A side of a square in pixels, or HEIGHTxWIDTH."""
    height, times, width = given.partition("x")
    return (int(height), int(width)) if times else int(height)


def settings(given: Any) -> Any:
    """Those options as `drawing.Settings`, checked."""
    from ..drawing import Settings

    counts = ("steps", "batch", "seeds", "frames")
    words.at_least_one(given, *(name for name in counts if getattr(given, name, None) is not None))
    return Settings(given.steps, given.guidance, given.size, given.batch, given.dtype, given.device, given.frames)


def run(given: Any) -> int:
    """Draw every prompt from every seed; write what is drawn and a records file that nobody judged yet."""
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
    names, room = named(len(prompts), seeds, clips=source.folder.family.clips)
    (out / room).mkdir(parents=True, exist_ok=True)
    with screen.stage(f"draw with {source.name}", total=len(each)) as stage:
        batches = drawer.batches(each, number, weaker and repeated(weaker, len(seeds)))
        shown = [*sheeted(kept(batches, names, out, source.folder.family.rate, stage), each, number)]
    listed = save(prompts, seeds, names, out, source)
    screen.say(f"{len(each)} {room} of {len(prompts)} prompts in {out}")
    if source.folder.family.clips:
        screen.say(f"frames of the first {len(shown)}: {sheet(shown, out)}")
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


def named(prompts: int, seeds: Sequence[int], *, clips: bool) -> tuple[list[str], str]:
    """The files of pictures or clips, prompt by prompt and seed by seed, and the folder they are in."""
    room, ending = ("clips", "webp") if clips else ("pictures", "png")
    return [f"{room}/{row:05d}-{seed}.{ending}" for row in range(prompts) for seed in seeds], room


def kept(batches: Iterator[Any], names: Sequence[str], out: Path, rate: float, stage: Any) -> Iterator[Picture]:
    """What is drawn, each once it is written to the next of the files: nothing waits in memory for the others."""
    from ..data import clips
    from ..data.shards import replace_file
    from ..evaluation.report import png

    for name, picture in zip(names, (each for batch in batches for each in batch), strict=True):
        if picture.ndim == 4:
            clips.write(out / name, picture, rate=rate)
        else:
            replace_file(out / name, png(picture))
        stage()
        yield picture


def sheeted(drawn: Iterator[Picture], prompts: Sequence[str], seeds: Sequence[int]) -> Iterator[Card]:
    """Cards with a few frames of the first clips; all others, and pictures, are let go."""
    from ..evaluation import report

    for place, (picture, prompt, seed) in enumerate(zip(drawn, prompts, seeds, strict=True)):
        if place < SHEET and picture.ndim == 4:
            yield report.Card(prompt, [report.Shot(f"seed {seed}", report.strip(picture))])


def sheet(shown: Sequence[Card], out: Path) -> Path:
    """Write the sheet of frames, and return its path."""
    from ..data.shards import replace_file
    from ..evaluation import report

    replace_file(out / "frames.png", report.png(report.contact_sheet(shown, across=2)))
    return out / "frames.png"


def save(prompts: Sequence[str], seeds: Sequence[int], names: Sequence[str], out: Path, source: Source) -> Path:
    """Write records.jsonl, a record a prompt with every seed's picture or clip; return its path."""
    from ..data import store
    from ..records import Preference

    count, models = len(seeds), (source.name,) * len(seeds)
    records = [
        Preference(prompt, tuple(names[row * count : (row + 1) * count]), seeds=tuple(seeds), models=models)
        for row, prompt in enumerate(prompts)
    ]
    store.write(records, out / "records.jsonl")
    return out / "records.jsonl"
