"""How good the playground's shipped scorer is: agreement with held-out votes, reliability, and what it does not see.

    python benchmarks/playground_scorer.py     (about three minutes on one core; draws 1,024 pictures once)

Candidates are the base's, as in the demo, for 256 prompts of the held-out split: no combination of shapes, colours and
relation of these was among the scorer's votes. Writes benchmarks/results/playground_scorer.json and
docs/images/playground_scorer.png.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from visalign import playground
from visalign.drawing import Settings, draw
from visalign.evaluation import calibration
from visalign.evaluation.curves import on_white
from visalign.playground import corpus, flawed
from visalign.playground.checker import ASPECTS, scores
from visalign.playground.voters import Voters
from visalign.scorers import PlaygroundHPS, load
from visalign.scoring import Sample
from visalign.transforms import fitted_temperature

ROOT = Path(__file__).resolve().parents[1]
PROMPTS, CANDIDATES, SEEDS = 256, 4, 6_000_000
FIRST, SECOND = map(list, zip(*combinations(range(CANDIDATES), 2), strict=True))
Floats = NDArray[np.float64]


def drawn(prompts: Sequence[str], cache: Path) -> NDArray[np.uint8]:
    """The base's candidates, (prompts, 4, 32, 32, 3), drawn once."""
    if not cache.is_file():
        from visalign.cli.screen import Screen

        asked = [each for each in prompts for _ in range(CANDIDATES)]
        how = Settings(steps=playground.STEPS, guidance=playground.GUIDANCE, batch=128)
        found = draw("playground", asked, range(SEEDS, SEEDS + len(asked)), how, Screen())
        cache.parent.mkdir(parents=True, exist_ok=True)
        np.save(cache, found.reshape(len(prompts), CANDIDATES, *found.shape[1:]))
    pictures: NDArray[np.uint8] = np.load(cache, allow_pickle=False)
    return pictures


def gaps(values: Floats) -> Floats:
    """Of every two candidates of a prompt."""
    return np.asarray((values[:, FIRST] - values[:, SECOND]).ravel())


def judged(prompts: Sequence[str], pictures: NDArray[np.uint8]) -> tuple[dict[str, Floats], Floats]:
    """What the checker says by aspect, and the scorer's values, (prompts, 4) each."""
    flat = pictures.reshape(-1, *pictures.shape[2:])
    asked = [each for each in prompts for _ in range(CANDIDATES)]
    truth = {name: each.reshape(-1, CANDIDATES) for name, each in scores(flat, asked).items()}
    samples = [Sample(prompt, image=one) for prompt, one in zip(asked, flat, strict=True)]
    return truth, load("playground_hps").score(samples).values.double().numpy().reshape(-1, CANDIDATES)


def measured(truth: dict[str, Floats], said: Floats, temperature: float) -> tuple[dict[str, object], Floats, Floats]:
    """Numbers of one set of candidates, one simulated vote on each pair, and the utilities' gaps."""
    voters = Voters()
    utility = 0.5 * truth["overall"] + 0.5 * np.mean([truth[name] for name in ASPECTS], axis=0)
    real, gap = gaps(utility), gaps(said)
    told = np.abs(real) >= voters.tie
    votes = np.full(len(real), 0.5)
    random = np.random.default_rng(0)
    votes[told] = random.random(int(told.sum())) < voters.probability(real[told], np.zeros(int(told.sum())))
    chance = voters.probability(np.abs(real[told]), np.zeros(int(told.sum())))
    expected = float(np.where(np.sign(real[told]) == np.sign(gap[told]), chance, 1 - chance).mean())
    ceiling = float(chance.mean())
    rows = calibration.by_aspect(gap, {name: gaps(truth[name]) for name in ASPECTS})
    ties = calibration.tie_calibrated(gap, votes)
    curve = calibration.reliability(gap[told], votes[told], temperature)
    numbers = {
        "pairs": len(real), "ties of the voters": float(1 - told.mean()), "perfect judge agrees": ceiling,
        "scorer agrees": expected, "share of the way": (expected - 0.5) / (ceiling - 0.5),
        "calibration error": curve.error, "nll": curve.nll,
        "accuracy with ties calibrated": asdict(ties),
        "fitted temperature": fitted_temperature(torch.from_numpy(gap[told]), torch.from_numpy(votes[told])),
        "by aspect": {name: {**asdict(row), "accuracy": row.accuracy} for name, row in rows.items()},
    }  # fmt: skip
    return numbers, real, votes


def main() -> None:
    """Measure, write, draw."""
    torch.set_num_threads(1)
    prompts = corpus.prompts("heldout", PROMPTS)
    pictures = drawn(prompts, ROOT / "runs" / "playground_scorer" / "candidates.npy")
    temperature = PlaygroundHPS().spec.temperature or 1.0
    truth, said = judged(prompts, pictures)
    by_base, real, votes = measured(truth, said, temperature)
    rendered = np.stack([[flawed.picture(each, 7, place) for place in range(CANDIDATES)] for each in prompts])
    other_truth, other_said = judged(prompts, rendered)
    by_hand, _, _ = measured(other_truth, other_said, temperature)
    numbers = {"temperature": temperature, "drawn by the base": by_base, "renderings with mistakes": by_hand}
    (ROOT / "benchmarks" / "results" / "playground_scorer.json").write_text(json.dumps(numbers, indent=1) + "\n")
    told = votes != 0.5
    curves = {
        "playground_hps": calibration.reliability(gaps(said)[told], votes[told], temperature),
        "a perfect judge": calibration.reliability(real[told], votes[told], Voters().temperature),
    }
    merged = {
        name: calibration.Row(
            *(row + more for row, more in zip(_counts(by_base, name), _counts(by_hand, name), strict=True))
        )
        for name in ASPECTS
    }
    from PIL import Image

    picture = Image.fromarray(on_white(calibration.picture(curves, merged), 960))
    picture.save(ROOT / "docs" / "images" / "playground_scorer.png", optimize=True)
    print(json.dumps(numbers, indent=1))


def _counts(numbers: dict[str, object], aspect: str) -> tuple[int, int, int]:
    row = numbers["by aspect"][aspect]  # type: ignore[index]
    return row["right"], row["tied"], row["wrong"]


if __name__ == "__main__":
    main()
