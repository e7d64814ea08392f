"""How the playground's learned scorer is made: a CLIP by contrast, then votes, then HPS v2's objective on them.

    visalign playground build --only scorer --out FOLDER     (about 25 minutes on one core)

Votes are for prompts of the split `scorers`, which no candidate of the demo and no evaluation has; half of the pictures
are drawn by the base at two strengths of guidance, half are renderings with mistakes. Every stage goes on from what an
interrupted call left, and the last one is `visalign train` itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import config, playground, registry
from ..data import album, store
from ..drawing import Settings, draw
from ..models import states
from ..playground import contrast, corpus, flawed
from ..playground.voters import Voters
from ..records import Preference
from ..scoring import Sample
from ..transforms import fitted_temperature
from . import Screen, rewards

CANDIDATES = 4  # pictures of a prompt; every two of them are a duel
SEEDS = 5_000_000  # of the base's candidates, apart from those of the demo
RENDERED, FRESH = 2, 3  # seeds of the prompts of which renderings are made, to train on and to calibrate by


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are the recipe of the shipped weights."""

    contrast: contrast.Plan = field(default_factory=contrast.Plan)
    drawn: int = 1_216  # prompts whose candidates the base draws
    rendered: int = 3_500  # prompts whose candidates are renderings with mistakes
    calibration: int = 400  # prompts whose votes decide the temperature
    guidance: tuple[float, ...] = (playground.GUIDANCE, 2.5)  # two candidates at each
    changes: tuple[str, ...] = (  # of the recipe playground_reward
        "steps=600", "batch=16", "optimizer.lr=6e-4", "optimizer.warmup=50", "save_every=100",
    )  # fmt: skip


def build(folder: Path, screen: Screen, *, seed: int = 0, plan: Plan | None = None) -> Path:
    """Make the scorer in `folder`/scorer, going on from what is there; returns that folder."""
    plan = plan or Plan()
    start = folder / "contrast"
    if not (start / "open_clip_model.safetensors").is_file():
        contrast.build(start, seed, plan.contrast, screen.say)
    votes = elected(folder / "votes", plan, seed, screen)
    changes = (f"data.path={votes}", f"model.folder={start}", f"out={folder / 'reward'}", f"seed={seed}")
    outcome = rewards.train(config.load("playground_reward", [*plan.changes, *changes]), screen)
    if outcome.summary.stopped == "signal":
        raise KeyboardInterrupt
    temperature = calibrated(outcome.weights, seed, plan.calibration)
    screen.say(f"a gap of {temperature:.4f} in the cosine is e : 1 in favour")
    return shipped(outcome.weights, start, folder / "scorer", temperature)


def elected(folder: Path, plan: Plan, seed: int, screen: Screen) -> Path:
    """The records of all votes, and their pictures, in `folder`."""
    records = folder / "records.parquet"
    if records.is_file():
        return records
    asked = [
        *corpus.prompts("scorers", plan.drawn, seed + 1),
        *corpus.prompts("scorers", plan.rendered, seed + RENDERED),
    ]
    by_base = drawn(asked[: plan.drawn], plan, seed, screen)
    with screen.stage("render candidates with mistakes", total=plan.rendered):
        mistaken = [[flawed.picture(each, seed, place) for place in range(CANDIDATES)] for each in asked[plan.drawn :]]
    pictures = np.concatenate([by_base, np.array(mistaken).reshape(-1, *by_base.shape[1:])])
    names = album.write(pictures, folder / "pictures.parquet")
    found: list[Preference] = []
    with screen.stage("vote", total=len(asked)) as stage:
        for row, prompt in enumerate(asked):
            own = slice(row * CANDIDATES, (row + 1) * CANDIDATES)
            found.append(ballot(f"{seed}/{row}", prompt, names[own], pictures[own], seed))
            stage(row + 1)
    store.write(found, records)
    return records


def drawn(prompts: Sequence[str], plan: Plan, seed: int, screen: Screen) -> NDArray[np.uint8]:
    """The base's candidates, (prompts x 4, 32, 32, 3), in the order of the prompts."""
    each = CANDIDATES // len(plan.guidance)
    asked = [prompt for prompt in prompts for _ in range(each)]
    parts = []
    for place, guidance in enumerate(plan.guidance):
        first = (seed + 1) * SEEDS + place * len(asked)
        how = Settings(steps=playground.STEPS, guidance=guidance, batch=128)
        seeds = range(first, first + len(asked))
        parts.append(draw("playground", asked, seeds, how, screen, title=f"draw candidates at guidance {guidance:g}"))
    shaped = [part.reshape(len(prompts), each, *part.shape[1:]) for part in parts]
    return np.concatenate(shaped, axis=1).reshape(-1, *parts[0].shape[1:])


def ballot(key: str, prompt: str, items: Sequence[str], pictures: NDArray[np.uint8], seed: int) -> Preference:
    """How many duels each candidate won, a tie half for each; every duel has one simulated voter."""
    voters = Voters()
    utilities = [float(each) for each in voters.utility(pictures, [prompt] * len(pictures))]
    won = np.zeros(len(items))
    shares: Mapping[str, tuple[float, float]] = {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5)}
    for first, second in combinations(range(len(items)), 2):
        said = voters.vote(utilities[first], utilities[second], seed=seed, key=f"scorers/{key}/{first}/{second}")
        won[[first, second]] += shares[said]
    return Preference(prompt, tuple(items), scores=won, scale="utility", judge="duels of simulated voters")


def calibrated(weights: Path, seed: int, count: int) -> float:
    """The temperature that fits one vote on every two fresh renderings of each of `count` prompts, of no evaluation."""
    prompts = corpus.prompts("scorers", count, seed + FRESH)
    asked = [each for each in prompts for _ in range(CANDIDATES)]
    pictures = np.stack([flawed.picture(each, seed + FRESH, row % CANDIDATES) for row, each in enumerate(asked)])
    scorer = registry.build("scorer", {"name": "playground_hps", "weights": str(weights)})
    values = scorer.score([Sample(each, image=one) for each, one in zip(asked, pictures, strict=True)]).values
    utilities = Voters().utility(pictures, asked)
    pairs = [
        (row + i, row + j) for row in range(0, len(asked), CANDIDATES) for i, j in combinations(range(CANDIDATES), 2)
    ]
    said = [
        Voters().vote(float(utilities[i]), float(utilities[j]), seed=seed, key=f"calibration/{i}/{j}") for i, j in pairs
    ]
    first, second = zip(*pairs, strict=True)
    outcomes = torch.tensor([{"first": 1.0, "second": 0.0, "tie": 0.5}[each] for each in said])
    told = outcomes != 0.5
    return fitted_temperature((values[list(first)] - values[list(second)])[told], outcomes[told])


def shipped(weights: Path, start: Path, out: Path, temperature: float) -> Path:
    """The trained network in float16, as `playground.scorer_folder` holds it; its logit scale is 1 / `temperature`."""
    out.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (out / name).write_bytes((start / name).read_bytes())
    state = states.read(weights / "open_clip_model.safetensors")
    state["logit_scale"] = torch.tensor(-math.log(temperature))
    arguments = contrast.config(int(state["token_embedding.weight"].shape[0]))
    size = arguments["vision_cfg"]["image_size"]
    contrast.write(out, (size, size), arguments, state)
    return out
