"""How the playground's learned scorer is made: a CLIP by contrast, then votes, then HPS v2's objective on them.

    visalign playground build --only scorer --out FOLDER     (about an hour on one core)

Votes are for prompts of the split `scorers`, which no candidate of the demo and no evaluation has; a part of the
pictures is drawn by the base at two strengths of guidance, the others are renderings with mistakes. Every stage goes on
from what an interrupted call left.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .. import playground, registry
from ..drawing import Settings, draw
from ..draws import generator
from ..playground import contrast, corpus, electing, flawed, twists, worn
from ..playground.electing import CANDIDATES, Votes
from ..playground.networks import TOKENS
from ..playground.twists import Candidates
from ..playground.voters import Voters
from ..playground.words import Tokenizer
from ..playground.world import SIDE
from ..scoring import Sample
from ..transforms import fitted_temperature
from . import Screen

PART = 512  # pictures that are drawn and kept together
SEEDS = 5_000_000  # of the base's candidates, apart from those of the demo
DRAWN, RENDERED, FRESH, WORN = 1, 2, 3, 4  # seeds of prompts: of each kind of candidates, and to calibrate by
MISTAKES = flawed.SHARES | {"relation": 0.3, "owners": 0.15, "size": 0.2}  # those that are hard to see more often
STEP = {"drawn": 8, "turned": 2, "reworded": 3, "rendered": 3, "worn": 6}  # prompts of each kind in a step


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    contrast: contrast.Plan = field(default_factory=contrast.Plan)
    drawn: int = 1_024  # prompts of which the base draws candidates
    again: int = 1_216  # prompts, those among them, of which it draws candidates from other seeds
    rendered: int = 4_000  # prompts whose candidates are renderings with mistakes
    worn: int = 2_400  # prompts whose candidates are renderings that look as the base draws
    voters: int = 5  # of every duel
    votes: electing.Plan = field(default_factory=electing.Plan)
    calibration: int = 160  # prompts whose votes decide the temperature, half of them drawn by the base
    guidance: tuple[float, ...] = (playground.GUIDANCE, 2.5)  # two candidates at each


def build(folder: Path, screen: Screen, *, seed: int = 0, plan: Plan | None = None) -> Path:
    """Make the scorer in `folder`/scorer, going on from what is there; returns that folder."""
    plan = plan or Plan()
    start, rooms = folder / "contrast", folder / "contrast" / ".building"
    if not (start / "open_clip_model.safetensors").is_file():
        contrast.build(start, seed, plan.contrast, screen.say)
    votes = elected(folder / "votes", plan, seed, screen)
    reader = Tokenizer(start, TOKENS)
    rooms.mkdir(exist_ok=True)
    families = contrast.drawn(plan.contrast.families, seed, rooms, reader, screen.say)
    clip = contrast.opened(start)
    groups = [(votes[name], count) for name, count in STEP.items()]
    electing.train(clip, groups, families, reader, plan.votes, seed, folder / "reward", screen.say)
    weights = contrast.written(folder / "reward" / "weights", start, clip)
    temperature = calibrated(weights, plan, seed, folder / "calibration", screen)
    screen.say(f"a gap of {temperature:.4f} in the cosine is e : 1 in favour")
    with torch.no_grad():
        clip.logit_scale.fill_(-math.log(temperature))
    return contrast.written(folder / "scorer", start, clip)


def elected(folder: Path, plan: Plan, seed: int, screen: Screen) -> dict[str, Votes]:
    """All votes by kind, which are cast once and kept in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)

    def cast(name: str, make: Callable[[], Candidates]) -> Votes:
        """Votes on what `make` gives."""
        file = folder / f"{name}.npz"
        if not file.is_file():
            prompts, pictures = make()
            with screen.stage(f"vote on candidates, {name}"):
                utilities = Voters().utility(pictures.reshape(-1, *pictures.shape[2:]), repeated(prompts))
                random = generator(seed, name, 0, "scorers")
                Votes(prompts, pictures, duels(utilities.reshape(-1, CANDIDATES), plan.voters, random)).write(file)
        return Votes.read(file)

    shown = corpus.prompts("scorers", plan.rendered, seed + RENDERED)
    worn_of = corpus.prompts("scorers", plan.worn, seed + WORN)
    by_base = cast("drawn", lambda: twice(folder, plan, seed, screen))
    return {
        "drawn": by_base,
        "turned": cast("turned", lambda: twists.turned(by_base.prompts, by_base.pictures, seed)),
        "reworded": cast("reworded", lambda: twists.reworded(by_base.prompts, by_base.pictures, seed)),
        "rendered": cast("rendered", lambda: (shown, rendered(shown, seed, MISTAKES))),
        "worn": cast("worn", lambda: (worn_of, worn.pictures(worn_of, CANDIDATES, seed))),
    }


def twice(folder: Path, plan: Plan, seed: int, screen: Screen) -> Candidates:
    """The base's candidates of some prompts, and of those and more from other seeds."""
    prompts = corpus.prompts("scorers", plan.again, seed + DRAWN)
    first = drawn(prompts[: plan.drawn], plan, numbered(plan, plan.drawn, seed), folder / "drawn", screen)
    again = drawn(prompts, plan, renumbered(plan, plan.again, seed), folder / "again", screen)
    return prompts[: plan.drawn] + prompts, np.concatenate([first, again])


