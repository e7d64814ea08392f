"""SPO: the numbers of its densities, what counts as a pair, and the judges of noisy pictures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import methods
import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor

from visalign import registry
from visalign.batches import Condition
from visalign.contract import LatentScorer, Reading
from visalign.decoded import Decoded
from visalign.diffusion.stochastic import log_prob, over_steps, transition, walk
from visalign.process import Ddpm, Flow
from visalign.trainers import SPO

SMALL: dict[str, Any] = methods.SMALL["spo"]


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class By:
    """A latent scorer made of a function of x_t."""

    rule: Callable[[Tensor], Tensor]
    asks: int = 0

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.rule(x_t)


def linear(value: float = 0.95, prediction: str = "epsilon") -> methods.Linear:
    return methods.Linear(torch.tensor(value, dtype=torch.float64, requires_grad=True), methods.process(prediction))


def spo(**settings: Any) -> SPO:
    return SPO(**{**SMALL, "recompute": False, **settings})


# Densities ---------------------------------------------------------------------------------------------------------

T, TO = torch.tensor([501]), torch.tensor([451])
X, WIN, LOSE = double([[0.5, -1, 0.2, 0.8]]), double([[0.6, -0.9, 0.3, 0.7]]), double([[0.2, -1.2, 0.1, 0.9]])


def test_the_published_numbers_of_a_step() -> None:
    """20 steps of Stable Diffusion, from time 501 to 451."""
    process = methods.process()
    assert [(int(t), int(to)) for t, to in walk(process, 20) if t == 501] == [(501, 451)]
    answer = double([[0.3, -0.6, 0.1, 0.5]]).requires_grad_()
    mean, spread = transition(process, answer, X, T, TO)
    anchor, _ = transition(process, double([[0.31, -0.58, 0.1, 0.49]]), X, T, TO)
    assert float(spread) == pytest.approx(0.4293211493, abs=1e-9)
    assert anchor[0].tolist() == pytest.approx([0.4771528243, -0.9650583559, 0.1973127541, 0.7650574250], abs=1e-9)
    assert float(log_prob(WIN, mean, spread).detach()) == pytest.approx(-0.095385095, abs=1e-8)
    assert float(log_prob(LOSE, mean, spread).detach()) == pytest.approx(-0.184932758, abs=1e-8)
    found = spo().compared(torch.stack([LOSE, WIN], 1), double([[0.0, 1.0]]), mean, anchor, spread)
    still = mean.detach()
    ratios = [math.exp(float(log_prob(x, still, spread) - log_prob(x, anchor, spread))) for x in (WIN, LOSE)]
    assert ratios == pytest.approx([1.001130785, 0.996760038], abs=1e-8)
    assert float(found["loss"].detach()) == pytest.approx(0.6715096228, abs=1e-9)
    (gradient,) = torch.autograd.grad(found["loss"].sum(), answer)
    assert gradient[0].tolist() == pytest.approx([0.7132772, 0.5349579, 0.3566386, -0.3566386], abs=1e-7)


def test_a_step_is_that_of_diffusers_ddim_with_eta_one() -> None:
    theirs = DDIMScheduler(**methods.STABLE, clip_sample=False)
    theirs.set_timesteps(20)
    process = methods.process()
    answer, x, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    for t, to in walk(process, 20)[:-1]:
        mean, spread = transition(process, answer.double(), x.double(), t[None], to[None])
        expected = theirs.step(answer, int(t), x, eta=1.0, variance_noise=noise).prev_sample
        assert torch.allclose((mean + spread * noise).float(), expected, atol=2e-5), int(t)


@pytest.mark.parametrize("process", [methods.process(), Flow(), Ddpm.from_config({"beta_schedule": "linear"})])
def test_a_step_keeps_the_marginal(process: Any) -> None:
    """From x_t of a known picture, with the true noise as answer, x at the next time has the path's own law."""
    x0, noise, fresh = torch.randn(3, 1, 100_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    steps = walk(process, 6)
    for t, to in steps:
        at = process.noised(x0 * 0.5 + 1.0, noise, t[None])
        mean, spread = transition(process, at.target, at.x, t[None], to[None])
        x = mean + spread * fresh
        a, s = process.coefficients(to[None], x)
        assert float(x.mean()) == pytest.approx(float(a), abs=0.02)
        assert float(x.std()) == pytest.approx(math.sqrt(float(s) ** 2 + float(a) ** 2 / 4), rel=0.02)


def test_the_walk_ends_where_nothing_is_left_to_chance() -> None:
    assert [int(to) for _, to in walk(methods.process(), 20)][-2:] == [1, 0]
    assert len(walk(methods.process(), 20)) == 20
    assert len(walk(Flow(), 20)) == 19
    unshifted = Ddpm.from_config({**methods.STABLE, "steps_offset": 0})
    assert len(walk(unshifted, 20)) == 19  # its last level is time 0 already


# Pairs -------------------------------------------------------------------------------------------------------------


def compared(scores: Any, **settings: Any) -> dict[str, Tensor]:
    """One step of four records with candidates 0, 1, 2 everywhere, from a policy whose mean lies 0.01 above."""
    drawn = torch.arange(3, dtype=torch.float64).expand(4, 3)[..., None]
    mean = torch.full((4, 1), 1.01, dtype=torch.float64)
    return spo(**settings).compared(drawn, double(scores), mean, mean - 0.01, torch.ones(4, 1).double())


def test_best_and_worst_are_the_pair_and_near_ties_do_not_count() -> None:
    found = compared([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0.0, 0.5, 0.6]], threshold=0.3)
    assert found["kept"].tolist() == [1, 1, 0, 0]  # tanh(0.6 / 2) = 0.29
    assert found["margin"][0] == -found["margin"][1] > 0
    assert found["margin"][2] == 0
    assert compared([[0, 1, 2], [2, 1, 0], [1, 1, 1], [0.0, 0.5, 0.7]], threshold=0.3)["kept"][3] == 1


