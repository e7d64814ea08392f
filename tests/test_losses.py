"""Facts about the losses: gradients, ends of float32, symmetries, permutations, pairs as lists of two."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses_columns import columns, entries, is_data, named, value, with_gradients
from torch import Tensor

from visalign import losses
from visalign.losses import aggregate, divergence, metrics, state
from visalign.losses.arithmetic import log1mexp, log_odds
from visalign.losses.registry import Entry

PAIR_KINDS = ("h", "wl")
NAMES = [entry.name for entry in entries()]
PAIRS = [entry.name for entry in entries(*PAIR_KINDS)]
GAPS = [entry.name for entry in entries("h") if "batch" not in entry.kinds]
LISTS = [entry.name for entry in entries("list")]


def entry(name: str) -> Entry:
    (found,) = named(name)
    return found


STOPPED = {
    "tdpo2": "no gradient through the winner's KL",
    "nash_md": "the log-ratio weighs, and is not followed",
    "p3o": "the advantage weighs, and is not followed",
    "aot": "the reference's gaps are worked out from two columns and stand still",
    "aot_unpaired": "element i holds the gradient of a loser that is not its own",
    "beta_dpo": "the batch's beta stands still",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in STOPPED])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    found = entry(name)
    leaves = {n: v.requires_grad_() if not is_data(found, n) else v for n, v in columns(found, batch=4).items()}
    assert torch.autograd.gradcheck(
        lambda *inputs: value(found, dict(zip(leaves, inputs, strict=True))), (*leaves.values(),)
    )


def test_stopped_gradients_are_those_of_the_written_formula() -> None:
    """Each against its formula with the stopped part as a constant."""
    _, found = with_gradients(entry("tdpo2"), given := columns(entry("tdpo2")))
    z = 0.7 * (given["win"] - given["lose"] - 0.5 * (given["kl_lose"] - given["kl_win"]))
    torch.testing.assert_close(found["kl_lose"], 0.7 * 0.5 * torch.sigmoid(-z))
    assert (found["kl_win"] == 0).all()
    _, found = with_gradients(entry("nash_md"), given := columns(entry("nash_md")))
    pull = 0.7 * given["token_ratio"] - (given["preference"] - 0.5)[:, None]
    torch.testing.assert_close(found["token_logp"], pull)
    given = columns(entry("p3o"))
    given |= {"old_win": given["win"], "old_lose": given["lose"]}
    _, found = with_gradients(entry("p3o"), given)
    advantage = given["score_win"] - given["score_lose"] - 0.7 * (given["win"] - given["lose"])
    torch.testing.assert_close(found["win"], -0.5 * advantage)
    _, found = with_gradients(entry("beta_dpo"), given := columns(entry("beta_dpo")))
    gap = given["win"] - given["lose"]
    beta = (0.7 * (1 + 0.6 * (gap.mean() - given["usual"]))).clamp(min=1e-3)
    torch.testing.assert_close(found["win"], -beta * torch.sigmoid(-beta * gap))


def test_transport_matches_values_of_equal_rank() -> None:
    """Value and gradient of the sum are those of sorting both sides and taking DPO of what meets."""
    for name, high, low in (("aot_unpaired", "win", "lose"), ("aot", "logp_win", "logp_lose")):
        given = columns(entry(name), batch=7)
        each, found = with_gradients(entry(name), given)
        top, bottom = (given[key].clone().requires_grad_() for key in (high, low))
        if name == "aot":
            moved = top - bottom
            still = (given[high] - given[low]) - (given["win"] - given["lose"])
        else:
            moved, still = top, bottom
        wanted = losses.dpo(moved.sort().values, still.sort().values, beta=0.7)
        torch.testing.assert_close(each.sum(), wanted.sum().detach())
        slopes = torch.autograd.grad(wanted.sum(), (top, bottom))
        torch.testing.assert_close((found[high], found[low]), slopes)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_losses_are_one_value_an_element_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    given = {n: v.to(dtype) if v.is_floating_point() else v for n, v in columns(entry(name)).items()}
    each = value(entry(name), given)
    assert each.shape == (5,)
    assert each.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_bfloat16_is_widened_before_the_subtraction() -> None:
    """In bfloat16 itself -300 and -301 are one number."""
    close = torch.tensor([-300.0]), torch.tensor([-304.0])
    narrow = tuple(x.bfloat16() for x in close)
    assert (losses.dpo(*narrow, beta=0.1) == losses.dpo(*(x.float() for x in narrow), beta=0.1)).all()
    assert losses.dpo(*narrow, beta=0.1).item() != pytest.approx(math.log(2.0))


ENDS = (-1e3, 0.0, 1e3)


def at_ends(found: Entry) -> dict[str, Tensor]:
    """Every combination of -1e3, 0 and 1e3 for the first two columns, in float32; log-probabilities stay negative."""
    win, lose = (grid.flatten() for grid in torch.meshgrid(torch.tensor(ENDS), torch.tensor(ENDS), indexing="ij"))
    given = columns(found, batch=len(win))
    sides = [name for name in given if not is_data(found, name)]
    for spot, name in enumerate(sides):
        side = (win, lose)[spot % 2] if "list" not in found.kinds else torch.stack([win, lose, lose, win], -1)
        side = -side.abs() if "logp" in name else side.abs() / 1e3 if "error" in name else side
        given[name] = side.reshape(side.shape + (1,) * (given[name].ndim - side.ndim)).expand(given[name].shape)
    if "confidence" in given:
        given["confidence"] = torch.full_like(given["confidence"], 0.9)
    return {name: v.float() if v.is_floating_point() else v for name, v in given.items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beta", ["usual", 1.0])
def test_a_thousand_nats_and_exact_ties_stay_finite_or_saturate_as_the_table_says(name: str, beta: Any) -> None:
    found = entry(name)
    given = at_ends(found)
    each, slopes = with_gradients(found, given, beta=found.beta if beta == "usual" else beta)
    assert each.isfinite().all()
    assert all(slope.isfinite().all() for slope in slopes.values())
    if found.kinds <= {"h", "wl", "reference_free", "unpaired", "list"} and not found.saturates and beta == 1.0:
        wrong = wrong_side(found, given)
        pulls = sum(slope.abs().reshape(len(slope), -1).sum(-1) for slope in slopes.values())
        assert (torch.as_tensor(pulls)[wrong] > 0).all(), "stops pulling on pairs it has wrong; say so in `saturates`"


def wrong_side(found: Entry, given: dict[str, Tensor]) -> Tensor:
    """The rows in which the loser is a thousand nats ahead (or an undesirable item is)."""
    if "list" in found.kinds:
        return torch.zeros(len(ENDS) ** 2, dtype=torch.bool)
    if "desirable" in given:
        return (given["ratio"] > 0) != given["desirable"].bool()
    sides = [v for n, v in given.items() if not is_data(found, n) and v.ndim == 1]
    return sides[0] < sides[1] if len(sides) > 1 else torch.zeros(len(ENDS) ** 2, dtype=torch.bool)


@pytest.mark.parametrize("name", GAPS)
def test_losses_of_the_gap_pull_winner_and_loser_alike(name: str) -> None:
    """dL/dw = -dL/dl, and adding one number to both changes nothing."""
    given = columns(entry(name))
    win, lose = entry(name).fields[:2]
    each, slopes = with_gradients(entry(name), given)
    torch.testing.assert_close(slopes[win], -slopes[lose])
    if "mean" not in win:
        moved = {**given, win: given[win] + 3.0, lose: given[lose] + 3.0}
        torch.testing.assert_close(value(entry(name), moved), each)


@pytest.mark.parametrize("name", [n for n in NAMES if "batch" not in entry(n).kinds])
def test_a_batch_is_its_elements(name: str) -> None:
    given = columns(entry(name), batch=4)
    whole = value(entry(name), given)
    single = [
        value(entry(name), {n: v[i : i + 1] if v.ndim else v for n, v in given.items()}) for i in range(len(whole))
    ]
    torch.testing.assert_close(whole, torch.cat(single), rtol=0, atol=1e-12)


def test_losses_that_couple_a_batch_are_tagged() -> None:
    assert {e.name for e in entries("batch")} == {"aot", "aot_unpaired", "beta_dpo"}
    for found in entries("batch"):
        given = columns(found, batch=10)
        halves = [{n: v[rows] if v.ndim else v for n, v in given.items()} for rows in (slice(0, 5), slice(5, 10))]
        split = torch.cat([value(found, half) for half in halves])
        assert not torch.allclose(value(found, given), split)


def test_equal_models_cannot_tell() -> None:
    """log 2, bit for bit, before the first step."""
    zero = torch.zeros(3)
    assert (losses.dpo(zero, zero, beta=5000.0) == torch.tensor(math.log(2.0))).all()


def test_a_coin_flip_is_symmetric_and_pulls_nothing_at_a_tie() -> None:
    win, lose = columns(entry("dpo")).values()
    coin = losses.resolve({"name": "cdpo", "epsilon": 0.5})
    torch.testing.assert_close(coin(win, lose, beta=0.7), coin(lose, win, beta=0.7))
    tie = torch.zeros(1, requires_grad=True)
    (slope,) = torch.autograd.grad(coin(tie, torch.zeros(1), beta=0.7).sum(), tie)
    assert slope.item() == 0


@pytest.mark.parametrize("name", [n for n in PAIRS if "confidence" not in entry(n).fields and entry(n).ordered])
def test_confidence_mixes_the_label(name: str) -> None:
    """c L(w, l) + (1 - c) L(l, w) with every column of winner and loser exchanged; None is 1."""
    given = columns(entry(name))
    other = {n: given.get(swap(n), v) for n, v in given.items()}
    confidence = torch.linspace(0, 1, 5, dtype=torch.float64)
    spec: Any = {"name": name, **({"weights": (0.5, 0.3, 0.2)} if name == "modpo" else {})}
    kinds = entry(name).kinds
    bound = losses.resolve(spec, kinds=kinds, nats=True, feeds=frozenset(given))
    first, second = (given.pop(n) for n in entry(name).fields[:2])
    mixed = bound(first, second, beta=0.7, confidence=confidence, **given)
    given = columns(entry(name))
    wanted = confidence * value_bound(bound, entry(name), given) + (1 - confidence) * value_bound(
        bound, entry(name), other
    )
    torch.testing.assert_close(mixed, wanted)


def swap(name: str) -> str:
    return name[:-3] + "lose" if name.endswith("win") else name[:-4] + "win" if name.endswith("lose") else name


def value_bound(bound: losses.BoundLoss, found: Entry, given: dict[str, Tensor]) -> Tensor:
    rest = {n: v for n, v in given.items() if n not in found.fields[:2]}
    return bound(*(given[n] for n in found.fields[:2]), beta=0.7, **rest)


def test_a_flipped_share_and_a_confidence_join() -> None:
    """robust's estimate is unbiased: over the flips it expects, it is DPO."""
    win, lose = columns(entry("dpo")).values()
    robust = losses.resolve({"name": "robust", "epsilon": 0.2})
    plain = losses.dpo(win, lose, beta=0.7)
    torch.testing.assert_close(robust(win, lose, beta=0.7, confidence=0.8), plain)
    torch.testing.assert_close(0.8 * robust(win, lose, beta=0.7) + 0.2 * robust(lose, win, beta=0.7), plain)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("ties", ["none", "some", "absent"])
