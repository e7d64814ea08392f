"""DenseDPO: the numbers of both of its losses, what ties and labels do, and the one mean over a window's frames."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
import pytest
import torch
from rehearsal import settings
from torch import Tensor
from torch.nn.functional import logsigmoid

from visalign.batches import Condition, Segments
from visalign.contract import Loss
from visalign.diffusion import frame_error, noise_pairs, squared_error
from visalign.draws import Draws
from visalign.models.denoiser import NetworkDenoiser
from visalign.process import Flow
from visalign.trainers import DenseDPO, DiffusionDPO
from visalign.training import engine

# Errors of policy and reference at the three frames of two numbers of two first and two second clips.
POLICY = [
    [[[0.10, -0.10], [0.20, 0], [0.05, 0.05]], [[0.30, 0.10], [-0.10, 0.20], [0, 0.15]]],
    [[[0.20, -0.10], [0.10, 0.10], [0.15, 0.25]], [[0.20, 0.20], [-0.30, 0.10], [0.10, 0.05]]],
]
REFERENCE = [
    [[[0.20, -0.20], [0.10, 0.10], [0.10, 0]], [[0.20, 0.20], [-0.20, 0.10], [0.10, 0.10]]],
    [[[0.10, -0.20], [0.20, 0.10], [0.10, 0.20]], [[0.10, 0.30], [-0.20, 0.20], [0.20, 0]]],
]
LABELS = [[1.0, -1.0, -1.0], [0.0, 0.0, 1.0]]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def clips(labels: Any, shape: tuple[int, ...] = (1, 3, 1, 2)) -> Segments:
    """Pairs of clips (c, F, h, w) with these labels."""
    table = double(labels)
    draw = Draws(0, tuple(f"pair {i}" for i in range(len(table))), (0,) * len(table))
    first, second = (draw.normal(side, shape, table) for side in ("first", "second"))
    ones = torch.ones(len(table), dtype=torch.float64)
    told = Condition(torch.zeros(2 * len(table), 1, 1))
    return Segments(first, second, told, draw, ones, (table != 0).sum(1).double(), labels=table)


def published(labels: Any = LABELS, prediction: str = "flow") -> tuple[Segments, methods.Recorded]:
    """Clips, and a model whose answers miss the target by the errors above, whatever the path's target is."""
    batch, process = clips(labels), methods.process(prediction)
    target = noise_pairs(process, batch).target
    policy, reference = (target + double(each).reshape(4, 1, 3, 1, 2) for each in (POLICY, REFERENCE))
    return batch, methods.Recorded(policy.requires_grad_(), reference, process)


def mean(loss: Loss) -> Tensor:
    """What the engine makes of one batch."""
    assert loss.weight is not None
    return (loss.each * loss.weight).sum() / loss.weight.sum()


def number(loss: Loss) -> float:
    return float(mean(loss).detach())


@pytest.mark.parametrize("prediction", methods.PREDICTIONS)
@pytest.mark.parametrize(
    ("beta", "loss"), [(1, 0.6919139773), (10, 0.6823257210), (100, 0.7258687632), (500, 2.1956105844)]
)
def test_the_numbers_of_appendix_e(beta: float, loss: float, prediction: str) -> None:
    batch, model = published(prediction=prediction)
    found = DenseDPO(beta).loss(batch, model)
    assert number(found) == pytest.approx(loss, rel=1e-9)
    assert found.weight is not None
    assert found.weight.tolist() == [3, 1]


def test_the_gradient_of_appendix_e_and_none_at_ties() -> None:
    batch, model = published()
    (slope,) = torch.autograd.grad(mean(DenseDPO(100).loss(batch, model)), model.policy_answer)
    first, second = slope.reshape(2, 2, 6)
    assert first[0].tolist() == pytest.approx(
        [0.2280319, -0.2280319, -0.55675035, 0, -0.45691161, -0.45691161], abs=1e-7
    )
    assert second[0].tolist() == pytest.approx(
        [-0.45606381, 0.2280319, 0.27837517, 0.27837517, 1.37073483, 2.28455806], abs=1e-7
    )
    assert first[1, 5].item() == pytest.approx(1.27346006, abs=1e-7)
    assert second[1, 4:].tolist() == pytest.approx([-0.84897337, -0.42448669], abs=1e-7)
    assert torch.equal(slope.reshape(2, 2, 3, 2)[:, 1, :2], torch.zeros(2, 2, 2, dtype=torch.float64))


