"""Writes the page of all losses from the table: python -m visalign.losses.document docs/losses.md

The picture goes to images/losses.svg beside it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import visalign.losses as table

from . import aliases, picture, registry
from .registry import KINDS, Blend, Entry, by_name, kinds_of, names

HEAD = """\
# Losses

Written by `python -m visalign.losses.document docs/losses.md` from the table in `visalign/losses`; do not edit.

A loss is a pure function of columns of a batch, one value an element, in float32 at least. What text and diffusion
share is the **log-ratio**: how much likelier an item is under the policy than under the reference. For a pair, `w` is
the winner's and `l` the loser's, `h = w - l`, `z = beta h`; `s` is the logistic sigmoid and `sg` a stopped gradient.
For denoisers `w = -1/2 (error of the policy - error of the reference)`, which is no log-probability but does its work:
losses of scale **surrogate** need only another beta there; losses of scale **nats** are refused.

```python
from visalign import losses

losses.dpo(win, lose, beta=0.1)                                           # (b,) log-ratios in, (b,) losses out
losses.resolve({"name": "robust", "epsilon": 0.1})(win, lose, beta=0.1)   # by name; refuses what cannot be fed
losses.combine([("dpo", 0.8), ("bco_pair", 0.2), ("sft", 1.0)])           # a weighted sum
losses.resolve("ln_dpo", nats=True, feeds=losses.inputs.TEXT_PAIRS).on(token_pairs, beta=5.0)
```

On the command line: `method.preference=ipo`, or `method.preference='{name: robust, epsilon: 0.1}'`. Beside a loss's
own settings, every loss of the gap takes `divergence` (in nats only), and those marked *normalisable* take
`normalize: true`: `beta^2 L`, which depends on beta through z alone, so that one learning rate serves nats and
denoising errors alike.

Every loss of a pair takes a `confidence`, P(win is better): `c L(w, l) + (1 - c) L(l, w)`, which for dpo is the soft
label of cDPO. Ties are pairs of confidence 1/2, or of weight 0.

![Loss and gradient against z](images/losses.svg)

Settings are at their defaults; where a loss reads more than z, the picture assumes P = 0.8, scores 2 and 0.5, a winner
80 tokens longer, weights 0.5 and 0.5 with margin rewards 1 and 0, and a previous policy whose gap is 0.5.
"""

OTHER = """\
## From one loss an element to one number

