"""How the moving playground's model is made: the still base thinned and taught single frames, then clips.

    visalign playground build --only moving --out FOLDER     (about an hour on one core)

Seeded and resumable: each stage keeps its state (safetensors) under FOLDER/.building and goes on from it. The result is
an `AnimateDiffPipeline` folder with float16 weights; the model is defined as those values upcast to float32.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import moving_corpus
from .build import Saved, cosine, latents, prefixed
from .moving import FRAMES, parse
from .moving_networks import MOVING_SCHEDULE, new_unet, number_frames, text_encoder, tokenizer, vae, write
from .networks import SCHEDULE, tokenized

Say = Callable[[str], None]
WARMUP = 100  # steps over which the rate rises
LOW = 0.8  # of the rate, where the last stage begins
GENTLE = 0.5  # of the rate, where motion is learned
STILL_SPAN = 500  # steps over which the rate of the still stage would fall to nothing


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped weights."""

    clips: int = 8_000
    still_steps: int = 200
    still_batch: int = 64  # single frames
    clip_steps: int = 1_450  # on the still base's schedule
    noisy_steps: int = 600  # on their own, which ends in pure noise
    late_steps: int = 900  # mostly near that end
    numbered_steps: int = 450  # the same once frames are numbered
    fast_steps: int = 250  # of one fast thing alone, from pure noise
    every_steps: int = 450  # of all again
    whole_steps: int = 800  # at all times, to settle
    steps: int = 600  # once more
    batch: int = 8  # clips
    falling: float = 0.7  # share of these steps at the end over which the rate falls to nothing
    rate: float = 1.0e-3
    dropout: float = 0.1  # share of captions left empty, for classifier-free guidance
    average: float = 0.998  # decay of the weights' moving average, which is what ships
    save_every: int = 50


@dataclass(frozen=True)
class Corpus:
    """Latents of every clip's posterior, scaled, and the tokens of their captions."""

    mean: Tensor  # (n, 4, 8, 8, 8): channels, frames, height, width
    std: Tensor
    tokens: Tensor  # (n, 24)
    empty: Tensor  # (1, 24)
    fast: Tensor  # rows of clips of one thing that moves fast


def build(folder: Path, seed: int = 0, plan: Plan | None = None, say: Say = print) -> Path:
    """Make the model in `folder`, going on from what an interrupted call left; returns the folder."""
    plan, rooms = plan or Plan(), folder / ".building"
    rooms.mkdir(parents=True, exist_ok=True)
    coder, reader = vae(), tokenizer(folder / "tokenizer")
    corpus = examples(coder, reader, plan.clips, seed, rooms, say)
    unet, text = new_unet(seed), text_encoder(reader, seed)
    for stage in stages(plan):
        train(unet, text, corpus, stage, plan, seed, rooms, say)
    write(folder, coder, reader, unet.eval(), text.eval())
    shutil.rmtree(rooms)
    return folder


def examples(coder: Any, reader: Any, count: int, seed: int, rooms: Path, say: Say) -> Corpus:
    """The corpus, drawn and encoded once."""
    kept = rooms / f"corpus_{count}.safetensors"
    if not kept.exists():
        say(f"drawing and encoding {count} clips")
        parts = [encoded(coder, seed, range(first, min(first + 250, count))) for first in range(0, count, 250)]
        draft = kept.with_suffix(".tmp")
        save_file(
            {"mean": torch.cat([part[0] for part in parts]), "std": torch.cat([part[1] for part in parts])},
            draft, metadata={"captions": "\n".join(text for part in parts for text in part[2])},
        )  # fmt: skip
        os.replace(draft, kept)
    found, texts = load_file(kept), captions_of(kept)
    scale = float(coder.config.scaling_factor)
    mean, std = (found[name].float() * scale for name in ("mean", "std"))
    asked = [parse(text) for text in texts]
    fast = torch.tensor([row for row, each in enumerate(asked) if each.motion.fast and len(each.scene.things) == 1])
    return Corpus(mean, std, tokenized(reader, texts), tokenized(reader, [""]), fast)


def captions_of(path: Path) -> list[str]:
    """The captions that a file of latents names."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return str(file.metadata()["captions"]).split("\n")


def encoded(coder: Any, seed: int, rows: range) -> tuple[Tensor, Tensor, list[str]]:
    """Means and deviations (n, 4, 8, 8, 8) in float16, and captions, of the corpus's clips in `rows`."""
    clips = [moving_corpus.example(seed, row) for row in rows]
    pixels = torch.from_numpy(np.concatenate([each.frames for each in clips])).permute(0, 3, 1, 2)
    mean, std = (each.unflatten(0, (-1, FRAMES)).transpose(1, 2).half().contiguous() for each in latents(coder, pixels))
    return mean, std, [each.caption for each in clips]


@dataclass(frozen=True)
class Stage:
    """A part of the training: how many frames of a clip are shown, how many at once, and the rate's share by step.

    Of its times, see TIMES.
    """

    name: str
    frames: int
    batch: int
    steps: int
    share: Callable[[int], float]
    times: str = "even"
    numbered: bool = False  # whether frames are numbered before it begins
    fast: bool = False  # of Corpus.fast alone


