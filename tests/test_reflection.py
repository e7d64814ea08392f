"""Reflection: the published numbers of W2SD, what it is when both sides agree, and the same drawing by diffusers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from diffusers import PNDMScheduler
from test_process import normal, stable
from torch import Tensor

from visalign.batches import Condition
from visalign.diffusion.guidance import Predict
from visalign.diffusion.reflection import Reflection, Side, counted
from visalign.diffusion.sampling import generate, initial_noise
from visalign.diffusion.source import Gap, Source
from visalign.drawing import Drawer, Settings
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.folder import Folder
from visalign.models.pipelines import Reflected
from visalign.models.weights import Full
from visalign.process import Ddpm, Flow

NOTHING = Condition(torch.zeros(1, 1, 1))
PROMPTS = ["a red circle left of a blue square", "a green square"]
SMALL = Settings(steps=6, guidance=3.0, size=16)
X = torch.tensor([[1.0, -0.5]], dtype=torch.float64)


def sdxl() -> Ddpm:
    """SDXL's schedule as diffusers holds it: cumulated in float32, then exact."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    levels = torch.cumprod(1.0 - betas, dim=0).double()
    return Ddpm(levels, final=float(levels[0]), offset=1)


def affine(factor: float, shift: float, asked: list[float] | None = None) -> Predict:
    """A network with the answer factor x + shift; notes the times that it was told."""

    def predict(x: Tensor, t: Tensor, _: Condition) -> Tensor:
        if asked is not None:
            asked.append(float(t[0]))
        return factor * x + shift

    return predict


STRONG, WEAK = affine(0.8, 0.1), affine(0.6, -0.2)


def mirrored(
    place: int, strong: Predict = STRONG, weak: Predict = WEAK, variant: str = "paper", process: Ddpm | None = None
) -> Tensor:
    """x~ of X at a place of the grid of 50 steps."""
    process = process or sdxl()
    grid = process.grid(50).flip(0)
    reflection = Reflection(Side(strong), Side(weak), variant=variant)
    return reflection.mirror(process, NOTHING, NOTHING, grid)(X, place)


GOLDEN = [
    (0, "paper", [0.9459018937, -0.5235636909], [0.9565149066, -0.5485853651]),
    (0, "release", [0.9478054712, -0.5236347662], [0.9584646461, -0.5486581640]),
    (25, "paper", [0.9731894429, -0.5108746390], [0.9690657126, -0.5172225440]),
    (25, "release", [0.9746911719, -0.5112277672], [0.9705696922, -0.5175762014]),
    (48, "paper", [0.9456020587, -0.5183169045], [0.8685000320, -0.4915458637]),
    (48, "release", [0.9229103906, -0.4802086292], [0.8474184621, -0.4561415792]),
]


@pytest.mark.parametrize(("place", "variant", "reflected", "after"), GOLDEN)
def test_reflections_and_the_steps_after_them_are_the_published_numbers(
    place: int, variant: str, reflected: list[float], after: list[float]
) -> None:
    """Two affine networks on SDXL's schedule in 50 steps: 981 -> 961, 481 -> 461 and 21 -> 1."""
    process = sdxl()
    grid = process.grid(50).flip(0)
    assert grid[[0, 1, 25, 26, 48, 49]].tolist() == [981, 961, 481, 461, 21, 1]
    found = mirrored(place, variant=variant)
    assert found[0].tolist() == pytest.approx(reflected, abs=1e-9)
    t, to = (each.expand(1) for each in grid[[place, place + 1]])
    assert process.step(STRONG(found, t, NOTHING), found, t, to)[0].tolist() == pytest.approx(after, abs=1e-9)


