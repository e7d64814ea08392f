"""GRPO of drawings: the published numbers of its steps, and that it is the gradient of the expected reward."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import methods
import pytest
import torch
from torch import Tensor

from visalign import registry
from visalign.batches import Condition
from visalign.decoded import Decoded
from visalign.diffusion.stochastic import diffused, divergence, log_prob, preserving, steadily, transition
from visalign.draws import Draws
from visalign.process import Ddpm, Flow
from visalign.trainers import GRPO
from visalign.trainers.grpo import Drawn

SMALL: dict[str, Any] = methods.SMALL["grpo"]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Steps ---------------------------------------------------------------------------------------------------------------

T, TO = double([0.8]), double([0.7])
X, V, Z = double([[1, -0.5]]), double([[0.2, 0.8]]), double([[0.3, -1.1]])
PUBLISHED = [
    (diffused, 0.7, 0.8, 0.7, 0.4427188724, [0.8526, -0.53835], -0.4291182233),
    (diffused, 0.7, 1.0, 0.95, 0.7, [0.745, -0.4175], -0.8872635893),
    (steadily, 0.3, 0.8, 0.7, 0.0948683298, [0.97415, -0.5780875], 1.1113268176),
    (preserving, 0.8, 0.8, 0.7, 0.6657395614, [0.4769643719, -0.4155460447], None),
]


@pytest.mark.parametrize(("law", "level", "t", "to", "spread", "mean", "logp"), PUBLISHED)
def test_the_published_numbers_of_a_flows_step(
    law: Callable[..., Any], level: float, t: float, to: float, spread: float, mean: list[float], logp: float | None
) -> None:
    """Computed once by the released functions of yifan123/flow_grpo and XueZeyue/DanceGRPO."""
    found, deviation = law(Flow(), V, X, double([t]), double([to]), level)
    assert found[0].tolist() == pytest.approx(mean, abs=1e-9)
    assert float(deviation) == pytest.approx(spread, abs=1e-9)
    after = found + deviation * Z
    if logp is not None:
        assert float(log_prob(after, found, deviation)) == pytest.approx(logp, abs=1e-9)
    else:
        bare = GRPO(**SMALL | {"noise": "cps", "variant": "release"}).log_prob(after, found, deviation)
        assert float(bare) == pytest.approx(-0.2880859564, abs=1e-9)


def test_the_published_numbers_of_a_diffusions_step() -> None:
    """DDPO's, kvablack/ddpo-pytorch: from abar .5 to .6 with eta 1."""
    process = Ddpm(double([0.9, 0.6, 0.5]))
    mean, spread = transition(process, double([[0.1, -0.4]]), double([[0.5, 1]]), torch.tensor([2]), torch.tensor([1]))
    assert mean[0].tolist() == pytest.approx([0.5219026685, 1.1987246709], abs=1e-9)
    assert float(spread) == pytest.approx(0.3651483717, abs=1e-9)
    assert float(log_prob(mean + spread * Z, mean, spread)) == pytest.approx(-0.2364870229, abs=1e-9)


def test_the_published_divergence_of_two_steps() -> None:
    (mean, spread), (anchor, _) = (diffused(Flow(), each, X, T, TO) for each in (V, double([[0.25, 0.7]])))
    normal = torch.distributions.Normal
    true = torch.distributions.kl_divergence(normal(mean, spread), normal(anchor, spread)).mean()
    assert float(divergence(mean, anchor, spread)) == pytest.approx(float(true), rel=1e-12)
    assert float(true) == pytest.approx(2.471341e-4, rel=1e-6)


@dataclass
class Answering:
    """Policy and reference answer what they are told to, at a flow's every step, with gradient."""

    answer: Tensor
    other: Tensor
    process: Any

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.answer.expand_as(x_t)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.other.expand_as(x_t)


