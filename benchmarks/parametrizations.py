"""Does preference training work whatever a network predicts? Noise, v and velocity on the playground at equal compute.

    make bench-parametrizations                 (an hour on one core; what is finished is not run again)
    make bench-parametrizations ARGS="--rows epsilon_base flow_base --seeds 0"
    make bench-parametrizations ARGS=--page     (only write the page and the figures from the cells)

The playground's base predicts v, and so does every row of `claims.py`. Here two siblings of it are made
(`parametrizations_bases.py`), trained on the same votes at the same budget, and judged in the same way, each against
its own base. Cells lie in benchmarks/results/parametrizations/, models and pictures in runs/parametrizations.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import parametrizations_page
import torch
from claims import Bench
from claims_rows import BUDGET
from parametrizations_bases import SCHEDULERS, Plan, sibling
from parametrizations_rows import base_of, table

from visalign import demo
from visalign.cli.screen import Screen


def run(out: Path, names: Sequence[str], seeds: Sequence[int], plan: Plan, bench: Bench, screen: Screen) -> None:
    """Make the bases that these rows start from, and every cell that is not there yet."""
    for base in SCHEDULERS:
        if any(base_of(name) == base for name in names):
            sibling(base, out / "bases", plan, screen)
    bench.run(names, seeds, screen)


def main(words: Sequence[str] | None = None) -> None:
    """The bases, then the cells, then the page."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--rows", nargs="+", default=list(table(Path())), metavar="ROW", choices=list(table(Path())))
    given.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    given.add_argument("--out", type=Path, default=Path("runs/parametrizations"), help="where models are kept")
    given.add_argument("--cells", type=Path, default=parametrizations_page.CELLS, help="where cells are kept")
    given.add_argument("--share", type=float, default=1.0, help="of all training, and of the prompts that judge")
    given.add_argument("--page", action="store_true", help="run nothing, write the page")
    told = given.parse_args(words)
    torch.set_num_threads(1)
    if not told.page:
        whole, share = Plan(), told.share
        plan = replace(whole, pictures=int(whole.pictures * share), steps=max(1, int(whole.steps * share)))
        count = max(2, int(demo.HELD_OUT * share))
        bench = Bench(table(told.out / "bases"), told.out, told.cells, BUDGET * share, count)
        run(told.out, told.rows, told.seeds, plan, bench, Screen())
    if told.cells == parametrizations_page.CELLS:
        parametrizations_page.write(told.out)


if __name__ == "__main__":
    main()
