"""SmPO and InPO: inversion to the released codes' numbers, the multiplier of a score, and what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import methods
import pytest
import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from visalign.batches import Condition
from visalign.diffusion.inversion import Inversion, deviation, invert_pairs
from visalign.process import Ddpm, Flow
from visalign.trainers import InPO, SmPO
from visalign.trainers.smpo import PICKSCORE_SPAN

X0 = [1, -0.5, 0.25, 2]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stable(**changes: Any) -> Ddpm:
    return Ddpm.from_config({**methods.STABLE, **changes})


def toy(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
    """A network that can be followed by hand; it answers for times below 0, too."""
    return 0.5 * x + 0.0005 * t.to(x.dtype).reshape(-1, *([1] * (x.ndim - 1)))


def told(n: int) -> Condition:
    return Condition(torch.zeros(n, 1, 1))


def nothing(place: int) -> Tensor:
    raise AssertionError("no noise is asked for where eta is 0")


def inverted(t: int, **settings: Any) -> tuple[Tensor, Tensor]:
    """x_t and the noise that leads there, of the toy."""
    at = Inversion(**settings)(stable(), toy, double([X0]), torch.tensor([t]), told(1), nothing)
    return at.x[0], at.target[0]


@pytest.mark.parametrize(
    ("t", "settings", "x", "noise"),
    [
        (
            350, {"semantics": "diffusers_0_20", "renoise": 1},
            [1.08851044, -0.481910862, 0.30329979, 2.13545798], [0.536411058, -0.17945969, 0.178475684, 1.01365822],
        ),
        (
            350, {"semantics": "diffusers_0_22", "renoise": 1},
            [1.1685354, -0.506562888, 0.330986255, 2.28526759], [0.650324842, -0.214551313, 0.217886765, 1.22690895],
        ),
        (
            950, {"semantics": "diffusers_0_20", "renoise": 1},
            [0.897318327, -0.0262091113, 0.435554608, 1.51300329], None,
        ),
        (
            950, {"semantics": "diffusers_0_22", "renoise": 1},
            [1.04889714, 0.125369699, 0.587133418, 1.6645821], None,
        ),
        (
            350, {"semantics": "diffusers_0_20"},
            [1.08002878, -0.483317869, 0.298355455, 2.12225988], [0.524337595, -0.181462533, 0.171437531, 0.994871014],
        ),
        (350, {"semantics": "diffusers_0_22"}, [1.15165201, -0.506166252, 0.322742881, 2.25686419], None),
    ],
)  # fmt: skip
def test_the_published_inversions(t: int, settings: Any, x: list[float], noise: list[float] | None) -> None:
    found, target = inverted(t, steps=5, **settings)
    assert found.tolist() == pytest.approx(x, rel=1e-8)
    if noise:
        assert target.tolist() == pytest.approx(noise, rel=2e-8)


def test_each_hop_of_the_published_walk() -> None:
    """Up to the first grid level not below t: 1 for t = 0 and 1, 201 for t = 2."""
    old: dict[str, Any] = {"steps": 5, "semantics": "diffusers_0_20", "renoise": 1}
    assert inverted(1, **old)[0].tolist() == pytest.approx(
        [1.00444684, -0.504040349, 0.250203246, 2.01010497], rel=1e-8
    )
    assert inverted(2, **old)[0].tolist() == pytest.approx([1.11564481, -0.559453473, 0.27809567, 2.23237701], rel=1e-8)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_newer_semantics_are_those_of_the_installed_scheduler(prediction: str) -> None:
    scheduler = DDIMInverseScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1, prediction_type=prediction,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    x = double([X0])
    for t in scheduler.timesteps[scheduler.timesteps < 650]:
        x = scheduler.step(toy(x, t.reshape(1), told(1)), t, x).prev_sample
    made = Inversion(10, "diffusers_0_22")
    at = made(stable(prediction_type=prediction), toy, double([X0]), torch.tensor([650]), told(1), nothing)
    assert torch.allclose(at.x, x, rtol=1e-5)


@pytest.mark.parametrize("semantics", ["diffusers_0_20", "diffusers_0_22"])
def test_at_a_level_of_the_grid_all_semantics_end_where_exact_does(semantics: Any) -> None:
    """Then only the time that the network is told differs, which this network does not hear."""

    def deaf(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.5 * x

    at = torch.tensor([401 if semantics == "diffusers_0_20" else 402])
    found = Inversion(5, semantics)(stable(), deaf, double([X0]), at, told(1), nothing)
    exact = Inversion(5)(stable(), deaf, double([X0]), torch.tensor([401]), told(1), nothing)
    assert torch.allclose(found.x, exact.x, rtol=1e-12)


@pytest.mark.parametrize("process", [stable(set_alpha_to_one=True), Flow()])
def test_a_network_that_always_names_the_same_noise_is_inverted_exactly(process: Any) -> None:
    """In any number of hops, to every time: there is nothing to approximate."""
    noise, x0 = double([0.3, -1.2, 0.8, 0.1]), double([X0])
    flow = isinstance(process, Flow)
    t = double([0.37]) if flow else torch.tensor([350])

    def constant(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return noise.expand_as(x) - x0 if flow else noise.expand_as(x)

    at = Inversion(7)(process, constant, x0, t, told(1), nothing)
    assert torch.allclose(at.x, process.noised(x0, noise, t).x, atol=1e-9)


def test_the_point_the_time_and_the_target_belong_together() -> None:
    """In each semantics, x is the path's point at t for the picture and the implied noise."""
    for process in (stable(), stable(prediction_type="v_prediction"), Flow()):
        t = process.times(methods.draws(2))
        x0 = double([X0, X0[::-1]])
        at = Inversion(6, renoise=1)(process, toy, x0, t, told(2), nothing)
        found, _ = process.split(at.target, at.x, t)
        assert torch.allclose(found, x0, atol=1e-9)