def test_the_released_divergence_is_shorter_by_the_step() -> None:
    """As yifan123/flow_grpo's train_sd3.py computes it, at dt = -0.1."""
    model = Answering(V, double([[0.25, 0.7]]), Flow())
    drawn = Drawn(torch.stack([X, X + 1]), X, torch.cat([T, TO, double([0.0])]))
    for variant, expected in (("paper", 2.471341e-4), ("release", 2.47134e-5)):
        policy, reference = (lambda x, t, each=each: each.expand_as(x) for each in (model.answer, model.other))
        method = GRPO(**SMALL | {"variant": variant, "kl": 1.0})
        _, far = method.densities(drawn, torch.zeros(1, 1, dtype=torch.long), model.process, policy, reference)
        assert float(far) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("law", "steps"), [(diffused, 400), (steadily, 400), (preserving, 12), (transition, 12)])
def test_noise_keeps_the_law_of_the_path(law: Callable[..., Any], steps: int) -> None:
    """A network that knows the data (normal, mean 1, deviation 1/2) draws them, whatever is left to chance."""
    times = Flow().grid(steps).flip(0)
    torch.manual_seed(0)
    x = torch.randn(20_000, 1, dtype=torch.float64)
    for t, to in pairwise(times[:-1]):
        a, s = 1 - t, t
        x0 = 1 + (x - a) * a * 0.25 / (a * a * 0.25 + s * s)  # E[x0 | x_t]
        answer = (x - a * x0) / s - x0
        mean, spread = law(Flow(), answer, x, t.expand(len(x)), to.expand(len(x)))
        x = mean + spread * torch.randn_like(x)
    t = times[-2]
    assert float(x.mean()) == pytest.approx(float(1 - t), abs=0.03)
    if law is not preserving and law is not transition:  # those hold x0 fixed in a step, and so draw its mean at few
        assert float(x.std()) == pytest.approx(math.hypot(0.5 * float(1 - t), float(t)), rel=0.05)


def test_a_flows_noise_is_refused_on_another_path() -> None:
    with pytest.raises(ValueError, match="noise=ddim or noise=cps"):
        GRPO(**SMALL | {"noise": "dance"}).loss(methods.prompts(), methods.denoiser("epsilon"))


# Advantages ----------------------------------------------------------------------------------------------------------

SCORES = double([[0.2, 0.8, 0.4, 0.9], [1.0, 0.0, 0.5, 0.3]])


@pytest.mark.parametrize(
    ("spread", "expected", "within"),
    [
        ("batch", [-1.12475045, 0.67485027, -0.52488354, 0.97478372], 1e-8),
        ("group", [-1.31009823, 0.78605894, -0.61137917, 1.13541847], 1e-8),
        ("sample", [-1.13497483, 0.68098490, -0.52965492, 0.98364485], 4e-4),  # 1e-8 there where 1e-4 is here
        ("none", [-0.375, 0.225, -0.175, 0.325], 1e-12),
    ],
)
def test_the_published_advantages(spread: Any, expected: list[float], within: float) -> None:
    found = GRPO(**SMALL | {"spread": spread}).advantages(SCORES)
    assert found[0].tolist() == pytest.approx(expected, abs=within)


def test_what_cannot_be_judged_has_no_advantage_and_changes_none() -> None:
    nan = math.nan
    for spread in ("group", "sample", "batch", "none"):
        method = GRPO(**SMALL | {"spread": spread})
        found = method.advantages(double([[0.2, nan, 0.8, 0.4], [nan, nan, nan, 0.1], [0.5, 0.5, 0.5, nan]]))
        if spread != "batch":
            assert found[0, [0, 2, 3]].tolist() == pytest.approx(
                method.advantages(double([[0.2, 0.8, 0.4]]))[0].tolist()
            )
        assert found[0, 1] == 0 and not found[1:].any()
    assert GRPO(**SMALL | {"most": 0.5}).advantages(SCORES).abs().max() == 0.5


# Drawings ------------------------------------------------------------------------------------------------------------


def grpo(**settings: Any) -> GRPO:
    return GRPO(**{**SMALL, "recompute": False, "guidance": 1.0, **settings})


