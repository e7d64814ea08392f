"""The demo's claim, measured: Diffusion-DPO against base and SFT on held-out prompts, in seeds 0, 1 and 2.

    make bench-demo_seeds            (about 4 minutes a seed on two cores)

Writes benchmarks/results/demo_seeds.json. Every seed trains anew on the shipped votes (seed 0 is the demo itself);
with ARGS=--fresh every seed also draws its own candidates and votes. Exits with 1 if a seed misses the claim.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visalign import demo
from visalign.cli.screen import Screen

HERE = Path(__file__).resolve().parent
WIN, WIN_LOW, GAIN = 0.65, 0.55, 0.10  # least win rate, its least lower bound, least rise of clean and right


def claims(found: demo.Finished) -> dict[str, bool]:
    """What must hold in every seed."""
    first, second = found.comparison.verdicts
    win, gain = first.standings["dpo"].win, first.standings["dpo"].gain
    other = second.standings["dpo"].win
    assert win is not None and gain is not None and other is not None
    return {
        "win rate": win.value >= WIN and win.low > WIN_LOW,
        "clean and right": gain.value >= GAIN,
        "not worse for the judge that made no votes": other.value >= 0.5,
        "image statistics in their bands": all(each.holds for each in found.comparison.drifts["dpo"]),
        "at least 200 held-out prompts": first.judged >= 200,
    }


def measured(seed: int, out: Path, fresh: bool) -> dict[str, Any]:
    """One seed: its numbers, and which claims hold."""
    found = demo.walk(out / f"seed{seed}", Screen(), seed=seed, fresh=fresh)
    return {"seed": seed, **found.numbers, "claims": claims(found)}


def line(row: Mapping[str, Any]) -> str:
    """A seed in a line."""
    held = "holds" if all(row["claims"].values()) else f"MISSES {[k for k, v in row['claims'].items() if not v]}"
    low, high = row["win_rate_ci"]
    shares = "  ".join(f"{name} {row[name]:.3f}" for name in ("base", "sft", "dpo"))
    return f"seed {row['seed']}: {shares}  win rate {row['win_rate']:.3f} [{low:.3f}, {high:.3f}]  {held}"


def main() -> None:
    """Every seed, printed and written."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument("--fresh", action="store_true", help="draw candidates and votes anew for every seed")
    asked.add_argument("--out", type=Path, default=Path("runs/demo_seeds"))
    given = asked.parse_args()
    rows = [measured(seed, given.out, given.fresh) for seed in given.seeds]
    told = {"machine": platform.platform(), "fresh": given.fresh, "held_out": demo.HELD_OUT, "seeds": rows}
    name = "demo_seeds_fresh.json" if given.fresh else "demo_seeds.json"
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / name).write_text(json.dumps(told, indent=1) + "\n")
    print("\n".join(map(line, rows)))
    raise SystemExit(0 if all(all(row["claims"].values()) for row in rows) else 1)


if __name__ == "__main__":
    main()
