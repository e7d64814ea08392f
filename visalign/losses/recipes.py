"""Names for losses that need no code of their own: an existing function with some of its arguments decided.

The small functions below make one argument each, from columns (positional) and settings (named).
"""

from __future__ import annotations

from torch import Tensor

from .arithmetic import difference
from .pairwise import dpo, hinge, ipo, rpo_square
from .registry import ambiguous, blend, recipe
from .twosided import sppo
from .unpaired import kto


def smoothed(*, epsilon: float = 0.1) -> float:
    """Weight on the label as given when a share epsilon of the labels is flipped."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"cdpo needs 0 <= epsilon <= 1, the share of flipped labels; {epsilon} was given")
    return 1 - epsilon


def debiased(*, epsilon: float = 0.1) -> float:
    """The weight that makes the expected loss under flipped labels that of clean ones; above 1, the rest negative."""
    if not 0 <= epsilon < 0.5:
        raise ValueError(f"robust needs 0 <= epsilon < 1/2, the share of flipped labels; {epsilon} was given")
    return (1 - epsilon) / (1 - 2 * epsilon)


def log_gap(score_win: Tensor, score_lose: Tensor, *, alpha: float = 1.0) -> Tensor:
    """alpha log|score gap|: the label says who won, the scores by how much; no gap at all asks for nothing."""
    return alpha * difference(score_win, score_lose).abs().log()


def score_gap(score_win: Tensor, score_lose: Tensor, *, scale: float = 1.0) -> Tensor:
    """scale (score_win - score_lose)."""
    return scale * difference(score_win, score_lose)


def extra_length(length_win: Tensor, length_lose: Tensor, *, alpha: float = 0.01) -> Tensor:
    """What a longer winner is excused from: -alpha (|y_w| - |y_l|)."""
    return -alpha * difference(length_win, length_lose)


def target(*, gamma: float = 1.375) -> float:
    """A fixed lead, in units of z (SimPO's paper gives gamma / beta, near 1/2)."""
    return gamma


def step(*, eta: float = 1.0) -> float:
    """What a unit of reward is worth in nats."""
    return eta


def given(confidence: Tensor | float) -> Tensor | float:
    """P(win is better), as the caller gave it."""
    return confidence


recipe(
    "cdpo",
    dpo,
    label=smoothed,
    paper="ericmitchell.ai/cdpo.pdf eq. 3",
    formula="-(1 - epsilon) log s(z) - epsilon log s(-z)",
    when="A known share of flipped votes; it rests at z = log((1 - epsilon) / epsilon).",
)
recipe(
    "robust",
    dpo,
    label=debiased,
    paper="2403.00409",
    formula="(-(1 - epsilon) log s(z) + epsilon log s(-z)) / (1 - 2 epsilon)",
    when="A known share of flipped votes, without bias. Unbounded below: stop early or watch z.",
    saturates="never: falls like -epsilon z / (1 - 2 epsilon) for z -> infinity",
)
recipe(
    "dpo_soft",
    dpo,
    paper="2405.14103",
    formula="-P log s(z) - (1 - P) log s(-z)",
    when="Votes with a probability P (the confidence of a pair): OSP, DNO, ensembles. Any loss takes one like this.",
)
recipe(
    "spin",
    dpo,
    paper="2401.01335",
    formula="-log s(z)",
    when="Self-play: the winner is real, the loser a sample of the reference, which is the last round's policy.",
)
recipe(
    "odpo",
    dpo,
    sets={"margin": log_gap},
    paper="2402.10571",
    formula="-log s(z - alpha log|r_w - r_l|)",
    when="Scores say by how much. A gap below 1 makes the offset negative; a gap of 0 pulls nothing.",
)
recipe(
    "margin_dpo",
    dpo,
    sets={"margin": score_gap},
    paper="2307.09288 eq. 2",
    formula="-log s(z - scale (r_w - r_l))",
    when="A lead in proportion to the score gap (Llama 2's margin; F-DPO's with binary factuality as the score).",
)
recipe(
    "length_regularized",
    dpo,
    sets={"margin": extra_length},
    paper="2403.19159 eq. 9",
    formula="-log s(z + alpha (|y_w| - |y_l|))",
    when="Answers grow longer and not better (R-DPO).",
)
recipe(
    "ln_dpo",
    dpo,
    reads={"win": "mean_win", "lose": "mean_lose"},
    paper="2411.15124",
    formula="-log s(beta (w / |y_w| - l / |y_l|))",
    when="As DPO, per token (Tulu 3). beta is some hundred times DPO's.",
    beta=5.0,
)
recipe(
    "ld_dpo",
    dpo,
    reads={"win": "ld_win", "lose": "ld_lose"},
    paper="2409.06411",
    formula="-log s(z), tokens beyond the shorter answer's length weighing alpha",
    when="Answers grow longer; milder than ln_dpo. alpha is TokenPairs.tail; policy and reference are weighted alike.",
)
recipe(
    "tis_dpo",
    dpo,
    reads={"win": "weighted_win", "lose": "weighted_lose"},
    paper="2410.04350",
    formula="-log s(beta (sum_t m_t w_t - sum_t m_t l_t))",
    when="Tokens of known importance m (Tokens.weight).",
)
recipe(
    "step_dpo",
    dpo,
    paper="2406.18629",
    formula="-log s(z), over the tokens from the first wrong step on",
    when="Reasoning that shares a correct prefix, or tools' output in the answer: leave both out of Tokens.mask.",
)
recipe(
    "ipo_mean",
    ipo,
    reads={"win": "mean_win", "lose": "mean_lose"},
    formula="(w / |y_w| - l / |y_l| - 1 / (2 beta))^2",
    when="IPO as its authors ran it and TRL has it: per token.",
)
recipe(
    "online_ipo",
    ipo,
    sets={"preference": given},
    kinds=frozenset({"h", "online"}),
    paper="2403.08635",
    formula="(h - (P - 1/2) / beta)^2",
    when="Fresh samples with P(win beats lose) from a judge as the confidence.",
)
recipe(
    "sppo_hard",
    sppo,
    sets={"p_win": 1.0, "p_lose": 0.0},
    factor=2.0,
    formula="(w - 1 / (2 beta))^2 + (l + 1 / (2 beta))^2",
    when="SPPO with plain votes, and TRL's sum of the two squares.",
)
recipe(
    "rebel",
    rpo_square,
    sets={"beta": 1.0, "scale": step},
    kinds=frozenset({"h", "online"}),
    scale="nats",
    paper="2404.16767",
    formula="(h - eta (r_w - r_l))^2, h against the policy that drew the samples",
    when="Fresh pairs with rewards: regress the gap on the rewards'. beta is not used.",
)
recipe(
    "dpo_reference_free",
    dpo,
    reads={"win": "logp_win", "lose": "logp_lose"},
    kinds=frozenset({"reference_free"}),
    paper="2401.08417",
    formula="-log s(beta (log pi(y_w) - log pi(y_l)))",
    when="The preference term of CPO, alone.",
)
recipe(
    "hinge_reference_free",
    hinge,
    reads={"win": "logp_win", "lose": "logp_lose"},
    kinds=frozenset({"reference_free"}),
    formula="max(0, 1 - beta (log pi(y_w) - log pi(y_l)))",
    when="The preference term of TRL's CPO with hinge.",
)
recipe(
    "ipo_reference_free",
    ipo,
    reads={"win": "mean_logp_win", "lose": "mean_logp_lose"},
    kinds=frozenset({"reference_free"}),
    formula="(a - b - 1 / (2 beta))^2, a and b means over tokens",
    when="The preference term of TRL's CPO with ipo.",
)
recipe(
    "simpo",
    dpo,
    reads={"win": "mean_logp_win", "lose": "mean_logp_lose"},
    sets={"margin": target},
    kinds=frozenset({"reference_free"}),
    paper="2405.14734 eq. 6",
    formula="-log s(beta (a - b) - gamma), a and b means over tokens",
    when="No reference in memory. beta 2 to 10; gamma / beta near 1/2. TRL's defaults make that ratio 5.",
    beta=2.5,
)
recipe(
    "apo_zero_unpaired",
    kto,
    sets={"z0": 0.0},
    paper="2408.06266",
    formula="s(-beta ratio) if desirable, s(beta ratio) if not",
    when="KTO without its reference point: needs no mismatched answers.",
    saturates="no gradient far from zero, on either side",
)

blend(
    "cpo",
    [("dpo_reference_free", 1.0), ("sft", 1.0)],
    paper="2401.08417",
    when="No reference in memory; the supervised term holds the winner up.",
)
blend(
    "orpo",
    [("sft", 1.0), ("odds_ratio", 0.1)],
    paper="2403.07691",
    when="Supervised fine-tuning and preference in one step from a base model. TRL's first term spans the prompt too.",
)
blend("asft", [("asft_align", 1.0), ("sft", 1.0)], paper="2409.10571", when="As orpo, each side against its own odds.")
blend("slic", [("slic_calibration", 1.0), ("nll", 0.1)], paper="2305.10425", when="Hinge on the policy's own gap.")
blend(
    "tpo", [("dpo_reference_free", 1.0), ("sft_gold", 1.0)], paper="2405.16681", when="A gold answer beside the pair."
)
blend(
    "mpo_internvl",
    [("dpo", 0.8), ("bco_pair", 0.2), ("sft", 1.0)],
    paper="2411.10442",
    when="Multimodal reasoning, as InternVL was aligned: gap, absolute quality and the winner's likelihood.",
)
blend("pro", [("pro_ranking", 1.0), ("sft_best", 0.05)], paper="2306.17492", when="Rankings without a reference.")
blend(
    "bradley_terry_centered",
    [("bradley_terry", 1.0), ("centering", 0.01)],
    paper="2312.09244",
    when="A reward model whose zero should mean something.",
)

ambiguous("rpo", "rpo_backward", "rpo_forward", "rpo_square", "dpo blended with sft (arXiv 2405.16436)")
ambiguous("rdpo", "robust (arXiv 2403.00409)", "length_regularized (R-DPO, arXiv 2403.19159)")
ambiguous("r-dpo", "robust (arXiv 2403.00409)", "length_regularized (R-DPO, arXiv 2403.19159)")
ambiguous("fdpo", "dpo with a divergence (f-DPO, arXiv 2309.16240)", "margin_dpo with factuality as the score (F-DPO)")
ambiguous("f-dpo", "dpo with a divergence (f-DPO, arXiv 2309.16240)", "margin_dpo with factuality as the score (F-DPO)")
ambiguous("mpo", "mpo_internvl", "mixed preference optimization: dpo on pairs split by their score gap")
ambiguous("npo", "npo_unlearning", "Diffusion-NPO, a way to train a negative model and no loss")
ambiguous("apo", "apo_zero", "apo_down", "apo_zero_unpaired")
ambiguous(
    "gpo", "general_preference (GPM, arXiv 2410.02197)", "any loss of kind h (generalised preference optimization)"
)
ambiguous("beta-dpo", "beta_dpo (one beta a batch)", "dpo with a beta per pair from state.scored_beta (MM-RLHF)")
