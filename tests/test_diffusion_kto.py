"""Diffusion-KTO: the released code's numbers, the reference point over a batch, and what the labels pull."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import methods
import pytest
import torch
from rehearsal import Nursery, losses
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign.batches import Condition, Labelled
from visalign.draws import Draws
from visalign.losses.state import ReferencePoint
from visalign.process import Ddpm
from visalign.trainers import DiffusionKTO

POLICY, REFERENCE, LABEL = [0.100, 0.120, 0.095, 0.130], [0.1002, 0.1195, 0.0960, 0.1299], [1.0, -1.0, 1.0, -1.0]
GRADIENT = [62.4609538, -56.3369287, 52.4432053, -61.5335207]
UTILITIES = {
    "kto": lambda v: torch.sigmoid(v),
    "kto_loss_averse": lambda v: logsigmoid(v),
    "kto_risk_seeking": lambda v: -logsigmoid(-v),
}


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Erring:
    """A denoiser of pictures of one number that errs by what is written down."""

    process = Ddpm.from_config(methods.STABLE)

    def __init__(self, policy: Tensor, reference: Tensor) -> None:
        self.errors = policy, reference

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self._answer(self.errors[0], x_t, condition)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self._answer(self.errors[1], x_t, condition)

    def _answer(self, error: Tensor, x_t: Tensor, condition: Condition) -> Tensor:
        noise = condition.text.reshape(x_t.shape)  # the test tells the denoiser the noise that was drawn
        return noise + error.sqrt().reshape(x_t.shape)


def batch(label: Any = LABEL, weight: Any = None) -> Labelled:
    n = len(label)
    draw = Draws(0, tuple(map(str, range(n))), (0,) * n)
    noise = draw.normal("noise", (1, 1, 1), double(0.0))
    ones = torch.ones(n, dtype=torch.float64)
    told = Condition(noise.reshape(n, 1, 1))
    return Labelled(torch.zeros_like(noise), told, draw, double(label), ones if weight is None else double(weight))


def test_the_released_codes_numbers() -> None:
    policy = double(POLICY).requires_grad_()
    loss = DiffusionKTO(beta=1000).loss(batch(), Erring(policy, double(REFERENCE)))
    (gradient,) = torch.autograd.grad(loss.each.mean(), policy)
    assert loss.metrics["z0"].tolist() == pytest.approx([1.5e-4] * 4, rel=1e-9)
    assert loss.metrics["margin"].tolist() == pytest.approx([0.05, 0.65, 0.85, 0.25], rel=1e-9)
    assert float(loss.each.detach().mean()) == pytest.approx(0.391937124, rel=1e-8)
    assert gradient.tolist() == pytest.approx(GRADIENT, rel=1e-8)


@pytest.mark.parametrize("utility", UTILITIES)
def test_every_utility_is_the_papers_formula(utility: str) -> None:
    policy, reference, label = double(POLICY), double(REFERENCE), double(LABEL)
    loss = DiffusionKTO(beta=1000, utility=utility).loss(batch(), Erring(policy, reference))
    gain = reference - policy
    expected = 1 - UTILITIES[utility](label * 1000 * (gain - gain.mean().clamp(min=0)))
    assert torch.allclose(loss.each, expected, rtol=1e-9)


@pytest.mark.parametrize(("utility", "at_start"), [("kto", 0.25), ("kto_loss_averse", 0.5), ("kto_risk_seeking", 0.5)])
def test_at_the_start_both_labels_pull_alike(utility: str, at_start: float) -> None:
    """Policy = reference: z0 = 0, the loss is 1 - U(0), and U'(0) is 1/4 for the sigmoid, 1/2 for its logarithms."""
    policy = double(POLICY).requires_grad_()
    loss = DiffusionKTO(beta=1000, utility=utility).loss(batch(), Erring(policy, double(POLICY)))
    (gradient,) = torch.autograd.grad(loss.each.sum(), policy)
    assert torch.allclose(loss.each, 1 - UTILITIES[utility](double([0.0] * 4)))
    assert gradient.tolist() == pytest.approx([1000 * at_start * label for label in LABEL], rel=1e-9)


def test_the_averse_pull_hardest_where_they_are_wrong_and_the_seeking_where_they_are_right() -> None:
    policy = double([0.09, 0.11]).requires_grad_()  # both liked: the first got better, the second worse
    pulls = {}
    for utility in UTILITIES:
        method = DiffusionKTO(beta=1000, utility=utility)
        each = method.loss(batch([1.0, 1.0]), Erring(policy, double([0.1, 0.1]))).each
        (pulls[utility],) = torch.autograd.grad(each.sum(), policy)
    assert pulls["kto_loss_averse"][1] > 100 * pulls["kto_loss_averse"][0]
    assert pulls["kto_risk_seeking"][0] > 100 * pulls["kto_risk_seeking"][1]
    assert float(pulls["kto"].max()) < 1.0  # saturated on both sides


