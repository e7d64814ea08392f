"""Every method on the playground at equal compute, and whether its paper's claim holds there: docs/claims.md.

    make bench-claims                          (hours on two cores; finished cells are kept and not run again)
    make bench-claims ARGS="--rows mapo smpo --seeds 0"
    make bench-claims ARGS=--page              (only write the page and the figure from the cells)

A cell is a row and a seed: train on the row's data within the budget, draw the held-out prompts from fixed seeds, ask
every judge. Cells lie in benchmarks/results/claims/ROW.SEED.json with the score of every picture, so that any two rows
can be compared, paired on prompt and seed. Models and pictures stay in runs/claims.
"""

from __future__ import annotations

import argparse
import datetime
import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import claims_data
import claims_page
import numpy as np
import torch
from claims_rows import BACKWARD, BUDGET, TABLE, Row
from numpy.typing import NDArray
from PIL import Image
from training import trained

from visalign import config, demo, registry
from visalign.cli.screen import Screen
from visalign.contract import Method
from visalign.drawing import Settings, draw
from visalign.evaluation import pictures as looks
from visalign.evaluation.comparison import samples
from visalign.playground import corpus
from visalign.scoring import Scorer

OUT = Path("runs/claims")
CELLS = Path(__file__).resolve().parent / "results" / "claims"
JUDGES = ("voters", "redrawing", "playground_hps")


def steps(method: Method, batch: int, budget: float = BUDGET) -> int:
    """Optimizer steps within the budget of forwards."""
    record = method.passes.policy * (1 + BACKWARD) + method.passes.free
    return max(1, int(budget // (batch * record)))


def settings(row: Row, seed: int) -> config.Run:
    """The row's run."""
    assert row.recipe is not None
    data = claims_data.MAKERS[row.data](OUT / "data" / row.data)
    places = [f"out={place(row, seed)}", f"data.cache={OUT / 'cache' / row.data}"]
    common = [*places, f"data.path={data}", f"seed={seed}", "save_every=0", "validation.every=0"]
    run = config.load(row.recipe, [*common, *row.changes])
    if row.steps_of is not None:
        count = settings(TABLE[row.steps_of], seed).steps
    else:
        count = steps(registry.build("method", run.method), run.batch)
    return config.load(row.recipe, [*common, *row.changes, f"steps={count}"])


def place(row: Row, seed: int) -> Path:
    """Where a cell's run and pictures lie."""
    return OUT / f"{row.name}.{seed}"


def drawn(row: Row, seed: int, screen: Screen) -> NDArray[np.uint8]:
    """The held-out pictures of a cell, kept on the disk."""
    file = place(row, seed) / "pictures.npy"
    if not file.is_file():
        runs = {name: str(place(TABLE[name], seed)) for name in row.needs}
        spec = row.draws.format(run=place(row, seed), **runs)
        prompts = asked(row)
        how = Settings(steps=row.steps, guidance=row.guidance, batch=demo.HOW.batch)
        made = draw(spec, prompts, list(range(len(prompts))), how, screen, title=f"draw: {row.name}, seed {seed}")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, made)
    found: NDArray[np.uint8] = np.load(file, allow_pickle=False)
    return found


def asked(row: Row) -> list[str]:
    """The held-out prompts."""
    prompts = corpus.prompts("heldout", demo.HELD_OUT)
    return [claims_data.at_night(each) for each in prompts] if row.held_out == "night" else prompts


def judged(row: Row, pictures: NDArray[np.uint8], judges: dict[str, Scorer]) -> dict[str, Any]:
    """Every judge's value of every picture, which of them it calls right, and the image statistics."""
    prompts = asked(row)
    found: dict[str, Any] = {"scores": {}, "right": {}, "statistics": looks.statistics(pictures, prompts)}
    for name, scorer in judges.items():
        said = scorer.score(samples(prompts, pictures))
        found["scores"][name] = [round(float(each), 5) for each in said.values]
        if said.right is not None:
            found["right"][name] = [int(each) for each in said.right]
    if row.held_out == "night":
        found["scores"]["darkness"] = [round(each, 5) for each in darkness(pictures)]
    return found


def darkness(pictures: NDArray[np.uint8]) -> list[float]:
    """How dark the ground of each picture is, in [0, 1]: the style, whatever is drawn in it."""
    return [1 - float(np.median(np.asarray(Image.fromarray(each).convert("L")))) / 255 for each in pictures]


def cell(row: Row, seed: int, judges: dict[str, Scorer], screen: Screen) -> None:
    """Run a cell, or only what it still lacks."""
    file = CELLS / f"{row.name}.{seed}.json"
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    wanted = judges.keys() | ({"darkness"} if row.held_out == "night" else set())
    if known and not wanted - known["scores"].keys():
        return
    if row.recipe is not None and (not known or not place(row, seed).is_dir()):
        known["training"] = trained(settings(row, seed), screen)
    began = time.process_time()
    pictures = drawn(row, seed, screen)
    known |= {"row": row.name, "seed": seed, **judged(row, pictures, judges)}
    known.setdefault("drawing", {"guidance": row.guidance, "steps": row.steps})
    known["drawing"].setdefault("cpu_seconds", round(time.process_time() - began, 1))
    known["versions"] = {name: version(name) for name in ("torch", "diffusers")}
    known["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    CELLS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known) + "\n", encoding="utf-8")
    screen.say(f"{row.name}, seed {seed}: " + ", ".join(f"{k} {np.mean(v):.3f}" for k, v in known["scores"].items()))


def main() -> None:
    """Every cell that is asked for and not there yet; then the page."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rows", nargs="+", default=list(TABLE), metavar="ROW", choices=list(TABLE))
    given.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given.add_argument("--page", action="store_true", help="run nothing, write the page")
    told = given.parse_args()
    torch.set_num_threads(1)
    if not told.page:
        screen = Screen()
        known = registry.names("scorer")
        judges = {name: registry.build("scorer", name) for name in JUDGES if name in known}
        for seed in told.seeds:
            for name in told.rows:
                if seed in TABLE[name].seeds:
                    cell(TABLE[name], seed, judges, screen)
    claims_page.write(CELLS)


if __name__ == "__main__":
    main()