@pytest.mark.parametrize(("beta", "loss"), [(1, 0.6928473758), (10, 0.6912908742), (500, 2.2148508697)])
def test_other_labels(beta: float, loss: float) -> None:
    batch, model = published([[1.0, 0.0, -1.0], [0.0, 1.0, 1.0]])
    assert number(DenseDPO(beta).loss(batch, model)) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize(
    ("beta", "half", "literal", "sums"),
    [
        (1, 0.6906698366, 0.6882378015, 0.6835096159),
        (10, 0.6704102857, 0.6521696016, 0.6287706467),
        (100, 0.6485475783, 0.8655818481, 1.5247494090),
        (500, 1.8867019566, 3.7502764783, 7.5000001530),
    ],
)
def test_the_numbers_of_equation_7(beta: float, half: float, literal: float, sums: float) -> None:
    """Without its half the equation is this at twice the beta; with sums over c h w = 2 numbers at 2 c h w times."""
    batch, model = published()
    found = [number(DenseDPO(times * beta, "clip").loss(batch, model)) for times in (1, 2, 4)]
    assert found == pytest.approx([half, literal, sums], rel=1e-9)


def test_labels_that_agree_are_diffusion_dpo_at_f_times_its_beta() -> None:
    batch, model = published([[1.0] * 3, [-1.0] * 3])
    dense = DenseDPO(100, "clip").loss(batch, model).each
    whole = replace(batch, confidence=double([1.0, 0.0]))
    assert torch.allclose(dense, DiffusionDPO(300).loss(whole, model).each, rtol=1e-12)


def test_the_published_number_of_whole_clips() -> None:
    """The same data, one label a clip."""
    batch, model = published([[1.0] * 3, [-1.0] * 3])
    assert number(DenseDPO(500 / 3, "clip").loss(batch, model)) == pytest.approx(0.1173513616, rel=1e-9)


@pytest.mark.parametrize("reduction", ["frame", "clip"])
@pytest.mark.parametrize("pictures", [False, True])
def test_one_frame_is_diffusion_dpo(reduction: Any, pictures: bool) -> None:
    """Clips of one frame, and pictures."""
    batch = clips([[1.0]] * 4, (4, 8, 8) if pictures else (4, 1, 8, 8))
    told = replace(batch, condition=methods.condition(4, torch.float64, times=2))
    model = methods.denoiser(frames=not pictures)
    dense, whole = DenseDPO(2000, reduction).loss(told, model), DiffusionDPO(2000).loss(told, model)
    assert torch.allclose(dense.each, whole.each, rtol=1e-12)
    for name, value in whole.metrics.items():
        assert torch.allclose(dense.metrics[name], value, rtol=1e-9, atol=1e-12), name


def small(**settings: Any) -> tuple[DenseDPO, Segments, NetworkDenoiser]:
    """The method, four pairs of clips, and a real network."""
    return DenseDPO(**settings), methods.segments(), methods.model_of("dense_dpo")


@pytest.mark.parametrize("reduction", ["frame", "clip"])
def test_equal_models_cannot_tell(reduction: Any) -> None:
    method, batch, model = small(reduction=reduction)
    with torch.no_grad():
        for weight in model.trainable().values():
            weight.zero_()
    loss = method.loss(batch, model)
    assert torch.equal(loss.each, -logsigmoid(torch.zeros(4, dtype=torch.float64)))
    assert loss.metrics["frame_accuracy"].tolist() == [0.5] * 4


