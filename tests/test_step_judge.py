"""The playground's judge of noisy pictures: what ships agrees with the voters, also while there is noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from visalign import registry
from visalign.batches import Condition
from visalign.contract import LatentScorer
from visalign.models.folder import Folder
from visalign.playground import corpus
from visalign.playground.captions import parse
from visalign.playground.step_judge import Tower, shipped
from visalign.playground.step_judge_build import FLAWS, Plan, altered, build, examples
from visalign.playground.voters import Voters

COUNT = 200


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    """Latents, conditions and utilities of flawed pictures of the held-out split, which the judge never saw."""
    folder = Folder.open("playground")
    encoders = folder.encoders()
    found = [corpus.example(5, index, FLAWS, split="heldout") for index in range(COUNT)]
    stack, told = np.stack([each.picture for each in found]), [each.caption for each in found]
    pixels = torch.from_numpy(stack).permute(0, 3, 1, 2).float() / 127.5 - 1
    utility = torch.from_numpy(Voters().utility(stack, told))
    latents, condition = encoders.encode_images(pixels)[0], encoders.conditions(told, (32, 32))
    return {"process": folder.process, "latents": latents, "condition": condition, "utility": utility}


def judged(shown: dict[str, Any], time: int) -> Tensor:
    t = torch.full((COUNT,), time)
    noise = torch.randn(shown["latents"].shape, generator=torch.Generator().manual_seed(time))
    judge = registry.build("latent_scorer", "playground")
    assert isinstance(judge, LatentScorer)
    scores: Tensor = judge(shown["process"].noised(shown["latents"], noise, t).x, t, shown["condition"])
    return scores


@pytest.mark.parametrize(("time", "least"), [(0, 0.6), (200, 0.6), (400, 0.45), (600, 0.15)])
def test_it_agrees_with_the_voters_on_pictures_it_never_saw(shown: dict[str, Any], time: int, least: float) -> None:
    both = torch.stack([judged(shown, time).double(), shown["utility"]])
    assert float(torch.corrcoef(both)[0, 1]) > least


def test_it_knows_less_the_noisier_the_picture(shown: dict[str, Any]) -> None:
    spread = [float(judged(shown, time).std()) for time in (0, 400, 900)]
    assert spread[0] > spread[1] > spread[2]


def test_what_ships_is_small_and_half_precision() -> None:
    from safetensors.torch import load_file

    state = load_file(shipped())
    assert shipped().stat().st_size <= 1.5e6
    assert {each.dtype for each in state.values()} == {torch.float16}
    assert state.keys() == Tower().state_dict().keys()


def test_it_is_never_trained_and_refuses_other_models() -> None:
    judge = registry.build("latent_scorer", "playground")
    assert not any(each.requires_grad for each in judge.parameters())
    with pytest.raises(ValueError, match="width 768; for other models give scorer="):
        judge(torch.zeros(1, 4, 8, 8), torch.zeros(1), Condition(torch.zeros(1, 77, 768)))


def test_a_caption_is_made_wrong_in_one_way() -> None:
    random = np.random.Generator(np.random.Philox(key=3))
    for text in corpus.prompts("scorers", 40):
        scene, other = parse(text), parse(altered(text, random))
        assert scene != other
        assert len(scene.things) == len(other.things)


def test_it_is_built_from_a_seed(tmp_path: Any) -> None:
    """A judge of a few steps: the same weights twice, and its examples are of the scorers' split."""
    plan = Plan(rendered=24, drawn=4, steps=3, batch=8)
    first, second = (build(tmp_path / name, 1, plan, say=lambda line: None).read_bytes() for name in ("a", "b"))
    assert first == second
    made = examples(Folder.open("playground"), plan, 1)
    assert made.latents.shape == (56, 4, 8, 8)
    assert torch.equal(made.latents[0], made.latents[1])  # a picture's two captions
    assert not torch.equal(made.caption[0], made.caption[1])
    assert bool(((made.marks >= 0) & (made.marks <= 1)).all())
