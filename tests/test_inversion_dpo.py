"""Inversion-DPO: the released code's numbers, where its start stands still, and memory that grows by latents alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import methods
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from visalign.batches import Condition, Pairs
from visalign.diffusion.trajectories import compared_at, trajectories, walk_pairs
from visalign.process import Ddpm, Flow
from visalign.trainers import InversionDPO

RELEASE: dict[str, Any] = {"variant": "release", "target": "reference", "told": "destination"}


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def stable(**changes: Any) -> Ddpm:
    """Stable Diffusion's path at float32 levels and an offset of 0: what the released code makes."""
    made = Ddpm.from_config({**methods.STABLE, "steps_offset": 0, **changes})
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    levels = torch.cumprod(1.0 - betas, 0).double()
    return replace(made, alphas_cumprod=levels, final=float(levels[0]))


@dataclass
class Affine:
    """A reference that can be followed by hand, and a policy that has learnt a little more of the prompt.

    Condition 1 is a prompt and 0 the empty one: eps = x / 10 + c t / 1000 (x + 0.3), the policy's 0.05 x more at c = 1.
    """

    process: Any
    more: Any = 0.05

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        answer: Tensor = 0.1 * x_t + self._prompted(condition) * (t.to(x_t.dtype)[:, None] / 1000) * (x_t + 0.3)
        return answer

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        answer: Tensor = self.reference(x_t, t, condition) + self._prompted(condition) * self.more * x_t
        return answer

    @staticmethod
    def _prompted(condition: Condition) -> Tensor:
        prompted: Tensor = condition.text[:, 0, :1]
        return prompted


def affine_pairs(win: Any = ((1, -2),), lose: Any = ((0.5, 1.5),)) -> Pairs:
    b, one = len(win), torch.ones(len(win), dtype=torch.float64)
    told, untold = (Condition(torch.full((2 * b, 1, 1), value, dtype=torch.float64)) for value in (1.0, 0.0))
    return Pairs(double(win), double(lose), told, methods.draws(b), one, one, empty=untold)


def test_the_published_trajectories() -> None:
    walked = walk_pairs(Affine(stable()), affine_pairs(), 4, 2.0, "destination")
    assert walked.levels.tolist() == [-1, 0, 250, 500]
    assert walked.told.tolist() == [0, 250, 500, 750]
    assert torch.allclose(walked.x[:, 0], walked.x[:, 1])
    assert walked.x[0, 2].tolist() == pytest.approx([1.2316004865, -2.2169592519], rel=1e-9)
    assert walked.x[0, 3].tolist() == pytest.approx([1.5911517882, -2.4568296615], rel=1e-9)
    assert walked.x[1, 2].tolist() == pytest.approx([0.6568405301, 1.8063604429], rel=1e-9)
    assert walked.x[1, 3].tolist() == pytest.approx([0.9164882133, 2.2658153632], rel=1e-9)
    last = trajectories(stable(), lambda x, t: 0.5 * x, double([[1.0]]), 4, "destination")
    assert walked.x.shape == (2, 4, 2)
    process = stable()
    end = process.step(last.noise[:, 3], last.x[:, 3], torch.tensor([500]), torch.tensor([750]))
    assert float(end) == pytest.approx(0.7199325216, rel=1e-9)


def test_the_published_weights_and_distances() -> None:
    model, batch = Affine(stable()), affine_pairs()
    walked = walk_pairs(model, batch, 4, 2.0, "destination")
    places = [torch.full((2,), place) for place in range(4)]
    weights = [float(walked.at(place).weight(model.process)[0]) for place in places]
    assert weights == pytest.approx([0.5004253725, 0.7420684357, 1.8094145939, 8.9015799013], rel=1e-9)
    method = InversionDPO(steps=4, **RELEASE)
    found = torch.stack([method._compared(batch, model, walked, place) for place in places])
    assert found[:, 1, 0].tolist() == pytest.approx([0.025, 0.025, 0.0321587404, 0.0428388800], rel=1e-8)
    assert found[:, 1, 1].tolist() == pytest.approx([0.0125, 0.0125, 0.0184718877, 0.0298693495], rel=1e-8)
    assert found[:, 0].sum(0).tolist() == pytest.approx([0.4705845526, 0.3148388771], rel=1e-9)


@pytest.mark.parametrize(
    ("variant", "beta", "loss"),
    [
        ("release", 1.0, 0.6834604515),
        ("paper", 1.0, 0.7029286609),
        ("paper", 2000.0, 38.9364188703),
    ],
)
def test_the_published_losses(variant: Any, beta: float, loss: float) -> None:
    method = InversionDPO(beta=beta, steps=4, **{**RELEASE, "variant": variant})
    found = method.loss(affine_pairs(), Affine(stable()))
    sign = 1 if variant == "release" else -1
    assert float(found.each) == pytest.approx(loss, rel=1e-9)
    assert float(found.metrics["margin"]) == pytest.approx(sign * beta * 0.0389364189 / 2, rel=1e-8)


