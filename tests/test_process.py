"""The path: it equals diffusers' schedulers, undoes itself, and gives the published numbers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from visalign.draws import Draws
from visalign.process import Ddpm, Flow, from_scheduler

STABLE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000,
    "set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1, "timestep_spacing": "leading",
}  # fmt: skip
PREDICTIONS = ["epsilon", "v_prediction", "sample"]


def stable(prediction: str = "epsilon", **changes: object) -> Ddpm:
    return Ddpm.from_config({**STABLE, "prediction_type": prediction, **changes})


def exact(scheduler: DDIMScheduler | DDIMInverseScheduler, process: Ddpm) -> DDIMScheduler | DDIMInverseScheduler:
    """Diffusers' arithmetic on our float64 schedule: its own float32 cumulative product is off by a millionth."""
    scheduler.alphas_cumprod = process.alphas_cumprod
    scheduler.final_alpha_cumprod = scheduler.initial_alpha_cumprod = process.alphas_cumprod[0]
    return scheduler


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_schedule_is_stable_diffusions() -> None:
    alphas = stable().alphas_cumprod
    published = {0: 0.99914998, 1: 0.99829602, 201: 0.75214309, 500: 0.27633247, 801: 0.03654649, 999: 0.00466010}
    for t, value in published.items():
        assert float(alphas[t]) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("steps", [5, 16, 50])