@pytest.mark.parametrize(
    ("place", "lower"),
    [(0, [1.0119248974, -0.5244502524]), (25, [0.9959164508, -0.5063316071]), (48, [0.9190381415, -0.4745286438])],
)
def test_the_way_down_is_the_published_numbers(place: int, lower: list[float]) -> None:
    process = sdxl()
    t, to = (each.expand(1) for each in process.grid(50).flip(0)[[place, place + 1]])
    assert process.step(STRONG(X, t, NOTHING), X, t, to)[0].tolist() == pytest.approx(lower, abs=1e-9)


def test_a_reflection_moves_along_the_difference_of_the_two_answers() -> None:
    """x~ = sqrt(abar_t) [y_t + (n_t - n_s)(weak(x_s, t) - strong(x_t, t))], with y = x / sqrt(abar), n the nsr."""
    process = sdxl()
    t, to = process.grid(50).flip(0)[[10, 11]]
    (a, s), (lower_a, lower_s) = process.coefficients(t, X), process.coefficients(to, X)
    down = STRONG(X, t[None], NOTHING)
    lower = lower_a * (X / a + (lower_s / lower_a - s / a) * down)
    expected = a * (X / a + (s / a - lower_s / lower_a) * (WEAK(lower, t[None], NOTHING) - down))
    assert torch.allclose(mirrored(10), expected, atol=1e-12)


@pytest.mark.parametrize("process", [sdxl(), Flow()], ids=["epsilon", "flow"])
def test_an_answer_that_is_used_again_leaves_the_latent_where_it_was(process: Ddpm | Flow) -> None:
    grid = process.grid(50).flip(0)
    held: dict[str, Tensor] = {}

    def once(x: Tensor, t: Tensor, _: Condition) -> Tensor:
        return held.setdefault("answer", 0.8 * x + 0.1)

    for place in (0, 25, 48):
        held.clear()
        reflection = Reflection(Side(once), Side(once))
        assert torch.allclose(reflection.mirror(process, NOTHING, NOTHING, grid)(X, place), X, atol=1e-12)