def test_each_picture_goes_to_its_own_time() -> None:
    t = torch.tensor([3, 350, 999])
    together = Inversion(5, renoise=1)(stable(), toy, double([X0] * 3), t, told(3), nothing)
    for i, time in enumerate(t):
        assert together.x[i].tolist() == pytest.approx(inverted(int(time), steps=5, renoise=1)[0].tolist(), rel=1e-12)


@pytest.mark.parametrize(("semantics", "hops"), [("exact", 3.99), ("diffusers_0_20", 3.792), ("diffusers_0_22", 2.99)])
def test_the_mean_number_of_hops(semantics: Any, hops: float) -> None:
    assert Inversion(5, semantics).passes == pytest.approx(hops)
    assert Inversion(5, semantics, renoise=1).passes == pytest.approx(2 * hops)


def test_the_added_noise_has_the_deviation_of_ddims_posterior() -> None:
    """(1 - a_prev) / (1 - a) (1 - a / a_prev), by diffusers' scheduler."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", set_alpha_to_one=False)
    for source, to in ((-1, 1), (1, 101), (801, 901)):
        found = float(deviation(stable(), double([[0.0]]), torch.tensor([source]), torch.tensor([to])))
        assert found**2 == pytest.approx(float(scheduler._get_variance(to, source)), rel=1e-4)


def test_eta_moves_winner_and_loser_alike_and_each_visit_otherwise() -> None:
    model: Any = Toy(stable())
    batch = methods.pairs()
    same = replace(batch, lose=batch.win)
    still, moved = (invert_pairs(Inversion(5, eta=eta), model, same).x for eta in (0.0, 0.1))
    assert not torch.allclose(still, moved)
    assert torch.equal(moved[:4], moved[4:])
    other = replace(same, draw=methods.draws(4, visit=1))
    assert not torch.allclose(moved, invert_pairs(Inversion(5, eta=0.1), model, other).x)


@dataclass
class Toy:
    """The toy as policy, and another as reference."""

    process: Any

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return toy(x_t, t, condition)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.9 * toy(x_t, t, condition)


@pytest.mark.parametrize(
    ("scores", "preference", "multiplier"),
    [((0.23, 0.22), 0.515003259, 0.300065170), ((0.23, 0.19), 0.559744262, 1.19488523), ((0.21, 0.21), 0.5, 0.0)],
)
def test_the_published_multipliers(scores: tuple[float, float], preference: float, multiplier: float) -> None:
    method, batch = SmPO(span=PICKSCORE_SPAN), replace(methods.pairs(1), scores=double([scores]))
    found = method.preference(batch)
    assert float(found) == pytest.approx(preference, rel=1e-8)
    assert method.sharpness * (2 * float(found) - 1) == pytest.approx(multiplier, rel=1e-7, abs=1e-12)
    assert SmPO(span=1.0).preference(replace(batch, scores=double([(1.0, 0.0)]))).item() == 1 / (1 + math.exp(-1))


@pytest.mark.parametrize(
    ("multiplier", "z", "loss", "norm"),
    [
        (0.300065170, [0.757664554, 0.375081463], 0.453754265, 19.2446246),
        (1.19488523, [3.01708521, 1.49360654], 0.125183146, 26.3810375),
        (0.0, [0.0, 0.0], 0.693147181, 0.0),
    ],
)
def test_the_published_losses(multiplier: float, z: list[float], loss: float, norm: float) -> None:
    """On the tensors of the Diffusion-DPO test, at beta 2000."""
    from test_diffusion_dpo import NOISES, POLICY, REFERENCE

    from visalign.diffusion import Errors, log_ratio, squared_error

    target = double(NOISES * 2)
    answer = double(POLICY).requires_grad_()
    found = Errors(squared_error(answer, target), squared_error(double(REFERENCE), target))
    win, lose = log_ratio(found).chunk(2)
    preference = double([(multiplier / 10 + 1) / 2] * 2)
    each = SmPO()._loss(win, lose, beta=2000, confidence=preference)
    (gradient,) = torch.autograd.grad(each.mean(), answer)
    assert (2000 * multiplier * (win - lose)).tolist() == pytest.approx(z, rel=1e-7)
    assert float(each.mean()) == pytest.approx(loss, rel=1e-7)
    assert float(gradient.norm()) == pytest.approx(norm, rel=1e-7)


def test_a_tie_of_scores_pulls_nothing_beside_pairs_that_pull() -> None:
    model, batch = methods.denoiser(), methods.pairs()
    tied = replace(batch, scores=double([[0.5, 0.5], [0.6, 0.5], [0.5, 0.5], [0.4, 0.2]]))
    loss = SmPO(beta=50).loss(tied, model)
    weights = list(model.trainable().values())
    for i in range(4):
        slopes = torch.autograd.grad(loss.each[i], weights, retain_graph=True)
        assert (sum(float(slope.norm()) for slope in slopes) == 0) == (i in (0, 2))
    assert float(loss.each[0]) == pytest.approx(math.log(2))
    assert float(loss.metrics["margin"][0]) == 0.0


def test_a_pair_whose_loser_scored_higher_is_trained_the_other_way_round() -> None:
    batch = methods.pairs()
    assert batch.scores is not None
    swapped = replace(
        batch, win=batch.lose, lose=batch.win, condition=methods.rows_of(batch.condition, [*range(4, 8), *range(4)])
    )
    given = SmPO(beta=50).loss(batch, methods.denoiser()).each
    turned = SmPO(beta=50).loss(replace(swapped, scores=batch.scores.flip(1)), methods.denoiser()).each
    assert torch.allclose(given, turned, rtol=1e-9)


@pytest.mark.parametrize("scores", [None, [[0.8, 0.3], [math.nan, 0.5], [0.9, 0.1], [0.4, 0.2]]])
def test_a_pair_without_scores_is_named_and_the_mend_with_it(scores: Any) -> None:
    batch = replace(methods.pairs(), scores=None if scores is None else double(scores))
    first = "record 0" if scores is None else "record 1"
    with pytest.raises(ValueError, match=f"'{first}' the first; score the records with `visalign label`"):
        SmPO().loss(batch, methods.denoiser())


@pytest.mark.parametrize("kind", [SmPO, InPO])
def test_who_inverts_can_be_chosen(kind: Any) -> None:
    """By the reference, x_t does not move with training; by the policy it does."""
    model, batch = Toy(stable()), methods.pairs()
    by = {name: invert_pairs(kind(inverts=name)._inversion, model, batch).x for name in ("policy", "reference")}
    assert not torch.allclose(by["policy"], by["reference"])
    with pytest.raises(ValueError, match="inverted by policy or reference, not by 'ema'"):
        kind(inverts="ema")


def test_equal_models_cannot_tell() -> None:
    model = methods.denoiser()
    with torch.no_grad():
        for name, weight in model.trainable().items():
            if "lora_B" in name:
                weight.zero_()
    for method in (SmPO(), InPO()):
        assert torch.equal(method.loss(methods.pairs(), model).each, torch.full((4,), math.log(2), dtype=torch.float64))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="'new' is not one of exact, diffusers_0_20, diffusers_0_22"):
        SmPO(semantics="new")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"beta, sharpness and span must be positive, got .* span 0"):
        SmPO(span=0)
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        InPO(beta=0)
    with pytest.raises(ValueError, match="got steps 10, renoise 0, eta -1"):
        InPO(eta=-1)
    with pytest.raises(ValueError, match=r"along a DDPM scheduler's times, .*; use exact"):
        InPO(semantics="diffusers_0_20").loss(methods.pairs(), Toy(Flow()))
