"""What must hold for every registered method, whatever its formula: a new one is tested here by being registered."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import methods
import pytest
import torch
from torch import Tensor

from visalign.batches import Condition, Pairs
from visalign.training.healthy import HEALTHY
from visalign.training.learner import Step

EVERY = sorted([*methods.DENOISING, *methods.VARIANTS])
# A batch's numbers enter each record's loss, as the method's paper wants it (its docstring says so).
COUPLED: set[str] = {"diffusion_kto", "dragon by kto", "dragon unpaired"}
EACH = [(name, prediction) for name in EVERY for prediction in methods.predictions(name)]


def lost(name: str, given: Any, prediction: str | None = None, **model: Any) -> tuple[Any, Any]:
    """The loss of a fresh method and the denoiser that it was asked of."""
    denoiser = methods.model_of(name, prediction, **model)
    return Step(methods.method(name), denoiser)(given), denoiser


def gradient(loss: Any, model: Any) -> Tensor:
    """The gradient of the mean loss, flat."""
    weights = list(model.trainable().values())
    found = torch.autograd.grad(loss.each.mean(), weights, allow_unused=True, materialize_grads=True)
    return torch.cat([each.flatten() for each in found])


@pytest.mark.parametrize(("name", "prediction"), EACH)
def test_the_first_step_has_a_gradient(name: str, prediction: str) -> None:
    """Also where policy and reference are still the same."""
    made = methods.method(name)
    model = methods.model_of(name, prediction)
    with torch.no_grad():
        for weight_name, weight in model.trainable().items():
            if "lora_B" in weight_name or "processor.to_v" in weight_name:
                weight.zero_()
    loss = Step(made, model)(methods.given(name))
    assert loss.each.shape == (4,)
    assert torch.isfinite(loss.each).all()
    assert float(gradient(loss, model).norm()) > 0


@pytest.mark.parametrize("name", sorted(set(EVERY) - COUPLED))
def test_a_batch_of_four_is_four_batches_of_one(name: str) -> None:
    given = methods.given(name)
    together, model = lost(name, given)
    apart = [lost(name, methods.part(given, [row]))[0] for row in range(4)]
    assert torch.allclose(together.each, torch.cat([one.each for one in apart]), rtol=1e-10, atol=1e-10)
    for key, value in together.metrics.items():
        assert torch.allclose(value, torch.cat([one.metrics[key] for one in apart]), rtol=1e-9, atol=1e-9), key
    half = [lost(name, methods.part(given, rows)) for rows in ([0, 1], [2, 3])]
    mean = torch.stack([gradient(*one) for one in half]).mean(0)
    whole = gradient(together, model)
    assert float(whole.norm()) > 0
    assert float((whole - mean).norm()) <= 1e-9 * float(whole.norm())


@pytest.mark.parametrize("name", EVERY)
def test_it_is_a_function_of_its_batch(name: str) -> None:
    """Twice the same numbers, and others at another visit: no global generator, nothing carried over by the model."""
    once, again = (lost(name, methods.given(name))[0].each for _ in range(2))
    later = lost(name, methods.given(name, visit=1))[0].each
    assert torch.equal(once, again)
    assert not torch.equal(once, later)


@pytest.mark.parametrize("name", EVERY)
def test_it_costs_what_it_says(name: str) -> None:
    made = methods.method(name)
    counted = methods.Counted(methods.model_of(name))
    visits = 1 if float(made.passes.free).is_integer() else 40
    for visit in range(visits):
        Step(made, counted)(methods.given(name, visit))
    told = made.passes
    assert counted.with_gradient / (4 * visits) == told.policy
    assert counted.free / (4 * visits) == pytest.approx(told.free, rel=0 if visits == 1 else 0.1)


@pytest.mark.parametrize("name", EVERY)
def test_what_it_measures_is_explained(name: str) -> None:
    """A reader of the table at a run's end, or of the app, is told what each number should look like."""
    found, _ = lost(name, methods.given(name))
    assert set(found.metrics) - set(HEALTHY) == set()


@pytest.mark.parametrize("name", [each for each in EVERY if methods.method(each).batch_type is Pairs])
def test_swapping_the_two_of_a_pair_negates_the_margin(name: str) -> None:
    given = methods.given(name)
    scores = None if given.scores is None else given.scores.flip(1)
    swapped = replace(given, win=given.lose, lose=given.win, condition=halves(given.condition), scores=scores)
    margin, other = (lost(name, each)[0].metrics["margin"] for each in (given, swapped))
    assert torch.allclose(margin, -other, rtol=1e-9, atol=1e-12)


def halves(condition: Condition) -> Condition:
    """The losers' conditions first."""
    n = len(condition) // 2
    return methods.rows_of(condition, [*range(n, 2 * n), *range(n)])