def test_z0_is_never_below_zero_and_has_no_gradient() -> None:
    policy = double([0.2, 0.3]).requires_grad_()
    loss = DiffusionKTO(beta=10).loss(batch([1.0, -1.0]), Erring(policy, double([0.1, 0.1])))
    assert loss.metrics["z0"].tolist() == [0.0, 0.0]
    better = double([0.05, 0.1]).requires_grad_()
    each = DiffusionKTO(beta=10).loss(batch([1.0, -1.0]), Erring(better, double([0.1, 0.1]))).each
    (cross,) = torch.autograd.grad(each[0], better)
    assert cross[1] == 0.0


def test_z0_weighs_pictures_as_the_loss_does() -> None:
    """Weights 4 to 1 are as four liked pictures beside one disliked: what drawing them four times as often gives."""
    policy, reference = double([0.100, 0.120]), double([0.101, 0.1201])
    weighed = DiffusionKTO(beta=1000).loss(batch([1.0, -1.0], [4.0, 1.0]), Erring(policy, reference))
    order = [0, 0, 0, 0, 1]
    drawn = DiffusionKTO(beta=1000).loss(batch([1.0] * 4 + [-1.0]), Erring(policy[order], reference[order]))
    assert float(weighed.metrics["z0"][0]) == pytest.approx(float(drawn.metrics["z0"][0]), rel=1e-12)
    mean = (double([4.0, 1.0]) * weighed.each).sum() / 5
    assert float(mean) == pytest.approx(float(drawn.each.mean()), rel=1e-12)


def test_pictures_without_weight_neither_count_nor_break() -> None:
    point = ReferencePoint()
    assert float(point.update(double([1.0, 5.0]), double([1.0, 0.0]))) == 1.0
    assert float(point.update(double([1.0, 5.0]), double([0.0, 0.0]))) == 0.0


def test_momentum_averages_z0_over_forwards() -> None:
    method = DiffusionKTO(beta=1000, momentum=0.75)
    policy, reference = double([0.1, 0.1]), double([0.104, 0.104])
    assert float(method.loss(batch([1.0, -1.0]), Erring(policy, reference)).metrics["z0"][0]) == pytest.approx(0.004)
    later = method.loss(batch([1.0, -1.0]), Erring(policy, policy)).metrics["z0"][0]
    assert float(later) == pytest.approx(0.003)


def test_exchanging_the_labels_negates_the_margin() -> None:
    given = methods.labelled()
    margins = [
        DiffusionKTO(beta=50).loss(each, methods.denoiser()).metrics["margin"]
        for each in (given, replace(given, label=-given.label))
    ]
    assert torch.equal(margins[0], -margins[1])
    assert float(margins[0].abs().min()) > 0


def test_it_is_the_formula_on_a_network() -> None:
    """Each picture at a time and with a noise of its own, no half."""
    given, model = methods.labelled(), methods.denoiser("v_prediction")
    loss = DiffusionKTO(beta=300).loss(given, model)
    t = given.draw.integers("t", 0, 1000)
    assert len(set(t.tolist())) == 4
    at = model.process.noised(given.x, given.draw.normal("noise", methods.SHAPE, given.x), t)
    gain = []
    for i in range(4):
        told = methods.rows_of(given.condition, [i])
        one = [(side(at.x[i : i + 1], t[i : i + 1], told) - at.target[i]).square().mean() for side in sides(model)]
        gain.append(one[1] - one[0])
    ratio = torch.stack(gain)
    expected = torch.sigmoid(-given.label * 300 * (ratio - ratio.mean().clamp(min=0)))
    assert torch.allclose(loss.each, expected, rtol=1e-8)


def sides(model: Any) -> tuple[Any, Any]:
    return model.policy, model.reference


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        DiffusionKTO(beta=0)
    with pytest.raises(ValueError, match="which this method does not feed"):
        DiffusionKTO(utility="ipo")
    with pytest.raises(ValueError, match="momentum must be in"):
        DiffusionKTO(momentum=1.0)


def test_two_processes_of_two_pictures_share_the_z0_of_one_process_of_four(tmp_path: Path) -> None:
    nursery = Nursery(tmp_path / "log")
    for ranks, micro in ((1, 4), (2, 2)):
        out = tmp_path / str(ranks)
        out.mkdir()
        changes = ["batch=8", f"micro_batch={micro}", "steps=4"]
        nursery.start(out, changes, ranks, method="diffusion_kto", train="lora")
        assert nursery.wait() == 0, (tmp_path / "log").read_text()
    nursery.close()
    one, two = (torch.tensor([float.fromhex(x) for x in losses(tmp_path / n).values()]) for n in ("1", "2"))
    assert float((one - two)[0].abs()) <= 1e-5  # the weights have not moved yet
    assert torch.allclose(one, two, rtol=0, atol=2e-3)
    points = [row_of(tmp_path / n / "metrics.jsonl", "z0") for n in ("1", "2")]
    assert points[0] == pytest.approx(points[1], rel=1e-2, abs=1e-7)
    assert max(points[0]) > 0


def row_of(path: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in path.read_text().splitlines()]
