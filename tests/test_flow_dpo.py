"""Flow-DPO: the numbers of its paper and of its released code, the two schedules, the anchor, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign import cli
from visalign.batches import Condition, Pairs
from visalign.config import ConfigError
from visalign.diffusion import noise_pairs, squared_error
from visalign.draws import Draws
from visalign.process import Flow
from visalign.trainers import DiffusionDPO, FlowDPO

WIN, LOSE, NOISE = [[1, -0.5], [0.2, 0.4]], [[0.3, 0.8], [-1, 0.6]], [[0.5, -1], [1.5, 0.25]]
TIMES = [0.25, 0.8]
POLICY = [[-0.40, -0.45], [1.20, -0.10], [0.30, -1.60], [2.30, -0.30]]
REFERENCE = [[-0.30, -0.60], [1.10, -0.30], [0.10, -1.70], [2.40, -0.20]]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class Written(Draws):
    """Draws whose noise is written down."""

    def normal(self, stream: str, shape: Sequence[int], like: Tensor) -> Tensor:
        assert (stream, tuple(shape)) == ("noise", (2,))
        return double(NOISE)


@dataclass(frozen=True)
class Timed(Flow):
    """A flow whose times are written down."""

    def times(self, draws: Draws, stream: str = "t") -> Tensor:
        return double(TIMES)


def published() -> tuple[Pairs, methods.Recorded]:
    """Two pairs of latents of two numbers, and what policy and reference say of their velocities."""
    ones, draw = torch.ones(2, dtype=torch.float64), Written(0, ("a", "b"), (0, 0))
    batch = Pairs(double(WIN), double(LOSE), Condition(torch.zeros(4, 1, 1)), draw, ones, ones)
    return batch, methods.Recorded(double(POLICY).requires_grad_(), double(REFERENCE), Timed())


def test_the_published_points_and_velocities() -> None:
    batch, model = published()
    at = noise_pairs(model.process, batch)
    assert torch.allclose(at.x, double([[0.875, -0.625], [1.24, 0.28], [0.35, 0.35], [1, 0.32]]))
    assert torch.allclose(at.target, double([[-0.5, -0.5], [1.3, -0.15], [0.2, -1.8], [2.5, -0.35]]))
    assert squared_error(double(POLICY), at.target).tolist() == pytest.approx([0.00625, 0.00625, 0.025, 0.02125])
    assert squared_error(double(REFERENCE), at.target).tolist() == pytest.approx([0.025, 0.03125, 0.01, 0.01625])


@pytest.mark.parametrize(
    ("settings", "margins", "loss"),
    [
        ({"beta": 1}, [0.016875, 0.015], 0.6852102906),
        ({"beta": 10}, [0.16875, 0.15], 0.6166422916),
        ({"beta": 100}, [1.6875, 1.5], 0.1855701781),
        ({}, [8.4375, 7.5], 0.0003847495),
        ({"schedule": "(1-t)^2"}, [4.74609375, 0.3], 0.2815016495),
        ({"variant": "paper"}, [16.875, 15.0], 1.764e-07),
    ],
)
def test_the_published_losses(settings: dict[str, Any], margins: list[float], loss: float) -> None:
    batch, model = published()
    found = FlowDPO(**settings).loss(batch, model)
    assert found.metrics["margin"].tolist() == pytest.approx(margins, rel=1e-9)
    assert float(found.each.detach().mean()) == pytest.approx(loss, rel=1e-3 if loss < 1e-6 else 1e-6)


def test_the_published_gradient() -> None:
    batch, model = published()
    (slope,) = torch.autograd.grad(FlowDPO(100).loss(batch, model).each.mean(), model.policy_answer)
    assert slope[:2].flatten().tolist() == pytest.approx([0.39026224, 0.19513112, -0.45606381, 0.22803190], abs=1e-8)


@pytest.mark.parametrize("preference", ["dpo", "ipo"])
def test_a_constant_beta_is_diffusion_dpo_on_a_flow(preference: str) -> None:
    batch, model = methods.pairs(), methods.denoiser("flow")
    one, other = (kind(500, preference=preference).loss(batch, model) for kind in (FlowDPO, DiffusionDPO))
    assert torch.equal(one.each, other.each)
    assert torch.equal(one.metrics["margin"], other.metrics["margin"])


def test_the_schedule_follows_from_errors_of_the_noise() -> None:
    """beta on the errors of the noises that the velocities imply, epsilon = x_t + (1 - t) v."""
    batch, model = methods.pairs(), methods.denoiser("flow")
    found = FlowDPO(300, "(1-t)^2").loss(batch, model).metrics["margin"]
    at = noise_pairs(model.process, batch)
    noise = model.process.split(at.target, at.x, at.t)[1]
    answers = (each(at.x, at.t, batch.condition).detach() for each in (model.policy, model.reference))
    policy, reference = (squared_error(model.process.split(each, at.x, at.t)[1], noise) for each in answers)
    win, lose = (-0.5 * 300 * (policy - reference)).chunk(2)
    assert torch.allclose(found, win - lose, rtol=1e-9)


def test_the_anchor_adds_the_winners_error() -> None:
    batch, model = methods.pairs(), methods.denoiser("flow")
    plain, anchored = FlowDPO().loss(batch, model), FlowDPO(anchor=0.7).loss(batch, model)
    assert torch.allclose(anchored.each, plain.each + 0.7 * plain.metrics["win_error"], rtol=1e-12)
    (slope,) = torch.autograd.grad((anchored.each - plain.each).sum(), list(model.trainable().values())[:1])
    assert float(slope.norm()) > 0


def test_the_anchor_is_of_the_preferred_item_however_sure_the_label() -> None:
    batch, model = methods.pairs(), methods.denoiser("flow")
    half = replace(batch, confidence=torch.full((4,), 0.5, dtype=torch.float64))
    plain, anchored = FlowDPO().loss(half, model), FlowDPO(anchor=1.0).loss(half, model)
    assert torch.allclose(anchored.each, plain.each + plain.metrics["win_error"], rtol=1e-12)


def test_equal_models_cannot_tell() -> None:
    batch, model = methods.pairs(), methods.denoiser("flow")
    with torch.no_grad():
        for weight in model.trainable().values():
            weight.zero_()
    for settings in ({}, {"schedule": "(1-t)^2"}, {"variant": "paper"}):
        each = FlowDPO(**settings).loss(batch, model).each  # type: ignore[arg-type]
        assert torch.equal(each, -logsigmoid(torch.zeros(4, dtype=torch.float64)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_other_paths_are_refused_with_the_method_that_serves(prediction: str) -> None:
    model = methods.denoiser(prediction)
    with pytest.raises(ConfigError, match=f"flow_dpo .* predicts {prediction}; method.name=diffusion_dpo trains it"):
        FlowDPO().loss(methods.pairs(), model)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive and anchor not negative, got 0 and 0"):
        FlowDPO(beta=0)
    with pytest.raises(ValueError, match=r"got 500\.0 and -1"):
        FlowDPO(anchor=-1)
    with pytest.raises(ValueError, match=r"schedule 'linear' is not one of constant, \(1-t\)\^2"):
        FlowDPO(schedule="linear")  # type: ignore[arg-type]


@pytest.mark.parametrize("dry", [True, False])
def test_training_another_path_says_so_in_one_line_before_it_reads(
    dry: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--dry-run` tells, too."""
    given = ["train", "playground_dpo", "method={name: flow_dpo}", f"out={tmp_path / 'run'}", "data.path=nowhere.jsonl"]
    assert cli.main([*given, "--dry-run"] if dry else given) == 2
    printed = capsys.readouterr()
    text = " ".join((printed.out + printed.err).split())
    assert "flow_dpo trains flow-matching models, and this model has a diffusion path" in text
    assert "method.name=diffusion_dpo trains it" in text
    assert not (tmp_path / "run").exists()