def linear(prediction: str = "flow", w: float = 0.4) -> methods.Linear:
    return methods.Linear(torch.tensor(w, dtype=torch.float64, requires_grad=True), methods.process(prediction))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_it_is_the_gradient_of_the_expected_reward(prediction: str) -> None:
    """-E[advantage d log p]: derived here from the drawings alone, by the density of each step."""
    method, model, batch = grpo(group=5, spread="none", most=math.inf), linear(prediction), methods.prompts(3)
    loss = method.loss(batch, model)
    (found,) = torch.autograd.grad(loss.each.mean(), model.w)
    told = method.drawn(batch, model.process, lambda x, t: model.w.detach() * x, method.places(batch))
    scores = methods.Bright()(told.final, told.times, batch.condition).reshape(3, 5)
    gain = scores - scores.mean(1, keepdim=True)
    total = torch.zeros((), dtype=torch.float64)
    for place in range(method.steps - 1):
        t, to = (told.times[row].expand(15) for row in (place, place + 1))
        mean, spread = method.law(model.process)(model.process, model.w * told.path[place], told.path[place], t, to)
        density = torch.distributions.Normal(mean, spread).log_prob(told.path[place + 1]).flatten(1).mean(1)
        total = total - (gain.flatten() * density).mean() / (method.steps - 1)
    (expected,) = torch.autograd.grad(total, model.w)
    assert float(found) == pytest.approx(float(expected), rel=1e-10)
    assert torch.allclose(loss.metrics["score"], scores.mean(1))
    assert float(loss.each.detach().abs().max()) < 1e-12  # the curve is flat: advantages sum to 0


@pytest.mark.parametrize("prediction", ["flow", "epsilon", "v_prediction"])
def test_what_is_rewarded_becomes_likelier(prediction: str) -> None:
    """A bias that moves every answer is learnt: the mean brightness of what is drawn rises, draw after draw."""
    bias = torch.zeros((), dtype=torch.float64, requires_grad=True)

    @dataclass
    class Biased:
        process: Any

        def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return 0.4 * x_t + bias

        reference = policy

    model, method = Biased(methods.process(prediction)), grpo(group=8)
    optimizer = torch.optim.Adam([bias], lr=0.02)
    seen = []
    for visit in range(30):
        loss = method.loss(replace(methods.prompts(4), draw=methods.draws(4, visit)), model)
        optimizer.zero_grad()
        loss.each.mean().backward()
        optimizer.step()
        seen.append(float(loss.metrics["score"].mean()))
    assert sum(seen[-5:]) / 5 > sum(seen[:5]) / 5 + 0.5


def test_a_prompt_whose_drawings_are_alike_has_no_weight() -> None:
    @dataclass
    class Half:
        asks: int = 0

        def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return torch.cat([torch.ones(6), x_t[6:].flatten(1).mean(1)])

    loss = grpo(scorer=Half()).loss(methods.prompts(4), linear())
    assert loss.weight is not None and loss.weight.tolist() == [0, 0, 1, 1]
    assert loss.metrics["kept"].tolist() == [0, 0, 1, 1] and loss.metrics["score_spread"][:2].tolist() == [0, 0]


def test_a_group_may_share_its_initial_noise() -> None:
    for shared in (True, False):
        method, model, batch = grpo(same_start=shared), linear(), methods.prompts(2)
        told = method.drawn(batch, model.process, lambda x, t: 0.4 * x, method.places(batch))
        first, second, *_ = told.path[0].unflatten(0, (2, 3)).unbind(1)
        assert torch.equal(first, second) is shared
        assert not torch.equal(*told.path[1].unflatten(0, (2, 3)).unbind(1)[:2])


