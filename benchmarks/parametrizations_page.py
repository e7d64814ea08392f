"""docs/parametrizations.md and its figures, from the cells: each base with what was trained from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import claims_page
import claims_rows
import numpy as np
from claims_page import DOCS, Found, bars
from parametrizations_rows import CLAIMS, METHODS, SHIPPED, table

from visalign import demo
from visalign.evaluation import report
from visalign.playground import corpus

CELLS = Path(__file__).resolve().parent / "results" / "parametrizations"
TITLES = {"v": "v, the playground's own base", "epsilon": "the noise", "flow": "the velocity of a flow"}
SHOWN = 6  # prompts of the sheet
Groups = dict[str, tuple[Found, list[Found]]]  # of each base its own cells, and its rows


def groups() -> Groups:
    """Every base that has a cell; v's cells are those of `claims.py`."""
    own = claims_page.read(claims_page.CELLS, {name: claims_rows.TABLE[name] for name in SHIPPED})
    found = {"v": (own["base"], [own[name] for name in SHIPPED[1:]])}
    cells = claims_page.read(CELLS, table(Path()))
    for base, methods in METHODS.items():
        if f"{base}_base" in cells:
            names = [f"{base}_{name}" for name, *_ in methods]
            found[base] = cells[f"{base}_base"], [cells[name] for name in names if name in cells]
    return found


def write(runs: Path) -> None:
    """Write the page, its figure and, where the pictures are still in `runs`, its sheet."""
    known = groups()
    parts = [HEAD.format(budget=f"{claims_rows.BUDGET:,}", count=demo.HELD_OUT)]
    parts += ["![Win rates of each against its own base](parametrizations.png)\n"]
    for name, (base, rows) in known.items():
        parts += [f"## A network that predicts {TITLES[name]}\n", claims_page.table(base, rows), ""]
    lines = claims_page.stated(CLAIMS, claims_page.read(CELLS, table(Path())))
    parts += ["## What the paper of Flow-DPO claims, and what happens here\n"]
    parts += ["\n".join(f"| {' | '.join(line)} |" for line in lines), "", TAIL]
    (DOCS / "parametrizations.md").write_text("\n".join(parts), encoding="utf-8")
    figure(known).savefig(DOCS / "parametrizations.png", dpi=120, bbox_inches="tight")
    sheet(known, runs)


def figure(known: Groups) -> Any:
    """A panel a base: win rates against it with their intervals, a row a line, a mark a judge."""
    from matplotlib.figure import Figure

    counts = [len(rows) for _, rows in known.values()]
    drawn = Figure(figsize=(7.5, 0.42 * sum(counts) + 2.2))
    panels = drawn.subplots(len(known), sharex=True, squeeze=False, height_ratios=counts)[:, 0]
    for axes, (name, (base, rows)) in zip(panels, known.items(), strict=True):
        bars(axes, base, rows)
        axes.set_title(f"predicts {TITLES[name]}", loc="left", fontsize=9)
    panels[-1].set_xlabel("win rate against its own base, 95 % intervals over prompts")
    drawn.tight_layout()
    panels[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.15), ncols=3, frameon=False)
    return drawn


def sheet(known: Groups, runs: Path) -> None:
    """The first held-out prompts as each base and its first seeds of DPO and MaPO draw them, if that is all there."""
    files: Mapping[str, Path] = {
        "v": Path("runs/claims/base.0"),
        "v, DPO": Path("runs/claims/diffusion_dpo.0"),
        "noise": runs / "epsilon_base.0",
        "noise, DPO": runs / "epsilon_dpo.0",
        "flow": runs / "flow_base.0",
        "flow, DPO": runs / "flow_dpo.0",
    }
    if not all((file / "pictures.npy").is_file() for file in files.values()):
        return
    drawn = {name: np.load(file / "pictures.npy", allow_pickle=False) for name, file in files.items()}
    cards = [
        report.Card(prompt, [report.Shot(name, each[place]) for name, each in drawn.items()])
        for place, prompt in enumerate(corpus.prompts("heldout", SHOWN))
    ]
    content = report.png(report.contact_sheet(cards, across=1))
    (DOCS / "images" / "parametrizations.png").write_bytes(content)


HEAD = """# Preference training, whatever the network predicts

Written by `benchmarks/parametrizations.py` from the cells in `benchmarks/results/parametrizations/`. The playground's
base predicts v, and so does every row of [claims](claims.md). Here two siblings of it are trained on the same votes:
one that predicts the noise, on the same path, and a flow model (`FlowMatchEulerDiscreteScheduler`, shift 1,
logit-normal times). Each was made from the base's weights under another scheduler, by `sft` on pictures of the corpus
that the base was trained on.

Rules are those of [claims](claims.md): {budget} forwards of one picture a row, {count} held-out prompts, 95 % intervals
over prompts; two training seeds on the siblings, three on v (the share of each is in brackets). A win rate is against
the row's own base, from the same seeds. The votes are on pictures that the shipped base drew: for the siblings they are
somebody else's pictures.
"""
TAIL = """![Six held-out prompts as each base draws them, and after DPO](images/parametrizations.png)

The pictures are six prompts in a row, not chosen, and the first seed of each training.

- **Settings** are those of v in [claims](claims.md), the recipes' own (learning rate 1e-4, beta 500, MaPO's paper
  numbers): none was tried on a sibling before. `flow_dpo` is `diffusion_dpo` there, to the bit. `flow_dpo_release`
  (beta 100, as in flow_grpo) was added after seed 0 of the other rows was seen.
- **The flow sibling draws better than the other two**: 0.56 of its pictures are clean and right, 0.29 of theirs.
  Neither 40 steps nor steps that begin at the noisiest time (`trailing`) bring v there: 0.32 as it ships, 0.34 to
  0.38 with these, on the first 128 prompts. So there is less to gain, the votes are on pictures of a model that draws
  worse, and win rates among pictures that are nearly right are decided by little.
- **One beta is not equally tight everywhere.** An error of v is that of the noise over a^2, an error of the velocity
  that of the noise over (1 - t)^2, so the same beta holds a flow model tighter: at 500 the mean margin over the last
  20 steps is 3.3 on noise, 4.8 on v and 8.9 on the flow. There (1 - t)^2, or 100, loosens it to 5.3 and 3.8, and more
  is gained: that (1 - t)^2 beats a constant 500 says no more than that.
- **Flow-RWR** gains little if anything, as in the paper: it still trains on the worse pictures, only less.
"""
