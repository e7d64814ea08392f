"""docs/claims.md and its figure, from the cells: every row beside the base, and each paper's claim beside its rival."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from claims_rows import BACKWARD, BUDGET, CLAIMS, TABLE, Claim, Row

from visalign import demo
from visalign.evaluation import pictures as looks
from visalign.evaluation.statistics import Interval, mean, win_rate
from visalign.playground import corpus

DOCS = Path(__file__).resolve().parents[1] / "docs"
CELLS = Path(__file__).resolve().parent / "results" / "claims"
PPD = Path(__file__).resolve().parent / "results" / "ppd.json"
FIRST = "voters"  # the judge by whose taste the votes were cast
NAMES = {"voters": "the voters' taste", "redrawing": "a second judge", "playground_hps": "a trained scorer"}
Cell = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """The cells of a row, by seed."""

    row: Row
    cells: Sequence[Cell]

    def values(self, what: str, judge: str) -> np.ndarray:
        """(seeds, prompts) of "scores" or "right" by a judge."""
        return np.array([cell[what][judge] for cell in self.cells], dtype=np.float64)

    def judges(self) -> list[str]:
        """Who scored every cell."""
        return [name for name in self.cells[0]["scores"] if all(name in cell["scores"] for cell in self.cells)]

    def drifted(self, base: Cell) -> list[str]:
        """Image statistics that left their band in some seed, as words."""
        moved = [each for cell in self.cells for each in looks.drift(base["statistics"], cell["statistics"])]
        return sorted({each.name for each in moved if not each.holds})


def read(folder: Path, table: Mapping[str, Row]) -> dict[str, Found]:
    """Every row of a table that has a cell in the folder."""
    cells: dict[str, list[Cell]] = {}
    for file in sorted(folder.glob("*.json")):
        cell = json.loads(file.read_text(encoding="utf-8"))
        if cell["row"] in table:
            cells.setdefault(cell["row"], []).append(cell)
    return {name: Found(row, cells[name]) for name, row in table.items() if name in cells}


def averaged(values: np.ndarray) -> Interval:
    """The mean over seeds and prompts, with an interval over prompts."""
    return mean(values.ravel(), list(range(values.shape[1])) * len(values))


def beaten(first: Found, second: Found, judge: str) -> Interval:
    """How often the first row's picture scores higher than the second's of that prompt and seed; ties are halves."""
    one, other = first.values("scores", judge), second.values("scores", judge)
    chance = (np.sign(one - other) + 1) / 2  # a row with one seed stands beside every seed of the other
    return win_rate(chance.ravel(), list(range(chance.shape[1])) * len(chance))


def write() -> None:
    """Write docs/claims.md and docs/claims.png."""
    found = read(CELLS, TABLE)
    if "base" not in found:
        raise SystemExit("no cell of the base yet: run the row `base` first")
    plain = [each for each in found.values() if each.row.held_out == "plain" and each.row.name != "base"]
    parts = [HEAD.format(budget=f"{BUDGET:,}", backward=BACKWARD, count=len(corpus.prompts("heldout", demo.HELD_OUT)))]
    parts += ["![Win rates against the base](claims.png)\n", table(found["base"], plain)]
    parts += ["\n## What the papers claim, and what happens here\n", claims(found), "\n", TAIL]
    (DOCS / "claims.md").write_text("\n".join(parts), encoding="utf-8")
    figure(found["base"], plain).savefig(DOCS / "claims.png", dpi=120, bbox_inches="tight")


def table(base: Found, rows: Sequence[Found]) -> str:
    """Every row beside the base."""
    judges = [name for name in NAMES if name in base.judges()]
    head = ["row", "clean and right", *(f"win rate by {NAMES[name]}" for name in judges)]
    head += ["steps", "passes with / without gradient", "CPU seconds", "out of band"]
    lines = [head, ["---"] * len(head), ["base", share(base), *["—"] * (len(head) - 2)]]
    for each in rows:
        wins = [marked(beaten(each, base, name)) if name in each.judges() else "" for name in judges]
        lines.append(
            [f"`{each.row.name}`", share(each), *wins, *cost(each), ", ".join(each.drifted(base.cells[0])) or "—"]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def share(each: Found) -> str:
    """The share that is clean and right, and of each seed."""
    right = each.values("right", FIRST)
    seeds = " / ".join(f"{value:.3f}" for value in right.mean(1)) if len(right) > 1 else ""
    return f"{right.mean():.3f}" + (f" ({seeds})" if seeds else "")


def marked(found: Interval) -> str:
    """In bold where the interval leaves 1/2 out."""
    return f"**{found}**" if found.low > 0.5 or found.high < 0.5 else str(found)


def cost(each: Found) -> list[str]:
    """Steps, passes and seconds of training, means over seeds."""
    runs = [cell["training"] for cell in each.cells if "training" in cell]
    if not runs:
        drawing = np.mean([cell["drawing"]["cpu_seconds"] for cell in each.cells])
        return ["—", "not trained", f"{drawing:.0f} to draw"]
    passes = [f"{np.mean([run['passes'][kind] for run in runs]):,.0f}" for kind in ("policy", "free")]
    return [str(runs[0]["steps"]), " / ".join(passes), f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}"]


def claims(found: dict[str, Found]) -> str:
    """A line a claim, with the numbers that speak for or against it."""
    lines = stated(CLAIMS, found)
    if PPD.is_file():
        lines.append(personal(json.loads(PPD.read_text(encoding="utf-8"))["ppd_against"]["dpo"]["win_rate"]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def stated(said: Sequence[Claim], found: Mapping[str, Found]) -> list[list[str]]:
    """A head, and a line for each claim whose two rows there are."""
    known = [claim for claim in said if claim.first in found and claim.second in found]
    head = [["claim", "compared", "judge", "win rate", "here"], ["---"] * 5]
    return head + [claimed(claim, found[claim.first], found[claim.second]) for claim in known]


def personal(win: Mapping[str, float]) -> list[str]:
    """PPD's claim, with the numbers of its own benchmark: users that it never saw, four of their votes each."""
    said = "PPD pleases users that it never saw more than DPO on everybody's votes (arXiv 2501.06655)"
    shown = f"{win['value']:.3f} [{win['low']:.3f}, {win['high']:.3f}]"
    here = "reproduces" if win["low"] > 0.5 else "the other way" if win["high"] < 0.5 else "no difference shown"
    return [said, "PPD on top of DPO, over DPO", "each user's own taste", shown, f"{here} (not blind: see below)"]


