"""Self-NPO: the numbers of its released code, and that a record's target is its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import methods
import pytest
import rehearsal
import tiny
import torch
from torch import Tensor

from visalign.batches import Condition, Prompts, Singles
from visalign.config import ConfigError
from visalign.contract import Reference
from visalign.diffusion.levels import between, evenly, truncated
from visalign.diffusion.stochastic import renoised
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.weights import Full, Lora, follow
from visalign.process import Ddpm, Flow
from visalign.trainers import SelfNPO

T_LATER, NOISE = torch.tensor([700]), [0.3, -1.2]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def released() -> Ddpm:
    """Stable Diffusion's schedule as diffusers keeps it: cumulated in float32."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    alphas = torch.cumprod(1 - betas, dim=0).double()
    return Ddpm(alphas, final=float(alphas[0]), spacing="leading", offset=1)


def told(x: Tensor) -> Tensor:
    return 0.8 * x + 0.1


def untold(x: Tensor) -> Tensor:
    return 0.5 * x


def timeless(answer: Callable[[Tensor], Tensor], x: Tensor, t: Tensor) -> Tensor:
    return answer(x)


def walked(places: list[int], stale: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Five steps of the unconditional teacher from x = [1, -0.5] at these levels."""
    x = double([[1.0, -0.5]]).repeat(len(places), 1)
    process = released()
    levels = evenly(process, 25)
    found: tuple[Tensor, Tensor, Tensor] = truncated(
        process, lambda x, t: untold(x), x, torch.tensor(places), levels, 5, stale=stale
    )
    return found


def seen(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """The student's noisy picture at time 700 and what it believes the picture to be."""
    later = renoised(released(), x, t, T_LATER, double([NOISE]))
    return later, released().split(0.7 * later - 0.05, later, T_LATER)[0]


def test_the_levels_are_the_released_ones() -> None:
    assert evenly(released(), 25).tolist() == [0, *range(39, 1000, 40)]
    assert evenly(Flow(), 4).tolist() == [0.0, *Flow().grid(4).tolist()[1:]]


def test_the_released_numbers_of_a_walk_in_the_middle() -> None:
    x, t, target = walked([11])
    assert t.tolist() == [239]
    assert x[0].tolist() == pytest.approx([1.0947916976, -0.5473958488], abs=1e-9)
    assert target[0].tolist() == pytest.approx([0.9508977776, -0.4754488888], abs=1e-9)
    later, mean = seen(x, t)
    assert later[0].tolist() == pytest.approx([0.6596657600, -1.3152159146], abs=1e-9)
    assert mean[0].tolist() == pytest.approx([0.9233833066, -1.3418873817], abs=1e-9)
    assert float(SelfNPO().gap(mean, target)) == pytest.approx(0.4459858536, abs=1e-9)
    assert float(SelfNPO(distance="l2").gap(mean, target)) == pytest.approx(0.3757363541, abs=1e-9)


def test_the_released_numbers_where_the_walk_ends_at_the_clean_end() -> None:
    """Whether something else in the batch still moves is nothing to a record, but in the release it is."""
    for places, stale, expected, loss in (
        ([3], False, [0.8844895946, -0.4422447973], 0.4738611546),
        ([3, 11], True, [0.8844895946, -0.4422447973], 0.4738611546),
        ([3], True, [0.8835817742, -0.4417908871], 0.4736342262),
    ):
        x, t, target = walked(places, stale)
        assert t[0].item() == 0
        assert x[0].tolist() == pytest.approx([0.8971924804, -0.4485962402], abs=1e-9)
        assert target[0].tolist() == pytest.approx(expected, abs=1e-9)
        _, mean = seen(x[:1], t[:1])
        assert float(SelfNPO().gap(mean, target[:1])) == pytest.approx(loss, abs=1e-9)


def test_what_has_arrived_stays_to_the_last_bit() -> None:
    alone = walked([1])
    beside = walked([1, 20])
    assert all(torch.equal(one[0], other[0]) for one, other in zip(alone, beside, strict=True))
    process = released()
    once = truncated(process, lambda x, t: untold(x), double([[1.0, -0.5]]), torch.tensor([1]), evenly(process, 25), 1)
    assert torch.equal(once[0], alone[0])


def test_a_scale_of_minus_one_is_the_empty_prompt_and_lower_ones_push_away_from_the_prompt() -> None:
    @dataclass
    class Two:
        """Answers differently to the prompt and to the empty one."""

        process: Ddpm

        def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            return self.reference(x_t, t, condition)

        def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            said = condition.text[:, 0, 0].reshape(-1, *[1] * (x_t.ndim - 1))
            return torch.where(said > 0, told(x_t), untold(x_t))

    batch = methods.prompts(1)
    said, unsaid = Condition(torch.ones(1, 1, 1).double()), Condition(torch.zeros(1, 1, 1).double())
    batch = replace(batch, condition=said, empty=unsaid)
    process, x, place = released(), double([[1.0, -0.5]]), torch.tensor([11])
    levels = evenly(process, 25)
    for scale, answer in ((-1.0, untold), (-5.0, lambda x: 5 * untold(x) - 4 * told(x))):
        found = SelfNPO(negative_scale=scale).taught(batch, Two(process), x, place, levels)
        expected = truncated(process, partial(timeless, answer), x, place, levels, 5)
        assert all(torch.allclose(one, other.to(one.dtype)) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("process", [released(), Flow()])
def test_renoising_reaches_the_marginal_of_the_noisier_time(process: Ddpm | Flow) -> None:
    """x0 = 2 noised to t and then to t', against noised to t' at once: the same mean and deviation."""
    t, to = (torch.tensor([200]), torch.tensor([650])) if isinstance(process, Ddpm) else (double([0.2]), double([0.65]))
    first, second = torch.randn(2, 1, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = renoised(process, process.noised(torch.full_like(first, 2.0), first, t).x, t, to, second)
    a, s = process.coefficients(to, x)
    assert float(x.mean()) == pytest.approx(2 * float(a), abs=5e-3)
    assert float(x.std()) == pytest.approx(float(s), rel=5e-3)


def test_later_times_are_noisier_and_reach_the_end() -> None:
    share = double([0.0, 0.5, 0.9999999])
    assert between(torch.tensor([239, 0, 959]), torch.tensor(999), share).tolist() == [240, 500, 999]
    found = between(double([0.2, 0.0]), double(1.0), double([0.5, 0.25]))
    assert found.tolist() == pytest.approx([0.6, 0.25])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_the_approach_needs_no_picture_and_ends_at_its_level(prediction: str) -> None:
    """A teacher that knows that the picture is 2 everywhere leads pure noise to the path's point at every level."""

    @dataclass
    class Knowing:
        process: Any

        def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            a, s = self.process.coefficients(t, x_t)
            p, q = self.process.answer_weights(a, s)
            answer: Tensor = p * 2.0 + q * (x_t - a * 2.0) / s
            return answer

        policy = reference

    process = methods.process(prediction)
    batch, levels = methods.prompts(4), evenly(process, 25)
    t = levels[torch.tensor([3, 10, 18, 25])]
    x = SelfNPO().started(batch, Knowing(process), t, levels[-1])
    start = batch.draw.normal("start", batch.shape, batch.weight)
    a_top, s_top = process.coefficients(levels[-1:].expand(4), x)
    a, s = process.coefficients(t, x)
    assert torch.allclose(x, a * 2.0 + s * (start - a_top * 2.0) / s_top, atol=1e-9)


def test_the_release_starts_from_pictures() -> None:
    method = SelfNPO(variant="release")
    assert (method.batch_type, SelfNPO().batch_type) == (Singles, Prompts)
    assert method.passes.free == SelfNPO().passes.free - SelfNPO().approach
    loss = method.loss(methods.singles(), methods.denoiser())
    assert loss.each.shape == (4,)
    assert bool((loss.each > 0).all())


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="variant 'papers' is not one of paper, release"):
        SelfNPO(variant="papers")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="truncated < grid"):
        SelfNPO(truncated=25)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        SelfNPO(width=0)


# The reference that follows ----------------------------------------------------------------------------------------


def followed(train: str) -> NetworkDenoiser:
    plain = rehearsal.denoiser(train)
    network = plain.network
    if train == "lora":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = tiny.unet(rehearsal.WIDTH, block_out_channels=(8, 16))
        return NetworkDenoiser(Lora(network, rank=2, dropout=0.3, follows=True), plain.process)
    return NetworkDenoiser(Full(network, reference=False, follows=True), plain.process)


@dataclass(frozen=True)
class Texts:
    """Prompts drawn from their keys."""

    count: int = 13

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        return f"prompt-{index}"

    def weight(self, index: int) -> float:
        return 1.0

    def batch(self, indices: Any, visits: Any, seed: int) -> Prompts:
        made = methods.prompts(len(indices), torch.float32)
        keys = tuple(self.key(index) for index in indices)
        return replace(made, draw=replace(made.draw, seed=seed, keys=keys, visits=tuple(visits)))


def asked(model: NetworkDenoiser, of: str) -> Tensor:
    batch = methods.prompts(2, torch.float32)
    x = batch.draw.normal("x", batch.shape, batch.weight)
    answer: Tensor = getattr(model, of)(x, torch.tensor([100, 700]), batch.condition).detach()
    return answer


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_reference_follows_as_an_average_of_the_weights(train: str) -> None:
    model = followed(train).eval()
    assert torch.equal(asked(model, "reference"), asked(model, "policy"))
    start = {name: each.detach().clone() for name, each in model.trainable().items()}
    with torch.no_grad():
        for each in model.trainable().values():
            each.add_(0.05 * torch.randn(each.shape, generator=torch.Generator().manual_seed(each.numel())))
    before = asked(model, "reference")
    follow(model.weights, 0.9)
    for name, each in model.follower().items():
        expected = 0.9 * start[name] + 0.1 * model.trainable()[name].detach()
        assert torch.allclose(each, expected, atol=1e-7), name
        assert not each.requires_grad
    assert model.follower().keys() == model.trainable().keys()
    assert not torch.equal(asked(model, "reference"), before)
    follow(model.weights, 0.0)
    assert torch.equal(asked(model, "reference"), asked(model, "policy"))


def test_adapters_that_follow_have_no_dropout_and_are_not_published() -> None:
    model = followed("lora").train()
    assert torch.equal(asked(model, "reference"), asked(model, "reference"))
    assert isinstance(model.weights, Lora)
    assert not any("reference" in name for name in model.weights.adapters())
    assert not any("reference" in name for name in model.trainable())


@pytest.mark.parametrize("train", ["lora", "full"])
def test_resuming_takes_the_reference_along(train: str, tmp_path: Path) -> None:
    def run(name: str, *changes: str) -> Any:
        settings = rehearsal.settings(tmp_path / name, "steps=4", "save_every=2", "optimizer.lr=1e-3", *changes)
        method = SelfNPO(grid=4, truncated=2, approach=1, decay=0.5)
        return rehearsal.rehearse(settings, model=followed(train), view=Texts(), method=method, **more)

    def crash(moment: Any) -> None:
        if moment.step == 3:
            raise KeyboardInterrupt

    more: dict[str, Any] = {}
    whole = run("whole")
    more = {"on_step": crash}
    with pytest.raises(KeyboardInterrupt):
        run("broken")
    more = {}
    resumed = run("broken")
    assert resumed.resumed == 2
    assert "reference.safetensors" in rehearsal.digest(whole.checkpoint)
    assert rehearsal.digest(resumed.checkpoint) == rehearsal.digest(whole.checkpoint)
    assert rehearsal.losses(tmp_path / "broken") == rehearsal.losses(tmp_path / "whole")


def test_a_model_that_cannot_follow_is_refused(tmp_path: Path) -> None:
    settings = rehearsal.settings(tmp_path, "steps=1")
    with pytest.raises(ConfigError, match=r"Reference\.EMA"):
        rehearsal.rehearse(settings, model=rehearsal.denoiser(), view=Texts(), method=SelfNPO())
    with pytest.raises(ConfigError, match="decay"):
        rehearsal.rehearse(settings, model=followed("lora"), view=Texts(), method=SelfNPO(decay=1.5))


@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_folder_makes_a_reference_that_follows_where_the_method_asks(train: str, tmp_path: Path) -> None:
    from visalign.models.folder import Folder

    folder = Folder.open(tiny.folder(tmp_path / "model"))
    assert folder.denoiser(train=train, reference=SelfNPO.reference).follower()
    assert not folder.denoiser(train=train, reference=Reference.FROZEN).follower()
