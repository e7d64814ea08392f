"""What too high a learning rate does to Diffusion-DPO, and which metric said so first: the picture of docs/collapse.md.

    make bench-collapse            (about 5 minutes on two cores)

Trains the demo's recipe twice on the shipped votes: as it is, and at a rate RATE times as high with early stopping off,
so that the collapse runs its course. Writes docs/collapse.png and benchmarks/results/collapse.json.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visalign import config, demo, registry
from visalign.cli.screen import Screen
from visalign.drawing import draw
from visalign.evaluation import curves, report
from visalign.evaluation.comparison import Comparison
from visalign.jobs import Outcome, denoising
from visalign.playground import corpus
from visalign.training import metrics

HERE = Path(__file__).resolve().parent
OUT = Path("runs/collapse")
RATE = 10
PROMPTS = 64
SHOWN = 9


def trained(name: str, changes: list[str], screen: Screen) -> Outcome:
    """The demo's recipe with changes, from the start."""
    shutil.rmtree(OUT / name, ignore_errors=True)
    places = [f"out={OUT / name}", f"name={name}", f"data.cache={OUT / 'cache'}"]
    return denoising.train(config.load(demo.METHODS["dpo"], [*places, *changes]), screen)


def warned(folder: Path) -> int | None:
    """The step at which the alarm of `metrics.Collapse` would have stopped the run."""
    alarm = metrics.Collapse(config.Stop())
    return next((row["step"] for row in metrics.read(folder / "metrics.jsonl") if alarm.sees(row)), None)


def pictured(found: Comparison, runs: dict[str, Path]) -> NDArray[np.uint8]:
    """Pictures above, curves below, on white."""
    sheet = report.contact_sheet(found.report("", settings={}, shown=SHOWN).cards)
    rows = {name: metrics.read(folder / "metrics.jsonl") for name, folder in runs.items()}
    drawn = curves.on_white(curves.figure(rows), width=sheet.shape[1])
    return np.concatenate([sheet, drawn])


def numbers(found: Comparison, runs: dict[str, Path]) -> dict[str, Any]:
    """What each run ended at, and when the alarm would have spoken."""
    last = {name: metrics.read(folder / "metrics.jsonl")[-1] for name, folder in runs.items()}
    right = {name: each.right.value for name, each in found.first.standings.items() if each.right is not None}
    return {
        "clean_and_right": right,
        "alarm_at_step": {name: warned(each) for name, each in runs.items()},
        "last": last,
    }


def main() -> None:
    """Both runs, the picture, the numbers."""
    screen = Screen()
    rate = config.load(demo.METHODS["dpo"]).optimizer.lr
    high = [f"optimizer.lr={RATE * rate}", "stop.collapse=false"]
    runs = {"as it ships": trained("as it ships", [], screen).run.out}
    runs[f"lr x {RATE}"] = trained(f"lr x {RATE}", high, screen).run.out
    prompts, seeds = corpus.prompts("heldout", PROMPTS), list(range(PROMPTS))
    models = {"base": "playground", **{name: str(folder) for name, folder in runs.items()}}
    drawn = {
        name: draw(model, prompts, seeds, demo.HOW, screen, title=f"draw: {name}") for name, model in models.items()
    }
    found = Comparison.of(prompts, drawn, [registry.build("scorer", "rules")])
    for table in found.tables():
        screen.show(table)
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "collapse.json").write_text(json.dumps(numbers(found, runs), indent=1) + "\n")
    Image.fromarray(pictured(found, runs)).save(HERE.parent / "docs" / "collapse.png", optimize=True)


if __name__ == "__main__":
    main()
