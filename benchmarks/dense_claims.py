"""Do labels of segments do more than labels of clips? DenseDPO beside Diffusion-DPO on the playground of moving shapes.

    make bench-dense_claims                 (most of an hour on two cores; finished cells are kept and not run again)
    make bench-dense_claims ARGS=--page     (only the table and the figure, from the cells)

Trainings from one base, of as many pairs, steps and learning rate (Wu et al., arXiv 2506.03517, section 4): `vanilla`
is Diffusion-DPO on pairs from two noises, `structural` is Diffusion-DPO on the shipped pairs, both drawn from one real
clip, `dense` is DenseDPO on those, and `loose`, which the paper has not, is DenseDPO on the pairs of `vanilla`. Voters
label segments everywhere; for Diffusion-DPO a clip is better if more of its segments are. All draw the same held-out
prompts from the same seeds. A cell a row and seed is written to benchmarks/results/dense/, a sheet of clips
to runs/dense/sheet.png.
"""

from __future__ import annotations

import argparse
import datetime
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from training import trained

from visalign import config, playground, registry
from visalign.cli.screen import Screen
from visalign.config import Run
from visalign.data import album, store
from visalign.drawing import Settings, draw
from visalign.evaluation import pictures as looks
from visalign.evaluation import report
from visalign.evaluation.comparison import samples
from visalign.evaluation.statistics import Interval, mean, win_rate
from visalign.playground import moving, moving_votes
from visalign.playground.voters import Voters

HERE = Path(__file__).resolve().parent
OUT, CELLS = Path("runs/dense"), HERE / "results" / "dense"
HELD_OUT, SHOWN = 160, 6
HOW = Settings(steps=playground.STEPS, guidance=playground.MOVING_GUIDANCE, batch=32)
ROWS = {"vanilla": "diffusion_dpo", "loose": "dense_dpo", "structural": "diffusion_dpo", "dense": "dense_dpo"}
TWO_NOISES = ("vanilla", "loose")  # rows whose pairs share nothing
TOLD = {"score": "score", "right": "clean and right", "motion": "right motion", "dynamic": "pixels a frame"}


def two_noises(screen: Screen) -> Path:
    """As many pairs of the shipped pairs' prompts, each clip from a noise of its own, labelled alike; made once."""
    path = OUT / "votes" / "records.parquet"
    if path.is_file():
        return path
    plan = moving_votes.Plan()
    prompts = moving.prompts("train", plan.pairs, seed=1)
    asked = [prompt for prompt in prompts for _ in range(2)]
    clips = moving_votes.coarse(draw("playground_moving", asked, range(len(asked)), HOW, screen))
    names = album.write_clips(list(clips), path.with_name("clips.parquet"))
    records = [
        moving_votes.ballot(prompt, clips[k : k + 2], (names[k], names[k + 1]), 0, Voters())
        for k, prompt in zip(range(0, len(asked), 2), prompts, strict=True)
    ]
    store.write(records, path)
    return path


def settings(row: str, seed: int, screen: Screen) -> Run:
    """The row's run: the playground's recipe of DenseDPO, with another method or other pairs where the row says so."""
    changes = [f"out={OUT / f'{row}.{seed}'}", f"data.cache={OUT / 'cache'}", f"seed={seed}", "save_every=0"]
    if ROWS[row] != "dense_dpo":
        beta = config.load("playground_dense_dpo").method["beta"]
        changes.append(f"method={{name: {ROWS[row]}, beta: {beta}}}")
    if row in TWO_NOISES:
        changes.append(f"data.path={two_noises(screen)}")
    return config.load("playground_dense_dpo", changes)


def measured(spec: str, screen: Screen, file: Path) -> dict[str, Any]:
    """What the held-out clips of a model are like, a number a clip; the clips are kept in `file`."""
    prompts = moving.prompts("heldout", HELD_OUT)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, draw(spec, prompts, range(HELD_OUT), HOW, screen))
    clips: NDArray[np.uint8] = np.load(file, allow_pickle=False)
    said = registry.build("scorer", "motion").score(samples(prompts, clips))
    assert said.right is not None
    table = {"score": said.values, "right": said.right.double(), **said.aspects}
    numbers = {name: [round(float(value), 5) for value in values] for name, values in table.items()}
    return {"clips": numbers, "statistics": looks.statistics(clips, prompts)}