def test_the_implied_noise_is_its_formula_written_out() -> None:
    model, batch, process = Affine(stable()), affine_pairs(), stable()
    method = InversionDPO(beta=3.0, steps=4, guidance=1.0)
    walked = walk_pairs(model, batch, 4, 1.0, "source")
    ratios = []
    for row, x0 in enumerate((batch.win[0], batch.lose[0])):
        gaps = []
        for place, t in ((1, 0), (2, 250), (3, 500)):
            abar, x = process.alphas_cumprod[t], walked.x[row, place]
            noise = (x - abar.sqrt() * x0) / (1 - abar).sqrt()
            named = 0.1 * x + t / 1000 * (x + 0.3)
            m, r = ((named + 0.05 * x - noise) ** 2).mean(), ((named - noise) ** 2).mean()
            gaps.append(float((m - r) / (2 * abar)))
        ratios.append(-sum(gaps) / 3 / 2)
    z = 3.0 * (ratios[0] - ratios[1])
    assert float(method.loss(batch, model).each) == pytest.approx(math.log1p(math.exp(-z)), rel=1e-9)


def slope(method: InversionDPO, process: Any, more: float) -> tuple[float, float]:
    """The loss and its derivative by what the policy has learnt beyond the reference."""
    learnt = double(more).requires_grad_()
    loss = method.loss(affine_pairs(), Affine(process, learnt))
    (found,) = torch.autograd.grad(loss.each.sum(), learnt)
    return float(loss.each.detach()), float(found)


@pytest.mark.parametrize("told", ["source", "destination"])
@pytest.mark.parametrize("variant", ["paper", "release"])
def test_compared_with_the_references_own_answer_equal_models_stand_still(variant: Any, told: Any) -> None:
    """Quadratic on both sides: the loss is log 2 with no gradient at all, whatever the sign."""
    method = InversionDPO(steps=4, target="reference", variant=variant, told=told)
    loss, found = slope(method, stable(), 0.0)
    assert (loss, found) == (-math.log(0.5), 0.0)
    assert slope(method, stable(), 0.05)[1] != 0.0


def test_compared_with_the_implied_noise_equal_models_learn() -> None:
    for process in (stable(), stable(prediction_type="v_prediction")):
        loss, found = slope(InversionDPO(steps=4), process, 0.0)
        assert loss == pytest.approx(math.log(2))
        assert found != 0.0


def test_the_papers_sign_draws_to_the_target_on_winners_and_the_releases_does_not() -> None:
    """One pair, whose winner alone is moved: its distance must fall for the paper's loss to fall."""
    batch = replace(affine_pairs(), lose=torch.zeros(1, 2, dtype=torch.float64))
    near, far = (Affine(stable(), more) for more in (0.01, 0.05))
    for variant, sign in (("paper", 1), ("release", -1)):
        method = InversionDPO(beta=50, steps=4, target="reference", variant=variant)  # type: ignore[arg-type]
        assert sign * float(method.loss(batch, far).each - method.loss(batch, near).each) > 0


@pytest.mark.parametrize("process", [stable(), stable(prediction_type="v_prediction"), Flow()])
def test_some_levels_are_in_the_mean_all_levels(process: Any) -> None:
    """Over all subsets of 2 of 4 levels the log-ratio is the whole one's; one subset's is not."""
    model, batch = Affine(process), affine_pairs()
    whole = InversionDPO(beta=1.0, steps=5).loss(batch, model).metrics["margin"]
    some: dict[tuple[int, ...], Tensor] = {}
    for visit in range(60):
        again = replace(batch, draw=methods.draws(1, visit=visit))
        method = InversionDPO(beta=1.0, steps=5, points=2)
        subset = tuple(sorted(compared_at(again.draw, 1, 5, points=2)[:, 0].tolist()))
        some[subset] = method.loss(again, model).metrics["margin"]
    assert len(some) == 6
    assert torch.allclose(torch.stack([*some.values()]).mean(0), whole, rtol=1e-9)
    assert not torch.allclose(some[1, 2], whole)


def test_the_levels_of_a_pair_are_its_own_and_none_is_taken_twice() -> None:
    places = compared_at(methods.draws(4), 1, 20, points=3)
    assert places.shape == (3, 4)
    assert len({tuple(column) for column in places.T.tolist()}) > 1
    assert int(places.min()) >= 1
    assert all(len(set(column)) == 3 for column in places.T.tolist())
    assert compared_at(methods.draws(2), 1, 4).tolist() == [[1, 1], [2, 2], [3, 3]]


def test_winner_and_loser_are_compared_at_the_same_levels() -> None:
    batch = affine_pairs()
    for visit in range(5):
        twice = replace(batch, lose=batch.win, draw=methods.draws(1, visit=visit))
        loss = InversionDPO(steps=20, points=3).loss(twice, Affine(stable()))
        assert float(loss.metrics["margin"]) == 0.0


