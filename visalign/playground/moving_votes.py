"""Votes on segments of clips: pairs that the moving base draws from one real clip, compared two frames at a time.

    python -m visalign.playground.moving_votes FOLDER [--model FOLDER] [--seed 0]     (about ten minutes on one core)

Both clips of a pair start from the same true clip, noised to one level, as in DenseDPO (arXiv 2506.03517): layout and
motion are alike, and what differs is what goes wrong, in some frames of one and in others of the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..data import album, segments, store
from ..diffusion.guided import guided_takes
from ..diffusion.sampling import to_uint8
from ..draws import Draws
from ..models.folder import Folder
from ..records import Preference
from . import MOVING_GUIDANCE, STEPS, moving, moving_checker, moving_corpus, moving_folder
from .moving import FRAMES
from .voters import Voters

Say = Callable[[str], None]
SEGMENT = 2  # frames
JUDGE = "votes of simulated voters on segments"
RECORDS, CLIPS = "moving.parquet", "moving_clips.parquet"
VOTED = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped votes."""

    pairs: int = 300
    levels: tuple[float, float] = (0.65, 0.80)  # share of noise that both clips of a pair begin with
    steps: int = STEPS
    guidance: float = MOVING_GUIDANCE
    batch: int = 12  # pairs drawn at once
    voters: Voters = field(default_factory=Voters)


def build(folder: Path, model: Path, seed: int = 0, plan: Plan | None = None, say: Say = print) -> list[Preference]:
    """Write moving.parquet and moving_clips.parquet to `folder`; returns the records."""
    plan = plan or Plan()
    prompts = moving.prompts("train", plan.pairs, seed=1 + seed)
    clips = drawn(model, prompts, seed, plan, say)
    names = album.write_clips([each for pair in clips for each in pair], folder / CLIPS)
    records = [
        ballot(prompt, pair, (names[2 * row], names[2 * row + 1]), seed, plan.voters)
        for row, (prompt, pair) in enumerate(zip(prompts, clips, strict=True))
    ]
    store.write(records, folder / RECORDS)
    return records


def drawn(model: Path, prompts: Sequence[str], seed: int, plan: Plan, say: Say) -> NDArray[np.uint8]:
    """Two clips of each prompt from one true clip of it: (n, 2, 8, 32, 32, 3)."""
    opened = Folder.open(model)
    network, encoders = opened.denoiser(train="full").eval().requires_grad_(False), opened.encoders()
    found = []
    for first in range(0, len(prompts), plan.batch):
        texts = prompts[first : first + plan.batch]
        real = np.stack([moving_corpus.rendered(text, seed).frames for text in texts])
        pixels = torch.from_numpy(real).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        told, untold = (encoders.conditions(each, tuple(pixels.shape[2:])) for each in (texts, [""] * len(texts)))
        draw = Draws(seed, tuple(texts), (0,) * len(texts))
        takes = guided_takes(
            network, encoders.encode_images(pixels)[0], told, untold, draw,
            steps=plan.steps, guidance=plan.guidance, levels=plan.levels,
        )  # fmt: skip
        found.append(to_uint8(encoders.decode(takes.x.flatten(0, 1))).reshape(len(texts), 2, *real.shape[1:]))
        say(f"drew {first + len(texts)} of {len(prompts)} pairs")
    return coarse(np.concatenate(found))


def coarse(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Five bits a channel, each value moved by 4 at most: a third of the bytes, and no judge minds."""
    return np.minimum((clips.astype(np.int64) + 4) // 8 * 8, 255).astype(np.uint8)


def ballot(
    prompt: str, pair: NDArray[np.uint8], items: tuple[str, str], seed: int, voters: Voters
) -> Preference:  # fmt: skip
    """One vote on each of the segments of two clips (2, 8, 32, 32, 3): probabilities (2, 4), a tie one half."""
    first, second = (moving_checker.check(clip, prompt).utility for clip in pair)
    asked = Preference(prompt, items, models=("playground_moving",) * 2)
    votes = [
        voters.vote(float(first[cut].mean()), float(second[cut].mean()), seed=seed, key=f"{asked.key}/{place}")
        for place, cut in enumerate(slice(part.start, part.stop) for part in segments.segments(FRAMES, SEGMENT))
    ]
    chances = np.array([VOTED[vote] for vote in votes])
    return asked.judged(np.stack([chances, 1 - chances]), scale="probability", judge=JUDGE, segment=SEGMENT)


def whole(record: Preference) -> Preference:
    """The clips' own vote: what more of the segments say, as probabilities (2, 1)."""
    said = float(segments.majority(segments.chances(record)))
    return record.judged([[said], [1 - said]], scale="probability", judge=f"majority of {JUDGE}")


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=moving_folder())
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    build(given.folder, given.model, given.seed)


if __name__ == "__main__":
    main()