def even(count: int, draw: torch.Generator) -> Tensor:
    """(count,) times of which none is likelier."""
    return torch.randint(0, 1000, (count,), generator=draw)


def growing(count: int, draw: torch.Generator) -> Tensor:
    """(count,) times whose density grows with the noise."""
    return (torch.rand(count, generator=draw).sqrt() * 1000).long().clamp(max=999)


def late(count: int, draw: torch.Generator) -> Tensor:
    """(count,) times, three of four where a clip is all but noise: there alone the caption says what moves where."""
    some = torch.rand(count, generator=draw)
    return (torch.where(some < 0.25, 4 * some, 0.85 + 0.2 * (some - 0.25)) * 1000).long().clamp(max=999)


def last(count: int, draw: torch.Generator) -> Tensor:
    """(count,) times of pure noise."""
    return torch.full((count,), 999)


TIMES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "even": even,
    "growing": growing,
    "late": late,
    "last": last,
}


def stages(plan: Plan) -> tuple[Stage, ...]:
    """Single frames, then clips, ever more of them in noise; the rate falls in the last two stages.

    Which way a thing moves hangs on a word and the frame's number together, of which neither says anything by itself.
    That is learned late: so frames are numbered, and fast things are shown alone for a while.
    """

    def rising(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP)

    def settling(step: int) -> float:
        return min(rising(step), (plan.whole_steps - step) / (plan.falling * plan.whole_steps))

    def ending(step: int) -> float:
        return LOW * min(rising(step), 1 - step / plan.steps)

    def gentle(step: int) -> float:
        return GENTLE * rising(step)

    return (
        Stage("still", 1, plan.still_batch, plan.still_steps, lambda step: cosine(step, STILL_SPAN, WARMUP)),
        Stage("clips", FRAMES, plan.batch, plan.clip_steps, rising),
        Stage("noisy", FRAMES, plan.batch, plan.noisy_steps, rising, "growing"),
        Stage("late", FRAMES, plan.batch, plan.late_steps, rising, "late"),
        Stage("numbered", FRAMES, plan.batch, plan.numbered_steps, rising, "late", numbered=True),
        Stage("fast", FRAMES, plan.batch, plan.fast_steps, gentle, "last", fast=True),
        Stage("every", FRAMES, plan.batch, plan.every_steps, gentle, "late"),
        Stage("whole", FRAMES, plan.batch, plan.whole_steps, settling, "growing"),
        Stage("moving", FRAMES, plan.batch, plan.steps, ending, "growing"),
    )


def train(
    unet: Any, text: Any, corpus: Corpus, stage: Stage, plan: Plan, seed: int, rooms: Path, say: Say
) -> None:  # fmt: skip
    """Both networks together on v-prediction; they are left with their averaged weights."""
    from diffusers import DDIMScheduler

    alphas = DDIMScheduler(**(SCHEDULE if stage.times == "even" else MOVING_SCHEDULE)).alphas_cumprod
    if stage.numbered:
        number_frames(unet)
    draw, named = torch.Generator(), learning(unet, text, stage)
    saved = Saved(rooms / f"{stage.name}.safetensors", named, plan.rate, 0.01, (0.9, 0.99), plan.average)
    for step in saved.steps(stage.steps, plan.save_every, seed, draw):
        x0, told = batch(text, corpus, stage, plan.dropout, draw)
        noise = torch.randn(x0.shape, generator=draw)
        t = TIMES[stage.times](len(x0), draw)
        a, s = (each[t].sqrt()[:, None, None, None, None] for each in (alphas, 1 - alphas))
        answer = unet(a * x0 + s * noise, t, told).sample
        loss = (answer - (a * noise - s * x0)).square().mean()
        saved.update(loss, stage.share(step))
        if step % 50 == 0:
            say(f"{stage.name} {step}/{stage.steps}: loss {loss.detach():.4f}")
    saved.use_average()


def learning(unet: Any, text: Any, stage: Stage) -> dict[str, nn.Parameter]:
    """What a stage trains: single frames teach nothing about motion."""
    named = {**prefixed("unet.", unet), **prefixed("text.", text)}
    return {name: each for name, each in named.items() if stage.frames > 1 or "motion_modules" not in name}


def batch(text: Any, corpus: Corpus, stage: Stage, dropout: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Drawn latents (n, 4, f, 8, 8) and what is told about each frame (n * f, 24, 128)."""
    pool = corpus.fast if stage.fast else torch.arange(len(corpus.mean))
    rows = pool[torch.randint(0, len(pool), (stage.batch,), generator=draw)]
    first = int(torch.randint(0, FRAMES - stage.frames + 1, (), generator=draw))
    mean, std = (each[rows, :, first : first + stage.frames] for each in (corpus.mean, corpus.std))
    dropped = torch.rand(len(rows), generator=draw) < dropout
    told = text(torch.where(dropped[:, None], corpus.empty, corpus.tokens[rows])).last_hidden_state
    return mean + std * torch.randn(mean.shape, generator=draw), told.repeat_interleave(stage.frames, 0)
