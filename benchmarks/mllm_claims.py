"""Every method for models that see on the seeing playground, five seeds each: docs/mllm_claims.md.

    make bench-mllm_claims                       (about an hour on two cores; finished cells are kept)
    make bench-mllm_claims ARGS="--rows mdpo tars --seeds 0"
    make bench-mllm_claims ARGS=--page           (only write the page and the figure from the cells)

A cell is a row and a seed: train on the row's votes, ask for descriptions of held-out pictures, and POPE's questions
about some of them. Cells lie in benchmarks/results/mllm_claims/ROW.SEED.json with every answer in words, so that any
measure can be taken of them again; the page is written from the cells alone.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mllm_claims_page
import torch
from mllm_claims_rows import COMMON, PICTURES, PROBED, TABLE, Row
from PIL import Image
from training import trained

from visalign import cli, config
from visalign.answering import Answerer, Settings
from visalign.cli.screen import Screen
from visalign.models.seeing import SeeingFolder
from visalign.playground import seeing
from visalign.playground.seeing import Turn

OUT = Path("runs/mllm_claims")
CELLS = Path(__file__).resolve().parent / "results" / "mllm_claims"
BATCH = 100  # questions at a time
KINDS = ("random", "popular", "adversarial")


def settings(row: Row, seed: int) -> config.Run:
    """The row's run."""
    assert row.recipe is not None
    common = [f"out={place(row, seed)}", f"data.cache={OUT / 'cache'}", f"seed={seed}", "save_every=0"]
    data = [f"data.path={made_up()}"] if row.data == "bdhs" else []
    return config.load(row.recipe, [*common, *COMMON, *data, *row.changes])


def place(row: Row, seed: int) -> Path:
    """Where a cell's run lies."""
    return OUT / f"{row.name}.{seed}"


def made_up() -> Path:
    """BDHS pairs of the shipped votes' true answers, made once."""
    file = OUT / "bdhs.parquet"
    if not file.is_file() and cli.main(["hallucinate", "playground", "--model", "playground", "--out", str(file)]):
        raise SystemExit("no answers could be made up")
    return file


def said(model: str, turns: Sequence[Turn]) -> list[str]:
    """The likeliest answer to each question."""
    folder = SeeingFolder.open(model)
    reader = folder.reader()
    answerer = Answerer(folder.model(train="none").network, reader, Settings(max_new_tokens=40))
    found = []
    for start in range(0, len(turns), BATCH):
        chosen = turns[start : start + BATCH]
        asked = [reader.ask(each.question, [Image.fromarray(each.look.picture)]) for each in chosen]
        names = [str(start + row) for row in range(len(chosen))]
        found += [each.text for each in answerer.answer(names, asked)]
    return found


def cell(row: Row, seed: int, screen: Screen) -> None:
    """Run a cell that is not there yet."""
    file = CELLS / f"{row.name}.{seed}.json"
    if file.is_file():
        return
    known: dict[str, Any] = {"row": row.name, "seed": seed}
    if row.recipe is not None:
        known["training"] = trained(settings(row, seed), screen)
    model = "playground" if row.recipe is None else str(place(row, seed) / "weights")
    known["descriptions"] = said(model, seeing.seeing_heldout(PICTURES))
    known["probes"] = {kind: said(model, seeing.probes(kind, PROBED)) for kind in KINDS}
    known["versions"] = {name: version(name) for name in ("torch", "transformers")}
    known["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    CELLS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(known) + "\n", encoding="utf-8")
    screen.say(f"{row.name}, seed {seed}: {mllm_claims_page.measured(known)}")


def main() -> None:
    """Every cell that is asked for and not there yet; then the page."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rows", nargs="+", default=list(TABLE), metavar="ROW", choices=list(TABLE))
    given.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given.add_argument("--page", action="store_true", help="run nothing, write the page")
    told = given.parse_args()
    torch.set_num_threads(1)
    if not told.page:
        screen = Screen()
        for seed in told.seeds:
            for name in told.rows:
                if seed in TABLE[name].seeds:
                    cell(TABLE[name], seed, screen)
    mllm_claims_page.write(CELLS)


if __name__ == "__main__":
    main()
