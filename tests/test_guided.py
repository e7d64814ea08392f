"""Takes from a real picture: where they start, that a perfect model gives the picture back, and what they share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import methods
import pytest
import torch
from torch import Tensor

from visalign.batches import Condition
from visalign.diffusion.guided import Takes, guided_takes, noise_share, time_at
from visalign.diffusion.sampling import generate
from visalign.process import Ddpm, Flow, Process

SHAPES = [(2, 8, 8), (2, 5, 4, 4)]  # a picture's latent, and a clip's
PATHS = ["flow", "shifted", "epsilon", "v_prediction"]


def path(name: str) -> Process:
    """One that ends at the picture itself."""
    if name in ("flow", "shifted"):
        return Flow(shift=5.66 if name == "shifted" else 1.0)
    return Ddpm.from_config({**methods.STABLE, "prediction_type": name, "set_alpha_to_one": True})


@dataclass
class Oracle:
    """Knows the pictures, and so what they were noised with; writes down when it is asked."""

    x0: Tensor
    process: Process
    asked: list[Tensor] = field(default_factory=list)

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.asked.append(t)
        a, s = self.process.coefficients(t, x_t)
        return self.process.noised(self.x0, (x_t - a * self.x0) / s, t).target

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        raise AssertionError("takes are the policy's")


def pictures(n: int = 4, shape: tuple[int, ...] = methods.SHAPE) -> Tensor:
    made, like = methods.fixed(n, torch.float64)
    return made.normal("x0", shape, like)


def taken(model: Any, x: Tensor, **settings: Any) -> Takes:
    n = len(x)
    told, untold = methods.condition(n, torch.float64), methods.empty(n, torch.float64)
    return guided_takes(model, x, told, untold, methods.draws(n), **{"steps": 40, **settings})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PATHS)
def test_a_perfect_model_gives_every_picture_back(name: str, shape: tuple[int, ...]) -> None:
    """Whoever steps up where the path goes down (as the paper's algorithm prints it) ends far away."""
    x = pictures(4, shape)
    found = taken(Oracle(x, path(name)), x, count=3)
    assert found.x.shape == (4, 3, *shape)
    assert torch.allclose(found.x, x[:, None].expand_as(found.x), atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_first_time_is_the_level_and_not_a_share_of_the_steps(name: str) -> None:
    """Three quarters of the way down a schedule that is shifted by 5.66 there is a share of 0.944 noise left."""
    x, process = pictures(), path(name)
    model = Oracle(x, process)
    level = taken(model, x, levels=(0.75, 0.75)).level
    first = model.asked[0]
    assert torch.allclose(level, torch.full((4,), 0.75, dtype=torch.float64), atol=1e-3 if "_" in name else 2e-3)
    assert torch.equal(noise_share(process, first), level)
    a, s = process.coefficients(first, x)
    assert torch.allclose((s / a).flatten(), level / (1 - level))
    if isinstance(process, Flow):
        assert torch.equal(first, level)
        assert level.tolist() == [0.75] * 4
    below = process.grid(40).flip(0)
    below = below[(below < first[0]) & (below > 0)]
    assert len(model.asked) == 2 * (1 + len(below))
    assert torch.equal(torch.stack(model.asked[1 : 1 + len(below)])[:, 0], below)


def test_levels_are_the_papers_and_one_for_the_takes_of_a_record() -> None:
    x = pictures(64)
    model = Oracle(x, Flow())
    level = taken(model, x).level
    assert 0.65 <= float(level.min()) < 0.67
    assert 0.78 < float(level.max()) <= 0.80
    starts = [t for t in model.asked if torch.equal(t, level)]
    assert len(starts) == 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["flow", "shifted", "epsilon"])
def test_a_take_from_the_very_top_is_a_drawing_from_its_noise(name: str, guidance: float) -> None:
    """Same sampler, same guidance, same grid."""
    model, x, draw = methods.denoiser("flow" if name == "shifted" else name), pictures(), methods.draws(4)
    model.process = path(name)
    top = model.process.grid(6)[-1:]
    level = float(noise_share(model.process, top))
    found = taken(model, x, steps=6, guidance=guidance, levels=(level, level)).x[:, 1]
    noise = draw.normal("take/1", methods.SHAPE, x)
    start = model.process.noised(x, noise, top.expand(4)).x
    told, untold = methods.condition(4, torch.float64), methods.empty(4, torch.float64)
    assert torch.equal(found, generate(model, told, untold, start, steps=6, guidance=guidance))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_batch_is_its_records_whatever_their_levels(prediction: str) -> None:
    model, x, draw = methods.denoiser(prediction), pictures(), methods.draws(4)
    told, untold = methods.condition(4, torch.float64), methods.empty(4, torch.float64)
    together = guided_takes(model, x, told, untold, draw, steps=8, levels=(0.2, 0.8))
    for row in range(4):
        one = replace(draw, keys=draw.keys[row : row + 1], visits=(0,))
        mine, nothing = (methods.rows_of(each, [row]) for each in (told, untold))
        alone = guided_takes(model, x[row : row + 1], mine, nothing, one, steps=8, levels=(0.2, 0.8))
        assert torch.allclose(alone.x[0], together.x[row], atol=1e-10)
        assert torch.equal(alone.level[0], together.level[row])


def test_takes_differ_and_more_of_them_begin_alike() -> None:
    model, x = methods.denoiser("flow"), pictures()
    two, three = (taken(model, x, steps=4, count=count).x for count in (2, 3))
    assert torch.equal(two, three[:, :2])
    assert not torch.isclose(three[:, 0], three[:, 1]).all()
    assert not torch.isclose(three[:, 1], three[:, 2]).all()


def test_clips_are_drawn_by_a_network() -> None:
    model, x = methods.model_of("dense_dpo", "flow"), pictures(4, methods.CLIP)
    found = taken(model, x, steps=4, guidance=2.0)
    assert found.x.shape == (4, 2, *methods.CLIP)
    assert found.x.dtype == torch.float64
    assert not found.x.requires_grad


@pytest.mark.parametrize("name", ["epsilon", "flow"])
def test_times_and_shares_undo_one_another(name: str) -> None:
    process = path(name)
    times = torch.tensor([3, 250, 700, 999]) if name == "epsilon" else torch.tensor([0.0, 0.3, 1.0]).double()
    assert torch.equal(time_at(process, noise_share(process, times)), times)


@pytest.mark.parametrize(("name", "level"), [("epsilon", 0.99), ("epsilon", 0.0), ("flow", 1.2), ("shifted", -0.1)])
def test_a_level_that_the_path_does_not_reach_is_refused(name: str, level: float) -> None:
    with pytest.raises(ValueError, match=r"levels are shares of noise, on this path in .* got"):
        taken(Oracle(pictures(), path(name)), pictures(), levels=(level, level))