def test_what_the_judge_cannot_say_is_nobody() -> None:
    nan = float("nan")
    found = compared([[nan, 0, 1], [nan, nan, 1], [nan, nan, nan], [0, nan, 1]], threshold=0.1)
    assert found["kept"].tolist() == [1, 0, 0, 1]
    assert torch.isfinite(found["loss"]).all()


def test_a_ratio_beyond_the_clip_pulls_nothing() -> None:
    """The floor of the loss is that of both ratios at their bounds."""
    mean = torch.full((1, 1), 3.0, dtype=torch.float64, requires_grad=True)
    drawn = double([[[0.0], [3.0]]])
    found = spo().compared(drawn, double([[0.0, 9.0]]), mean, torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    (slope,) = torch.autograd.grad(found["loss"].sum(), mean)
    assert float(slope) == 0.0
    assert float(found["loss"].detach()) == pytest.approx(-math.log(1 / (1 + (0.9 / 1.1) ** 10)), abs=1e-9)
    assert float(found["loss"].detach()) == pytest.approx(0.1261, abs=1e-4)


def test_a_record_is_the_mean_of_its_kept_steps_and_weighs_their_share() -> None:
    kept, losses, score = double([[1, 1, 0], [1, 0, 0]]), double([[2, 3, 9], [4, 9, 9]]), double([1, 2, 3])
    steps = [{"loss": losses[i], "kept": kept[i], "margin": kept[i], "score": score} for i in range(2)]
    loss = over_steps(steps, double([1, 2, 1]))
    assert loss.each.tolist() == [3.0, 3.0, 0.0]
    assert loss.weight is not None
    assert loss.weight.tolist() == [1.0, 1.0, 0.0]


def test_a_judge_that_cannot_tell_leaves_no_weight() -> None:
    loss = spo(scorer=By(lambda x: torch.zeros(len(x)))).loss(methods.prompts(), linear())
    assert loss.weight is not None
    assert loss.weight.tolist() == [0.0] * 4


def test_equal_networks_cannot_tell() -> None:
    loss = spo().loss(methods.prompts(), linear(0.9))
    assert loss.each.tolist() == pytest.approx([math.log(2)] * 4, abs=1e-12)


def bright(sign: float) -> Callable[[Tensor], Tensor]:
    """What likes bright pictures, or dark ones."""
    return lambda x: sign * 20 * x.flatten(1).mean(1)


def test_the_policy_moves_towards_what_the_judge_likes() -> None:
    """Brighter or darker pictures, by which way the judge looks."""
    for sign in (1.0, -1.0):
        model = Shifted(torch.zeros((), dtype=torch.float64, requires_grad=True), methods.process())
        judge = By(bright(sign))
        method = spo(scorer=judge, guidance=1.0)
        for visit in range(30):
            loss = method.loss(methods.prompts(visit=visit), model)
            (slope,) = torch.autograd.grad(loss.each.mean(), model.shift)
            with torch.no_grad():
                model.shift -= 0.02 * slope.sign()
        # A larger epsilon is a darker picture.
        assert sign * float(model.shift.detach()) < -0.1


@dataclass
class Shifted:
    """answer = 0.9 x + shift, the reference's shift 0."""

    shift: Tensor
    process: Any

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.9 * x_t + self.shift

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.9 * x_t


@pytest.mark.parametrize("guidance", [3.0, 5.0])
def test_the_negative_branch_has_the_factor_one_minus_guidance(guidance: float) -> None:
    """The guided policy moves by (1 - guidance) of what the branch does, so its slope is that of the whole answer
    times it."""
    found = []
    for trains in ("policy", "negative"):
        model = linear(0.9)
        loss = spo(trains=trains, guidance=guidance).loss(methods.prompts(), model)
        found.append(float(torch.autograd.grad(loss.each.sum(), model.w)[0]))
    assert found[0] != 0.0
    assert found[1] == pytest.approx((1 - guidance) * found[0], rel=1e-9)


def test_recomputing_changes_memory_alone() -> None:
    found = []
    for recompute in (False, True):
        model = methods.denoiser()
        loss = spo(recompute=recompute).loss(methods.prompts(2), model)
        gradient = torch.autograd.grad(loss.each.sum(), list(model.trainable().values()))
        found.append((loss.each.detach(), *gradient))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert (spo().passes.held, spo(recompute=True).passes.held) == (None, 2)


def test_the_next_pair_starts_from_a_random_candidate() -> None:
    """Not from what was liked best: the scores of one step say nothing of where the next begins."""
    seen: list[Tensor] = []

    def look(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return torch.zeros(len(x))

    batch, model = methods.prompts(), linear()
    spo(scorer=By(look), steps=4, divert=1, candidates=2).loss(batch, model)
    drawn = [torch.stack(seen[i : i + 2]) for i in (0, 2, 4)]
    steps = walk(model.process, 4)[2:]
    for place, ((t, to), before, after) in enumerate(zip(steps, drawn, drawn[1:], strict=False), start=2):
        row = batch.draw.integers(f"next {place - 1}", 0, 2)
        x = before[row, torch.arange(4)]
        mean, spread = transition(model.process, model.w.detach() * x, x, t.expand(4), to.expand(4))
        noise = batch.draw.normal(f"noise {place}", (2, *batch.shape), x)
        assert torch.allclose(after, (mean[:, None] + spread[:, None] * noise).transpose(0, 1), atol=1e-12)
    assert set(batch.draw.integers("next 1", 0, 2).tolist()) == {0, 1}


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="candidates >= 2"):
        spo(candidates=1)
    with pytest.raises(ValueError, match="0 < clip < 1"):
        spo(clip=0)
    with pytest.raises(ValueError, match="negative at a guidance above 1"):
        spo(trains="negative", guidance=1.0)
    with pytest.raises(registry.UnknownName, match="no latent_scorer is named 'playgrond'; did you mean playground"):
        spo(scorer="playgrond")


# Judges ------------------------------------------------------------------------------------------------------------


def test_any_scorer_judges_what_the_reference_makes_of_a_noisy_picture() -> None:
    """A reference that knows the picture: its decoded self is scored, whatever the noise, for each record's prompt."""
    from PIL import Image

    from visalign.diffusion.sampling import to_uint8
    from visalign.models.folder import Folder
    from visalign.playground import corpus
    from visalign.scoring import Sample

    judge = registry.build("latent_scorer", {"name": "decoded", "scorer": "voters", "folder": "playground",
                                             "temperature": 0.12})  # fmt: skip
    assert isinstance(judge, Decoded)
    assert isinstance(judge, Reading)
    folder = Folder.open("playground")
    shown = [corpus.example(0, index) for index in range(4)]
    pixels = torch.stack([torch.from_numpy(each.picture.copy()).permute(2, 0, 1) for each in shown])
    latents, _ = judge.encoders.encode_images(pixels.float() / 127.5 - 1)

    @dataclass
    class Knowing:
        process: Any

        def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
            a, s = self.process.coefficients(t, x_t)
            answer: Tensor = a * (x_t - a * latents) / s - s * latents
            return answer

        policy = reference

    texts = [each.caption for each in shown]
    bound = judge.of(Knowing(folder.process), texts)
    assert isinstance(bound, LatentScorer)
    at = folder.process.noised(latents, torch.randn_like(latents), torch.full((4,), 400))
    found = bound(at.x, torch.full((4,), 400), Condition(torch.zeros(4, 24, 128)))
    pictures = [Image.fromarray(each) for each in to_uint8(judge.encoders.decode(latents))]
    samples = [Sample(text, image=each) for text, each in zip(texts, pictures, strict=True)]
    expected = registry.build("scorer", "voters").score(samples).values / 0.12
    assert torch.allclose(found.double(), expected, atol=1e-2)
    unread = judge.of(Knowing(folder.process), ["nonsense words", *texts[1:]])
    assert (
        unread(at.x, torch.full((4,), 400), Condition(torch.zeros(4, 24, 128))).isnan().tolist() == [True] + [False] * 3
    )


def test_a_scorer_of_unknown_temperature_asks_for_one() -> None:
    with pytest.raises(registry.BadSetting, match=r"give scorer\.temperature"):
        registry.build("latent_scorer", {"name": "decoded", "scorer": "rules", "folder": "playground"})
    for wrong in (0.0, -1.0):  # 0 would be taken for none given
        with pytest.raises(registry.BadSetting, match="a temperature is above 0"):
            registry.build("latent_scorer", {
                "name": "decoded", "scorer": "playground_hps", "folder": "playground", "temperature": wrong,
            })  # fmt: skip


def test_a_decoding_judge_is_counted() -> None:
    plain, asking = spo().passes, spo(scorer=replace(By(lambda x: x.flatten(1).mean(1)), asks=1)).passes
    assert asking.free == plain.free + 3 * 2
