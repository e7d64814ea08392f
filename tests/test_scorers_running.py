"""Every scorer, however it is called: preference, spec, precision, device, threads, autocast, what is remembered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_scorers
import torch
from tiny_scorers import pictures
from torch import Tensor

from visalign import registry, scorers, scoring
from visalign.scorers.reading import AHEAD, Remembered
from visalign.scorers.running import full_precision, running
from visalign.scoring import Sample, paired

Makers = dict[str, Callable[..., Any]]
NAMES = ("hpsv2.1", "pickscore", "clipscore", "clip_iqa", "aesthetic_v2", "mps", "image_reward")
OWN_WORDS = NAMES[:3] + NAMES[5:]  # those that read the prompt


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Makers:
    return tiny_scorers.makers(tmp_path_factory.mktemp("official"))


@pytest.fixture(scope="module")
def family(makers: Makers) -> dict[str, Any]:
    return {name: makers[name](batch=3) for name in NAMES}


# What every scorer offers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*registry.TABLE["scorer"]])
def test_every_registered_scorer_compares_too(name: str) -> None:
    made = registry.load("scorer", name)
    assert callable(made.score) and callable(made.prefer)


@pytest.mark.parametrize("name", ["rules", "voters", "redrawing", "looks", "geneval", "playground_hps"])
def test_what_needs_no_weights_is_specified_and_compares(name: str) -> None:
    scorer: Any = scorers.load(name)
    assert scorer.spec.name == scorer.name == name
    shown = paired([each.resize((32, 32)) for each in pictures(4)], "a red circle")
    said = scorer.prefer(shown[:2], shown[2:])
    assert torch.equal(said, scoring.prefer(scorer, shown[:2], shown[2:]))
    assert torch.allclose(said + scorer.prefer(shown[2:], shown[:2]), torch.ones(2, dtype=said.dtype))
    assert scorer.prefer([], []).shape == (0,)
    assert scorer.prefer([Sample("a red circle")], shown[:1]).isnan().all()


def test_an_ensemble_reads_what_its_members_read() -> None:
    assert scorers.load("ensemble", members=["looks"]).spec.reads == ("image",)  # type: ignore[attr-defined]
    both: Any = scorers.load("ensemble", members=["looks", "playground_hps"], combine="minimum")
    assert both.spec.uses_prompt and "Apache-2.0" in both.spec.license
    assert both.spec.scale == "minimum of looks, playground_hps"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sides", [(2, 1), (1, 2), (2, 3)])
def test_sides_of_different_length_are_refused_and_not_stretched(
    name: str, sides: tuple[int, int], family: dict[str, Any]
) -> None:
    first, second = (paired(pictures()[:count], "a") for count in sides)
    with pytest.raises(ValueError, match=f"got {sides[0]} and {sides[1]} samples"):
        family[name].prefer(first, second)


# Pixels and prompts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OWN_WORDS)
def test_pixels_have_as_many_prompts(name: str, family: dict[str, Any]) -> None:
    pixels = torch.rand(3, 3, 40, 40)
    for prompts in (["a"], ["a", "b"], []):
        with pytest.raises(ValueError, match=f"3 pictures as pixels and {len(prompts)} prompts"):
            family[name].score_pixels(pixels, prompts)
    with pytest.raises(TypeError, match="put it in a list"):
        family[name].score_pixels(pixels, "abc")  # would be three prompts of a letter


@pytest.mark.parametrize("name", NAMES)
def test_no_pixels_are_refused(name: str, family: dict[str, Any]) -> None:
    for shape in ((0, 3, 40, 40), (1, 3, 0, 40)):
        with pytest.raises(ValueError, match="no side 0"):
            family[name].score_pixels(torch.rand(shape), ["a"] * shape[0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_pixels_are_scored_with_their_graph(
    name: str, dtype: torch.dtype, family: dict[str, Any]
) -> None:
    pixels = torch.rand(2, 3, 40, 40).to(dtype).requires_grad_()
    said = family[name].score_pixels(pixels, ["a", "a red circle"])
    torch.testing.assert_close(said, family[name].score_pixels(pixels.detach().float(), ["a", "a red circle"]))
    (slope,) = torch.autograd.grad(said.sum(), pixels)
    assert slope.dtype == dtype and slope.isfinite().all() and slope.any()


@pytest.mark.parametrize("name", NAMES)
def test_the_matrix_of_one_text_is_refused_and_of_none_is_empty(name: str, family: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="put it in a list"):
        scoring.score_matrix(family[name], pictures()[:2], "abc")
    assert scoring.score_matrix(family[name], pictures()[:2], []).shape == (2, 0)
    assert scoring.score_matrix(family[name], [], ["a"]).shape == (0, 1)


# Precision, device and batch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"dtype": "fp8"}, "dtype is one of fp32, bf16, fp16, got 'fp8'"),
        ({"batch": 0}, "batch is at least 1, got 0"),
        ({"batch": -1}, "batch is at least 1, got -1"),  # would score nothing
        ({"device": "gpu"}, "device 'gpu' cannot be used here"),
    ],
)
def test_how_it_runs_is_checked_before_weights_are_read(
    name: str, setting: dict[str, Any], said: str, makers: Makers
) -> None:
    with pytest.raises(registry.BadSetting, match=said):
        makers[name](**setting, **({} if name == "image_reward" else {"weights": "/no/such/file"}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["playground_hps", "hpsv2.1", "image_reward"])
def test_a_device_that_is_not_here_is_named(name: str) -> None:
    with pytest.raises(ValueError, match="device 'cuda' cannot be used here: "):
        running("cuda")
    with pytest.raises(registry.BadSetting, match="device 'cuda' cannot be used here: "):
        scorers.load(name, device="cuda")


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("pickscore", {"scale": "raw"}, "scale is one of logit, cosine, got 'raw'"),
        ("clipscore", {"variant": "hessel"}, "variant is one of paper, torchmetrics, cosine, got 'hessel'"),
        ("mps", {"variant": "official"}, "variant is one of sample, batch, got 'official'"),
        ("hpsv2.1", {"version": "3"}, "version is one of 2.0, 2.1, got '3'"),
        ("aesthetic_v2", {"version": 2}, "version is one of 1, 2, got 2"),
        ("aesthetic_v2", {"model": "ViT-H-14"}, "model is one of ViT-L-14, "),
        ("clip_iqa", {"anchors": ("Good photo.",)}, "anchors are two texts"),  # of one the share is always 1
        ("clip_iqa", {"anchors": "ab"}, "anchors are two texts"),
        ("image_reward", {"config": {"visoin": {}}}, "the config has parts vision and text, got visoin"),
        ("hpsv2.1", {"config": "none.json"}, "no model configuration at none.json"),
    ],
)
def test_a_variant_that_is_none_is_refused_and_not_guessed(
    name: str, setting: dict[str, Any], said: str, makers: Makers
) -> None:
    with pytest.raises(registry.BadSetting, match=said):
        makers[name](**setting)


@pytest.mark.parametrize("name", NAMES)
def test_the_spec_says_the_size_that_is_read(name: str, family: dict[str, Any]) -> None:
    assert f"side {tiny_scorers.SIDE}, " in family[name].spec.preprocessing


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_neither_a_score_nor_what_is_remembered(name: str, makers: Makers) -> None:
    samples = paired(pictures(), "a red circle")
    wanted, fresh = makers[name]().score(samples).values, makers[name]()
    pixels = torch.rand(2, 3, 40, 40)
    plain = makers[name]().score_pixels(pixels, ["a", "a"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fresh.score(samples).values, wanted)
        assert torch.equal(fresh.score_pixels(pixels, ["a", "a"]), plain)
        mixed = scoring.score_matrix(fresh, pictures()[:2], ["a red circle", "a"])
    assert torch.equal(fresh.score(samples).values, wanted)
    assert torch.equal(scoring.score_matrix(fresh, pictures()[:2], ["a red circle", "a"]), mixed)


@pytest.mark.parametrize("name", NAMES)
def test_after_inference_mode_gradients_still_reach_the_pixels(name: str, makers: Makers) -> None:
    scorer = makers[name]()
    with torch.inference_mode():
        scorer.score(paired(pictures()[:2], "a red circle"))
    pixels = torch.rand(1, 3, 40, 40, requires_grad=True)
    (slope,) = torch.autograd.grad(scorer.score_pixels(pixels, ["a red circle"]).sum(), pixels)
    assert slope.any()


def test_full_precision_ends_where_it_ends() -> None:
    one = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with full_precision():
            assert (one @ one).dtype == torch.float32
        assert (one @ one).dtype == torch.bfloat16


# What is remembered ---------------------------------------------------------------------------------------------------


class Counted:
    """A text tower that counts, and keeps how many it was asked at a time."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, prompts: list[str]) -> tuple[Tensor, list[bool | None]]:
        self.asked.append(len(prompts))
        return torch.tensor([[float(each), 0.0] for each in prompts]), [len(each) > 2 for each in prompts]


