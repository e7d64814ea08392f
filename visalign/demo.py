"""The main job, walked on the playground: candidates, votes, Diffusion-DPO beside SFT, evaluation, a report.

The voters are simulated: Bradley-Terry on the rule checker, with the noise that `playground.voters` states. Training
prompts, and the held-out prompts that everything is judged on, share no combination of shapes, colors and relation.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import config, playground, registry
from .config import Run
from .data import album, store
from .drawing import Settings, draw
from .evaluation import curves
from .evaluation.comparison import Comparison
from .evaluation.report import Figure
from .jobs import Outcome, Screen, denoising
from .playground import corpus
from .playground.voters import Voters
from .records import Preference
from .training import metrics

METHODS = {"sft": "playground_sft", "dpo": "playground_dpo"}  # by the name in the report: recipe
PROMPTS = 320  # training prompts
CANDIDATES = 4  # pictures of each; every two of them are a pair to vote on
JUDGES = ("voters", "redrawing")  # by whose taste the votes were cast; and one that made no votes
HELD_OUT = 256  # prompts that judge
SEED_APART = 1_000_000  # between the seeds of candidates and those of evaluation
HOW = Settings(steps=playground.STEPS, guidance=playground.GUIDANCE, batch=64)


@dataclass(frozen=True)
class Finished:
    """What the walk found."""

    comparison: Comparison
    page: Path
    numbers: Mapping[str, Any]
    seconds: float


def walk(out: Path, screen: Screen, *, seed: int = 0, fresh: bool = False) -> Finished:
    """Do every stage in `out`; `fresh` draws candidates and votes anew rather than use those shipped."""
    began = time.perf_counter()
    votes = elected(out / "votes", screen, seed) if fresh else playground.shipped_votes()
    outcomes = {name: trained(recipe, out / name, votes, seed, screen) for name, recipe in METHODS.items()}
    found = evaluated({name: each.run.out for name, each in outcomes.items()}, screen)
    seconds = time.perf_counter() - began
    said = numbers(found, seconds)
    page = found.report(
        "From preferences to an aligned model, on the playground",
        numbers=said,
        settings={name: config.to_yaml(each.run) for name, each in outcomes.items()},
        figures=[curve({name: each.run.out for name, each in outcomes.items()})],
    ).write(out)
    return Finished(found, page, said, seconds)


def elected(folder: Path, screen: Screen, seed: int) -> Path:
    """Draw the candidates of every training prompt with the base, let the voters vote, write the records to `folder`.

    The votes that ship are this folder for seed 0: `visalign demo --fresh` writes it to runs/demo/votes.
    """
    asked = corpus.prompts("train", PROMPTS, seed)
    prompts = [prompt for prompt in asked for _ in range(CANDIDATES)]
    seeds = [seed * SEED_APART + place for place in range(len(prompts))]
    drawn = draw("playground", prompts, seeds, HOW, screen, title="draw candidates with the base")
    names = album.write(drawn, folder / "pictures.parquet")
    records: list[Preference] = []
    with screen.stage("vote", total=PROMPTS) as stage:
        for row, prompt in enumerate(asked):
            own = slice(row * CANDIDATES, (row + 1) * CANDIDATES)
            records.append(ballot(prompt, names[own], seeds[own], drawn[own], seed))
            stage()
    store.write(records, folder / "records.parquet")
    return folder / "records.parquet"


def ballot(prompt: str, items: Sequence[str], seeds: Sequence[int], drawn: NDArray[np.uint8], seed: int) -> Preference:
    """A prompt's candidates, every two of them put to one simulated voter; a tie is half a vote for each.

    The votes that each won are its utility, so training takes the best against the worst as a plain preference. As
    shares (scale "votes") they would be soft labels, and at this beta those end DPO's pull too soon: measured, 0.36
    of held-out pictures clean and right instead of what the report shows.
    """
    voters = Voters()
    utilities = [float(each) for each in voters.utility(drawn, [prompt] * len(drawn))]
    votes = np.zeros(len(items))
    for pair in combinations(range(len(items)), 2):
        first, second = (utilities[place] for place in pair)
        key = "\n".join([prompt, *(items[place] for place in pair)])
        verdict = voters.vote(first, second, seed=seed, key=key)
        votes[list(pair)] += {"first": (1.0, 0.0), "second": (0.0, 1.0), "tie": (0.5, 0.5)}[verdict]
    models = ("playground",) * len(items)
    asked = Preference(prompt, tuple(items), seeds=tuple(seeds), models=models)
    return asked.judged(votes, scale="utility", judge="votes of simulated voters")


def trained(recipe: str, out: Path, votes: Path, seed: int, screen: Screen) -> Outcome:
    """Train a recipe on the votes, from the start, in a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    run: Run = config.load(
        recipe, [f"data.path={votes}", f"data.cache={out.parent / 'cache'}", f"out={out}", f"seed={seed}"]
    )
    return denoising.train(run, screen, resume=False)


def evaluated(runs: Mapping[str, Path], screen: Screen) -> Comparison:
    """Base and runs on the held-out prompts, one picture each from one seed."""
    prompts = corpus.prompts("heldout", HELD_OUT)
    seeds = list(range(HELD_OUT))
    drawn = {"base": draw("playground", prompts, seeds, HOW, screen, title="draw held-out prompts: base")}
    for name, folder in runs.items():
        drawn[name] = draw(str(folder), prompts, seeds, HOW, screen, title=f"draw held-out prompts: {name}")
    with screen.stage("judge"):
        return Comparison.of(prompts, drawn, [registry.build("scorer", name) for name in JUDGES])


def numbers(found: Comparison, seconds: float) -> dict[str, Any]:
    """report.json: the share of clean and right pictures of each model, and how often DPO is preferred to the base."""
    standings = found.first.standings
    shares = {name: each.right.value for name, each in standings.items() if each.right is not None}
    win = standings["dpo"].win
    assert win is not None  # dpo is not the base
    short = {**shares, "win_rate": win.value, "win_rate_ci": [win.low, win.high], "seconds": round(seconds, 1)}
    return short | {"details": found.numbers()}


def curve(runs: Mapping[str, Path]) -> Figure:
    """Training curves of every run."""
    rows = {name: metrics.read(folder / "metrics.jsonl") for name, folder in runs.items()}
    caption = (
        "Training, running means of 20 steps. Errors above the reference's that grow on both sides warn of collapse."
    )
    return Figure("curves", caption, curves.figure(rows))