def test_lists_do_not_mind_their_order(name: str, ties: str) -> None:
    given = columns(entry(name))
    if ties == "some":
        given["score"][:, 2] = given["score"][:, 0]
    if ties == "absent":
        given["score"][:, 1] = math.nan
    order = torch.tensor([2, 0, 3, 1])
    each, slopes = with_gradients(entry(name), given)
    shuffled, moved = with_gradients(entry(name), {n: v[:, order] for n, v in given.items()})
    assert each.isfinite().all()
    torch.testing.assert_close(shuffled, each)
    for column, slope in slopes.items():
        assert slope.isfinite().all()
        torch.testing.assert_close(moved[column], slope[:, order])


@pytest.mark.parametrize("name", LISTS)
def test_an_item_without_a_score_is_not_there(name: str) -> None:
    given = columns(entry(name))
    given["score"][:, 1] = math.nan
    each, slopes = with_gradients(entry(name), given)
    kept = [0, 2, 3]
    torch.testing.assert_close(each, value(entry(name), {n: v[:, kept] for n, v in given.items()}))
    assert all((slope[:, 1] == 0).all() for slope in slopes.values())


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_equals_and_lists_of_one_are_finite_and_pull_nothing_apart(name: str) -> None:
    given = columns(entry(name))
    for score in (torch.zeros(5, 4), torch.tensor([1.0, math.nan, math.nan, math.nan]).expand(5, 4)):
        given["score"] = score.double()
        each, slopes = with_gradients(entry(name), given)
        assert each.isfinite().all() and all(slope.isfinite().all() for slope in slopes.values())
        if entry(name).pair_form == "dpo" and name != "plackett_luce":
            assert all((slope == 0).all() for slope in slopes.values())