def test_memory_that_is_used_again_mixes_no_pictures(family: dict[str, Any]) -> None:
    """Many more batches than there is room for, some of them with pictures that cannot be read, one with none."""
    scorer, shown = family["hpsv2.1"], paired([*pictures(), *pictures()[::-1]] * 2, "a red circle")
    for row in (1, 5, 9, 10, 11):
        shown[row] = Sample("a red circle", image=b"no picture")
    alone = torch.cat([scorer.score([each]).values for each in shown])
    found = scorer.score(shown)
    assert len(shown) // scorer.batch > 3 * AHEAD and sorted(found.reasons) == [1, 5, 9, 10, 11]
    torch.testing.assert_close(found.values, alone, atol=2e-4, rtol=0, equal_nan=True)
    embedded = scorer.embed([each.image for each in shown])
    torch.testing.assert_close(
        embedded,
        torch.cat(
            [
                scorer.embed([each.image]) if row not in found.reasons else torch.full_like(embedded[:1], torch.nan)
                for row, each in enumerate(shown)
            ]
        ),
        atol=2e-6,
        rtol=0,
        equal_nan=True,
    )


def test_a_remembered_prompt_does_not_hold_its_whole_batch_in_memory() -> None:
    memory = Remembered(Counted(), kept=1)
    memory([str(number) for number in range(64)])
    ((kept, _),) = memory._known.values()
    assert kept.untyped_storage().nbytes() == 2 * 4