def test_grid_and_steps_down_equal_diffusers_ddim(prediction: str, spacing: str, steps: int) -> None:
    config = {**STABLE, "prediction_type": prediction, "timestep_spacing": spacing}
    process = Ddpm.from_config(config)
    scheduler = exact(DDIMScheduler(**config), process)
    scheduler.set_timesteps(steps)
    grid = process.grid(steps)
    assert scheduler.timesteps.tolist() == grid.flip(0)[:-1].tolist()
    if spacing == "linspace":  # diffusers' linspace steps to t - T // n, which is no point of its own grid
        return
    x = ours = normal(2, 4, 8, 8)
    for i, t in enumerate(scheduler.timesteps):
        prediction_at_t = normal(2, 4, 8, 8, seed=i + 1)
        x = scheduler.step(prediction_at_t, t, x, eta=0.0).prev_sample
        here, to = grid[steps - i].expand(2), grid[steps - i - 1].expand(2)
        if spacing == "trailing" and steps == 16:  # 1000 / 16 is no integer: diffusers steps by its floor
            to = (here - 1000 // 16).clamp(min=-1)
        ours = process.step(prediction_at_t, ours, here, to)
    assert torch.allclose(ours, x, rtol=1e-6, atol=1e-6 * float(x.abs().max()))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_one_step_down_equals_diffusers_to_a_millionth(prediction: str) -> None:
    process = stable(prediction)
    scheduler = exact(DDIMScheduler(**STABLE, prediction_type=prediction), process)
    scheduler.set_timesteps(20)
    x, answer = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    for t in scheduler.timesteps:
        theirs = scheduler.step(answer, t, x, eta=0.0).prev_sample
        ours = process.step(answer, x, t.expand(3), (t - 50).clamp(min=-1).expand(3))
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6 * float(theirs.abs().max()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_one_step_up_equals_diffusers_inverse_to_a_millionth(prediction: str) -> None:
    """Since diffusers 0.22 the timestep that its inverse is given is the destination."""
    process = stable(prediction)
    config = {k: v for k, v in STABLE.items() if k != "timestep_spacing"}
    scheduler = exact(DDIMInverseScheduler(**config, prediction_type=prediction), process)
    scheduler.set_timesteps(20)
    x, answer = normal(3, 4, 8, 8), normal(3, 4, 8, 8, seed=1)
    for k in scheduler.timesteps[1:]:
        theirs = scheduler.step(answer, k, x).prev_sample
        ours = process.step(answer, x, (k - 50).expand(3), k.expand(3))
        assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_grid_and_steps_equal_diffusers_flow_euler(shift: float) -> None:
    scheduler, process = FlowMatchEulerDiscreteScheduler(shift=shift), Flow(shift=shift)
    x = ours = normal(2, 4, 8, 8).float()
    for steps in (4, 20):
        scheduler.set_timesteps(steps)
        grid = process.grid(steps).flip(0)
        assert torch.allclose(scheduler.sigmas.double(), grid, atol=1e-6)
        for i, t in enumerate(scheduler.timesteps):
            answer = normal(2, 4, 8, 8, seed=i).float()
            x = scheduler.step(answer, t, x).prev_sample
            ours = process.step(answer, ours, grid[i].expand(2), grid[i + 1].expand(2))
        assert torch.allclose(ours, x, atol=2e-6 * float(x.abs().max()) + 1e-6)


@pytest.mark.parametrize("process", [*(stable(p) for p in PREDICTIONS), Flow()], ids=[*PREDICTIONS, "flow"])
def test_split_undoes_noised(process: Ddpm | Flow) -> None:
    x0, noise = normal(5, 4, 8, 8), normal(5, 4, 8, 8, seed=1)
    t = process.times(Draws(0, tuple("abcde"), (0,) * 5))
    at = process.noised(x0, noise, t)
    implied_x0, implied_noise = process.split(at.target, at.x, at.t)
    assert torch.allclose(implied_x0, x0, atol=1e-9)
    assert torch.allclose(implied_noise, noise, atol=1e-9)


@pytest.mark.parametrize("process", [*(stable(p) for p in PREDICTIONS), Flow()], ids=[*PREDICTIONS, "flow"])
def test_a_step_there_and_back_returns_the_start_when_the_answer_is_the_truth(process: Ddpm | Flow) -> None:
    x0, noise = normal(2, 4, 4, 4), normal(2, 4, 4, 4, seed=1)
    grid = process.grid(10)
    low, high = grid[3].expand(2), grid[8].expand(2)
    down, up = process.noised(x0, noise, low), process.noised(x0, noise, high)
    assert torch.allclose(process.step(down.target, down.x, low, high), up.x, atol=1e-9)
    assert torch.allclose(process.step(up.target, up.x, high, low), down.x, atol=1e-9)


@pytest.mark.parametrize("path", ["epsilon", "v_prediction", "flow"])
def test_inversion_and_generation_return_to_the_start_and_twice_the_steps_halve_what_is_left(path: str) -> None:
    """A real network, a picture of unit size over the lower two thirds of the path and back, each hop by the answer at
    its start. Such hops are Euler's: what is left is of first order in their length, and below 5 % with 80 steps.
    """
    process = Flow() if path == "flow" else stable(path)
    torch.manual_seed(0)
    network, told = tiny.unet(8).double().eval(), normal(1, 5, 8, seed=1)
    start = normal(1, 4, 8, 8)

    @torch.no_grad()
    def left(steps: int) -> float:
        x, grid = start, process.grid(steps)[: 2 * steps // 3]
        for hops in (grid, grid.flip(0)):
            for t, to in itertools.pairwise(hops):
                here, there = t.expand(1), to.expand(1)
                answer = network(x, process.network_time(here.clamp(min=0)), told).sample
                x = process.step(answer, x, here, there)
        return float((x - start).norm() / start.norm())

    errors = [left(steps) for steps in (20, 40, 80)]
    assert errors[-1] < 0.05
    assert all(0.4 < later / earlier < 0.7 for earlier, later in itertools.pairwise(errors))


def test_noised_and_targets_are_the_published_numbers() -> None:
    x0 = torch.tensor([[1.0, -0.5, 0.25, 2.0]], dtype=torch.float64)
    noise = torch.tensor([[0.3, 0.7, -1.2, 0.1]], dtype=torch.float64)
    t = torch.tensor([500])
    epsilon, velocity = stable().noised(x0, noise, t), stable("v_prediction").noised(x0, noise, t)
    expected = torch.tensor([[0.780879466, 0.332643689, -0.889405267, 1.136415743]], dtype=torch.float64)
    assert torch.allclose(epsilon.x, expected, atol=1e-9)
    assert torch.equal(epsilon.target, noise)
    expected = torch.tensor([[-0.692984314, 0.793314676, -0.843479858, -1.648805404]], dtype=torch.float64)
    assert torch.allclose(velocity.target, expected, atol=1e-9)


def test_times_are_uniform_for_ddpm_and_logit_normal_for_flow() -> None:
    draws = Draws(0, tuple(str(i) for i in range(4000)), (0,) * 4000)
    times = stable().times(draws)
    assert int(times.min()) >= 0 and int(times.max()) <= 999
    assert float(times.double().mean()) == pytest.approx(499.5, abs=4 * 288.7 / 4000**0.5)
    flow = Flow().times(draws)
    assert float(torch.logit(flow).mean()) == pytest.approx(0.0, abs=4 / 4000**0.5)
    assert float(torch.logit(flow).std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("tokens", [64, 256, 1024, 1536, 4096, 6400])
@pytest.mark.parametrize("steps", [1, 4, 28, 50])
def test_a_shift_that_grows_with_the_picture_is_flux_s(tokens: int, steps: int) -> None:
    """FLUX.1-dev's scheduler; its pipeline hands it even levels and the picture's mu."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=calculate_shift(tokens))
    path = from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config})
    assert isinstance(path, Flow)
    process = replace(path, ends="even").sized(tokens)
    assert torch.allclose(scheduler.sigmas.double(), process.grid(steps).flip(0), atol=1e-6)
    scheduler.set_timesteps(steps, mu=calculate_shift(tokens))  # the scheduler's own levels, as SD3's pipeline asks
    assert torch.allclose(scheduler.sigmas.double(), path.sized(tokens).grid(steps).flip(0), atol=1e-6)


def test_schnell_s_even_levels_are_not_shifted() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 4, 4))
    path = from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config})
    assert isinstance(path, Flow) and path.sized(4096) == path
    grid = replace(path, ends="even").grid(4)
    assert grid.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert torch.allclose(scheduler.sigmas.double(), grid.flip(0), atol=1e-6)


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_both_ways_in_which_diffusers_shifts_by_size_are_shifts(kind: str) -> None:
    config = {"base_shift": 0.7, "max_shift": 2.0, "base_image_seq_len": 100, "max_image_seq_len": 900}
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, time_shift_type=kind, **config)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 0.1, 10), mu=calculate_shift(500, 100, 900, 0.7, 2.0))
    path = from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", **scheduler.config})
    assert isinstance(path, Flow)
    levels = torch.linspace(1.0, 0.1, 10, dtype=torch.float64)
    assert torch.allclose(scheduler.sigmas[:-1].double(), path.sized(500).shifted(levels), atol=1e-6)


def test_training_times_are_shifted_as_drawing_is() -> None:
    """Logit-normal before the shift: its logarithm is then the mean of their logits."""
    draws = Draws(0, tuple(str(i) for i in range(4000)), (0,) * 4000)
    path = from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True})
    assert isinstance(path, Flow)
    times = path.sized(1024).times(draws)
    assert float(torch.logit(times).mean()) == pytest.approx(calculate_shift(1024), abs=4 / 4000**0.5)
    with pytest.raises(ValueError, match="depends on the picture's size"):
        path.times(draws)


def test_what_is_not_a_path_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"shift_terminal=0\.1 is not known here"):
        from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift_terminal": 0.1})
    with pytest.raises(ValueError, match="'odd' is not one of shifted, first, spread, even"):
        Flow(ends="odd")
    with pytest.raises(ValueError, match="'flow' is not one of epsilon, v_prediction, sample"):
        stable("flow")
    with pytest.raises(ValueError, match="squaredcos_cap_v2"):
        stable(beta_schedule="squaredcos_cap_v2")
    with pytest.raises(ValueError, match=r"-1 … 999, got \[1000\]"):
        stable().coefficients(torch.tensor([1000]), torch.zeros(1))
    assert isinstance(from_scheduler({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}), Flow)
    assert isinstance(from_scheduler({"_class_name": "PNDMScheduler", **STABLE}), Ddpm)


def test_wans_multistep_scheduler_is_a_shifted_flow() -> None:
    wan = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    path = from_scheduler(wan.config)
    assert path == Flow(shift=3.0, ends="spread")
    for steps in (1, 4, 50):
        wan.set_timesteps(steps)
        assert torch.allclose(path.grid(steps).flip(0), wan.sigmas.double(), atol=1e-6)
    assert isinstance(from_scheduler(UniPCMultistepScheduler(beta_schedule="scaled_linear").config), Ddpm)


def test_zero_terminal_snr_equals_diffusers() -> None:
    theirs = DDIMScheduler(**STABLE, rescale_betas_zero_snr=True).alphas_cumprod
    ours = stable(rescale_betas_zero_snr=True).alphas_cumprod
    assert torch.allclose(ours.float(), theirs, atol=2e-6)