def as_pair(name: str, gap: Tensor, temperature: float) -> Any:
    share = torch.sigmoid(gap / temperature)
    specs: dict[str, tuple[Any, Any]] = {
        "dpo_soft": ("dpo_soft", share),
        "exo_pair": ({"name": "exo_pair", "epsilon": 1 - share.item()}, None),
    }
    return specs.get(name, (name, None))


@pytest.mark.parametrize("name", [n for n in LISTS if entry(n).pair_form])
def test_a_list_of_two_is_its_pair_form(name: str) -> None:
    ratio = torch.tensor([[0.5, -0.3]], dtype=torch.float64)
    score = torch.tensor([[1.2, 0.4]], dtype=torch.float64)
    temperature = 1e-3 if entry(name).pair_form == "nca_pair" else 1.0
    given = {"temperature": temperature} if "temperature" in entry(name).settings else {}
    spec, confidence = as_pair(entry(name).pair_form, score[0, 0] - score[0, 1], temperature)
    wanted = losses.resolve(spec)(ratio[:, 0], ratio[:, 1], beta=0.7, confidence=confidence)
    torch.testing.assert_close(entry(name)(ratio, score, beta=0.7, **given), wanted)


def test_list_losses_without_a_pair_form_are_the_known_exceptions() -> None:
    assert {n for n in LISTS if not entry(n).pair_form} == {
        "lipo_lambda", "approx_ndcg", "irpo", "pro_ranking", "sft_best",
    }  # fmt: skip


