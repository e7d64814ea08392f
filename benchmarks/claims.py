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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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

JUDGES = ("voters", "redrawing", "playground_hps")


def steps(method: Method, batch: int, budget: float = BUDGET) -> int:
    """Optimizer steps within the budget of forwards."""
    record = method.passes.policy * (1 + BACKWARD) + method.passes.free
    return max(1, int(budget // (batch * record)))


@dataclass(frozen=True)
class Bench:
    """A table of rows, and the folders where its runs and its cells lie."""

    table: Mapping[str, Row]
    out: Path = Path("runs/claims")
    cells: Path = claims_page.CELLS
    budget: float = BUDGET
    prompts: int = demo.HELD_OUT

    def place(self, row: Row, seed: int) -> Path:
        """Where a cell's run and pictures lie."""
        return self.out / f"{row.name}.{seed}"

    def settings(self, row: Row, seed: int) -> config.Run:
        """The row's run."""
        assert row.recipe is not None
        data = claims_data.MAKERS[row.data](self.out / "data" / row.data)
        places = [f"out={self.place(row, seed)}", f"data.cache={self.out / 'cache' / row.data}"]
        common = [*places, f"data.path={data}", f"seed={seed}", "save_every=0", "validation.every=0"]
        run = config.load(row.recipe, [*common, *row.changes])
        if row.steps_of is not None:
            count = self.settings(self.table[row.steps_of], seed).steps
        else:
            count = steps(registry.build("method", run.method), run.batch, self.budget)
        return config.load(row.recipe, [*common, *row.changes, f"steps={count}"])

    def drawn(self, row: Row, seed: int, screen: Screen) -> NDArray[np.uint8]:
        """The held-out pictures of a cell, kept on the disk."""
        file = self.place(row, seed) / "pictures.npy"
        if not file.is_file():
            runs = {name: str(self.place(self.table[name], seed)) for name in row.needs}
            spec = row.draws.format(run=self.place(row, seed), **runs)
            prompts = self.asked(row)
            how = Settings(steps=row.steps, guidance=row.guidance, batch=demo.HOW.batch)
            made = draw(spec, prompts, list(range(len(prompts))), how, screen, title=f"draw: {row.name}, seed {seed}")
            file.parent.mkdir(parents=True, exist_ok=True)
            np.save(file, made)
        found: NDArray[np.uint8] = np.load(file, allow_pickle=False)
        return found

    def asked(self, row: Row) -> list[str]:
        """The held-out prompts."""
        prompts = corpus.prompts("heldout", self.prompts)
        return [claims_data.at_night(each) for each in prompts] if row.held_out == "night" else prompts

    def judged(self, row: Row, pictures: NDArray[np.uint8], judges: Mapping[str, Scorer]) -> dict[str, Any]:
        """Every judge's value of every picture, which of them it calls right, and the image statistics."""
        prompts = self.asked(row)
        found: dict[str, Any] = {"scores": {}, "right": {}, "statistics": looks.statistics(pictures, prompts)}
        for name, scorer in judges.items():
            said = scorer.score(samples(prompts, pictures))
            found["scores"][name] = [round(float(each), 5) for each in said.values]
            if said.right is not None:
                found["right"][name] = [int(each) for each in said.right]
        if row.held_out == "night":
            found["scores"]["darkness"] = [round(each, 5) for each in darkness(pictures)]
        return found

    def cell(self, row: Row, seed: int, judges: Mapping[str, Scorer], screen: Screen) -> None:
        """Run a cell, or only what it still lacks."""
        file = self.cells / f"{row.name}.{seed}.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        wanted = judges.keys() | ({"darkness"} if row.held_out == "night" else set())
        if known and not wanted - known["scores"].keys():
            return
        if row.recipe is not None and (not known or not self.place(row, seed).is_dir()):
            known["training"] = trained(self.settings(row, seed), screen)
        began = time.process_time()
        pictures = self.drawn(row, seed, screen)
        known |= {"row": row.name, "seed": seed, **self.judged(row, pictures, judges)}
        known.setdefault("drawing", {"guidance": row.guidance, "steps": row.steps})
        known["drawing"].setdefault("cpu_seconds", round(time.process_time() - began, 1))
        known["versions"] = {name: version(name) for name in ("torch", "diffusers")}
        known["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        self.cells.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known) + "\n", encoding="utf-8")
        screen.say(
            f"{row.name}, seed {seed}: " + ", ".join(f"{k} {np.mean(v):.3f}" for k, v in known["scores"].items())
        )

    def run(self, rows: Iterable[str], seeds: Iterable[int], screen: Screen) -> None:
        """Every cell of these rows and seeds that is not there yet."""
        known, wanted = registry.names("scorer"), list(rows)
        judges = {name: registry.build("scorer", name) for name in JUDGES if name in known}
        for seed in seeds:
            for name in wanted:
                if seed in self.table[name].seeds:
                    self.cell(self.table[name], seed, judges, screen)


def darkness(pictures: NDArray[np.uint8]) -> list[float]:
    """How dark the ground of each picture is, in [0, 1]: the style, whatever is drawn in it."""
    return [1 - float(np.median(np.asarray(Image.fromarray(each).convert("L")))) / 255 for each in pictures]


def main() -> None:
    """Every cell that is asked for and not there yet; then the page."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rows", nargs="+", default=list(TABLE), metavar="ROW", choices=list(TABLE))
    given.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given.add_argument("--page", action="store_true", help="run nothing, write the page")
    told = given.parse_args()
    torch.set_num_threads(1)
    if not told.page:
        Bench(TABLE).run(told.rows, told.seeds, Screen())
    claims_page.write()


if __name__ == "__main__":
    main()