`losses.aggregate`: `mean` (weighted; zero where all weights are), `dr_dpo` (-t log mean exp(-L / t): pairs of high
loss count less, arXiv 2407.07880), `group_max` (the worst group's mean, arXiv 2402.08925).

## What is remembered

`losses.state`, small modules whose buffers are checkpointed and whose averages agree over ranks through an injected
`reduce`: `RewardShift` (BCO's d), `ReferencePoint` (KTO's z0), `BetaDPO` (beta-DPO's moving average); and, without
state, `scored_beta` (a beta for each pair from its score gap, MM-RLHF, arXiv 2502.10391).

## Adding one

One function under one line, in any package; an entry point makes its name known here:

```python
from visalign import losses

@losses.loss("h", paper="nobody, 2026", formula="(1 - z)^4", when="To show how.")
def quartic(win, lose, *, beta, power=4):
    return (1 - beta * (win - lose)) ** power
```
```toml
[project.entry-points."visalign.losses"]
quartic = "my_package.my_module:quartic"
```
"""


def text() -> str:
    """The page."""
    parts = [HEAD, *(section(kind) for kind in KINDS), divergences(), borrowed(), shared(), OTHER]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def own() -> list[Entry | Blend]:
    """The losses of this package; a plug-in documents its own."""
    return [entry for entry in map(by_name, names()) if isinstance(entry, Blend) or _is_ours(entry)]


def _is_ours(entry: Entry) -> bool:
    return entry.function.__module__.startswith("visalign.losses.")


def section(kind: str) -> str:
    """The table of a kind; a loss of several kinds stands under its first in the order of KINDS, batch last."""
    rows = [row(entry) for entry in own() if home(entry) == kind]
    lines = [cells("name", "loss", "when", "source", "scale", "settings", "notes"), cells(*["---"] * 7), *rows]
    return f"## Kind `{kind}`: {KINDS[kind]}\n\n" + ("\n".join(lines) if rows else "None on its own.")


def home(entry: Entry | Blend) -> str:
    """The kind under which a loss is listed."""
    kinds = kinds_of(entry)
    special = [kind for kind in ("batch", "online") if kind in kinds]
    return special[0] if special else next(kind for kind in KINDS if kind in kinds)


def row(entry: Entry | Blend) -> str:
    """One line of a table."""
    name = f"`{entry.name}`"
    if isinstance(entry, Blend):
        formula = " + ".join(f"{weight:g} {part}" for part, weight in entry.parts)
        settings = ", ".join(f"{part} {weight:g}" for part, weight in entry.parts)
        return cells(name, f"`{formula}`", entry.when, source(entry.paper), "that of its parts", settings, "blend")
    settings = ", ".join(
        f"{key} {_default(value)}"
        for key, value in entry.settings.items()
        if value is inspect.Parameter.empty or not callable(value)
    )
    beta = f"beta {entry.beta:g}" if takes_beta(entry) else ""
    return cells(
        name, f"`{entry.formula}`", entry.when, source(entry.paper), entry.scale,
        ", ".join(filter(None, (beta, settings))), "; ".join(notes(entry)),
    )  # fmt: skip


def takes_beta(entry: Entry) -> bool:
    """Whether a loss has use for the caller's beta."""
    return "beta" in inspect.signature(entry.function).parameters and "beta" not in entry.sets


def source(paper: str) -> str:
    """A link for an arXiv number."""
    number, _, rest = paper.partition(" ")
    is_arxiv = len(number) == 10 and number.replace(".", "").isdigit()
    return f"[{number}](https://arxiv.org/abs/{number}) {rest}".strip() if is_arxiv else paper


def notes(entry: Entry) -> Iterable[str]:
    """What sets a loss apart."""
    if entry.of:
        yield f"recipe of `{entry.of}`"
    if further := [f"`{name}`" for name in entry.fields if name not in ("win", "lose", "ratio", "score")]:
        yield f"reads {', '.join(further)}"
    if entry.homogeneous:
        yield "normalisable"
    if entry.pair_form:
        yield f"a list of two is `{entry.pair_form}`"
    if not entry.ordered:
        yield "no weight or confidence per pair"
    if entry.saturates:
        yield f"saturates: {entry.saturates}"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "(must be given)"
    return f"{value:g}" if isinstance(value, float) else str(value)


def cells(*values: str) -> str:
    """A row of a Markdown table, its bars escaped."""
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def divergences() -> str:
    """The score transforms."""
    lines = [cells("name", "stands in for x = log(policy / reference)"), cells("---", "---")]
    for name, transform in table.divergence.TRANSFORMS.items():
        lines.append(cells(f"`{name}`", str(inspect.getdoc(transform)).replace("\n", " ")))
    intro = "`{name: dpo, divergence: js}` or `{name: ipo, divergence: {name: alpha, alpha: 0.3}}` (arXiv 2309.16240)."
    return "\n".join(["## Divergences", "", intro, "", *lines])


def borrowed() -> str:
    """TRL's names."""
    lines = [cells("TRL's name", "releases", "ours"), cells("---", "---", "---")]
    found: dict[tuple[str, str], list[str]] = {}
    for full, entry in registry.qualified().items():
        project, name = full.split(":")
        found.setdefault((name, entry.of), []).append(f"`{project}`")
    lines += [cells(f"`{name}`", ", ".join(projects), f"`{ours}`") for (name, ours), projects in found.items()]
    intro = " ".join(str(inspect.getdoc(aliases)).split())
    return "\n".join(["## Names of TRL", "", intro, "", *lines])


def shared() -> str:
    """Names that several papers use."""
    lines = [f"- `{name}`: {', '.join(found)}" for name, found in sorted(registry.ambiguities().items())]
    return "\n".join(["## Names that mean several things", "", *lines])


def main(path: str) -> None:
    """Write the page and its picture."""
    page = Path(path)
    (page.parent / "images").mkdir(parents=True, exist_ok=True)
    page.write_text(text(), encoding="utf-8")
    (page.parent / "images" / "losses.svg").write_text(picture.svg(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
