"""MaPO: the released code's numbers, the paper's own form, and what must hold whatever the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import methods
import pytest
import torch
from torch import Tensor

from visalign.batches import Condition, Pairs
from visalign.diffusion import squared_error
from visalign.draws import Draws
from visalign.losses.reference_free import mapo_gap
from visalign.process import Ddpm
from visalign.trainers import MaPO

NOISES = [[0.5, -1, 1.5, 0], [-0.2, 0.8, 0.3, -1.1]]
POLICY = [[0.40, -0.90, 1.30, 0.10], [-0.10, 0.70, 0.25, -1.00], [0.60, -0.70, 1.20, 0.20], [-0.40, 0.90, 0.10, -0.80]]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class Linear:
    """answer = w x; MaPO asks no reference, so there is none."""

    w: Tensor
    process: Ddpm

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.w * x_t


def released(win: Tensor, lose: Tensor, **settings: Any) -> Tensor:
    return MaPO(**settings)._loss(win, lose, beta=MaPO(**settings)._weight)


def test_the_published_tensors() -> None:
    errors = squared_error(double(POLICY), double(NOISES * 2))
    win, lose = errors.chunk(2)
    z = mapo_gap(win, lose, timesteps=1000, sharpness=0.5)
    assert z.tolist() == pytest.approx([9.93750094, 9.17793818], rel=1e-8)
    assert float(released(win, lose).mean()) == pytest.approx(0.0128200807, rel=1e-8)


def test_single_precision_agrees_with_the_released_code_as_far_as_that_is_exact() -> None:
    """Its exp(x) - 1 in float32 loses digits: 9.94384289 for a z of 9.93750094."""
    win, lose = squared_error(torch.tensor(POLICY), torch.tensor(NOISES * 2)).chunk(2)
    assert float(released(win, lose).mean()) == pytest.approx(0.0128200650, abs=2e-4)
    assert float(released(win, lose).mean()) == pytest.approx(0.0128200807, rel=1e-5)
    assert float(released(torch.tensor([0.10]), torch.tensor([0.12]))) == pytest.approx(0.100734904, abs=2e-4)


@pytest.mark.parametrize(
    ("m", "z", "loss", "slopes"),
    [
        ((0.10, 0.12), 4.90834265, 0.100735758, (1.18021042, -0.179599722)),
        ((0.100, 0.101), 0.245812852, 0.157777481, None),
        ((0.02, 0.02), 0.0, 0.0893147181, (13.4583335, -12.4583335)),
        ((0.1, 0.1), 0.0, 0.1693147181, (13.2917, -12.2917)),
    ],
)
def test_the_published_scalars(m: tuple[float, float], z: float, loss: float, slopes: Any) -> None:
    win, lose = (double([each]).requires_grad_() for each in m)
    each = released(win, lose)
    assert mapo_gap(win, lose, timesteps=1000, sharpness=0.5).tolist() == [pytest.approx(z, rel=1e-8, abs=1e-12)]
    assert float(each) == pytest.approx(loss, rel=1e-8)
    if slopes:
        found = torch.autograd.grad(each.sum(), (win, lose))
        assert [float(slope) for slope in found] == pytest.approx(slopes, rel=1e-5)


def test_the_published_end_to_end_number() -> None:
    stable = Ddpm.from_config(methods.STABLE)
    w = double(0.9).requires_grad_()
    win, lose, noise = double([[1, -0.5, 0.25, 2]]), double([[0.8, -0.7, 0, 1.5]]), double([[0.3, 0.7, -1.2, 0.1]])
    at = stable.noised(torch.cat([win, lose]), torch.cat([noise, noise]), torch.tensor([500, 500]))
    errors = squared_error(w * at.x, at.target).chunk(2)
    (slope,) = torch.autograd.grad(released(*errors).sum(), w)
    assert float(mapo_gap(*errors, timesteps=1000, sharpness=0.5)) == pytest.approx(-26.4435382, rel=1e-8)
    assert float(released(*errors)) == pytest.approx(2.97782346, rel=1e-8)
    assert float(slope) == pytest.approx(5.8524312, rel=1e-7)


@pytest.mark.parametrize("beta", [8.0, 1024.0])
def test_the_papers_form_pulls_a_quarter_as_hard_at_a_tie_whatever_beta_is(beta: float) -> None:
    win, lose = (double([1e-6]).requires_grad_() for _ in range(2))
    each = released(win, lose, variant="paper", beta=beta)
    slopes = torch.autograd.grad(each.sum(), (win, lose))
    assert float(each) == pytest.approx(1e-6 + math.log(2) / beta, rel=1e-9)
    assert [float(slope) for slope in slopes] == pytest.approx([1.25, -0.25], rel=1e-5)


def test_the_papers_form_is_its_formula_written_out() -> None:
    win, lose, beta = 0.3, 0.7, 32.0
    z = beta * win / (math.exp(win) - 1) - beta * lose / (math.exp(lose) - 1)
    wanted = win + math.log1p(math.exp(-z)) / beta
    assert float(released(double([win]), double([lose]), variant="paper", beta=beta)) == pytest.approx(
        wanted, rel=1e-12
    )
    assert MaPO(variant="paper")._weight == pytest.approx(1 / 8)


def test_an_error_of_zero_has_a_loss_and_a_gradient() -> None:
    win, lose = (double([value]).requires_grad_() for value in (0.0, 0.0))
    each = released(win, lose)
    slopes = torch.autograd.grad(each.sum(), (win, lose))
    assert float(each) == pytest.approx(0.1 * math.log(2))
    assert [float(slope) for slope in slopes] == pytest.approx([13.5, -12.5])


def test_no_reference_is_asked_and_the_loss_is_the_formula_of_the_batch() -> None:
    batch, w = methods.pairs(), double(0.93)
    model = Linear(w, Ddpm.from_config(methods.STABLE))
    loss = MaPO().loss(batch, model)  # type: ignore[arg-type]
    for i in range(4):
        t = batch.draw.integers("t", 0, 1000)[i]
        noise = batch.draw.normal("noise", methods.SHAPE, batch.win)[i]
        abar = model.process.alphas_cumprod[t]
        x_t = [abar.sqrt() * x0 + (1 - abar).sqrt() * noise for x0 in (batch.win[i], batch.lose[i])]
        m_w, m_l = (float(((w * x - noise) ** 2).mean()) for x in x_t)
        z = 1000 * (m_w / 2 / math.expm1(m_w / 2) - m_l / 2 / math.expm1(m_l / 2))
        wanted = m_w - 0.1 * float(torch.nn.functional.logsigmoid(double(z)))
        assert float(loss.each[i]) == pytest.approx(wanted, rel=1e-9)
        assert float(loss.metrics["margin"][i]) == pytest.approx(z, rel=1e-9)


def test_a_label_of_one_half_is_symmetric() -> None:
    batch = methods.pairs()
    half = replace(batch, confidence=torch.full((4,), 0.5, dtype=torch.float64))
    swapped: Pairs = replace(half, win=batch.lose, lose=batch.win)
    model: Any = Linear(double(0.93), Ddpm.from_config(methods.STABLE))
    assert isinstance(batch.draw, Draws)
    assert torch.allclose(MaPO().loss(half, model).each, MaPO().loss(swapped, model).each)
    assert not torch.allclose(MaPO().loss(batch, model).each, MaPO().loss(half, model).each)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive, got -1"):
        MaPO(beta=-1)
    with pytest.raises(ValueError, match="'papr' is not one of release, paper"):
        MaPO(variant="papr")  # type: ignore[arg-type]
