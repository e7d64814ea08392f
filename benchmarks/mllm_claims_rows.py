"""What the claims benchmark of models that see runs: its rows, each with the one setting fixed before the seeds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

PICTURES = 600  # held-out ones, a description each
PROBED = 100  # of them, POPE's questions of all three kinds


@dataclass(frozen=True)
class Row:
    """One line of the table: what is trained on which votes."""

    name: str
    about: str
    recipe: str | None = None  # None: nothing is trained
    changes: tuple[str, ...] = ()
    data: str | None = None  # None: the recipe's; "bdhs": made up by the model that hardly sees
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


DPO = "playground_mllm_dpo"
COMMON = ("steps=80", "optimizer.lr=5e-6")  # of every row: a rate at which plain DPO is on its way, not yet at its end
HOT = "optimizer.lr=5e-5"  # of the rows whose name ends so: plain DPO falls apart
FAST = ("dpo", "dpo_sft", "mdpo", "mm_dpo", "tars", "tars_release")
RELEASE = "method={name: tars, variant: release, by: replace}"

PLAIN = (
    Row("sft", "fine-tuning on the preferred answers", "playground_mllm_sft"),
    Row("dpo", "DPO", DPO),
    Row("dpo_sft", "DPO + fine-tuning", DPO, ("method.sft=1",)),
    Row("dpo_bdhs", "DPO on BDHS pairs", DPO, data="bdhs"),
    Row("mdpo", "mDPO", "playground_mdpo"),
    Row("mm_dpo", "MM-DPO", "playground_mm_dpo"),
    Row("chip", "CHiP", "playground_chip"),
    Row("v_dpo", "V-DPO", "playground_v_dpo"),
    Row("opa_dpo", "OPA-DPO", "playground_opa_dpo"),
    Row("tars", "TARS, as written", "playground_tars"),
    Row("tars_release", "TARS, as released", "playground_tars", (RELEASE,)),
)
ROWS = (
    Row("base", "the seeing model as it ships", seeds=(0,)),
    *PLAIN,
    *(
        replace(row, name=f"{row.name}_hot", about=f"{row.about}, ten times the rate", changes=(*row.changes, HOT))
        for row in PLAIN
        if row.name in FAST
    ),
)
TABLE = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Claim:
    """What a paper says of two rows: the first hallucinates less than the second, or leaves less out."""

    paper: str
    says: str
    first: str
    second: str
    of: Literal["wrong", "covered"] = "wrong"


CLAIMS = (
    Claim("arXiv 2305.18290", "DPO hallucinates less than the base", "dpo", "base"),
    Claim("arXiv 2305.18290", "DPO hallucinates less than fine-tuning on the winners", "dpo", "sft"),
    Claim("arXiv 2406.11839", "mDPO hallucinates less than DPO", "mdpo", "dpo"),
    Claim("arXiv 2502.10391", "MM-DPO hallucinates less than DPO", "mm_dpo", "dpo"),
    Claim("arXiv 2501.16629", "CHiP hallucinates less than DPO", "chip", "dpo"),
    Claim("arXiv 2411.02712", "V-DPO hallucinates less than DPO", "v_dpo", "dpo"),
    Claim("arXiv 2501.09695", "OPA-DPO hallucinates less than DPO", "opa_dpo", "dpo"),
    Claim("arXiv 2507.21584", "TARS, as written, hallucinates less than DPO", "tars", "dpo"),
    Claim("arXiv 2507.21584", "TARS, as released, hallucinates less than DPO", "tars_release", "dpo"),
    Claim("arXiv 2407.02477", "pairs that the model makes up itself lift it", "dpo_bdhs", "base"),
    Claim("arXiv 2407.02477", "and as well as voted pairs", "dpo_bdhs", "dpo"),
    Claim("arXiv 2402.13228", "DPO at a high rate forgets what is there", "dpo", "dpo_hot", "covered"),
    Claim("arXiv 2411.10442", "fine-tuning beside it prevents that", "dpo_sft_hot", "dpo_hot", "covered"),
    Claim("arXiv 2406.11839", "so does mDPO's anchor", "mdpo_hot", "dpo_hot", "covered"),
    Claim("arXiv 2507.21584", "TARS, as written, keeps more than DPO there", "tars_hot", "dpo_hot", "covered"),
    Claim("arXiv 2507.21584", "TARS, as released, keeps more there", "tars_release_hot", "dpo_hot", "covered"),
)