@pytest.mark.parametrize("preference", ["dpo", "ipo", "apo_zero"])
@pytest.mark.parametrize("reduction", ["frame", "clip"])
def test_swapping_the_clips_and_their_labels_changes_nothing(reduction: Any, preference: str) -> None:
    method, batch, model = small(reduction=reduction, preference=preference)
    told = methods.rows_of(batch.condition, [4, 5, 6, 7, 0, 1, 2, 3])
    swapped = replace(batch, win=batch.lose, lose=batch.win, condition=told, labels=-batch.labels)
    one, other = method.loss(batch, model), method.loss(swapped, model)
    assert torch.allclose(one.each, other.each, rtol=1e-12)
    for name in one.metrics:
        assert torch.allclose(one.metrics[name], other.metrics[name], rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("reduction", ["frame", "clip"])
def test_without_labels_the_loss_is_0_and_nothing_pulls(reduction: Any) -> None:
    method, batch, model = small(reduction=reduction)
    loss = method.loss(replace(batch, labels=torch.zeros(4, 3, dtype=torch.float64)), model)
    slopes = torch.autograd.grad(loss.each.sum(), list(model.trainable().values()))
    assert loss.each.tolist() == [0.0] * 4
    assert loss.weight is not None
    assert not loss.weight.any()
    assert not any(each.any() for each in slopes)


def test_a_label_that_is_not_sure_mixes_both_orders() -> None:
    """2 P - 1 = 1/2: P = 3/4."""
    batch, model = published([[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    found = DenseDPO(100).loss(batch, model)
    z = double([1.5, 1.0])  # beta / 2 times 0.03 for the first clip, 0.02 against the second
    z[1] = -z[1]
    sure = double([0.75, 0.25])
    assert torch.allclose(found.each, -sure * logsigmoid(z) - (1 - sure) * logsigmoid(-z), rtol=1e-9)


def test_two_noises_are_equation_4() -> None:
    """One time; the second clip's noise is drawn from a stream of its own."""
    batch, process = clips([[1.0, 0.0, 1.0]], (4, 3, 8, 8)), Flow()
    same = replace(batch, lose=batch.win)
    shared, apart = (noise_pairs(process, same, shared=shared) for shared in (True, False))
    assert torch.equal(shared.x[:1], shared.x[1:])
    assert torch.equal(apart.x[:1], shared.x[:1])
    assert torch.equal(apart.t, shared.t)
    assert not torch.isclose(apart.x[:1], apart.x[1:]).any()
    told = replace(batch, condition=methods.condition(1, torch.float64, times=2))
    model = methods.model_of("dense_dpo", "flow")
    one, other = (DenseDPO(share_noise=each).loss(told, model).each for each in (True, False))
    assert not torch.isclose(one, other)


def test_what_is_measured_is_of_the_labelled_frames() -> None:
    """Winner and loser are decided frame by frame."""
    batch, model = published()
    found = DenseDPO(100).loss(batch, model).metrics
    assert found["win_error"].tolist() == pytest.approx([(0.01 + 0.01 + 0.0425) / 3, 0.01125])
    assert found["lose_error"].tolist() == pytest.approx([(0.025 + 0.02 + 0.0025) / 3, 0.00625])
    assert found["win_reference_error"].tolist() == pytest.approx([(0.04 + 0.025 + 0.025) / 3, 0.01])
    assert found["margin"].tolist() == pytest.approx([(1.5 + 1.25 - 1) / 3, -0.75])
    assert found["frame_accuracy"].tolist() == pytest.approx([2 / 3, 0.0])
    assert found["labelled"].tolist() == pytest.approx([1.0, 1 / 3])


def test_frame_errors_average_to_the_whole() -> None:
    prediction, target = (torch.randn(2, 4, 5, 3, 6, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    frames = frame_error(prediction, target)
    assert frames.shape == (2, 5)
    assert torch.allclose(frames.mean(1), squared_error(prediction, target))
    assert torch.equal(frames[:, 3], squared_error(prediction[:, :, 3], target[:, :, 3]))
    assert torch.equal(frame_error(prediction[:, :, 0], target[:, :, 0])[:, 0], frames[:, 0])


@dataclass(frozen=True)
class Uneven:
    """Four pairs of clips with 3, 1, 0 and 2 labelled frames."""

    labels = ((1.0, -1.0, -1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.0, 1.0))

    def __len__(self) -> int:
        return 4

    def key(self, index: int) -> str:
        return f"record {index}"

    def weight(self, index: int) -> float:
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Segments:
        whole = replace(methods.segments(), labels=double(self.labels))
        made: Segments = methods.part(whole, list(indices))
        return replace(made, draw=Draws(seed, made.draw.keys, tuple(visits)))


@pytest.mark.parametrize("micro", [1, 2, 4])
def test_a_step_averages_over_all_labelled_frames_of_its_window(micro: int, tmp_path: Path) -> None:
    """However the records are spread over forwards: appendix E's mean, in the loss and in the gradient."""
    run = settings(tmp_path, "steps=1", f"micro_batch={micro}", "optimizer.clip=0", "method.name=dense_dpo")
    summary = engine.train(run, DenseDPO(100), methods.model_of("dense_dpo"), Uneven())
    logged = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    model, batch = methods.model_of("dense_dpo"), Uneven().batch(range(4), (0,) * 4, run.seed)
    whole = literal(model, batch, beta=100)
    slopes = torch.autograd.grad(whole, list(model.trainable().values()))
    assert float.fromhex(logged["loss_hex"]) == pytest.approx(float(whole.detach()), rel=1e-10)
    assert summary.last["grad_norm"] == pytest.approx(math.sqrt(sum(float(each.square().sum()) for each in slopes)))


def literal(model: Any, batch: Segments, beta: float) -> Tensor:
    """Appendix E's pseudo-code over a whole batch, by its own words."""
    at = noise_pairs(model.process, batch)
    policy = (model.policy(at.x, at.t, batch.condition) - at.target).square().mean((1, 3, 4))
    reference = (model.reference(at.x, at.t, batch.condition) - at.target).square().mean((1, 3, 4))
    first, second = (policy - reference).chunk(2)
    inside = -0.5 * beta * batch.labels * (first - second)
    return -logsigmoid(inside[batch.labels != 0]).mean()


class Mixed:
    """Eight pairs whose better frames are bright and whose worse ones are dark, for half of them in equal number."""

    labels = ((1.0, -1.0, 0.0), (-1.0, 1.0, 1.0), (0.0, -1.0, 1.0), (1.0, 0.0, -1.0))

    def __len__(self) -> int:
        return 8

    def key(self, index: int) -> str:
        return f"record {index}"

    def weight(self, index: int) -> float:
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Segments:
        labels = torch.tensor(self.labels).repeat(2, 1)
        side, whole = labels[:, None, :, None, None], methods.segments(8, torch.float32)
        whole = replace(whole, win=0.3 * whole.win + side, lose=0.3 * whole.lose - side, labels=labels)
        made: Segments = methods.part(whole, list(indices))
        return replace(made, draw=Draws(seed, made.draw.keys, tuple(visits)))


def test_it_learns_what_is_better_within_clips_of_which_neither_is(tmp_path: Path) -> None:
    run = settings(tmp_path, "steps=16", "micro_batch=4", "optimizer.lr=1e-2", "method.name=dense_dpo")
    model = methods.denoiser("flow", dtype=torch.float32, frames=True)
    engine.train(run, DenseDPO(1000), model, Mixed())
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = ([row["frame_accuracy"] for row in part] for part in (rows[:2], rows[-6:]))
    assert sum(first) / 2 < 0.7
    assert sum(last) / 6 > 0.8
    assert sum(row["margin"] for row in rows[-6:]) / 6 > 1


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        DenseDPO(beta=0)
    with pytest.raises(ValueError, match="reduction 'token' is not one of frame, clip"):
        DenseDPO(reduction="token")  # type: ignore[arg-type]
    batch, model = published()
    with pytest.raises(ValueError, match=r"2 clips of 3 latent frames have labels \(2, 2\)"):
        DenseDPO().loss(replace(batch, labels=batch.labels[:, :2]), model)
