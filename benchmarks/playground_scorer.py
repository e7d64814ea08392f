"""How good the playground's scorer is: agreement with held-out votes, reliability, and what it does not see.

    python benchmarks/playground_scorer.py     (about eight minutes on one core; draws 3,072 pictures once)
    python benchmarks/playground_scorer.py --weights FOLDER --out numbers.json      (of another one, without the figure)

Candidates are the base's, as in the demo, for 256 prompts of the held-out split: no combination of shapes, colours and
relation of these was among the scorer's votes. They are drawn three times from other seeds, and each draw is voted on
by voters of its own. Intervals (95 %) are over prompts. Writes benchmarks/results/playground_scorer.json and
docs/images/playground_scorer.png.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from visalign import playground
from visalign.drawing import Settings, draw
from visalign.evaluation import calibration
from visalign.evaluation.curves import on_white
from visalign.playground import corpus, flawed, twists
from visalign.playground.checker import ASPECTS, CLEAN_AND_RIGHT, scores
from visalign.playground.voters import Voters
from visalign.scorers import PlaygroundHPS
from visalign.scoring import Sample
from visalign.transforms import fitted_temperature

ROOT = Path(__file__).resolve().parents[1]
PROMPTS, CANDIDATES, SEEDS, DRAWS = 256, 4, 6_000_000, 3
FIRST, SECOND = map(list, zip(*combinations(range(CANDIDATES), 2), strict=True))
Floats = NDArray[np.float64]


def drawn(prompts: Sequence[str], number: int, folder: Path) -> NDArray[np.uint8]:
    """The base's candidates of one draw, (prompts, 4, 32, 32, 3), drawn once."""
    cache = folder / f"candidates{number or ''}.npy"
    if not cache.is_file():
        from visalign.cli.screen import Screen

        asked = [each for each in prompts for _ in range(CANDIDATES)]
        first = SEEDS + number * len(asked)
        how = Settings(steps=playground.STEPS, guidance=playground.GUIDANCE, batch=128)
        found = draw("playground", asked, range(first, first + len(asked)), how, Screen())
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, found.reshape(len(prompts), CANDIDATES, *found.shape[1:]))
    pictures: NDArray[np.uint8] = np.load(cache, allow_pickle=False)
    return pictures


def mistaken(prompts: Sequence[str], number: int) -> NDArray[np.uint8]:
    """Renderings of one draw, (prompts, 4, 32, 32, 3)."""
    return np.stack([[flawed.picture(each, 7 + number, place) for place in range(CANDIDATES)] for each in prompts])


def gaps(values: Floats) -> Floats:
    """Of every two candidates of a prompt."""
    return np.asarray((values[:, FIRST] - values[:, SECOND]).ravel())


@dataclass(frozen=True)
class Judged:
    """What the checker says of candidates by aspect, and the scorer's values, (prompts, candidates) each."""

    truth: dict[str, Floats]
    said: Floats

    @classmethod
    def of(cls, scorer: PlaygroundHPS, prompts: Sequence[str], pictures: NDArray[np.uint8]) -> Judged:
        """Of (prompts, candidates, 32, 32, 3)."""
        many = pictures.shape[1]
        flat = pictures.reshape(-1, *pictures.shape[2:])
        asked = [each for each in prompts for _ in range(many)]
        truth = {name: each.reshape(-1, many) for name, each in scores(flat, asked).items()}
        samples = [Sample(prompt, image=one) for prompt, one in zip(asked, flat, strict=True)]
        return cls(truth, scorer.score(samples).values.double().numpy().reshape(-1, many))

    @property
    def utility(self) -> Floats:
        """The voters' utility of each."""
        return np.asarray(0.5 * self.truth["overall"] + 0.5 * np.mean([self.truth[name] for name in ASPECTS], axis=0))

    def votes(self, seed: int) -> Floats:
        """One simulated vote on every pair: 1 the first, 0 the second, 1/2 a tie."""
        voters, real = Voters(), gaps(self.utility)
        first = np.random.default_rng(seed).random(len(real)) < voters.probability(real, np.zeros(len(real)))
        return np.where(np.abs(real) < voters.tie, 0.5, first.astype(float))

    def way(self) -> tuple[Floats, Floats]:
        """Of each prompt, summed over its pairs: expected agreement above 1/2 of the scorer, and of a perfect judge."""
        voters, real = Voters(), gaps(self.utility)
        above = voters.probability(np.abs(real), np.zeros(len(real))) - 0.5
        above = np.where(np.abs(real) < voters.tie, 0.0, above)
        agreed = np.sign(gaps(self.said)) * np.sign(real) * above
        return agreed.reshape(-1, len(FIRST)).sum(1), above.reshape(-1, len(FIRST)).sum(1)


def share(parts: Sequence[Judged]) -> dict[str, float]:
    """How far the scorer goes from 1/2 to a perfect judge, over draws for the same prompts, with its interval."""
    own, best = (np.sum(each, axis=0) for each in zip(*(part.way() for part in parts), strict=True))
    return ratio(own, best)


def ratio(sums: Floats, counts: Floats) -> dict[str, float]:
    """Of the sums of two numbers of each prompt, with an interval of 95 % over prompts."""
    rows = np.random.default_rng(0).integers(0, len(sums), (2000, len(sums)))
    low, high = np.quantile(sums[rows].sum(1) / counts[rows].sum(1), [0.025, 0.975])
    return {"value": float(sums.sum() / counts.sum()), "low": float(low), "high": float(high)}


