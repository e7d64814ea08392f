"""What the claims benchmark runs: its rows, each with the one setting that was fixed before the seeds were run."""

from __future__ import annotations

from dataclasses import dataclass

from visalign import playground

BACKWARD = 2  # a backward pass costs about two forward ones
BUDGET = 60 * 24 * (2 * (1 + BACKWARD) + 2)  # forwards a row may spend: Diffusion-DPO's at 60 steps of 24 pairs


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


DPO, NPO, SELF = "diffusion_dpo", "diffusion_npo", "self_npo"
GUIDED = 2.0  # where the negative branch matters; the main rows draw at the playground's own guidance

ROWS = (
    Row("base", "the playground's model as it ships", draws="playground", seeds=(0,)),
    Row("sft", "fine-tuning on the winners", "playground_sft"),
    Row(DPO, "Diffusion-DPO", "playground_dpo"),
    Row("mapo", "MaPO", "playground_mapo"),
    Row("smpo", "SmPO", "playground_smpo", changes=("optimizer.lr=1e-4",)),
    Row("inpo", "DDIM-InPO", "playground_inpo", changes=("optimizer.lr=1e-4",)),
    Row("dcpo", "DCPO, a caption for each of a pair", "playground_dcpo", data="captions"),
    Row("diffusion_kto", "Diffusion-KTO, labels without pairs", "playground_diffusion_kto", data="unpaired"),
    Row("inversion_dpo", "Inversion-DPO", "playground_inversion_dpo"),
    Row("dpo_steps", "Diffusion-DPO in as many steps of 8", "playground_dpo", steps_of="inversion_dpo",
        changes=("batch=8", "micro_batch=8")),
    Row("spo", "SPO, on its own drawings", "playground_spo"),
    Row("dragon", "DRAGON, sets by the voters' taste", "playground_dragon", data="sets"),
    # Near ties and noise: two random candidates a prompt, scored by a scorer that errs.
    Row("dpo_noisy", "Diffusion-DPO on noisy labels", "playground_dpo", data="noisy"),
    Row("smpo_noisy", "SmPO on noisy labels", "playground_smpo", data="noisy",
        changes=("method.span=1", "optimizer.lr=1e-4")),
    # A style that the base never draws.
    Row("base_night", "the base, asked for night", draws="playground", held_out="night", seeds=(0,)),
    Row("dpo_night", "Diffusion-DPO towards night", "playground_dpo", data="night", held_out="night"),
    Row("mapo_night", "MaPO towards night", "playground_mapo", data="night", held_out="night"),
    # Negative branches: nothing of theirs is drawn by itself.
    Row("base_guided", "the base, guidance 2", draws="playground", guidance=GUIDED, seeds=(0,)),
    Row("dpo_guided", "Diffusion-DPO, guidance 2", needs=(DPO,), draws="{diffusion_dpo}", guidance=GUIDED),
    Row(NPO, "Diffusion-NPO beside the base", "playground_diffusion_npo",
        draws="playground,negative={run}", guidance=GUIDED),
    Row(SELF, "Self-NPO beside the base", "playground_self_npo",
        draws="playground,negative={run}", guidance=GUIDED),
    Row("dpo_npo", "Diffusion-NPO beside Diffusion-DPO", needs=(DPO, NPO),
        draws="{diffusion_dpo},negative={diffusion_npo},alpha=1,beta=1", guidance=GUIDED),
    Row("dpo_self_npo", "Self-NPO beside Diffusion-DPO", needs=(DPO, SELF),
        draws="{diffusion_dpo},negative={self_npo},alpha=1,beta=1", guidance=GUIDED),
    # Reflection asks 12 + 2 x 11 = 34 times: beside it, as many plain steps.
    Row("w2sd", "W2SD: Diffusion-DPO over the base", needs=(DPO,), draws="{diffusion_dpo},weak=playground,reflect=11"),
    Row("dpo_34", "Diffusion-DPO in 34 steps", needs=(DPO,), draws="{diffusion_dpo}", steps=34),
)  # fmt: skip
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
    Claim("arXiv 2311.12908", "Diffusion-DPO improves on its base", DPO, "base"),
    Claim("arXiv 2311.12908", "Diffusion-DPO improves on fine-tuning", DPO, "sft"),
    Claim(
        "arXiv 2406.06424",
        "MaPO learns a style that the reference never draws, DPO less",
        "mapo_night",
        "dpo_night",
        "darkness",
    ),
    Claim("arXiv 2406.06424", "and shows its prompt there as well as DPO", "mapo_night", "dpo_night"),
    Claim("arXiv 2406.06424", "MaPO improves on DPO", "mapo", DPO),
    Claim("arXiv 2506.02698", "SmPO improves on DPO", "smpo", DPO),
    Claim("arXiv 2506.02698", "SmPO improves on DPO where labels are noisy or near ties", "smpo_noisy", "dpo_noisy"),
    Claim("arXiv 2507.11554", "Inversion-DPO improves on DPO a step", "inversion_dpo", "dpo_steps"),
    Claim("arXiv 2507.11554", "Inversion-DPO improves on DPO a pass", "inversion_dpo", DPO),
    Claim("arXiv 2406.04314", "SPO improves on DPO", "spo", DPO),
    Claim("arXiv 2504.15217", "DRAGON lifts the reward that made its sets", "dragon", "base"),
    Claim("arXiv 2503.18454", "inverted noise improves on drawn noise", "inpo", DPO),
    Claim("arXiv 2502.06023", "DCPO improves on DPO where losers do not fit the prompt", "dcpo", DPO),
    Claim("arXiv 2404.04465", "Diffusion-KTO learns from labels without pairs", "diffusion_kto", "base"),
    Claim("arXiv 2404.04465", "Diffusion-KTO improves on DPO", "diffusion_kto", DPO),
    Claim("arXiv 2505.11245", "Diffusion-NPO lifts the base through guidance", NPO, "base_guided"),
    Claim("arXiv 2505.11245", "Diffusion-NPO lifts an aligned model through guidance", "dpo_npo", "dpo_guided"),
    Claim("arXiv 2505.11777", "Self-NPO lifts the base through guidance, without labels", SELF, "base_guided"),
    Claim("arXiv 2505.11777", "Self-NPO lifts an aligned model through guidance", "dpo_self_npo", "dpo_guided"),
    Claim("arXiv 2502.00473", "W2SD lifts a strong model over a weak one", "w2sd", DPO),
    Claim("arXiv 2502.00473", "and at as many evaluations", "w2sd", "dpo_34"),
)