def test_many_threads_remember_what_one_does() -> None:
    """With room for less than is asked, one thread forgets what another is about to read."""
    memory, failed = Remembered(Counted(), kept=4), []

    def work(seed: int) -> None:
        try:
            for step in range(200):
                asked = [str((seed * 7 + step + place) % 23) for place in range(5)]
                assert memory(asked)[:, 0].tolist() == [float(each) for each in asked]
        except BaseException as error:  # of another thread: told to this one
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed


@pytest.mark.parametrize("name", OWN_WORDS)
def test_threads_may_share_a_scorer(name: str, makers: Makers) -> None:
    scorer = makers[name](batch=2)
    samples = paired(pictures(), [f"a red circle, number {row}" for row in range(7)])
    wanted = scorer.score(samples).values
    memory = scorer.tokens if name == "image_reward" else scorer.texts
    memory.kept = 3
    memory.forget()
    found: dict[int, Tensor] = {}

    def work(turn: int) -> None:
        order = [(row + turn) % 7 for row in range(7)]
        found[turn] = scorer.score([samples[row] for row in order]).values[torch.tensor(order).argsort()]

    threads = [threading.Thread(target=work, args=(turn,)) for turn in range(5)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len(found) == 5
    for values in found.values():
        torch.testing.assert_close(values, wanted, atol=2e-6 * 100, rtol=0)


@pytest.mark.parametrize("name", ["hpsv2.1", "mps"])
def test_more_prompts_than_are_remembered_are_encoded_once_and_not_all_held(
    name: str, makers: Makers, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = makers[name](batch=2)
    scorer.texts.kept = 4
    scorer.texts.forget()
    inner, encoded = scorer.texts.compute, []

    def compute(prompts: list[str]) -> Any:
        encoded.extend(prompts)
        return inner(prompts)

    monkeypatch.setattr(scorer.texts, "compute", compute)
    prompts = [f"a red circle, number {number}" for number in range(7)]
    prompts[3] = "circle " * 100
    found = scorer.score(paired(pictures(), prompts))
    assert encoded == prompts
    assert found.truncated.tolist() == [row == 3 for row in range(7)]
    broken = scorer.score([Sample(prompts[3], image=b"no picture"), Sample("a", image=pictures()[0])])
    assert broken.truncated.tolist() == [True, False] and broken.judged.tolist() == [False, True]


@pytest.mark.parametrize("name", OWN_WORDS)
def test_half_a_character_is_read_as_a_question_mark(name: str, family: dict[str, Any]) -> None:
    image = pictures()[:1]
    damaged, plain = (family[name].score(paired(image, f"a red {end}")) for end in ("\ud83e", "?"))
    assert torch.equal(damaged.values, plain.values) and damaged.judged.all()


def test_a_path_as_text_and_as_a_path_are_the_same_scorer(makers: Makers, tmp_path: Path) -> None:
    from visalign.quick import kept

    file = tiny_scorers.hps_file(tmp_path)
    given: dict[str, Any] = {"config": tiny_scorers.OPEN_CLIP}
    assert kept("hpsv2.1", given | {"weights": file}) is kept("hpsv2.1", given | {"weights": str(file)})
    other = tiny_scorers.bert()
    blip = tiny_scorers.saved(tiny_scorers.blip_state(), tmp_path / "ImageReward.pt")
    both = [
        kept("image_reward", {"weights": blip, "config": tiny_scorers.BLIP, "tokenizer": each})
        for each in (tiny_scorers.bert(), other)
    ]
    assert repr(both[0].tokenizer) == repr(other) and both[0] is not both[1]  # type: ignore[attr-defined]
