"""What the claims benchmark runs: its rows, each with the one setting that was fixed before the seeds were run."""

from __future__ import annotations

from dataclasses import dataclass

from visalign import playground

BACKWARD = 2  # a backward pass costs about two forward ones
BUDGET = 100 * 24 * (2 * (1 + BACKWARD) + 2)  # forwards a row may spend: Diffusion-DPO's at 100 steps of 24 pairs


@dataclass(frozen=True)
class Row:
    """One line of the table: what is trained on which data, and how it draws.

    `draws` is a model as `visalign generate` takes it; {run} is the row's own run, {other} the run of another row.
    """

    name: str
    about: str
    recipe: str | None = None  # None: nothing is trained
    data: str = "votes"  # a name of `claims_data.MAKERS`
    changes: tuple[str, ...] = ()  # of the recipe, besides steps, which the budget decides
    steps_of: str | None = None  # as many steps as that row, whatever they cost
    needs: tuple[str, ...] = ()  # rows that must be there first
    draws: str = "{run}"
    guidance: float = playground.GUIDANCE
    steps: int = playground.STEPS  # of the sampler
    held_out: str = "plain"  # or "night": the prompts that judge
    seeds: tuple[int, ...] = (0, 1, 2)


ROWS = (
    Row("base", "the playground's model as it ships", draws="playground", seeds=(0,)),
    Row("sft", "fine-tuning on the winners", "playground_sft"),
    Row("diffusion_dpo", "Diffusion-DPO", "playground_dpo"),
    # Near-tie and noisy labels: two random candidates a prompt, scored with noise.
    Row("dpo_noisy", "Diffusion-DPO on noisy labels", "playground_dpo", data="noisy"),
    # A style that the base never draws.
    Row("base_night", "the base, asked for night", draws="playground", held_out="night", seeds=(0,)),
    Row("dpo_night", "Diffusion-DPO towards night", "playground_dpo", data="night", held_out="night"),
)
TABLE = {row.name: row for row in ROWS}


@dataclass(frozen=True)
class Claim:
    """What a paper says of two rows: the first is preferred to the second."""

    paper: str
    says: str
    first: str
    second: str
    judge: str = "voters"


CLAIMS = (
    Claim("arXiv 2311.12908", "Diffusion-DPO improves on its base", "diffusion_dpo", "base"),
    Claim("arXiv 2311.12908", "Diffusion-DPO improves on fine-tuning", "diffusion_dpo", "sft"),
)
