"""Preference losses for text, multimodal and diffusion models: pure functions of log-ratios, and a table of them.

    from visalign import losses

    losses.dpo(win, lose, beta=0.1)                                          # (b,) losses of (b,) log-ratios
    losses.resolve({"name": "robust", "epsilon": 0.1})(win, lose, beta=0.1)  # by name, with the label of each pair

`docs/losses.md` shows the whole table.
"""

from __future__ import annotations

from . import aggregate, aliases, divergence, inputs, metrics, recipes, state
from .bound import BoundLoss
from .coupled import aot, aot_unpaired, beta_dpo
from .evidence import fpo, log_evidence
from .listwise import (
    all_pairs,
    approx_ndcg,
    best_vs_rest,
    best_vs_worst,
    exo,
    infonca,
    irpo,
    lipo_lambda,
    nca,
    plackett_luce,
    pro_ranking,
    ranklist,
    sft_best,
)
from .online import nash_md, p3o, xpo
from .pairwise import discopop, dpo, exo_pair, hinge, inpo, ipo, modpo, rpo_backward, rpo_forward, rpo_square, smpo
from .reference_free import alphapo, asft_align, mapo, nll, odds_ratio, sft, sft_gold, slic_calibration
from .registry import Blend, Entry, by_name, kinds_of, loss, names
from .resolution import LossSpec, combine, resolve
from .rewards import (
    bradley_terry,
    bradley_terry_ties,
    centering,
    davidson_ties,
    gaussian_bradley_terry,
    gaussian_likelihood,
    general_preference,
    hedge,
    mixture_bradley_terry,
    pickscore,
    scaled_bradley_terry,
    smooth_hinge,
    squared_rating,
)
from .tokens import segment_dpo, sparsepo, tdpo1, tdpo2, tgdpo, wpo
from .twosided import apo_down, apo_zero, bco_pair, cal_dpo, dpop, nca_pair, sppo, two_beta
from .unpaired import bco, kto, kto_loss_averse, kto_risk_seeking, npo_unlearning

__all__ = [
    "Blend",
    "BoundLoss",
    "Entry",
    "LossSpec",
    "aggregate",
    "aliases",
    "all_pairs",
    "alphapo",
    "aot",
    "aot_unpaired",
    "apo_down",
    "apo_zero",
    "approx_ndcg",
    "asft_align",
    "bco",
    "bco_pair",
    "best_vs_rest",
    "best_vs_worst",
    "beta_dpo",
    "bradley_terry",
    "bradley_terry_ties",
    "by_name",
    "cal_dpo",
    "centering",
    "combine",
    "davidson_ties",
    "discopop",
    "divergence",
    "dpo",
    "dpop",
    "exo",
    "exo_pair",
    "fpo",
    "gaussian_bradley_terry",
    "gaussian_likelihood",
    "general_preference",
    "hedge",
    "hinge",
    "infonca",
    "inpo",
    "inputs",
    "ipo",
    "irpo",
    "kinds_of",
    "kto",
    "kto_loss_averse",
    "kto_risk_seeking",
    "lipo_lambda",
    "log_evidence",
    "loss",
    "mapo",
    "metrics",
    "mixture_bradley_terry",
    "modpo",
    "names",
    "nash_md",
    "nca",
    "nca_pair",
    "nll",
    "npo_unlearning",
    "odds_ratio",
    "p3o",
    "pickscore",
    "plackett_luce",
    "pro_ranking",
    "ranklist",
    "recipes",
    "resolve",
    "rpo_backward",
    "rpo_forward",
    "rpo_square",
    "scaled_bradley_terry",
    "segment_dpo",
    "sft",
    "sft_best",
    "sft_gold",
    "slic_calibration",
    "smooth_hinge",
    "smpo",
    "sparsepo",
    "sppo",
    "squared_rating",
    "state",
    "tdpo1",
    "tdpo2",
    "tgdpo",
    "two_beta",
    "wpo",
    "xpo",
]