def measured(parts: Sequence[Judged], temperature: float) -> tuple[dict[str, object], Floats, Floats, Floats]:
    """Numbers of some draws together; one simulated vote on each pair, and the gaps of scorer and utility."""
    votes = np.concatenate([part.votes(seed) for seed, part in enumerate(parts)])
    real, gap = (np.concatenate([gaps(getattr(part, name)) for part in parts]) for name in ("utility", "said"))
    told = votes != 0.5
    own, best = (float(np.sum(each)) / told.sum() for each in zip(*(part.way() for part in parts), strict=True))
    truth = {name: np.concatenate([gaps(part.truth[name]) for part in parts]) for name in ASPECTS}
    rows = calibration.by_aspect(gap, truth)
    curve = calibration.reliability(gap[told], votes[told], temperature)
    numbers = {
        "pairs": len(real), "ties of the voters": float(1 - told.mean()), "perfect judge agrees": 0.5 + best,
        "scorer agrees": 0.5 + own, "share of the way": share(parts), "each draw": [share([part]) for part in parts],
        "calibration error": curve.error, "nll": curve.nll,
        "accuracy with ties calibrated": asdict(calibration.tie_calibrated(gap, votes)),
        "fitted temperature": fitted_temperature(torch.from_numpy(gap[told]), torch.from_numpy(votes[told])),
        "by aspect": {name: asdict(row) | {"accuracy": row.accuracy} for name, row in rows.items()},
    }  # fmt: skip
    return numbers, gap, real, votes


def turned(prompts: Sequence[str], pictures: NDArray[np.uint8], truth: Floats) -> tuple[list[str], NDArray[np.uint8]]:
    """Right pictures, each with its mirror image, which is wrong in the relation alone: (n, 2, 32, 32, 3)."""
    asked, found = [], []
    for prompt, row, right in zip(prompts, pictures, truth > CLEAN_AND_RIGHT, strict=True):
        axis = twists.turning(prompt)
        if axis is not None:
            both = [np.stack([each, np.flip(each, axis - 1)]) for each in row[right]]  # colours are last
            asked += [prompt] * len(both)
            found += both
    return asked, np.stack(found)


def relation(
    scorer: PlaygroundHPS, prompts: Sequence[str], pictures: Sequence[NDArray[np.uint8]], parts: Sequence[Judged]
) -> dict[str, float]:
    """How often a right picture of any draw is above its mirror image, in which its things have changed places."""
    truth = np.concatenate([part.truth["overall"] for part in parts], axis=1)
    asked, pairs = turned(prompts, np.concatenate(pictures, axis=1), truth)
    part = Judged.of(scorer, asked, pairs)
    alone = part.truth["relations"][:, 0] - part.truth["relations"][:, 1] >= 0.5
    won = (part.said[:, 0] > part.said[:, 1])[alone]
    groups = np.unique(np.array(asked)[alone], return_inverse=True)[1]
    sums, counts = (np.bincount(groups, each).astype(float) for each in (won, np.ones(len(won))))
    return {**ratio(sums, counts), "pairs": len(won), "prompts": len(sums)}


def main() -> None:
    """Measure, write, draw."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--weights", help="a folder with another scorer (the shipped one)")
    given.add_argument("--out", help="where the numbers go (benchmarks/results/playground_scorer.json, and the figure)")
    told = given.parse_args()
    torch.set_num_threads(1)
    scorer = PlaygroundHPS(told.weights)
    temperature = scorer.spec.temperature or 1.0
    prompts = corpus.prompts("heldout", PROMPTS)
    shown = {
        "drawn by the base": [drawn(prompts, each, ROOT / "runs" / "playground_scorer") for each in range(DRAWS)],
        "renderings with mistakes": [mistaken(prompts, each) for each in range(DRAWS)],
    }
    parts = {name: [Judged.of(scorer, prompts, each) for each in draws] for name, draws in shown.items()}
    found = {name: measured(each, temperature) for name, each in parts.items()}
    places = {name: relation(scorer, prompts, draws, parts[name]) for name, draws in shown.items()}
    numbers = {
        "temperature": temperature, **{name: each[0] for name, each in found.items()}, "things changed places": places,
    }  # fmt: skip
    out = Path(told.out) if told.out else ROOT / "benchmarks" / "results" / "playground_scorer.json"
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    if not told.out:
        figure(found["drawn by the base"], found["renderings with mistakes"][0], temperature)
    print(json.dumps(numbers, indent=1))


def figure(
    by_base: tuple[dict[str, object], Floats, Floats, Floats], by_hand: dict[str, object], temperature: float
) -> None:
    """Reliability on the base's candidates, and agreement by aspect on all of them."""
    numbers, gap, real, votes = by_base
    told = votes != 0.5
    curves = {
        "playground_hps": calibration.reliability(gap[told], votes[told], temperature),
        "a perfect judge": calibration.reliability(real[told], votes[told], Voters().temperature),
    }
    merged = {
        name: calibration.Row(
            *(row + more for row, more in zip(_counts(numbers, name), _counts(by_hand, name), strict=True))
        )
        for name in ASPECTS
    }
    from PIL import Image

    picture = Image.fromarray(on_white(calibration.picture(curves, merged), 960))
    picture.save(ROOT / "docs" / "images" / "playground_scorer.png", optimize=True)


def _counts(numbers: dict[str, object], aspect: str) -> tuple[int, int, int]:
    row = numbers["by aspect"][aspect]  # type: ignore[index]
    return row["right"], row["tied"], row["wrong"]


if __name__ == "__main__":
    main()