def test_lambda_weights_start_although_the_policy_cannot_tell_yet() -> None:
    ratio = torch.zeros(1, 3, requires_grad=True)
    losses.lipo_lambda(ratio, torch.tensor([[0.0, 2.0, 1.0]]), beta=0.1).sum().backward()
    assert ratio.grad is not None and ratio.grad[0, 1] < 0 < ratio.grad[0, 0]


@pytest.mark.parametrize("name", divergence.TRANSFORMS)
def test_divergences_are_straight_near_zero_and_finite_far_away(name: str) -> None:
    transform = divergence.TRANSFORMS[name]
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(transform(x).sum(), x)
    assert transform(x).item() == pytest.approx(0.0, abs=1e-15)
    assert slope.item() == pytest.approx(0.5 if name == "js" else 1.0)
    far = torch.tensor([-1e3, 1e3], requires_grad=True)
    (slopes,) = torch.autograd.grad(transform(far).sum(), far)
    assert transform(far).isfinite().all() and slopes.isfinite().all()
    assert torch.autograd.gradcheck(transform, (torch.randn(5, dtype=torch.float64, requires_grad=True),))


def test_alpha_runs_from_one_kl_to_the_other_in_either_count() -> None:
    x = torch.linspace(-2, 2, 9, dtype=torch.float64)
    for way, forward, reverse in (("alpha", 0.0, 1.0), ("alpha_paper", 1.0, 0.0)):
        at = {value: divergence.resolve({"name": way, "alpha": value})(x) for value in (forward, reverse)}
        torch.testing.assert_close(at[forward], divergence.forward_kl(x))
        torch.testing.assert_close(at[reverse], x)
    old = divergence.resolve({"name": "alpha_paper", "alpha": 0.7})(x)
    torch.testing.assert_close(old, divergence.resolve({"name": "alpha", "alpha": 0.3})(x))


