"""The shipped learned scorer: what it prefers, how fast it is, and that nothing of the demo was shown to it."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from visalign import playground
from visalign.evaluation import calibration
from visalign.playground import corpus, flawed, twists
from visalign.playground.checker import ASPECTS, scores
from visalign.playground.voters import Voters
from visalign.playground.words import Tokenizer
from visalign.scorers import load
from visalign.scorers.playground import PlaygroundHPS
from visalign.scoring import Sample, prefer

PROMPTS = corpus.prompts("heldout", 120)
CANDIDATES = 4


@pytest.fixture(scope="module")
def scorer() -> PlaygroundHPS:
    return PlaygroundHPS()


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """(120, 4, 32, 32, 3) renderings with mistakes, of held-out prompts."""
    return np.stack([[flawed.picture(each, 7, place) for place in range(CANDIDATES)] for each in PROMPTS])


@pytest.fixture(scope="module")
def truth(pictures: NDArray[np.uint8]) -> dict[str, NDArray[np.float64]]:
    """What the checker says of each, by aspect and overall, (120, 4)."""
    shown = pictures.reshape(-1, *pictures.shape[2:])
    found = scores(shown, [each for each in PROMPTS for _ in range(CANDIDATES)])
    return {name: each.reshape(-1, CANDIDATES) for name, each in found.items()}


@pytest.fixture(scope="module")
def said(scorer: PlaygroundHPS, pictures: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What the scorer says of each, (120, 4)."""
    return np.asarray(scorer.score(samples(pictures)).values.reshape(-1, CANDIDATES).double(), dtype=np.float64)


