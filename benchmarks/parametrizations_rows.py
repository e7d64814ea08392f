"""What the benchmark of parametrizations runs: methods on two siblings of the playground's base, at its settings."""

from __future__ import annotations

from pathlib import Path

from claims_rows import Claim, Row

ANY = (  # on either sibling: as in `claims_rows`, on the base itself
    ("sft", "fine-tuning on the winners", "playground_sft", ()),
    ("dpo", "Diffusion-DPO", "playground_dpo", ()),
    ("mapo", "MaPO", "playground_mapo", ()),
)
FLOWS = (  # on the flow model; `flow_dpo` is Diffusion-DPO there
    ("sft", "fine-tuning on the winners", "playground_sft", ()),
    ("dpo", "Flow-DPO, which is Diffusion-DPO", "playground_dpo", ("method={name: flow_dpo, beta: 500}",)),
    ("dpo_derived", "Flow-DPO, beta (1 - t)^2", "playground_dpo",
     ("method={name: flow_dpo, beta: 500, schedule: (1-t)^2}",)),
    ("dpo_release", "Flow-DPO, beta 100 as in flow_grpo", "playground_dpo", ("method={name: flow_dpo, beta: 100}",)),
    ("mapo", "MaPO", "playground_mapo", ()),
    ("rwr", "Flow-RWR", "playground_sft", ("method={name: flow_rwr}",)),
)  # fmt: skip
METHODS = {"epsilon": ANY, "flow": FLOWS}
SHIPPED = ("base", "sft", "diffusion_dpo", "mapo")  # rows of `claims.py` that are these methods on v


def table(bases: Path) -> dict[str, Row]:
    """Every row, by name; `bases` is where the siblings are."""
    found: dict[str, Row] = {}
    for base, methods in METHODS.items():
        folder = bases / base / "weights"
        found[f"{base}_base"] = Row(f"{base}_base", "as it was made", draws=str(folder), seeds=(0,))
        for name, about, recipe, changes in methods:
            changes = (f"model.folder={folder}", *changes)
            found[f"{base}_{name}"] = Row(f"{base}_{name}", about, recipe, changes=changes)
    return found


def base_of(row: str) -> str:
    """The sibling that a row starts from."""
    return row.partition("_")[0]


PAPER = "arXiv 2501.13918"
CLAIMS = (
    Claim(PAPER, "Flow-DPO improves on its base", "flow_dpo", "flow_base"),
    Claim(PAPER, "Flow-DPO improves on fine-tuning", "flow_dpo", "flow_sft"),
    Claim(PAPER, "Flow-DPO improves on Flow-RWR", "flow_dpo", "flow_rwr"),
    Claim(PAPER, "a constant beta improves on beta (1 - t)^2", "flow_dpo", "flow_dpo_derived"),
    Claim(PAPER, "the same, the constant one at 100", "flow_dpo_release", "flow_dpo_derived"),
    Claim(PAPER, "Flow-DPO at 100 improves on fine-tuning", "flow_dpo_release", "flow_sft"),
)