def cell(row: str, seed: int, screen: Screen) -> None:
    """Train a row, unless its cell is there, and measure it."""
    file = CELLS / (f"{row}.json" if row == "base" else f"{row}.{seed}.json")
    if file.is_file():
        return
    found: dict[str, Any] = {"row": row, "seed": seed, "held_out": HELD_OUT}
    spec, kept = "playground_moving", OUT / "base.npy"
    if row != "base":
        run = settings(row, seed, screen)
        found["training"] = trained(run, screen)
        spec, kept = str(run.out), run.out / "held_out.npy"
    found |= measured(spec, screen, kept)
    found["versions"] = {name: version(name) for name in ("torch", "diffusers")}
    found["date"] = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    CELLS.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found) + "\n", encoding="utf-8")
    screen.say(f"{row}, seed {seed}: " + ", ".join(f"{k} {np.nanmean(found['clips'][k]):.3f}" for k in TOLD))


def read(row: str) -> dict[str, NDArray[np.float64]]:
    """Each number of a row, (seeds x prompts,); "prompt" says which prompt it is of."""
    cells = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(CELLS.glob(f"{row}.*json"))]
    if not cells:
        raise SystemExit(f"no cell of {row} in {CELLS}: run this without --page")
    found = {name: np.concatenate([np.array(each["clips"][name], float) for each in cells]) for name in TOLD}
    return found | {"prompt": np.tile(np.arange(HELD_OUT, dtype=float), len(cells))}


def against(row: str, other: str, name: str) -> Interval:
    """How much more of something a row has than another, paired on prompt and seed, with an interval over prompts."""
    one, two = read(row), read(other)
    gap = one[name] - np.resize(two[name], one[name].shape)
    known = ~np.isnan(gap)
    return mean(gap[known], one["prompt"][known].tolist())


def measured_rows() -> list[str]:
    """The rows that have a cell, the base first."""
    return [row for row in ("base", *ROWS) if any(CELLS.glob(f"{row}.*json"))]


def table() -> report.Table:
    """A row a model: its means, and its win rate against the base by the checker's score."""
    base = read("base")
    rows = []
    for row in measured_rows():
        found = read(row)
        gap = found["score"] - np.resize(base["score"], found["score"].shape)
        win = "—" if row == "base" else str(win_rate((np.sign(gap) + 1) / 2, found["prompt"].tolist()))
        trained = str(len(found["score"]) // HELD_OUT)
        rows.append([row, trained, *(f"{np.nanmean(found[name]):.3f}" for name in TOLD), win])
    note = f"{HELD_OUT} held-out prompts. Brackets are 95 % intervals over prompts."
    return report.Table("Moving shapes", ["model", "seeds", *TOLD.values(), "win rate against the base"], rows, note)


def figure() -> Path:
    """The first held-out prompts, drawn by the base and by each row's first seed that is still on the disk."""
    prompts = moving.prompts("heldout", SHOWN)
    kept = {"base": OUT / "base.npy"}
    kept |= {row: min(OUT.glob(f"{row}.*/held_out.npy"), default=OUT) for row in measured_rows()[1:]}
    clips = {name: np.load(file, allow_pickle=False) for name, file in kept.items() if file.is_file()}
    cards = [
        report.Card(prompt, [report.Shot(name, each[place]) for name, each in clips.items()])
        for place, prompt in enumerate(prompts)
    ]
    path = OUT / "sheet.png"
    path.write_bytes(report.png(report.contact_sheet(cards, across=1)))
    return path


def main() -> None:
    """Every cell that is not there yet; then the table, the differences and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", default=["base", *ROWS], choices=["base", *ROWS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", action="store_true", help="run nothing, only tell")
    given = parser.parse_args()
    torch.set_num_threads(1)
    screen = Screen()
    for row in [] if given.page else given.rows:
        for seed in [0] if row == "base" else given.seeds:
            cell(row, seed, screen)
    screen.show(table())
    there = measured_rows()
    for one, other in (("dense", "structural"), ("loose", "vanilla"), *((row, "base") for row in there[1:])):
        if one not in there or other not in there:
            continue
        gaps = ", ".join(f"{TOLD[name]} {against(one, other, name)}" for name in TOLD)
        screen.say(f"{one} less {other}: {gaps}")
    screen.say(f"figure: {figure()}")


if __name__ == "__main__":
    main()