class Wide(nn.Module):
    """A policy whose activations are far larger than its pictures, so that keeping them shows."""

    def __init__(self) -> None:
        super().__init__()
        self.process = stable()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(4, 2048, generator=generator) / 2)
        self.outer = nn.Parameter(torch.randn(2048, 4, generator=generator) / 45)

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return torch.tanh(x_t @ self.inner) @ self.outer

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        with torch.no_grad():
            return 0.9 * self.policy(x_t, t, condition)


def wide_pairs(b: int = 8) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    win, lose = (torch.randn(b, 4, generator=generator) for _ in range(2))
    told = Condition(torch.zeros(2 * b, 1, 1))
    return Pairs(win, lose, told, methods.draws(b), torch.ones(b), torch.ones(b), empty=told)


def held(steps: int) -> int:
    """Bytes that a forward pass leaves allocated for its backward pass."""
    model, batch, method = Wide(), wide_pairs(), InversionDPO(steps=steps)
    method.loss(batch, model)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        loss = method.loss(batch, model)
    assert loss.each.requires_grad
    return sum(event.self_cpu_memory_usage for event in watched.key_averages())


def test_a_further_step_holds_two_latents_and_no_activations(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 pictures of 4 float32 numbers are 256 bytes; their guided activations, 32 x 2048 numbers, are 262144.

    The state of torch's generator, for dropout, is 5056 bytes more a step, and its few scalars are 64 bytes each.
    """
    assert (held(8) - held(4)) / 4 < 2 * 256 + 5056 + 8 * 64
    monkeypatch.setattr("visalign.trainers.inversion_dpo.checkpoint", plain)
    assert (held(8) - held(4)) / 4 > 262144


def plain(function: Any, *arguments: Any, use_reentrant: bool) -> Any:
    """What checkpointing stands for."""
    return function(*arguments)


@pytest.mark.parametrize("target", ["implied", "reference"])
def test_recomputing_changes_no_gradient(target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = []
    for _ in range(2):
        model = Wide()
        loss = InversionDPO(steps=6, target=target).loss(wide_pairs(), model)
        gradients.append(torch.autograd.grad(loss.each.mean(), [model.inner, model.outer]))
        monkeypatch.setattr("visalign.trainers.inversion_dpo.checkpoint", plain)
    assert all(torch.equal(*both) for both in zip(*gradients, strict=True))
    assert all(float(each.norm()) > 0 for each in gradients[0])


def test_kept_trajectories_spare_the_reference_and_change_nothing() -> None:
    model = methods.Counted(methods.denoiser())
    method, plain_method = InversionDPO(steps=3, cache=4), InversionDPO(steps=3)
    batch = methods.pairs()
    first = method.loss(batch, model)
    assert model.free == 4 * 2 * 2 * 3
    again = method.loss(replace(batch, draw=methods.draws(4, visit=1)), model)
    assert model.free == 4 * 2 * 2 * 3
    assert torch.equal(first.each, again.each)
    assert torch.allclose(first.each, plain_method.loss(batch, methods.denoiser()).each, rtol=1e-10)


def test_other_latents_or_prompts_of_a_record_are_walked_anew() -> None:
    """As at every visit where latents are samples of a posterior."""
    model, method, batch = methods.Counted(methods.denoiser()), InversionDPO(steps=3, cache=4), methods.pairs()
    method.loss(batch, model)
    win = batch.win.clone()
    win[2] += 1e-9
    method.loss(replace(batch, win=win), model)
    assert model.free == (4 + 1) * 2 * 2 * 3
    assert batch.empty is not None
    method.loss(replace(batch, condition=batch.empty), model)
    assert model.free == (4 + 1 + 4) * 2 * 2 * 3


def test_the_cache_is_bounded_and_lets_go_of_the_oldest() -> None:
    model, method, batch = methods.Counted(methods.denoiser()), InversionDPO(steps=3, cache=3), methods.pairs()
    method.loss(batch, model)
    assert list(method._kept._found) == ["record 1", "record 2", "record 3"]
    method.loss(methods.part(batch, [1]), model)
    method.loss(methods.part(batch, [0]), model)
    assert list(method._kept._found) == ["record 3", "record 1", "record 0"]
    assert model.free == (4 + 0 + 1) * 2 * 2 * 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="target 'noise' is not one of implied, reference"):
        InversionDPO(target="noise")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"points of 1 … 3 \(4 steps, target implied\) .* points 4"):
        InversionDPO(steps=4, points=4)
    with pytest.raises(ValueError, match=r"points of 1 … 0 \(1 steps"):
        InversionDPO(steps=1)
    with pytest.raises(ValueError, match="give Pairs its `empty`"):
        InversionDPO(steps=4).loss(replace(affine_pairs(), empty=None), Affine(stable()))
    with pytest.raises(ValueError, match=r"weight 1 / \(2 abar\) is infinite; tell each latent its own time: source"):
        InversionDPO(steps=4, told="destination").loss(affine_pairs(), Affine(Flow()))