def duels(utilities: NDArray[np.float64], voters: int, random: np.random.Generator) -> NDArray[np.float64]:
    """How many duels each candidate won, (n, 4) of utilities (n, 4): the mean over voters; a tie is half for each."""
    won = np.zeros(utilities.shape)
    for first, second in combinations(range(utilities.shape[1]), 2):
        said = voted(utilities[:, first], utilities[:, second], voters, random)
        won[:, first] += said
        won[:, second] += 1 - said
    return won


def voted(
    first: NDArray[np.float64], second: NDArray[np.float64], voters: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Shares of so many voters who prefer the first of two utilities, (n,); 1/2 where they cannot tell."""
    electorate = Voters()
    chance = electorate.probability(first - second, np.zeros(len(first)))
    return np.where(np.abs(first - second) < electorate.tie, 0.5, random.binomial(voters, chance) / voters)


def repeated(prompts: Sequence[str]) -> list[str]:
    """Each as often as it has candidates."""
    return [prompt for prompt in prompts for _ in range(CANDIDATES)]


def rendered(prompts: Sequence[str], seed: int, shares: Mapping[str, float] | None = None) -> NDArray[np.uint8]:
    """Four renderings of each prompt, (n, 4, 32, 32, 3), with mistakes."""
    rows = [flawed.picture(prompt, seed, place, shares) for prompt in prompts for place in range(CANDIDATES)]
    return np.stack(rows).reshape(-1, CANDIDATES, SIDE, SIDE, 3)


def numbered(plan: Plan, count: int, seed: int) -> NDArray[np.int64]:
    """The base's seeds for so many prompts, (guidance, count, 2): those of one guidance in a row."""
    each = CANDIDATES // len(plan.guidance)
    return (seed + 1) * SEEDS + np.arange(count * CANDIDATES).reshape(len(plan.guidance), count, each)


def renumbered(plan: Plan, count: int, seed: int) -> NDArray[np.int64]:
    """The same seeds given out otherwise: those of one prompt in a row."""
    each = CANDIDATES // len(plan.guidance)
    return (seed + 1) * SEEDS + np.arange(count * CANDIDATES).reshape(count, -1, each).swapaxes(0, 1)


def drawn(
    prompts: Sequence[str], plan: Plan, seeds: NDArray[np.int64], folder: Path, screen: Screen
) -> NDArray[np.uint8]:
    """The base's candidates, (n, 4, 32, 32, 3), from seeds (guidance, n, candidates); kept in `folder` in parts."""
    folder.mkdir(parents=True, exist_ok=True)
    sides = []
    for guidance, own in zip(plan.guidance, seeds, strict=True):
        how = Settings(steps=playground.STEPS, guidance=guidance, batch=128)
        asked = [prompt for prompt in prompts for _ in range(own.shape[1])]
        parts = []
        for row in range(0, len(asked), PART):
            file = folder / f"{guidance:g}-{row:05d}.npy"
            if not file.is_file():
                some = slice(row, row + PART)
                title = f"draw candidates at guidance {guidance:g}, from {row} of {len(asked)}"
                draft = file.with_suffix(".tmp.npy")
                np.save(draft, draw("playground", asked[some], own.ravel()[some].tolist(), how, screen, title=title))
                os.replace(draft, file)
            parts.append(np.load(file, allow_pickle=False))
        sides.append(np.concatenate(parts).reshape(*own.shape, *parts[0].shape[1:]))
    return np.concatenate(sides, axis=1)


def calibrated(weights: Path, plan: Plan, seed: int, folder: Path, screen: Screen) -> float:
    """The temperature that fits one vote on every two fresh candidates of prompts that are of no evaluation."""
    prompts = corpus.prompts("scorers", plan.calibration, seed + FRESH)
    half = len(prompts) // 2
    seeds = numbered(plan, half, seed) + SEEDS // 2
    by_base = drawn(prompts[:half], plan, seeds, folder, screen)
    pictures = np.concatenate([by_base, rendered(prompts[half:], seed + FRESH)]).reshape(-1, SIDE, SIDE, 3)
    asked = repeated(prompts)
    scorer = registry.build("scorer", {"name": "playground_hps", "weights": str(weights)})
    values = scorer.score([Sample(each, image=one) for each, one in zip(asked, pictures, strict=True)]).values
    utilities = Voters().utility(pictures, asked)
    first, second = map(list, zip(*combinations(range(CANDIDATES), 2), strict=True))
    real, gaps = utilities.reshape(-1, CANDIDATES), values.view(-1, CANDIDATES)
    votes = voted(real[:, first].ravel(), real[:, second].ravel(), 1, generator(seed, "calibration", 0, "scorers"))
    outcomes = torch.from_numpy(votes)
    told = outcomes != 0.5
    return fitted_temperature((gaps[:, first] - gaps[:, second]).flatten()[told], outcomes[told])
