"""Diffusion-DPO: the published numbers, and what must hold whatever the network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from methods import Linear, Recorded
from torch import Tensor

from visalign.batches import Condition, Pairs
from visalign.diffusion import Errors, errors, log_ratio, noise_pairs, squared_error
from visalign.draws import Draws
from visalign.process import Ddpm, Noised
from visalign.trainers import SFT, DiffusionDPO

STABLE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False,
}  # fmt: skip
NOISES = [[0.5, -1, 1.5, 0], [-0.2, 0.8, 0.3, -1.1]]
POLICY = [[0.40, -0.90, 1.30, 0.10], [-0.10, 0.70, 0.25, -1.00], [0.60, -0.70, 1.20, 0.20], [-0.40, 0.90, 0.10, -0.80]]
REFERENCE = [
    [0.39, -0.90, 1.30, 0.11], [-0.10, 0.70, 0.24, -1.00], [0.60, -0.70, 1.21, 0.20], [-0.39, 0.90, 0.10, -0.80],
]  # fmt: skip


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def process(prediction: str = "epsilon") -> Ddpm:
    return Ddpm.from_config({**STABLE, "prediction_type": prediction})


def told(n: int) -> Condition:
    return Condition(torch.zeros(n, 1, 1))


def random_pairs(b: int = 4, dtype: torch.dtype = torch.float64) -> Pairs:
    generator = torch.Generator().manual_seed(0)
    win, lose = (torch.randn(b, 4, 4, 4, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    draw = Draws(0, tuple(f"pair {i}" for i in range(b)), (0,) * b)
    return Pairs(win, lose, told(2 * b), draw, torch.ones(b, dtype=dtype), torch.ones(b, dtype=dtype))


@pytest.mark.parametrize(
    ("beta", "z", "loss"), [(2000, [2.525, 1.25], 0.164472057), (5000, [6.3125, 3.125], 0.0224054653)]
)
def test_the_published_tensors(beta: float, z: list[float], loss: float) -> None:
    target = double(NOISES * 2).reshape(4, 1, 2, 2)
    answer = double(POLICY).reshape(4, 1, 2, 2).requires_grad_()
    found = Errors(squared_error(answer, target), squared_error(double(REFERENCE).reshape(4, 1, 2, 2), target))
    assert torch.allclose(found.policy, double([0.0175, 0.008125, 0.0575, 0.045]), atol=1e-12)
    assert torch.allclose(found.reference, double([0.01855, 0.0084, 0.056025, 0.044025]), atol=1e-12)
    win, lose = log_ratio(found).chunk(2)
    assert torch.allclose(beta * (win - lose), double(z), atol=1e-9)
    each = DiffusionDPO(beta)._loss(win, lose, beta=beta)
    assert float(each.detach().mean()) == pytest.approx(loss, rel=1e-7)
    if beta == 2000:
        (gradient,) = torch.autograd.grad(each.mean(), answer)
        expected = [
            -1.85310163, 1.85310163, -3.70620326, 1.85310163, 5.56750347, -5.56750347, -2.78375174, 5.56750347,
            -1.85310163, -5.55930489, 5.55930489, -3.70620326, 11.1350069, -5.56750347, 11.1350069, -16.7025104,
        ]  # fmt: skip
        assert torch.allclose(gradient.flatten(), double(expected), rtol=1e-7)


@pytest.mark.parametrize(
    ("m", "beta", "z", "loss", "slope"),
    [
        ((0.100, 0.120, 0.101, 0.1195), 5000, 3.75, 0.0232454644, 57.4434248),
        ((0.2503, 0.2401, 0.2500, 0.2400), 2000, -0.2, 0.798138869, 549.833997),
        ((0.1, 0.1, 0.1, 0.1), 5000, 0.0, 0.693147181, 1250.0),
    ],
)
def test_the_published_scalars(m: tuple[float, ...], beta: float, z: float, loss: float, slope: float) -> None:
    policy = double(m[:2]).requires_grad_()
    win, lose = log_ratio(Errors(policy, double(m[2:]))).chunk(2)
    each = DiffusionDPO(beta)._loss(win, lose, beta=beta)
    (gradient,) = torch.autograd.grad(each.sum(), policy)
    assert float((beta * (win - lose)).detach()) == pytest.approx(z, abs=1e-9)
    assert float(each) == pytest.approx(loss, rel=1e-8)
    assert gradient.tolist() == pytest.approx([slope, -slope], rel=1e-8)


def test_the_published_end_to_end_number() -> None:
    model = Linear(double(0.9).requires_grad_(), process())
    win, lose, noise = double([[1, -0.5, 0.25, 2]]), double([[0.8, -0.7, 0, 1.5]]), double([[0.3, 0.7, -1.2, 0.1]])
    at = model.process.noised(torch.cat([win, lose]), torch.cat([noise, noise]), torch.tensor([500, 500]))
    found = errors(model, at, told(2))
    assert found.policy.tolist() == pytest.approx([0.333469632, 0.222559825], rel=1e-8)
    each = DiffusionDPO(5000)._loss(*log_ratio(found).chunk(2), beta=5000)
    (slope,) = torch.autograd.grad(each.sum(), model.w)
    assert float(each) == pytest.approx(0.693147181, rel=1e-8)
    assert float(slope) == pytest.approx(291.655499, rel=1e-8)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_formula_written_out(prediction: str) -> None:
    model, batch = Linear(double(0.93), process(prediction)), random_pairs()
    loss = DiffusionDPO(beta=300).loss(batch, model)
    for i in range(4):
        t = batch.draw.integers("t", 0, 1000)[i]
        noise = batch.draw.normal("noise", (4, 4, 4), batch.win)[i]
        abar = model.process.alphas_cumprod[t]
        errors_of = []
        for x0 in (batch.win[i], batch.lose[i]):
            x_t = abar.sqrt() * x0 + (1 - abar).sqrt() * noise
            target = {"epsilon": noise, "v_prediction": abar.sqrt() * noise - (1 - abar).sqrt() * x0, "sample": x0}
            errors_of += [((w * x_t - target[prediction]) ** 2).mean() for w in (0.93, 0.9)]
        z = -150 * ((errors_of[0] - errors_of[1]) - (errors_of[2] - errors_of[3]))
        assert float(loss.each[i]) == pytest.approx(float(-torch.nn.functional.logsigmoid(z)), rel=1e-9)


def test_equal_models_cannot_tell_the_loss_is_log_2_bit_for_bit() -> None:
    loss = DiffusionDPO().loss(random_pairs(), Linear(double(0.9), process()))
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(4, dtype=torch.float64)))


def test_swapping_the_pair_negates_the_margin() -> None:
    model, batch = Linear(double(0.93), process()), random_pairs()
    swapped = replace(batch, win=batch.lose, lose=batch.win)
    forward, backward = (DiffusionDPO().loss(each, model).metrics["margin"] for each in (batch, swapped))
    assert torch.equal(forward, -backward)
    assert float(forward.abs().min()) > 0


def test_a_batch_of_four_is_four_batches_of_one() -> None:
    model, batch = Linear(double(0.93), process("v_prediction")), random_pairs()
    together = DiffusionDPO(beta=300).loss(batch, model).each
    for i in range(4):
        draw = Draws(batch.draw.seed, batch.draw.keys[i : i + 1], batch.draw.visits[i : i + 1])
        one = Pairs(batch.win[i : i + 1], batch.lose[i : i + 1], told(2), draw, torch.ones(1), torch.ones(1))
        assert float(DiffusionDPO(beta=300).loss(one, model).each) == pytest.approx(float(together[i]), abs=1e-10)


def test_winner_and_loser_share_time_and_noise_and_pairs_do_not() -> None:
    batch = random_pairs()
    at = noise_pairs(process(), replace(batch, lose=batch.win))
    assert torch.equal(at.x[:4], at.x[4:])
    assert torch.equal(at.t[:4], at.t[4:])
    assert len(set(at.t.tolist())) > 1


def test_a_label_of_one_half_is_symmetric_and_pulls_nothing_at_the_start() -> None:
    w = double(0.9).requires_grad_()
    batch = random_pairs()
    half = replace(batch, confidence=torch.full((4,), 0.5, dtype=torch.float64))
    (slope,) = torch.autograd.grad(DiffusionDPO().loss(half, Linear(w, process())).each.sum(), w)
    assert float(slope) == 0.0
    swapped = replace(half, win=batch.lose, lose=batch.win)
    model = Linear(double(0.93), process())
    assert torch.allclose(DiffusionDPO(50).loss(half, model).each, DiffusionDPO(50).loss(swapped, model).each)


@pytest.mark.parametrize("preference", ["ipo", "hinge", {"name": "robust", "epsilon": 0.1}, "apo_zero"])
def test_other_core_losses_serve_by_name(preference: Any) -> None:
    w = double(0.93).requires_grad_()
    loss = DiffusionDPO(beta=300, preference=preference).loss(random_pairs(), Linear(w, process()))
    (slope,) = torch.autograd.grad(loss.each.sum(), w)
    assert loss.each.shape == (4,)
    assert float(slope) != 0.0


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        DiffusionDPO(beta=0)
    with pytest.raises(ValueError, match="dpo"):
        DiffusionDPO(preference="dpoo")


def test_squared_errors_are_taken_in_float32_at_least() -> None:
    prediction, target = torch.full((1, 8), 1.0078125).bfloat16(), torch.full((1, 8), 1.001953125)
    assert float(squared_error(prediction, target)) == pytest.approx(0.005859375**2, rel=1e-6)
    assert squared_error(double([[1.0]]), double([[2.0]])).dtype == torch.float64


def test_sft_is_the_winners_mean_squared_error() -> None:
    from visalign.batches import Singles

    target = double(NOISES).reshape(2, 1, 2, 2)
    answer = double(POLICY[:2]).reshape(2, 1, 2, 2)
    assert float(squared_error(answer, target).mean()) == pytest.approx(0.0128125, rel=1e-9)
    draw = Draws(0, ("a", "b"), (0, 0))
    model = Recorded(answer, answer, process())
    batch = Singles(torch.zeros_like(answer), told(2), draw, torch.ones(2))
    noise = draw.normal("noise", (1, 2, 2), answer)
    assert torch.allclose(SFT().loss(batch, model).each, squared_error(answer, noise))


def test_noised_keeps_its_own_target() -> None:
    at = Noised(torch.zeros(2, 1), torch.zeros(2), torch.ones(2, 1))
    model = Recorded(torch.full((2, 1), 3.0), torch.full((2, 1), 1.0), process())
    assert log_ratio(errors(model, at, told(2))).tolist() == [-2.0, -2.0]
