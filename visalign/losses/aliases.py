"""TRL's names, each with the release whose numbers it stands for. A bare "trl:" name is taken where releases agree.

TRL 0.29 (2026-02) rewrote its DPO trainer: smoothing left `sigmoid`, the shift left `bco_pair`, `exo_pair` with
epsilon 0 became an error, `aot_pair` became `aot_unpaired`, and alpha in alpha-divergences changed its meaning
(`divergence.alpha` is the new one, `divergence.alpha_paper` the old).
"""

from __future__ import annotations

from collections.abc import Mapping

from .coupled import aot, aot_unpaired
from .pairwise import discopop, dpo, exo_pair, hinge
from .recipes import smoothed
from .reference_free import alphapo, odds_ratio, sft
from .registry import Loss, ambiguous, recipe
from .twosided import apo_down, apo_zero, bco_pair, nca_pair
from .unpaired import kto

NEW, OLD = "trl>=0.29", "trl<=0.28"

AGREED: Mapping[str, Loss] = {
    "hinge": hinge,
    "ipo": "ipo_mean",
    "nca_pair": nca_pair,
    "robust": "robust",
    "sppo_hard": "sppo_hard",
    "aot": aot,
    "apo_zero": apo_zero,
    "apo_down": apo_down,
    "discopop": discopop,
}
"""Names whose numbers did not change at 0.29."""

NEW_ONLY: Mapping[str, Loss] = {
    "sigmoid": dpo,
    "bco_pair": bco_pair,
    "exo_pair": exo_pair,
    "aot_unpaired": aot_unpaired,
    "sigmoid_norm": "ln_dpo",
    "sft": sft,
}
OTHER_TRAINERS: Mapping[str, Loss] = {
    "trl.cpo:sigmoid": "dpo_reference_free",
    "trl.cpo:hinge": "hinge_reference_free",
    "trl.cpo:ipo": "ipo_reference_free",
    "trl.cpo:simpo": "simpo",
    "trl.cpo:alphapo": alphapo,
    "trl.tpo:sigmoid": "dpo_reference_free",
    "trl.tpo:hinge": "hinge_reference_free",
    "trl.tpo:ipo": "ipo_reference_free",
    "trl.tpo:tpo-l": "simpo",
    "trl.orpo:odds_ratio": odds_ratio,
    "trl.kto:kto": kto,
    "trl.kto:apo_zero_unpaired": "apo_zero_unpaired",
}


def no_smoothing(*, epsilon: float = 0.0) -> float:
    """As `recipes.smoothed`, with TRL's default."""
    return smoothed(epsilon=epsilon)


def shifted(*, shift: float) -> float:
    """The running mean of rewards, which must be given: `state.RewardShift` keeps it."""
    return shift


for _name, _ours in AGREED.items():
    for _release in ("trl", NEW, OLD):
        recipe(f"{_release}:{_name}", _ours)
for _name, _ours in NEW_ONLY.items():
    recipe(f"{NEW}:{_name}", _ours)
for _name, _ours in OTHER_TRAINERS.items():
    recipe(_name, _ours)
recipe(f"{OLD}:sigmoid", dpo, label=no_smoothing)
recipe(f"{OLD}:bco_pair", bco_pair, sets={"shift": shifted})
recipe(f"{OLD}:exo_pair", exo_pair)
recipe(f"{OLD}:aot_pair", aot_unpaired)
for _name in ("sigmoid", "bco_pair", "exo_pair"):
    ambiguous(f"trl:{_name}", f"{NEW}:{_name}", f"{OLD}:{_name}")
