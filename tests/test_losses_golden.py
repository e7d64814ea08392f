"""Published numbers: every value of tests/golden/core_losses.json, most of them from the papers' own code, executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from visalign import losses
from visalign.losses import aggregate, inputs, metrics, state
from visalign.losses.recipes import log_gap
from visalign.losses.tokens import on_policy_weight

GOLDEN = json.loads((Path(__file__).parent / "golden" / "core_losses.json").read_text())
TOLERANCE = 1e-6  # the file holds six decimals


def column(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.float64)


IN = {name: column(value) for name, value in GOLDEN["inputs"].items()}
TOKENS = {name: column(value) for name, value in GOLDEN["token_fixture"].items()}
LIST = {name: column(value)[None] for name, value in GOLDEN["list_fixture"].items() if name != "order"}
BETA = 0.1
W, L = IN["logratio_w"], IN["logratio_l"]


def params(name: str) -> dict[str, Any]:
    return {key: column(v) if isinstance(v, list) else v for key, v in GOLDEN["losses"][name]["params"].items()}


PAIRS = inputs.LogRatioPairs(
    W, L, IN["policy_chosen_logps"], IN["policy_rejected_logps"], IN["len_chosen"], IN["len_rejected"]
)
EVERYTHING = frozenset(losses.registry.KINDS)
FED = frozenset(PAIRS.fields()) | {
    f"{name}_{side}"
    for name in ("score", "previous", "reward", "kl", "on_policy", "weighted", "ld", "token", "token_kl", "guide", "p")
    for side in ("win", "lose")
}


def pair(spec: Any, beta: float = BETA, confidence: Any = None, **extra: Tensor) -> Tensor:
    """A loss by name on the golden pairs, with every column it may want."""
    bound = losses.resolve(spec, kinds=EVERYTHING, nats=True, feeds=FED | extra.keys())
    return bound.on(inputs.LogRatioPairs(**{**vars(PAIRS), "extra": extra}), beta=beta, confidence=confidence)


def scored(spec: Any, win: Any, lose: Any, beta: float = BETA) -> Tensor:
    return pair(spec, beta, score_win=column(win), score_lose=column(lose))


def token_pairs() -> inputs.TokenPairs:
    def side(name: str) -> inputs.Tokens:
        return inputs.Tokens(
            logp=TOKENS[f"policy_{name}"],
            mask=torch.ones_like(TOKENS[f"policy_{name}"]),
            reference=TOKENS[f"ref_{name}"],
            kl=TOKENS[f"token_kl_{name}"],
            guide=TOKENS[f"guide_logratio_{name}"],
            weight=TOKENS[f"mask_u_{name}"],
        )

    return inputs.TokenPairs(side("chosen"), side("rejected"))


def on_tokens(spec: Any, **extra: Tensor) -> Tensor:
    columns = {**token_pairs().fields(), **extra}
    bound = losses.resolve(spec, kinds=EVERYTHING, nats=True, feeds=frozenset(columns))
    return bound.on(Given(columns), beta=BETA)


class Given:
    """Columns as they are."""

    def __init__(self, columns: dict[str, Tensor]) -> None:
        self.columns = columns

    def fields(self) -> dict[str, Tensor]:
        return self.columns


def ranked(spec: Any, **changes: Tensor) -> Tensor:
    ratio = LIST["policy_logps"] - LIST["ref_logps"]
    lists = inputs.RankedLists(**{"ratio": ratio, "score": LIST["scores"], **changes})
    return losses.resolve(spec, kinds=EVERYTHING, nats=True, feeds=frozenset(lists.fields())).on(lists, beta=BETA)[0]


def uniform_tokens() -> inputs.TokenPairs:
    """Answers whose tokens share their log-probability evenly."""

    def side(policy: str, reference: str, length: str) -> inputs.Tokens:
        longest = int(torch.cat([IN["len_chosen"], IN["len_rejected"]]).max())
        mask = (torch.arange(longest) < IN[length][:, None]).double()
        return inputs.Tokens(
            logp=(IN[policy] / IN[length])[:, None] * mask,
            mask=mask,
            reference=(IN[reference] / IN[length])[:, None] * mask,
        )

    return inputs.TokenPairs(
        side("policy_chosen_logps", "ref_chosen_logps", "len_chosen"),
        side("policy_rejected_logps", "ref_rejected_logps", "len_rejected"),
    )


def on_policy(collision: float) -> dict[str, Any]:
    tokens = uniform_tokens()
    sides = {"on_policy_win": tokens.win, "on_policy_lose": tokens.lose}
    level = torch.tensor(collision, dtype=torch.float64).log()
    return {name: on_policy_weight(t.logp, level.expand_as(t.logp), t.mask) for name, t in sides.items()}


def cal_dpo_repository() -> Tensor:
    logistic = losses.dpo(W, L, beta=1.0)
    return logistic + (pair({"name": "cal_dpo", "weight": 0.5}) - logistic).mean()


def rebel() -> Tensor:
    gap = params("rebel")["reward_delta"]
    return scored("rebel", gap, torch.zeros_like(gap))


def reward(spec: Any, **extra: Tensor) -> Tensor:
    own = params("rm_bt")
    return pair(spec, 1.0, score_win=own["r_chosen"], score_lose=own["r_rejected"], **extra)


def inpo() -> Tensor:
    p = params("inpo")
    previous = {
        "previous_win": p["policy_t_chosen"] - IN["ref_chosen_logps"],
        "previous_lose": p["policy_t_rejected"] - IN["ref_rejected_logps"],
    }
    return pair({"name": "inpo", "ratio": p["ratio_tau_over_eta"]}, p["eta"], **previous)


def modpo() -> Tensor:
    p = params("modpo")
    return pair(
        {"name": "modpo", "weights": tuple(p["w"].tolist())},
        reward_win=p["margin_reward_chosen"][:, None],
        reward_lose=p["margin_reward_rejected"][:, None],
    )


def gpm() -> Tensor:
    p = params("gpm_2d")
    return losses.general_preference(p["v_chosen"][None], p["v_rejected"][None], temperature=1.0)


def denoising() -> Tensor:
    p = params("diffusion_dpo")
    pairs = inputs.from_denoising(p["mse_policy_w"], p["mse_policy_l"], p["mse_ref_w"], p["mse_ref_l"])
    return losses.resolve("dpo").on(pairs, beta=p["beta_dpo"])


def kto(name: str, ratio: Tensor, wanted: bool) -> Tensor:
    bound = losses.resolve(name, kinds=EVERYTHING, feeds=frozenset({"z0"}))
    return bound(ratio, torch.full((2,), wanted), beta=BETA, z0=torch.tensor(0.2, dtype=torch.float64))


def bco(ratio: Tensor, wanted: bool) -> Tensor:
    return losses.bco(ratio, torch.full((2,), wanted), beta=BETA, shift=0.01)


def p3o() -> Tensor:
    gap = params("p3o_v1_unclipped")["reward_delta"]
    return losses.p3o(W, L, gap, torch.zeros(2), W, L, beta=BETA)


def nash_md() -> Tensor:
    logp, ratio = IN["policy_chosen_logps"][:, None], W[:, None]
    return losses.nash_md(logp, ratio, params("nash_md_pg")["probability"], beta=BETA)


def irpo() -> Tensor:
    p = params("irpo_in_context")
    return ranked("irpo", score=p["relevance"][None], rank=p["rank"][None])


def sequence_kl(name: str) -> dict[str, Any]:
    return {"kl_win": params(name)["seq_kl_chosen"], "kl_lose": params(name)["seq_kl_rejected"]}


def scores(name: str) -> tuple[Tensor, Tensor]:
    gap = params(name)["gt_reward_delta"]
    return gap, torch.zeros_like(gap)


def odpo() -> Tensor:
    return scored("odpo", params("odpo")["score_chosen"], params("odpo")["score_rejected"])


def sparse() -> Tensor:
    t = TOKENS
    masks = {"mask_win": t["mask_u_chosen"], "mask_lose": t["mask_u_rejected"]}
    return on_tokens("sparsepo", **masks, **{f"kl_{name}": mask for name, mask in masks.items()})


def simpo(name: str) -> Tensor:
    p = params(name)
    return pair({"name": "simpo", "gamma": p["gamma"]}, p["beta"])


CASES: dict[str, Callable[[], Tensor]] = {
    "dpo_sigmoid": lambda: pair("trl>=0.29:sigmoid"),
    "hinge_rso": lambda: pair("trl:hinge"),
    "ipo_len_avg": lambda: pair("trl:ipo"),
    "exo_pair": lambda: pair("trl>=0.29:exo_pair"),
    "nca_pair": lambda: pair("trl:nca_pair"),
    "robust_rdpo": lambda: pair({"name": "trl:robust", "epsilon": 0.1}),
    "bco_pair_no_shift": lambda: pair("trl>=0.29:bco_pair"),
    "sppo_hard": lambda: pair("trl:sppo_hard"),
    "apo_zero": lambda: pair("trl:apo_zero"),
    "apo_down": lambda: pair("trl:apo_down"),
    "discopop": lambda: pair("trl:discopop"),
    "sigmoid_norm_lndpo": lambda: pair("trl>=0.29:sigmoid_norm"),
    "sft_token_mean": lambda: pair("trl>=0.29:sft"),
    "sft_token_mean_batch2": lambda: aggregate.mean(pair("sft"), IN["len_chosen"]),
    "aot": lambda: pair("aot").sort(descending=True).values,
    "aot_unpaired": lambda: pair("trl>=0.29:aot_unpaired").sort(descending=True).values,
    "fdpo_forward_kl": lambda: pair({"name": "dpo", "divergence": "forward_kl"}),
    "fdpo_js": lambda: pair({"name": "dpo", "divergence": "js"}),
    "fdpo_alpha_0.5": lambda: pair({"name": "dpo", "divergence": {"name": "alpha", "alpha": 0.5}}),
    "fdpo_alpha_0.3": lambda: pair({"name": "dpo", "divergence": {"name": "alpha_paper", "alpha": 0.7}}),
    "wpo_trl": lambda: pair({"name": "wpo", "ceiling": float("inf")}, **on_policy(0.5)),
    "wpo_official": lambda: pair("wpo", **on_policy(0.5)),
    "wpo_trl_ssq0.7": lambda: pair("wpo", **on_policy(0.7)),
    "ld_dpo": lambda: losses.resolve("ld_dpo", feeds=inputs.TEXT_PAIRS).on(uniform_tokens(), beta=BETA),
    "mpo_internvl_combo": lambda: pair("mpo_internvl"),
    "kto_desirable": lambda: kto("kto", W, True),
    "kto_undesirable": lambda: kto("kto", L, False),
    "apo_zero_unpaired_desirable": lambda: kto("apo_zero_unpaired", W, True),
    "apo_zero_unpaired_undesirable": lambda: kto("apo_zero_unpaired", L, False),
    "cdpo": lambda: pair("cdpo"),
    "ipo_sum": lambda: pair("ipo"),
    "dpo_reference_free": lambda: pair("dpo_reference_free"),
    "bco_pair_shift": lambda: state.RewardShift().pair(W, L, beta=BETA),
    "bco_unpaired_desirable": lambda: bco(W, True),
    "bco_unpaired_undesirable": lambda: bco(L, False),
    "cpo_sigmoid_pref_term": lambda: pair("trl.cpo:sigmoid"),
    "cpo_hinge_slic_norm": lambda: pair("trl.cpo:hinge"),
    "cpo_ipo_avg": lambda: pair("trl.cpo:ipo"),
    "simpo": lambda: simpo("simpo"),
    "simpo_trl_defaults": lambda: simpo("simpo_trl_defaults"),
    "alphapo": lambda: pair({"name": "alphapo", "gamma": 0.1, "alpha": 0.25}, 2.5),
    "orpo_or_term": lambda: 0.1 * pair("odds_ratio"),
    "orpo_total_llamafactory": lambda: pair("orpo"),
    "asft_align_term": lambda: pair("asft_align"),
    "tpo_pref_term": lambda: pair("dpo_reference_free", 0.01),
    "slic_calibration": lambda: pair("slic_calibration"),
    "xpo": lambda: pair({"name": "xpo", "alpha": 0.01}, logp_of_reference=IN["policy_rejected_logps"]),
    "nash_md_pg": nash_md,
    "tdpo1": lambda: pair("tdpo1", **sequence_kl("tdpo1")),
    "tdpo2": lambda: pair("tdpo2", **sequence_kl("tdpo2")),
    "tgdpo": lambda: on_tokens("tgdpo"),
    "sparsepo_common_mask": sparse,
    "tis_weighted_dpo": lambda: on_tokens("tis_dpo"),
    "sppo_soft": lambda: pair(
        "sppo", p_win=params("sppo_soft")["P_win_chosen"], p_lose=params("sppo_soft")["P_win_rejected"]
    ),
    "cal_dpo_paper": lambda: pair("cal_dpo"),
    "cal_dpo_repo": cal_dpo_repository,
    "dpop_smaug": lambda: pair("dpop"),
    "odpo": odpo,
    "dpo_margin_const": lambda: pair({"name": "dpo", "margin": 0.2}),
    "rdpo_length_reg": lambda: pair("length_regularized"),
    "dpo_soft_label": lambda: pair("dpo_soft", confidence=params("dpo_soft_label")["p_soft"]),
    "rpo_bwd_kl": lambda: scored("rpo_backward", *scores("rpo_bwd_kl")),
    "rpo_fwd_kl": lambda: scored("rpo_forward", *scores("rpo_fwd_kl")),
    "rpo_sq": lambda: scored("rpo_square", *scores("rpo_sq")),
    "rebel": rebel,
    "beta_dpo_dynamic": lambda: pair({"name": "beta_dpo", "strength": 0.6}, usual=column(0.1)),
    "modpo": modpo,
    "inpo": inpo,
    "online_ipo_pref": lambda: pair("online_ipo", confidence=params("online_ipo_pref")["P_chosen_beats_rejected"]),
    "flex_dpo_two_beta": lambda: pair({"name": "two_beta", "share": 0.5}),
    "spin": lambda: pair("spin"),
    "dr_dpo_aggregate": lambda: aggregate.dr_dpo(pair("dpo")),
    "d2o_K1": lambda: pair({"name": "two_beta", "share": 0.5}),
    "ddro_maxmin_worst_group": lambda: aggregate.group_max(pair("dpo"), torch.tensor([0, 1])),
    "npo_unlearning": lambda: losses.npo_unlearning(L, beta=BETA),
    "ipo_sum_unit_scale": lambda: pair({"name": "ipo", "normalize": True}),
    "ipo_js": lambda: pair({"name": "trl:ipo", "divergence": "js"}),
    "plackett_luce_dpo": lambda: ranked("plackett_luce"),
    "all_pairs_dpo_mean": lambda: ranked("all_pairs"),
    "lipo_lambda": lambda: ranked("lipo_lambda"),
    "approx_ndcg": lambda: ranked("approx_ndcg"),
    "info_nca_k4": lambda: ranked("infonca"),
    "nca_k4": lambda: ranked("nca"),
    "exo_k4": lambda: ranked("exo"),
    "dpo_rw_k4_xe": lambda: ranked("infonca"),
    "pro_ranking_term": lambda: ranked("pro_ranking", mean_logp=column(params("pro_ranking_term")["avg_logps"])[None]),
    "irpo_in_context": irpo,
    "gpm_2d": gpm,
    "rm_bt": lambda: reward("bradley_terry"),
    "rm_bt_margin": lambda: reward({"name": "bradley_terry", "margin": 0.5}),
    "rm_bt_centered": lambda: reward("bradley_terry_centered"),
    "rm_btt_untied": lambda: reward("bradley_terry_ties", tie=torch.tensor([False, False])),
    "rm_btt_tied": lambda: reward("bradley_terry_ties", tie=torch.tensor([True, True])),
    "rm_helpsteer2_scaled_bt": lambda: reward("scaled_bradley_terry", strength=column([1.0, 3.0])),
    "p3o_v1_unclipped": p3o,
    "diffusion_dpo": denoising,
}


def test_every_golden_loss_has_a_case() -> None:
    assert CASES.keys() == GOLDEN["losses"].keys() - {"metrics_batch2"}


@pytest.mark.parametrize("name", CASES)
def test_losses_are_the_published_numbers(name: str) -> None:
    value = CASES[name]()
    assert value.dtype == torch.float64
    torch.testing.assert_close(value, column(GOLDEN["losses"][name]["value"]), rtol=0, atol=TOLERANCE)


def test_wpo_weights_and_batch_means_of_aot_are_the_published_numbers() -> None:
    weights = on_policy(0.5)
    product = weights["on_policy_win"] * weights["on_policy_lose"]
    torch.testing.assert_close(product, column(GOLDEN["losses"]["wpo_trl"]["weights"]), rtol=0, atol=TOLERANCE)
    for name in ("aot", "aot_unpaired"):
        assert pair(name).mean().item() == pytest.approx(GOLDEN["losses"][name]["batch_mean_trl"], abs=TOLERANCE)
    assert log_gap(column([2.0]), column([2.0])).item() == -torch.inf


def gradient(spec: Any, win: Tensor, lose: Tensor, **settings: Any) -> tuple[Tensor, Tensor, Tensor]:
    w, v = win.clone().requires_grad_(), lose.clone().requires_grad_()
    value = losses.resolve(spec, nats=True)(w, v, beta=BETA, **settings)
    dw, dl = torch.autograd.grad(value.sum(), (w, v), materialize_grads=True)
    return value.detach(), dw, dl


BY_GOLDEN_NAME: dict[str, Any] = {
    "dpo_sigmoid": "dpo",
    "cdpo(.1)": {"name": "cdpo", "epsilon": 0.1},
    "robust(.1)": {"name": "robust", "epsilon": 0.1},
    "robust_rdpo(eps=.1)": {"name": "robust", "epsilon": 0.1},
    "hinge": "hinge",
    "ipo_sum": "ipo",
    "exo(1e-3)": "exo_pair",
    "exo_pair(eps=1e-3)": "exo_pair",
    "nca_pair": "nca_pair",
    "bco_pair": "bco_pair",
    "sppo_hard": "sppo_hard",
    "apo_zero": "apo_zero",
    "apo_down": "apo_down",
    "discopop": "discopop",
    "fdpo_forward_kl": {"name": "dpo", "divergence": "forward_kl"},
    "fdpo_js": {"name": "dpo", "divergence": "js"},
    "fdpo_alpha": {"name": "dpo", "divergence": "alpha"},
    "cal_dpo_paper": "cal_dpo",
    "dpop(50)": "dpop",
    "dpop_smaug(lambda=50)": "dpop",
}
UNPAIRED_AT_INIT = {"kto_desirable": True, "kto_undesirable": False}


@pytest.mark.parametrize("name", [*GOLDEN["at_init"]["values"]])
def test_loss_and_pull_before_the_first_step_are_the_published_numbers(name: str) -> None:
    """dpop's kink is at w = 0 exactly: relu's derivative there is 0, which is the published convention."""
    wanted = GOLDEN["at_init"]["values"][name]
    zero = torch.zeros(1, dtype=torch.float64)
    if name in UNPAIRED_AT_INIT:
        ratio = zero.clone().requires_grad_()
        value = losses.kto(ratio, torch.tensor([UNPAIRED_AT_INIT[name]]), 0.0, beta=BETA)
        (slope,) = torch.autograd.grad(value.sum(), ratio)
        found = (value.item(), slope.item())
        assert found == pytest.approx((wanted["loss"], wanted["d_dw"] + wanted["d_dl"]), abs=TOLERANCE)
        return
    value, dw, dl = gradient(BY_GOLDEN_NAME[name], zero, zero)
    expected = (wanted["loss"], wanted["d_dw"], wanted["d_dl"])
    assert (value.item(), dw.item(), dl.item()) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", [*GOLDEN["gradients"]["values"]])
def test_gradients_are_the_published_numbers(name: str) -> None:
    _, dw, dl = gradient(BY_GOLDEN_NAME[name], W, L)
    torch.testing.assert_close(
        torch.stack([dw, dl]), column(GOLDEN["gradients"]["values"][name]), rtol=0, atol=TOLERANCE
    )


def test_metrics_are_the_published_numbers() -> None:
    wanted = GOLDEN["metric_fixtures"]
    chosen, rejected = IN["policy_chosen_logps"], IN["policy_rejected_logps"]
    reference = (IN["ref_chosen_logps"], IN["ref_rejected_logps"])
    found = {
        "ranking_accuracy_policy_sum": metrics.ranking_accuracy(chosen, rejected).mean(),
        "ranking_accuracy_policy_avg": metrics.ranking_accuracy(IN["avg_logp_chosen"], IN["avg_logp_rejected"]).mean(),
        "ranking_accuracy_ref_sum": metrics.ranking_accuracy(*reference).mean(),
        "reward_accuracy": metrics.accuracy(W, L).mean(),
        "displacement_rate": metrics.displaced(W).mean(),
        "dpo_flip_threshold_c": metrics.flip_threshold(*reference),
        "dpo_loss_needed": metrics.loss_needed(*reference, beta=BETA),
        "idealised_ranking_accuracy_alpha09": metrics.idealized_ranking_accuracy(
            *reference, beta=BETA, confidence=0.9
        ).mean(),
        "k1": metrics.kl_k1(W),
        "k2": metrics.kl_k2(W),
        "k3": metrics.kl_k3(W),
        "dpo_gradient_weight_sigma_minus_z": metrics.gradient_weight(metrics.margins(W, L, beta=BETA)),
    }
    assert found.keys() == wanted.keys() - {"source", "note"}
    for name, value in found.items():
        torch.testing.assert_close(value.double(), column(wanted[name]), rtol=0, atol=TOLERANCE)


def test_batch_metrics_are_those_trl_logs() -> None:
    wanted = GOLDEN["losses"]["metrics_batch2"]["value"]
    found = metrics.of_pairs(W, L, beta=BETA)
    names = {"reward/win": "rewards/chosen", "reward/lose": "rewards/rejected", "margin": "rewards/margins"}
    for ours, theirs in {**names, "accuracy": "rewards/accuracies"}.items():
        assert found[ours].mean().item() == pytest.approx(wanted[theirs], abs=TOLERANCE)
    assert IN["policy_chosen_logps"].mean().item() == wanted["logps/chosen"]
    assert IN["policy_rejected_logps"].mean().item() == wanted["logps/rejected"]


def test_inputs_of_the_golden_file_agree_with_each_other() -> None:
    torch.testing.assert_close(W, IN["policy_chosen_logps"] - IN["ref_chosen_logps"])
    torch.testing.assert_close(W - L, IN["h"])
    made = inputs.from_token_logps(uniform_tokens()).fields()
    torch.testing.assert_close(made["win"], W)
    torch.testing.assert_close(made["mean_logp_lose"], IN["avg_logp_rejected"])
    torch.testing.assert_close(inputs.from_token_logps(uniform_tokens(), "mean").win, W / IN["len_chosen"])
    sums = inputs.from_token_probs(uniform_tokens()).fields()
    torch.testing.assert_close(sums["logp_win"], IN["policy_chosen_logps"])
