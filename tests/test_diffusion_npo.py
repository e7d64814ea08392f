"""Diffusion-NPO: the published numbers, and how its two recipes turn a preference round."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import methods
import pytest
import torch
from torch import Tensor

from visalign.batches import Condition, Pairs
from visalign.diffusion import Errors, log_ratio
from visalign.diffusion.guidance import pushed
from visalign.process import Process
from visalign.trainers import DiffusionDPO, DiffusionNPO
from visalign.trainers.diffusion_npo import exchanged

LOG_2 = 0.6931471805599453


@dataclass
class Linear:
    """answer = w x + told, where `told` is the mean of the text; the reference's w is 0.9."""

    w: Tensor
    process: Process

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.w * x_t + condition.text.mean((1, 2))[:, None, None, None]

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.9 * x_t + condition.text.mean((1, 2))[:, None, None, None]


def weight(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def slope(method: DiffusionDPO | DiffusionNPO, batch: Pairs, value: float = 0.9) -> float:
    """The derivative of the mean loss by w."""
    w = weight(value)
    (found,) = torch.autograd.grad(method.loss(batch, Linear(w, methods.process())).each.mean(), w)
    return float(found)


def mirrored(batch: Pairs) -> Pairs:
    """Winners as losers."""
    n = len(batch)
    rows = [*range(n, 2 * n), *range(n)]
    return replace(batch, win=batch.lose, lose=batch.win, condition=methods.rows_of(batch.condition, rows))


@pytest.mark.parametrize(
    ("beta", "z", "loss"),
    [(1000.0, 7.5, 5.5293e-4), (2000.0, 15.0, 3.059e-7)],  # the SD1.5 script (500 without a half), the SDXL script
)
def test_the_published_scalars(beta: float, z: float, loss: float) -> None:
    """Errors of (liked less, liked more): policy .10, .12 and reference .11, .115, given as winners first."""
    found = Errors(torch.tensor([0.12, 0.10]).double(), torch.tensor([0.115, 0.11]).double())
    win, lose = log_ratio(exchanged(found)).chunk(2)
    assert float(beta * (win - lose)) == pytest.approx(z, abs=1e-4)
    assert float(DiffusionNPO(beta)._loss(win, lose, beta=beta)) == pytest.approx(loss, rel=1e-4)


def test_flipping_is_diffusion_dpo_on_exchanged_pairs() -> None:
    batch, model = methods.pairs(), Linear(weight(0.93), methods.process())
    flipped = DiffusionNPO(beta=300).loss(batch, model)
    swapped = DiffusionDPO(beta=300).loss(mirrored(batch), model)
    assert torch.allclose(flipped.each, swapped.each, rtol=1e-12)
    assert flipped.metrics.keys() == swapped.metrics.keys()
    assert all(torch.allclose(flipped.metrics[name], swapped.metrics[name]) for name in swapped.metrics)


def test_the_metrics_name_the_side_that_training_prefers() -> None:
    batch, model = methods.pairs(), Linear(weight(0.93), methods.process())
    straight, flipped = DiffusionDPO(beta=300).loss(batch, model), DiffusionNPO(beta=300).loss(batch, model)
    assert torch.equal(flipped.metrics["win_error"], straight.metrics["lose_error"])
    assert torch.allclose(flipped.metrics["margin"], -straight.metrics["margin"])


def test_flipping_starts_exactly_against_dpo() -> None:
    assert slope(DiffusionNPO(beta=300), methods.pairs()) == pytest.approx(-slope(DiffusionDPO(300), methods.pairs()))


@pytest.mark.parametrize("guidance", [1.3, 5.0, 7.5])
def test_through_guidance_the_branch_has_the_factor_one_minus_guidance(guidance: float) -> None:
    """Where the prompt says nothing, the guided answer is the network's own at the start, and only the factor is
    left: the preference is not flipped, its gradient is."""
    batch = methods.pairs()
    assert batch.empty is not None
    batch = replace(batch, condition=batch.empty, empty=batch.empty)
    plain = slope(DiffusionDPO(beta=300), batch)
    through = slope(DiffusionNPO(beta=300, by="guidance", guidance=guidance), batch)
    assert plain != 0.0
    assert through == pytest.approx((1 - guidance) * plain, rel=1e-9)


def test_through_guidance_is_the_formula_written_out() -> None:
    batch, process = methods.pairs(), methods.process("v_prediction")
    assert batch.empty is not None
    model, method = Linear(weight(0.95), process), DiffusionNPO(beta=30, by="guidance", guidance=3.0)
    loss = method.loss(batch, model)
    t, noise = process.times(batch.draw), batch.draw.normal("noise", methods.SHAPE, batch.win)
    errors = {}
    for side, (x0, rows) in {"win": (batch.win, range(4)), "lose": (batch.lose, range(4, 8))}.items():
        at = process.noised(x0, noise, t)
        told, untold = methods.rows_of(batch.condition, list(rows)), methods.rows_of(batch.empty, list(rows))
        positive = model.reference(at.x, t, told)
        for name, ask in (("policy", model.policy), ("reference", model.reference)):
            answer = ask(at.x, t, untold) + 3.0 * (positive - ask(at.x, t, untold))
            errors[side, name] = (answer - at.target).square().flatten(1).mean(1)
    gap = (errors["win", "policy"] - errors["lose", "policy"]) - (
        errors["win", "reference"] - errors["lose", "reference"]
    )
    assert torch.allclose(loss.each, torch.nn.functional.softplus(15 * gap), rtol=1e-9)
    assert torch.allclose(loss.metrics["margin"], (-15 * gap).detach(), rtol=1e-9)


@pytest.mark.parametrize("by", ["flip", "guidance"])
def test_equal_networks_cannot_tell(by: Literal["flip", "guidance"]) -> None:
    method = DiffusionNPO(beta=300, by=by)
    loss = method.loss(methods.pairs(), Linear(weight(0.9), methods.process()))
    assert loss.each.tolist() == pytest.approx([LOG_2] * 4, abs=1e-15)


def test_pushing_moves_the_negative_branch_against_what_is_wanted() -> None:
    """told 0.4 against -0.1 from the negative branch, at 7.5."""
    assert float(pushed(torch.tensor(0.4).double(), torch.tensor(-0.1).double(), 7.5)) == pytest.approx(3.65)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="by 'both' is not one of flip, guidance"):
        DiffusionNPO(by="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="above 1, got 1"):
        DiffusionNPO(guidance=1.0)
    with pytest.raises(ValueError, match="beta must be positive"):
        DiffusionNPO(beta=0)
    with pytest.raises(ValueError, match="empty conditions"):
        batch = replace(methods.pairs(), empty=None)
        DiffusionNPO(by="guidance").loss(batch, Linear(weight(0.9), methods.process()))
