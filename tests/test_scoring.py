"""The scorers' common ground: arrays as pictures, pairs of images and prompts, preferences, one-line scoring."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from spoiled import encoded, picture

import visalign
from visalign import images, quick, scorers, scoring
from visalign.images import ImageError, Misuse
from visalign.playground import captions, corpus, world
from visalign.scoring import Sample, Scores, Spec, paired

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


@dataclass
class Redness:
    """How red a picture is on average; a scorer with a temperature, and nothing else."""

    name: str = "redness"
    asked: list[int] = field(default_factory=list)
    spec = Spec("redness", scale="share", range=(0, 1), temperature=0.5, reads=("image",))

    def score(self, samples: Sequence[Sample]) -> Scores:
        self.asked.append(len(samples))
        found = [
            torch.nan if isinstance(x, ImageError) else float(np.asarray(x)[..., 0].mean()) / 255
            for x in scoring.opened(samples)
        ]
        values = torch.tensor(found)
        return Scores(values, valid=~values.isnan())


# Arrays as pictures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        PIXELS,
        PIXELS.transpose(2, 0, 1),
        torch.from_numpy(PIXELS),
        torch.from_numpy(PIXELS).permute(2, 0, 1),
        PIXELS / 255,
        (PIXELS / 255).astype(np.float32),
        torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255,
        (torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255).requires_grad_(),
    ],
    ids=[
        "uint8 last",
        "uint8 first",
        "tensor last",
        "tensor first",
        "float64",
        "float32",
        "float tensor",
        "with a graph",
    ],
)
def test_an_array_is_the_picture_it_shows(given: object) -> None:
    found = images.load(given)  # type: ignore[arg-type]
    np.testing.assert_array_equal(np.asarray(found), PIXELS)


def test_half_precision_tensors_are_within_its_rounding() -> None:
    unit = torch.from_numpy(PIXELS).permute(2, 0, 1).float() / 255
    for dtype, most in ((torch.float16, 0), (torch.bfloat16, 1)):
        gap = np.asarray(images.load(unit.to(dtype))).astype(int) - PIXELS.astype(int)
        assert np.abs(gap).max() <= most


def test_grey_and_alpha_arrays() -> None:
    grey = PIXELS[..., 0]
    for given in (grey, grey[None], grey[..., None]):
        np.testing.assert_array_equal(np.asarray(images.load(given))[..., 1], grey)
    clear = np.dstack([PIXELS, np.zeros((6, 5), dtype=np.uint8)])
    assert np.asarray(images.load(clear)).min() == 255


def test_where_both_ends_could_be_channels_tensors_have_them_first_and_arrays_last() -> None:
    cube = np.random.default_rng(1).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    assert images.load(cube).size == (4, 3)
    assert images.load(torch.from_numpy(cube)).size == (3, 4)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (np.full((4, 4, 3), 255.0), r"floats must lie in \[0, 1\], these lie in \[255, 255\]"),
        (torch.linspace(-1, 1, 48).reshape(3, 4, 4), r"these lie in \[-1, 1\]"),
        (torch.full((3, 4, 4), torch.nan), "these lie in"),
        (np.zeros((4, 4, 3), dtype=np.int64), "an array of int64 is no picture"),
        (torch.zeros(2, 4, 5), r"shape \(2, 4, 5\) is no picture"),
        (torch.zeros(1, 3, 4, 4), r"shape \(1, 3, 4, 4\) is no picture"),
        (np.zeros((0, 4, 3)), r"shape \(0, 4, 3\) is no picture"),
    ],
)
def test_what_is_no_picture_is_the_callers_mistake_and_raises(given: object, why: str) -> None:
    with pytest.raises(Misuse, match=why):
        images.load(given)  # type: ignore[arg-type]
    with pytest.raises(Misuse, match=why):
        Redness().score([Sample("", image=given)])  # type: ignore[arg-type]


def test_the_cap_on_pixels_holds_for_arrays() -> None:
    with pytest.raises(ImageError, match="too many pixels: 5 x 6"):
        images.load(PIXELS, max_pixels=29)


# Pairs ---------------------------------------------------------------------------------------------------------------


def test_one_prompt_is_for_all_images_and_a_list_is_one_each() -> None:
    two = [picture(), picture()]
    assert [each.prompt for each in paired(two, "a")] == ["a", "a"]
    assert [each.prompt for each in paired(two, ["a", "b"])] == ["a", "b"]
    assert len(paired(torch.zeros(3, 3, 4, 4), "a")) == 3
    with pytest.raises(ValueError, match=r"2 images and 1 prompts: .* score_matrix"):
        paired(two, ["a"])
    for one in (picture(), torch.zeros(3, 4, 4), PIXELS, "a.png"):
        with pytest.raises(TypeError, match="put it in a list"):
            paired(one, "a")  # type: ignore[arg-type]


def test_a_scorer_prefers_at_the_temperature_of_its_spec() -> None:
    red, black = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2))
    chance = scoring.prefer(Redness(), paired([red, red], ""), paired([black, b""], ""))
    assert chance[0].item() == pytest.approx(1 / (1 + np.exp(-2)))
    assert chance[1].isnan()


def test_where_no_temperature_is_known_the_higher_score_wins() -> None:
    true = corpus.prompts("heldout", 1)[0]
    shown = Image.fromarray(world.draw(world.place(captions.parse(true), np.random.default_rng(0))))
    chance = scoring.prefer(scorers.load("rules"), paired([shown], true), paired([Image.new("RGB", (32, 32))], true))
    assert chance.tolist() == [1.0]


def test_the_matrix_of_a_plain_scorer_is_its_product() -> None:
    rules, prompts = scorers.load("rules"), ["a red circle", "two blue squares"]
    shown = [Image.new("RGB", (32, 32), colour) for colour in ("red", "white", "blue")]
    table = scoring.score_matrix(rules, shown, prompts)
    for column, prompt in enumerate(prompts):
        assert torch.equal(table[:, column], rules.score(paired(shown, prompt)).values)


def test_the_matrix_of_a_scorer_that_reads_no_prompt_asks_once_an_image() -> None:
    scorer = Redness()
    assert scoring.score_matrix(scorer, [picture(), b""], ["a", "b", "c"]).isnan().tolist() == [[False] * 3, [True] * 3]
    assert scorer.asked == [2]


def test_scattered_scores_are_invalid_where_nothing_was_scored() -> None:
    found = Scores.scattered(4, [2, 0], torch.tensor([1.0, 2.0]), {1: "empty"})
    assert found.values[[0, 2]].tolist() == [2.0, 1.0]
    assert found.judged.tolist() == [True, False, True, False]
    assert found.reasons == {1: "empty"}


def test_a_spec_says_what_is_read() -> None:
    spec = Spec("edit", scale="mean", range=(0, 1), reads=("prompt", "image", "source"))
    assert (spec.uses_prompt, spec.uses_source) == (True, True)
    assert not Redness.spec.uses_prompt


# One line ------------------------------------------------------------------------------------------------------------


def test_scores_in_one_line(tmp_path: Path) -> None:
    picture(32, 32).save(tmp_path / "a.png")
    found = visalign.score([tmp_path / "a.png", encoded(picture(32, 32), "PNG"), b""], "a red circle", scorer="rules")
    assert found.values[0] == found.values[1]
    assert found.reasons == {2: "empty file (0 bytes)"}
    assert len(visalign.score([tmp_path / "a.png"], "a red circle", scorer=Redness())) == 1


def test_a_named_scorer_stays_loaded_for_equal_settings() -> None:
    first = quick.kept("looks", {"value": "entropy"})
    assert quick.kept("looks", {"value": "entropy"}) is first
    assert quick.kept("looks", {"value": "saturation"}) is not first
    quick.kept("rules", {})
    assert quick.kept("looks", {"value": "entropy"}) is not first  # only the last few stay
    with pytest.raises(TypeError, match="value set a scorer that is given by name; redness is made already"):
        visalign.score([], "a", scorer=Redness(), value=1)


def test_the_package_offers_score_and_nothing_by_chance() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'scoore'"):
        _ = visalign.scoore


def test_looks_are_the_reports_statistics() -> None:
    """One set of formulas: what the scorer says of each picture averages to what the report says of all."""
    from visalign.evaluation import pictures

    shown = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    found = scorers.load("looks", value="entropy").score(paired(list(shown), ""))
    wanted = pictures.statistics(shown, list(range(5)))
    assert {name: float(each.mean()) for name, each in found.aspects.items()} == pytest.approx(
        {name: wanted[name] for name in found.aspects}
    )
    assert float(found.values.mean()) == pytest.approx(wanted["entropy"])
    assert scorers.load("looks").score([Sample("", image=Image.new("RGB", (1, 5)))]).reasons == {
        0: "too small to have edges: 1 x 5"
    }


def test_images_and_prompts_may_come_one_by_one() -> None:
    shown = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    assert paired(iter(shown), iter(["a", "b"])) == paired(shown, ["a", "b"])


@pytest.mark.parametrize("prompt", [None, 3, b"a red circle", ["a"]])
def test_a_prompt_is_a_text(prompt: Any) -> None:
    with pytest.raises(TypeError, match="a prompt is a text, got "):
        Sample(prompt)


@pytest.mark.parametrize("scorer", [None, 3, scorers.Looks, object()])
def test_what_is_no_scorer_is_refused(scorer: Any) -> None:
    with pytest.raises(TypeError, match="a scorer is a name, or an object with a name and score"):
        visalign.score([Image.new("RGB", (4, 4))], "a", scorer=scorer)


def test_scorers_stay_loaded_for_threads_that_ask_at_once() -> None:
    """More names than are kept: one thread lets go of what another was just given."""
    failed: list[BaseException] = []

    def ask(turn: int) -> None:
        try:
            for step in range(60):
                assert quick.kept(("looks", "rules", "voters", "redrawing")[(turn + step) % 4], {})
        except BaseException as error:  # of another thread: told to this one
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(6)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failed