def test_certain_answers_have_finite_odds_and_gradients() -> None:
    x = torch.tensor([0.0, -1e-12, -1e-6, -math.log(2.0), -1.0, -1e3], requires_grad=True)
    log_odds(x).sum().backward()
    assert log_odds(x).isfinite().all() and x.grad is not None and x.grad.isfinite().all()
    exact = torch.tensor([-1e-6], dtype=torch.float64)
    assert log1mexp(exact).item() == pytest.approx(math.log(-math.expm1(-1e-6)), rel=1e-12)


def test_discopop_pulls_the_wrong_way_about_zero() -> None:
    z = torch.tensor([-0.2, -0.1, 0.0, 0.05, 0.1], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(losses.discopop(z, torch.zeros(5), beta=1.0).sum(), z)
    assert (slope.sign() == torch.tensor([-1, 1, 1, 1, -1])).all()


real = st.floats(-30, 30, allow_nan=False)
positive = st.floats(0.01, 20)


@settings(max_examples=60, deadline=None)
@given(win=real, lose=real, step=st.floats(0.01, 10), beta=positive)
def test_a_wider_gap_never_costs_more(win: float, lose: float, step: float, beta: float) -> None:
    w, v = torch.tensor([win, win + step], dtype=torch.float64), torch.full((2,), lose, dtype=torch.float64)
    for name in ("dpo", "hinge", "rpo_backward"):
        extra = {"score_win": torch.tensor(1e3), "score_lose": torch.tensor(0.0)} if name == "rpo_backward" else {}
        near, far = losses.resolve(name, feeds=frozenset(extra))(w, v, beta=beta, **extra)
        assert far <= near


@settings(max_examples=60, deadline=None)
@given(
    win=real, lose=real, beta=positive, factor=st.floats(0.1, 10), name=st.sampled_from(["ipo", "sppo_hard", "inpo"])
)
def test_the_normalised_form_knows_only_z(win: float, lose: float, beta: float, factor: float, name: str) -> None:
    """beta^2 L is unchanged when beta grows and the log-ratios shrink: one scale for nats and denoising errors."""
    bound = losses.resolve({"name": name, "normalize": True}, feeds=frozenset({"previous_win", "previous_lose"}))

    def at(scale: float) -> Tensor:
        side = [torch.tensor([x / scale], dtype=torch.float64) for x in (win, lose, 0.3, -0.2)]
        return bound(side[0], side[1], beta=beta * scale, previous_win=side[2], previous_lose=side[3])

    torch.testing.assert_close(at(1.0), at(factor), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(win=real, lose=real, beta=positive, epsilon=st.floats(0.01, 0.49))
def test_smoothed_dpo_rests_where_the_odds_are_those_of_the_flips(
    win: float, lose: float, beta: float, epsilon: float
) -> None:
    bound = losses.resolve({"name": "cdpo", "epsilon": epsilon})
    rest = torch.tensor([math.log((1 - epsilon) / epsilon) / beta], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    elsewhere = torch.tensor([win - lose], dtype=torch.float64)
    assert bound(rest, zero, beta=beta) <= bound(elsewhere, zero, beta=beta) + 1e-12


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.tuples(real, st.floats(0, 1)), min_size=1, max_size=6), temperature=positive)
def test_dr_dpo_lies_between_the_least_loss_and_the_mean(values: list[tuple[float, float]], temperature: float) -> None:
    each = torch.tensor([v for v, _ in values], dtype=torch.float64)
    weight = torch.tensor([w + 0.01 for _, w in values], dtype=torch.float64)
    found = aggregate.dr_dpo(each, weight, temperature=temperature)
    assert each.min() - 1e-9 <= found <= aggregate.mean(each, weight) + 1e-9
    same = aggregate.mean(each, torch.ones_like(each))
    torch.testing.assert_close(aggregate.mean(each), same)


def test_gradients_of_aggregates_and_odds_are_those_of_finite_differences() -> None:
    each = torch.randn(5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(aggregate.mean, (each, weight))
    assert torch.autograd.gradcheck(aggregate.dr_dpo, (each, weight))
    assert torch.autograd.gradcheck(lambda x: aggregate.group_max(x, torch.tensor([0, 1, 0, 2, 1])), (each,))
    below = (-each.detach().abs() - 0.01).requires_grad_()
    assert torch.autograd.gradcheck(log1mexp, (below,)) and torch.autograd.gradcheck(log_odds, (below,))


def test_a_batch_of_nothing_but_ties_weighs_nothing() -> None:
    each = torch.ones(3, requires_grad=True)
    aggregate.mean(each, torch.zeros(3)).backward()
    assert each.grad is not None and (each.grad == 0).all()
    win = torch.randn(1, 3, requires_grad=True)
    losses.segment_dpo(win, torch.zeros(1, 3), torch.zeros(1, 3), beta=500.0).sum().backward()
    assert win.grad is not None and (win.grad == 0).all()


def test_the_worst_group_leads() -> None:
    each = torch.tensor([1.0, 3.0, 2.5])
    assert aggregate.group_max(each, torch.tensor([0, 0, 2])) == 2.5
    assert aggregate.group_means(each, torch.tensor([0, 0, 2]), 3).tolist() == [2.0, -math.inf, 2.5]


def test_metrics_count_ties_half_and_see_both_sides_fall() -> None:
    win, lose = torch.tensor([0.0, -1.0, 2.0]), torch.tensor([0.0, -2.0, 3.0])
    assert metrics.accuracy(win, lose).tolist() == [0.5, 1.0, 0.0]
    assert metrics.both_down(win, lose).tolist() == [0.0, 1.0, 0.0]
    assert metrics.calibration_error(torch.zeros(4), torch.tensor([1.0, 0.0, 1.0, 0.0])) == 0
    assert metrics.calibration_error(torch.full((4,), 9.0), torch.zeros(4)) > 0.99
    assert (metrics.kl_k3(torch.linspace(-3, 3, 7)) >= 0).all()


def test_a_policy_ranks_a_pair_right_just_when_the_gap_passes_the_threshold() -> None:
    draw = torch.Generator().manual_seed(0)
    win, lose, ref_win, ref_lose = torch.randn(4, 200, generator=draw, dtype=torch.float64)
    gap = (win - ref_win) - (lose - ref_lose)
    passed = gap > metrics.flip_threshold(ref_win, ref_lose)
    assert (metrics.ranking_accuracy(win, lose).bool() == passed).all()
    cheap = losses.dpo(win - ref_win, lose - ref_lose, beta=0.1) < metrics.loss_needed(ref_win, ref_lose, beta=0.1)
    assert (cheap == passed).all()
    assert (metrics.flip_needed(ref_win, ref_lose) == (ref_lose > ref_win)).all()


def test_ches_reads_only_the_answer_and_is_zero_for_equal_answers() -> None:
    draw = torch.Generator().manual_seed(0)
    win, lose = torch.randn(2, 2, 6, 8, generator=draw)
    mask = torch.tensor([[0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]])
    found = metrics.ches(win, lose, mask, mask)
    summed = [(side * mask[..., None]).sum(1) for side in (win, lose)]
    torch.testing.assert_close(found, (summed[0] * summed[1]).sum(-1) - (summed[0] ** 2).sum(-1))
    noisy = torch.where(mask.bool()[..., None], win, math.nan)
    torch.testing.assert_close(metrics.ches(noisy, lose, mask, mask), found)
    assert (metrics.ches(win, win, mask, mask) == 0).all()
    assert (metrics.mean_ches(win, win, mask, mask) == 0).all()


def test_clear_pairs_bind_more_in_mm_rlhf() -> None:
    gap = torch.tensor([-1.0, 0.0, 2.0, 1e3])
    beta = state.scored_beta(gap, beta=0.1)
    torch.testing.assert_close(beta, torch.tensor([0.1, 0.1, 0.1 * (1 + 0.5 * (1 - math.exp(-1.0))), 0.15]))
    assert losses.dpo(torch.ones(4), torch.zeros(4), beta=beta).shape == (4,)


def test_no_function_has_a_switch() -> None:
    """No boolean among the settings: a formula is a function, not a flag."""
    for found in entries():
        kinds = [type(p.default) for p in inspect.signature(found.function).parameters.values()]
        assert bool not in kinds, found.name