def test_outside_its_window_a_drawing_is_certain() -> None:
    method, model, batch = grpo(window=2, steps=9, same_start=True, group=2), linear(), methods.prompts(6)
    places = method.places(batch)
    assert places.shape == (6, 2) and torch.equal(places[:, 1], places[:, 0] + 1)
    assert set(places[:, 0].tolist()) <= {0, 1, 2} and len(set(places[:, 0].tolist())) > 1
    path = method.drawn(batch, model.process, lambda x, t: 0.4 * x, places).path
    for row, (first, _) in enumerate(places.tolist()):
        one, other = path[:, 2 * row], path[:, 2 * row + 1]
        alike = [torch.equal(one[place], other[place]) for place in range(9)]
        assert alike == [place <= first for place in range(9)]
        for place in {*range(8)} - {first, first + 1}:
            t, to = (model.process.grid(9).flip(0)[each : each + 1] for each in (place, place + 1))
            x = one[place : place + 1]
            assert torch.allclose(one[place + 1 : place + 2], model.process.step(0.4 * x, x, t, to), atol=1e-12)


def test_a_share_of_the_steps_is_trained_and_every_step_in_its_turn() -> None:
    method = grpo(steps=11, trained=0.6)
    rows = method.places(replace(methods.prompts(), draw=Draws(0, tuple(map(str, range(50))), (0,) * 50)))
    assert method.count == 6 and rows.shape == (50, 6)
    assert bool((rows.diff(dim=1) > 0).all()) and set(rows.flatten().tolist()) == set(range(10))


def test_recomputing_and_portions_change_memory_alone() -> None:
    found = []
    for settings in ({"recompute": False, "portion": 3}, {"portion": 3}, {"portion": 2}, {"portion": 9}):
        model = methods.denoiser("flow")
        loss = GRPO(**{**SMALL, "kl": 0.1, **settings}).loss(methods.prompts(2), model)
        gradient = torch.autograd.grad(loss.each.sum(), list(model.trainable().values()))
        found.append(torch.cat([loss.each.detach(), *(each.flatten() for each in gradient)]))
    assert torch.equal(found[0], found[1])
    assert all(torch.allclose(found[0], each, rtol=1e-9, atol=1e-12) for each in found[2:])
    assert grpo(recompute=True, portion=2).passes.held == 2 and grpo(recompute=True, portion=9).passes.held == 3


def test_the_empty_prompts_answer_is_kept_out_of_the_released_gradient() -> None:
    told = methods.Counted(methods.denoiser("flow"))
    GRPO(**{**SMALL, "variant": "release"}).loss(methods.prompts(1), told)
    assert (told.with_gradient, told.free) == (3 * 3, 2 * 3 * 4 + 3 * 3)


def test_what_cannot_be_is_refused() -> None:
    for wrong in ({"group": 1}, {"steps": 1}, {"window": 4}):
        with pytest.raises(ValueError, match="group >= 2, steps >= 2, 0 <= window < steps"):
            grpo(**wrong)
    for beyond in ({"trained": 0.0}, {"most": 0.0}, {"kl": -1.0}):
        with pytest.raises(ValueError, match="0 < trained <= 1, most > 0, kl >= 0"):
            grpo(**beyond)
    with pytest.raises(ValueError, match="a portion is one drawing or more"):
        grpo(portion=0)
    with pytest.raises(ValueError, match="a level of noise is above 0"):
        grpo(level=0.0)


def test_a_finished_picture_is_decoded_as_it_is() -> None:
    """No denoiser is asked about it, in whatever portions it goes through the autoencoder."""
    settings = {"name": "decoded", "scorer": "playground_hps", "folder": "playground", "temperature": 1.0}
    judges = [registry.build("latent_scorer", {**settings, "batch": batch}) for batch in (2, 8)]
    assert all(isinstance(each, Decoded) for each in judges)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    class Silent:
        process = methods.process()

        def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            raise AssertionError("asked about a finished picture")

        policy = reference

    clean, none = torch.full((3,), -1), Condition(torch.zeros(3, 24, 128))
    small, whole = (each.of(Silent(), ["a red circle"] * 3)(latents, clean, none) for each in judges)
    assert torch.allclose(small, whole, atol=1e-4) and torch.isfinite(whole).all()