def claimed(claim: Claim, first: Found, second: Found) -> list[str]:
    """One claim."""
    win = beaten(first, second, claim.judge)
    verdict = "reproduces" if win.low > 0.5 else "the other way" if win.high < 0.5 else "no difference shown"
    rows = f"`{claim.first}` over `{claim.second}`"
    return [f"{claim.says} ({claim.paper})", rows, NAMES.get(claim.judge, claim.judge), str(win), verdict]


def figure(base: Found, rows: Sequence[Found]) -> Any:
    """Win rates against the base with their intervals, a row a line, a mark a judge."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7.5, 0.42 * len(rows) + 1.2))
    axes = drawn.subplots()
    bars(axes, base, rows)
    axes.set_xlabel("win rate against the base, 95 % intervals over prompts")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
    return drawn


def bars(axes: Any, base: Found, rows: Sequence[Found]) -> None:
    """The same on axes that are there."""
    judges = [name for name in NAMES if name in base.judges()]
    for number, (name, mark) in enumerate(zip(judges, "osD", strict=False)):
        shown = [(place, beaten(each, base, name)) for place, each in enumerate(rows) if name in each.judges()]
        ys = [-place + 0.18 * (1 - number) for place, _ in shown]
        wins = [win for _, win in shown]
        errors = [[win.value - win.low for win in wins], [win.high - win.value for win in wins]]
        axes.errorbar(
            [win.value for win in wins], ys, xerr=errors, fmt=mark, markersize=4, linewidth=1.2, label=NAMES[name]
        )
    axes.axvline(0.5, color="0.6", linewidth=1)
    axes.set_yticks([-place for place in range(len(rows))], [each.row.about for each in rows])
    axes.spines[["top", "right"]].set_visible(False)


HEAD = """# Claims, and what reproduces on the playground

Written by `benchmarks/claims.py` from the cells in `benchmarks/results/claims/`. Every trained row starts from the
playground's base, has one setting for all its seeds (how it was come by: below), and may spend {budget} forwards of one
picture, a backward counted as {backward}: what Diffusion-DPO spends in 60 steps of 24 pairs, a third of what the demo
gives it. Rows that pay for many passes a record so take few steps. Judged are {count} held-out prompts, a picture each,
from the same seeds for every row; three training seeds unless a row says otherwise. Intervals are 95 % bootstrap
intervals over prompts. The playground is small: a direction that does not show here may well show elsewhere, and the
other way round.

- *the voters' taste* is what the training votes were cast by; *a second judge* (it redraws the caption and compares)
  and *a trained scorer* (an HPSv2-type model trained on votes of other prompts) made none of the votes.
- *clean and right*: the share of pictures that show their prompt without clutter, by seed in brackets.
- *out of band*: image statistics that left the band stated in `visalign/evaluation/pictures.py` in some seed.
"""
TAIL = """A claim *reproduces* where the whole interval lies above 1/2. Numbers that went against a paper stay in the
table: they say what this small world shows, no more. Near-tie labels are scored by a scorer with an error of deviation
0.2 on utilities in [0, 1].

Settings are those of the playground's recipes, with what `benchmarks/claims_rows.py` changes. Not all were blind.
Seed 0 of MaPO was first run with the release's numbers, fell below the base (mean utility 0.37 against 0.49), and the
paper's numbers were chosen in a pilot at seed 7. Seed 0 of Self-NPO was first run with the Huber distance (0.57), and
one or two seeds of SmPO and InPO at other rates or grids; all their seeds were then run again with the settings shown,
but one of InPO, which had them already. These four rows are to be read as tuned that much.

PPD has no row: it is measured on 60 users that it never saw, with four votes of each (`benchmarks/ppd.py`,
[personal](personal.md)). Its setting, on top of DPO, was the third that was tried, on the same users; straight on the
base it lost to DPO. Not in the table either: RPO, which tunes to a subject, and online rounds, whose drawing is not in
the budget.
"""