def gaps(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of every two candidates of a prompt, (720,)."""
    first, second = map(list, zip(*combinations(range(CANDIDATES), 2), strict=True))
    return np.asarray((values[:, first] - values[:, second]).ravel())


@pytest.fixture(scope="module")
def right() -> list[NDArray[np.uint8]]:
    """A true rendering of each held-out prompt."""
    return [flawed.picture(each, 0, 0, {}) for each in PROMPTS]


def samples(pictures: NDArray[np.uint8]) -> list[Sample]:
    return [Sample(each, image=one) for each, row in zip(PROMPTS, pictures, strict=True) for one in row]


def test_it_goes_three_quarters_of_the_way_from_chance_to_a_perfect_judge(
    truth: dict[str, NDArray[np.float64]], said: NDArray[np.float64]
) -> None:
    """Expected agreement with votes on held-out prompts, ties left out; 1 is a judge who knows every utility."""
    utility = 0.5 * truth["overall"] + 0.5 * np.mean([truth[name] for name in ASPECTS], axis=0)
    gap = gaps(utility)
    told = np.abs(gap) >= Voters().tie
    chance = 1 / (1 + np.exp(-np.abs(gap[told]) / Voters().temperature))
    agrees = np.sign(gap[told]) == np.sign(gaps(said)[told])
    expected = np.where(agrees, chance, 1 - chance).mean()
    assert (expected - 0.5) / (chance.mean() - 0.5) > 0.75


def test_it_sees_every_aspect(truth: dict[str, NDArray[np.float64]], said: NDArray[np.float64]) -> None:
    rows = calibration.by_aspect(gaps(said), {name: gaps(truth[name]) for name in ASPECTS})
    assert all(rows[name].accuracy > 0.75 for name in ASPECTS), rows


def test_it_sees_how_things_stand(scorer: PlaygroundHPS) -> None:
    """A true picture against its mirror image, of which only the relation is wrong."""
    axes = {each: twists.turning(each) for each in corpus.prompts("heldout", 400)}
    true = [(each, axis, flawed.picture(each, 0, 0, {})) for each, axis in axes.items() if axis is not None]
    own = scorer.score([Sample(each, image=picture) for each, _, picture in true]).values
    mirrored = [Sample(each, image=np.flip(picture, axis - 1).copy()) for each, axis, picture in true]
    assert len(true) > 150
    assert float((own > scorer.score(mirrored).values).float().mean()) > 0.95


def test_another_pictures_prompt_scores_lower(scorer: PlaygroundHPS, right: list[NDArray[np.uint8]]) -> None:
    own = scorer.score([Sample(each, image=one) for each, one in zip(PROMPTS, right, strict=True)]).values
    swapped = scorer.score(
        [Sample(each, image=one) for each, one in zip(PROMPTS[1:] + PROMPTS[:1], right, strict=True)]
    ).values
    assert float((own > swapped).float().mean()) > 0.97
    assert float(own.mean()) > float(swapped.mean()) + 0.2


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_an_empty_picture_scores_lower(scorer: PlaygroundHPS, right: list[NDArray[np.uint8]], grey: int) -> None:
    own = scorer.score([Sample(each, image=one) for each, one in zip(PROMPTS, right, strict=True)]).values
    blank = np.full((32, 32, 3), grey, dtype=np.uint8)
    empty = scorer.score([Sample(each, image=blank) for each in PROMPTS]).values
    assert float(own.mean()) > float(empty.mean())
    assert float((own > empty).float().mean()) > 0.9


def test_a_batch_scores_as_its_samples_one_by_one(scorer: PlaygroundHPS, pictures: NDArray[np.uint8]) -> None:
    given = samples(pictures)[:40]
    apart = torch.cat([scorer.score([each]).values for each in given])
    torch.testing.assert_close(scorer.score(given).values, apart, rtol=0, atol=2e-6)


def test_it_loads_in_two_seconds_and_scores_256_pictures_in_a_few(pictures: NDArray[np.uint8]) -> None:
    """Of this process's own time: the machine may be busy."""
    began = time.process_time()
    made = load("playground_hps")
    assert time.process_time() - began < 2
    began = time.process_time()
    made.score((samples(pictures) * 2)[:256])
    assert time.process_time() - began < 8


def test_it_says_how_sure_it_is(scorer: PlaygroundHPS, right: list[NDArray[np.uint8]]) -> None:
    assert scorer.spec.temperature == pytest.approx(1 / float(scorer.towers.scale()))
    wrong = [flawed.picture(each, 0, 0, {"colour": 1.0}) for each in PROMPTS[:32]]
    both = [[Sample(each, image=one) for each, one in zip(PROMPTS, side, strict=False)] for side in (right[:32], wrong)]
    chance = prefer(scorer, *both)
    torch.testing.assert_close(chance + prefer(scorer, *both[::-1]), torch.ones(32))
    assert float(chance.mean()) > 0.8


def test_gradients_reach_the_pixels(scorer: PlaygroundHPS, right: list[NDArray[np.uint8]]) -> None:
    pixels = torch.from_numpy(np.stack(right[:2])).permute(0, 3, 1, 2).float().div(255).requires_grad_()
    slope = torch.autograd.grad(scorer.score_pixels(pixels, PROMPTS[:2]).sum(), pixels)[0]
    assert slope.isfinite().all()
    assert float(slope.abs().amax()) > 0


def test_its_weights_are_small_and_plain_open_clip_loads_them() -> None:
    import open_clip

    folder = playground.scorer_folder()
    assert sum(file.stat().st_size for file in folder.iterdir()) < 4 * 2**20
    network = open_clip.create_model(f"local-dir:{folder}")
    assert sum(each.numel() for each in network.parameters()) < 1.5e6


def test_its_tokenizer_is_clips_for_the_playgrounds_words() -> None:
    from transformers import CLIPTokenizer

    folder = playground.scorer_folder()
    own = Tokenizer(folder, 24)
    clips = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    texts = [*PROMPTS, "", "A Picture of a ring", "a red circle  above\na zorp", " ".join(["red"] * 40)]
    theirs = clips(texts, padding="max_length", max_length=24, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(own(texts), theirs)