@pytest.mark.parametrize("place", [0, 25, 48])
def test_a_network_of_v_reflects_as_the_same_network_of_noise_does(place: int) -> None:
    process, turned = sdxl(), replace(sdxl(), prediction="v_prediction")

    def in_v(predict: Predict) -> Predict:
        def answer(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
            x0, noise = process.split(predict(x, t, condition), x, t)
            return turned.noised(x0, noise, t).target

        return answer

    found = mirrored(place, in_v(STRONG), in_v(WEAK), process=turned)
    assert torch.allclose(found, mirrored(place), atol=1e-12)


def test_a_model_reflected_in_itself_is_off_by_the_inversion_error_alone() -> None:
    assert mirrored(0, weak=STRONG)[0].tolist() == pytest.approx([1.0010471678, -0.5021470640], abs=1e-9)


@pytest.mark.parametrize("place", [5, 25, 45])
def test_swapping_the_two_sides_turns_the_displacement_round_to_first_order(place: int) -> None:
    """What is left of there + back falls with the square of the step: tenfold finer steps, a hundredth of it."""

    def left(steps: int) -> tuple[float, float]:
        process = sdxl()
        grid, at = process.grid(steps).flip(0), place * steps // 50
        there, back = (
            Reflection(Side(one), Side(other)).mirror(process, NOTHING, NOTHING, grid)(X, at) - X
            for one, other in ((STRONG, WEAK), (WEAK, STRONG))
        )
        return float((there + back).abs().max()), float((there - back).abs().max() / 2)

    (coarse, moved), (fine, moved_fine) = left(50), left(500)
    assert coarse < 0.2 * moved
    assert fine < 0.02 * moved_fine
    assert fine / coarse == pytest.approx(0.01, rel=0.35)


class Counting:
    """A denoiser of affine answers that notes the times it is asked."""

    def __init__(self, process: Ddpm | Flow) -> None:
        self.process = process
        self.asked: list[float] = []
        self.policy: Predict = affine(0.8, 0.1, self.asked)
        self.reference: Predict = self.policy


@pytest.mark.parametrize(("count", "expected"), [(None, 49), (0, 0), (11, 11), (49, 49)])
def test_it_costs_two_evaluations_a_reflected_step(count: int | None, expected: int) -> None:
    model = Counting(sdxl())
    weak: list[float] = []
    reflection = Reflection(Side(model.policy), Side(affine(0.6, -0.2, weak)), count)
    generate(model, NOTHING, NOTHING, X, steps=50, reflection=reflection)
    assert len(model.asked) + len(weak) == 50 + 2 * expected
    # Both are told the time t at which x is reflected, noisiest first, and the last step never is.
    assert weak == sdxl().grid(50).flip(0).tolist()[:expected]


def test_more_steps_than_there_are_to_reflect_are_refused() -> None:
    assert counted(None, 25) == 24
    for wrong in (25, -1):
        with pytest.raises(ValueError, match=rf"of 25 steps 0 … 24 can be reflected, got {wrong}"):
            counted(wrong, 25)
    with pytest.raises(ValueError, match="'official' is not one of paper, release"):
        Reflection(Side(STRONG), Side(WEAK), variant="official")


def test_the_gap_can_be_one_of_guidance() -> None:
    """Z-sampling: the weak side is the same network without guidance, and 0 asks for the empty prompt alone."""
    told, empty = Condition(torch.ones(1, 1, 1, dtype=torch.float64)), Condition(torch.zeros(1, 1, 1).double())

    def predict(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.5 * x + condition.text.reshape(-1, 1)

    process = sdxl()
    grid = process.grid(50).flip(0)
    found = Reflection(Side(predict, 5.5), Side(predict, 0.0)).mirror(process, told, empty, grid)(X, 3)
    by_hand = mirrored(3, affine(0.5, 5.5), affine(0.5, 0.0))
    assert torch.allclose(found, by_hand, atol=1e-12)


def test_the_gap_can_be_one_of_what_the_sides_are_told() -> None:
    def predict(x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.5 * x + condition.text.reshape(-1, 1)

    process = sdxl()
    grid = process.grid(50).flip(0)
    refined, raw = Condition(torch.full((1, 1, 1), 0.3).double()), Condition(torch.full((1, 1, 1), 0.1).double())
    found = Reflection(Side(predict), Side(predict, condition=raw)).mirror(process, refined, NOTHING, grid)(X, 3)
    by_hand = mirrored(3, affine(0.5, float(refined.text)), affine(0.5, float(raw.text)))
    assert torch.allclose(found, by_hand, atol=1e-12)


@pytest.mark.parametrize("variant", ["paper", "release"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_real_networks_draw_with_it_along_any_path(prediction: str, variant: str) -> None:
    process = Flow() if prediction == "flow" else stable(prediction)
    torch.manual_seed(0)
    strong, weak = (NetworkDenoiser(Full(tiny.unet(8).double(), reference=False), process).eval() for _ in range(2))
    told, untold = (Condition(normal(1, 5, 8, seed=seed)) for seed in range(2))
    noise = normal(1, 4, 8, 8)

    def drawn(reflection: Reflection | None) -> Tensor:
        return generate(strong, told, untold, noise, steps=8, guidance=2.0, reflection=reflection)

    apart = drawn(Reflection(Side(strong.policy), Side(weak.policy), variant=variant))
    assert bool(apart.isfinite().all())
    assert float((apart - drawn(None)).abs().max()) > 1e-3
    assert torch.equal(drawn(Reflection(Side(strong.policy), Side(weak.policy), 0, variant)), drawn(None))


def test_on_a_straight_path_between_two_constant_fields_it_is_their_difference() -> None:
    """Flow with constant velocities u and w: one reflected step from t to s moves x by (t - s)(w - u)."""
    process = Flow()
    grid = process.grid(10).flip(0)
    mirror = Reflection(Side(affine(0, 0.7)), Side(affine(0, -0.2))).mirror(process, NOTHING, NOTHING, grid)
    expected = X + float(grid[2] - grid[3]) * (-0.2 - 0.7)
    assert torch.allclose(mirror(X, 2), expected, atol=1e-12)


@pytest.fixture(scope="module", params=["sd15", "sd21", "sdxl"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one shape and other weights."""
    root = tmp_path_factory.mktemp(request.param)
    made = [tiny.folder(root / str(seed), request.param, seed) for seed in (0, 1)]
    return made[0], made[1]


DRAWN: list[tuple[str, Callable[[Path], str]]] = [
    ("weights", lambda weak: f"weak={weak}"),
    ("three steps", lambda weak: f"weak={weak},reflect=3"),
    ("guided", lambda weak: f"weak={weak},strong_guidance=4,weak_guidance=2"),
    ("release", lambda weak: f"weak={weak},variant=release"),
    ("guidance", lambda weak: "weak_guidance=0"),
    ("negative", lambda weak: f"negative={weak},beta=1,alpha=0,weak_guidance=0"),
]


@pytest.mark.parametrize("options", [each for _, each in DRAWN], ids=[name for name, _ in DRAWN])
def test_a_plain_diffusers_pipeline_reflects_as_we_do(pair: tuple[Path, Path], options: Callable[[Path], str]) -> None:
    drawer = Drawer(Source.find(f"{pair[0]},{options(pair[1])}"), SMALL)
    told, untold = (drawer.encoders.conditions(words, drawer.size) for words in (PROMPTS, ["", ""]))
    noise = initial_noise([3, 4], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    ours = generate(
        drawer.model, told, untold, noise, steps=6, guidance=3.0, negative=drawer.negative.policy,
        reflection=drawer.reflection,
    )  # fmt: skip
    theirs = drawer.pipeline()(
        PROMPTS, latents=noise, num_inference_steps=6, guidance_scale=3.0, height=16, width=16, output_type="latent"
    ).images
    assert float((ours - theirs).abs().max()) < 1e-5 * float(theirs.abs().max())


def test_a_pipeline_tells_the_weak_side_another_prompt(pair: tuple[Path, Path]) -> None:
    drawer = Drawer(Source.find(f"{pair[0]},reflect=3,strong_guidance=9,weak_guidance=9"), SMALL)
    pipe, raw = drawer.pipeline(), ["a circle", "a square"]
    noise = initial_noise([1, 2], drawer.encoders.latent_shape(drawer.size), torch.zeros(()))
    theirs = pipe(PROMPTS, weak_prompt=raw, latents=noise, num_inference_steps=6, guidance_scale=3.0, output_type="np")
    (ours,) = drawer.batches(PROMPTS, [1, 2], raw)
    assert abs(ours.astype(float) - 255 * theirs.images).max() <= 0.51
    (unrefined,) = drawer.batches(PROMPTS, [1, 2])
    assert abs(ours.astype(int) - unrefined).max() > 1
    with pytest.raises(ValueError, match="one for each of 2; got 1"):
        next(drawer.batches(PROMPTS, [1, 2], raw[:1]))


def test_a_pipeline_without_ddim_says_what_to_set(pair: tuple[Path, Path]) -> None:
    pipe = Folder(pair[0]).pipeline()
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="the pipeline has PNDMScheduler; set DDIMScheduler"):
        Reflected(pipe)


def test_guidances_that_were_not_said_are_the_papers(pair: tuple[Path, Path]) -> None:
    base, other = pair

    def gap(options: str) -> Gap:
        found = Source.find(f"{base},{options}").gap
        assert found is not None
        return found

    assert (gap(f"weak={other}").strong_guidance, gap(f"weak={other}").weak_guidance) == (1.0, 1.0)
    assert (gap("reflect=3").strong_guidance, gap("reflect=3").weak_guidance) == (None, 0.0)
    assert gap(f"weak={other},weak_guidance=0").strong_guidance == 1.0
    assert Source.find(str(base)).gap is None
