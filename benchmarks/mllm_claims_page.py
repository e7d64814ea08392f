"""docs/mllm_claims.md and its figure, from the cells: what each row says that is not there, and what it leaves out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mllm_claims_rows import CLAIMS, PICTURES, PROBED, TABLE, Claim, Row
from numpy.typing import NDArray

from visalign.evaluation.chair import Chair, chair
from visalign.evaluation.statistics import Interval, mean
from visalign.playground import seeing

DOCS = Path(__file__).resolve().parents[1] / "docs"
Cell = Mapping[str, Any]
Floats = NDArray[np.float64]
AGREE = 4  # seeds of five that must point the same way


@dataclass(frozen=True)
class Said:
    """What one cell's model said."""

    cell: Cell

    @cached_property
    def mentioned(self) -> list[tuple[str, ...]]:
        """The objects of each description."""
        return [seeing.mentioned(each) for each in self.cell["descriptions"]]

    @cached_property
    def chair(self) -> Chair:
        """CHAIR over the held-out pictures."""
        return chair(self.mentioned, [each.look.shown for each in turns()])

    @cached_property
    def wrong(self) -> Floats:
        """(pictures,) 1 where a description names something that is not there."""
        return np.array([float(bool(each)) for each in self.chair.hallucinated])

    @cached_property
    def covered(self) -> Floats:
        """(pictures,) share of what is there that is named."""
        looks = [each.look.shown for each in turns()]
        return np.array(
            [len(set(said) & there) / len(there) for said, there in zip(self.mentioned, looks, strict=True)]
        )

    @property
    def cog(self) -> float:
        """AMBER's Cog by its code's formula: of what writers with the habit would add, how much was said."""
        expected = [seeing.expected(each.look) for each in turns()]
        hit = sum(len(set(said) & there) for said, there in zip(self.mentioned, expected, strict=True))
        return hit / sum(map(len, expected))

    @property
    def f1(self) -> float:
        """POPE's F1, the mean of its three kinds."""
        return float(np.mean([f1(kind, said) for kind, said in self.cell["probes"].items()]))

    @property
    def words(self) -> float:
        """Words a description."""
        return float(np.mean([len(each.split()) for each in self.cell["descriptions"]]))


def turns() -> list[seeing.Turn]:
    """The held-out questions."""
    if not _TURNS:
        _TURNS.extend(seeing.seeing_heldout(PICTURES))
    return _TURNS


_TURNS: list[seeing.Turn] = []


def f1(kind: str, said: Sequence[str]) -> float:
    """Of the probes of a kind, yes being positive."""
    true = [each.answer.startswith("yes") for each in seeing.probes(kind, PROBED)]
    yes = [each.startswith("yes") for each in said]
    hits = sum(one and other for one, other in zip(true, yes, strict=True))
    return 2 * hits / max(1, sum(true) + sum(yes))


def measured(cell: Cell) -> str:
    """A cell in a line."""
    said = Said(cell)
    found = {
        "CHAIR_s": said.wrong.mean(), "CHAIR_i": said.chair.instance.value, "coverage": said.chair.recall.value,
        "Cog": said.cog, "POPE F1": said.f1,
    }  # fmt: skip
    return ", ".join(f"{name} {value:.3f}" for name, value in found.items())


@dataclass(frozen=True)
class Found:
    """The cells of a row, by seed."""

    row: Row
    said: Sequence[Said]

    def each(self, what: str) -> Floats:
        """(seeds, pictures) of "wrong" or "covered"."""
        return np.stack([getattr(one, what) for one in self.said])

    def average(self, what: str) -> float:
        """The mean over seeds of a property."""
        return float(np.mean([getattr(one, what) for one in self.said]))


def read(folder: Path) -> dict[str, Found]:
    """Every row that has a cell."""
    cells: dict[str, list[Said]] = {}
    for file in sorted(folder.glob("*.json")):
        cell = json.loads(file.read_text(encoding="utf-8"))
        cells.setdefault(cell["row"], []).append(Said(cell))
    return {name: Found(row, cells[name]) for name, row in TABLE.items() if name in cells}


def write(folder: Path) -> None:
    """Write docs/mllm_claims.md and docs/mllm_claims.png."""
    found = read(folder)
    if "base" not in found:
        raise SystemExit("no cell of the base yet: run the row `base` first")
    parts = [HEAD.format(pictures=PICTURES, probed=PROBED), table(found), "\n## What the papers claim\n", CLAIMED]
    parts += [claims(found), "", settings(found), TAIL]
    (DOCS / "mllm_claims.md").write_text("\n".join(parts), encoding="utf-8")
    figure(found).savefig(DOCS / "mllm_claims.png", dpi=120, bbox_inches="tight")


def averaged(values: Floats) -> Interval:
    """The mean over seeds and pictures, with an interval over pictures."""
    return mean(values.ravel(), list(range(values.shape[1])) * len(values))


def table(found: Mapping[str, Found]) -> str:
    """A line a row."""
    head = ["row", "CHAIR_s", "by seed", "CHAIR_i", "coverage", "Cog", "POPE F1", "words", "passes", "CPU seconds"]
    lines = [head, ["---"] * len(head)]
    for each in found.values():
        seeds = " / ".join(f"{value:.3f}" for value in each.each("wrong").mean(1)) if len(each.said) > 1 else "—"
        instance = np.mean([one.chair.instance.value for one in each.said])
        numbers = [f"{each.average(name):.3f}" for name in ("cog", "f1")] + [f"{each.average('words'):.1f}"]
        lines.append(
            [f"`{each.row.name}`: {each.row.about}", str(averaged(each.each("wrong"))), seeds, f"{instance:.3f}",
             str(averaged(each.each("covered"))), *numbers, *cost(each)]
        )  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cost(each: Found) -> list[str]:
    """Passes with and without gradient, and seconds of training: means over seeds."""
    runs = [one.cell["training"] for one in each.said if "training" in one.cell]
    if not runs:
        return ["not trained", "—"]
    passes = [f"{np.mean([run['passes'][kind] for run in runs]):,.0f}" for kind in ("policy", "free")]
    return [" / ".join(passes), f"{np.mean([run['cpu_seconds'] for run in runs]):.0f}"]


