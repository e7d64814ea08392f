"""How the moving playground's model is made: the still base thinned and taught single frames, then clips.

    python -m visalign.playground.moving_build FOLDER [--seed 0]     (about an hour on one core)

Seeded and resumable: each stage keeps its state (safetensors) under FOLDER/.building and goes on from it. The result is
an `AnimateDiffPipeline` folder with float16 weights; the model is defined as those values upcast to float32.
"""

from __future__ import annotations

import argparse
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
from .moving import FRAMES
from .moving_networks import new_unet, text_encoder, tokenizer, vae, write
from .networks import SCHEDULE, tokenized

Say = Callable[[str], None]
WARMUP = 100  # steps over which the rate rises
STILL_SPAN = 500  # steps over which the rate of the still stage would fall to nothing


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped weights."""

    clips: int = 8_000
    still_steps: int = 200
    still_batch: int = 64  # single frames
    steps: int = 1_500
    batch: int = 8  # clips
    falling: float = 0.3  # share of the steps at the end over which the rate falls to nothing
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
    return Corpus(mean, std, tokenized(reader, texts), tokenized(reader, [""]))


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
    """A part of the training: how many frames of a clip are shown, how many at once, and the rate's share by step."""

    name: str
    frames: int
    batch: int
    steps: int
    share: Callable[[int], float]


def stages(plan: Plan) -> tuple[Stage, Stage]:
    """Single frames first, broken off while the rate is high; then clips, of which the last steps settle."""
    still = Stage("still", 1, plan.still_batch, plan.still_steps, lambda step: cosine(step, STILL_SPAN, WARMUP))

    def share(step: int) -> float:
        return min(1.0, (step + 1) / WARMUP, (plan.steps - step) / (plan.falling * plan.steps))

    return still, Stage("moving", FRAMES, plan.batch, plan.steps, share)


def train(
    unet: Any, text: Any, corpus: Corpus, stage: Stage, plan: Plan, seed: int, rooms: Path, say: Say
) -> None:  # fmt: skip
    """Both networks together on v-prediction; they are left with their averaged weights."""
    from diffusers import DDIMScheduler

    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    draw, named = torch.Generator(), learning(unet, text, stage)
    saved = Saved(rooms / f"{stage.name}.safetensors", named, plan.rate, 0.01, (0.9, 0.99), plan.average)
    for step in saved.steps(stage.steps, plan.save_every, seed, draw):
        x0, told = batch(text, corpus, stage, plan.dropout, draw)
        noise, t = torch.randn(x0.shape, generator=draw), torch.randint(0, 1000, (len(x0),), generator=draw)
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
    rows = torch.randint(0, len(corpus.mean), (stage.batch,), generator=draw)
    first = int(torch.randint(0, FRAMES - stage.frames + 1, (), generator=draw))
    mean, std = (each[rows, :, first : first + stage.frames] for each in (corpus.mean, corpus.std))
    dropped = torch.rand(len(rows), generator=draw) < dropout
    told = text(torch.where(dropped[:, None], corpus.empty, corpus.tokens[rows])).last_hidden_state
    return mean + std * torch.randn(mean.shape, generator=draw), told.repeat_interleave(stage.frames, 0)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    build(arguments.folder, arguments.seed)


if __name__ == "__main__":
    main()