def claims(found: Mapping[str, Found]) -> str:
    """A line a claim."""
    lines = [["claim", "compared", "difference of CHAIR_s", "of coverage", "seeds that agree", "here"], ["---"] * 6]
    for claim in CLAIMS:
        if claim.first in found and claim.second in found:
            lines.append(claimed(claim, found[claim.first], found[claim.second]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def claimed(claim: Claim, first: Found, second: Found) -> list[str]:
    """One claim; a row with one seed stands beside every seed of the other."""
    gaps = {what: first.each(what) - second.each(what) for what in ("wrong", "covered")}
    better = -gaps["wrong"] if claim.of == "wrong" else gaps["covered"]
    whole, agree = averaged(better), int((better.mean(1) > 0).sum())
    verdict = "no difference shown"
    if whole.low > 0 and agree >= AGREE:
        verdict = "reproduces"
    elif whole.high < 0 and len(better) - agree >= AGREE:
        verdict = "the other way"
    numbers = [str(averaged(gaps[what])) for what in ("wrong", "covered")]
    rows = f"`{claim.first}` - `{claim.second}`"
    return [f"{claim.says} ({claim.paper})", rows, *numbers, f"{agree} of {len(better)}", verdict]


def settings(found: Mapping[str, Found]) -> str:
    """What each row was trained with."""
    lines = [["row", "method", "learning rate", "steps of records"], ["---"] * 4]
    for each in found.values():
        if "training" in each.said[0].cell:
            run = each.said[0].cell["training"]
            method = ", ".join(f"{name}: {value}" for name, value in run["method"].items())
            lines.append(
                [f"`{each.row.name}`", method, f"{run['learning_rate']:g}", f"{run['steps']} of {run['batch']}"]
            )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(found: Mapping[str, Found]) -> Any:
    """Hallucination against coverage: a small mark a seed, a large one their mean."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.5, 5.0))
    axes = drawn.subplots()
    for number, each in enumerate(found.values()):
        colour, mark = colormaps["tab20"](number % 20), "os^Dv"[number % 5]
        wrong, covered = each.each("wrong").mean(1), each.each("covered").mean(1)
        axes.plot(wrong, covered, mark, color=colour, markersize=3.5, alpha=0.5)
        axes.plot([wrong.mean()], [covered.mean()], mark, color=colour, markersize=9, label=each.row.about)
    axes.set_xlabel("CHAIR_s: descriptions that name something that is not there")
    axes.set_ylabel("coverage: of what is there, how much is named")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn


HEAD = """# Hallucination on the seeing playground: methods side by side

Written by `benchmarks/mllm_claims.py` from the cells in `benchmarks/results/mllm_claims/`. Every row starts from the
seeing model that ships, which was taught a habit: it tells of a green square where something red is, and of a yellow
triangle where something blue is, shown or not. All are trained on the same votes (but `dpo_bdhs`, on pairs that the
model made up itself), for as many steps of as many records, at one learning rate or at ten times it; passes differ.
Asked are descriptions of {pictures} held-out pictures, and POPE's questions about {probed} of them. Five training
seeds; intervals are 95 % bootstrap intervals over pictures, seeds averaged, so that they do not say how seeds scatter:
that stands in its own column.

- *CHAIR_s*: descriptions with something that is not there. *CHAIR_i*: mentions of such things, pooled.
- *coverage*: of what is there, how much is named. A model that says little hallucinates little.
- *Cog*: of what the habit would add, how much was said (AMBER's formula, as in its code).
- *POPE F1*: mean of random, popular and adversarial questions.

![Hallucination against coverage](mllm_claims.png)
"""
CLAIMED = f"""A claim *reproduces* where the whole interval of the difference that it is about (of CHAIR_s, for the last
five of coverage) lies on its side of 0 and at least {AGREE} of 5 seeds agree. Numbers that went against a paper stay in
the table.
"""
TAIL = """
Steps and the lower rate were chosen in a pilot of DPO alone at another seed (5e-6, 1e-5, 2e-5, 5e-5), so that DPO would
be on its way and not at its end: at 1e-5 it reaches CHAIR_s 0 with full coverage, and nothing can be told apart. Every
row was then piloted once at that seed, and no setting was changed. At a rate this low the order of the data, which is
all that a seed decides here, hardly matters.

To be read with care:

- TARS runs with the recipe's beta 0.1, which is every row's, and omega 0.01, for questions here are short; the paper
  has 1 and 0.1, with which these five seeds were not run. As released it adds terms that are not about the votes, an
  image term and one on the embeddings.
- MM-DPO's margins are counts of what was made up, nearly all of them 1: its beta is nearly one number, and it is DPO.
- mDPO and CHiP spend part of the same steps on terms that are not about the votes. At ten times the rate mDPO's anchor
  pays: it keeps coverage, though its answers to yes/no questions suffer (POPE F1), which descriptions do not show.
- BDHS runs at its defaults, which hide all of a picture that has 16 tokens; what is made up then is often nonsense.
- The world is small and its habit simple: what separates methods here may not separate them on real pictures, and the
  other way round.
"""
