"""Flow-RWR: the weights and their bound, and which items it is fed."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import methods
import numpy as np
import pytest
import tiny
import torch
from paired import picture
from torch import Tensor

from visalign import needs
from visalign.batches import Condition, Rewarded
from visalign.data import views
from visalign.data.encode import Encoded, encode
from visalign.diffusion import noise_singles, squared_error
from visalign.models.folder import Folder
from visalign.process import Flow, Process
from visalign.records import DataError, Preference
from visalign.trainers import SFT, DiffusionDPO, FlowRWR


def double(values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class Off:
    """A model whose answers miss the velocity by so much."""

    by: Tensor
    batch: Rewarded
    process: Process

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return noise_singles(self.process, self.batch).target + self.by

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        raise AssertionError("it has no reference")


def test_the_published_number() -> None:
    """Errors of 0.00625 each, rewards 0.7 and -0.4."""
    batch = replace(methods.rewarded(2), reward=double([0.7, -0.4]))
    by = torch.full((2, *methods.SHAPE), math.sqrt(0.00625), dtype=torch.float64)
    found = FlowRWR().loss(batch, Off(by, batch, Flow()))
    assert float(found.each.mean()) == pytest.approx(0.0083877274, rel=1e-8)
    assert found.metrics["reward_weight"].tolist() == pytest.approx([math.exp(0.7), math.exp(-0.4)])


@pytest.mark.parametrize("prediction", methods.PREDICTIONS)
def test_equal_rewards_are_fine_tuning(prediction: str) -> None:
    """A reward of 0 weighs 1."""
    batch, model = replace(methods.rewarded(), reward=torch.zeros(4)), methods.denoiser(prediction)
    assert torch.equal(FlowRWR().loss(batch, model).each, SFT().loss(batch, model).each)


def test_temperature_and_bound_decide_the_weight() -> None:
    batch, model = replace(methods.rewarded(), reward=double([-1, 0, 2, 9])), methods.denoiser("flow")
    found = FlowRWR(temperature=2.0, most=5.0).loss(batch, model)
    weight = [math.exp(-0.5), 1.0, math.exp(1), 5.0]
    assert found.metrics["reward_weight"].tolist() == pytest.approx(weight)
    at = noise_singles(model.process, batch)
    error = squared_error(model.policy(at.x, at.t, batch.condition), at.target)
    assert torch.allclose(found.each, double(weight) * error, rtol=1e-12)
    free = FlowRWR(most=math.inf).loss(batch, model).metrics["reward_weight"]
    assert float(free[3]) == pytest.approx(math.exp(9))


# What it is fed -----------------------------------------------------------------------------------------------------

SCORES = {"one": [0.2, 0.9, np.nan], "two": [0.4], "three": [0.5, 0.5]}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Preference], Path]:
    """Three items of which two are scored, one alone, a tie; and votes."""
    folder, made = tmp_path_factory.mktemp("pictures"), []
    for name, scores in SCORES.items():
        items = tuple(f"{name}/{i}.png" for i in range(len(scores)))
        for i, item in enumerate(items):
            picture(folder / item, i)
        made.append(Preference("a red circle", items, np.array(scores), key=name))
    voted = Preference("a circle", ("three/1.png", "one/0.png"), np.array([2.0, 1.0]), scale="votes", key="votes")
    return [*made, voted], folder


@pytest.fixture(scope="module")
def encoded(records: tuple[list[Preference], Path], tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    encoders = Folder.open(tiny.folder(tmp_path_factory.mktemp("model"))).encoders()
    return encode(records[0], encoders, root=records[1], cache=records[1] / "cache", resolution=16)


def test_every_scored_item_comes_by_itself_with_a_standardised_reward(
    records: tuple[list[Preference], Path], encoded: Encoded
) -> None:
    view = views.view(Rewarded, records[0], encoded)
    keys = [view.key(index) for index in range(len(view))]
    assert keys == ["one/0", "one/1", "two/0", "three/0", "three/1"]
    assert view.left_out == {"no scorer's value": 3}
    whole = [record for record in records[0] if record.key in ("two", "three")]
    whole[1] = replace(whole[1], scores=np.array([[0.5], [0.6]]))
    assert dict(views.view(Rewarded, whole, encoded).left_out) == {}, "that nothing is left out is not told"
    batch = view.batch(range(5), [0] * 5, 3)
    values = np.array([0.2, 0.9, 0.4, 0.5, 0.5])
    assert np.allclose(batch.reward, (values - values.mean()) / values.std())
    assert batch.reward.mean().item() == pytest.approx(0, abs=1e-12)
    alone = view.batch([3], [0], 3)
    assert torch.equal(alone.x[0], batch.x[3])
    assert torch.equal(alone.reward, batch.reward[3:4])


def test_scores_that_are_all_the_same_are_refused(records: tuple[list[Preference], Path], encoded: Encoded) -> None:
    with pytest.raises(DataError, match=r"all 2 items have the same score, 0\.5"):
        views.view(Rewarded, records[0][2:], encoded)
    with pytest.raises(DataError, match="no record is left to train on"):
        views.view(Rewarded, records[0][3:], encoded)


def test_a_single_scored_item_is_enough_and_votes_are_not(records: tuple[list[Preference], Path]) -> None:
    """A record of one item says nothing to a method on pairs, and is no error there either."""
    scored, voted = records[0][:3], records[0][3]
    needs.check("flow_rwr", FlowRWR(), scored)
    needs.check("flow_rwr", FlowRWR(), [scored[1]])
    needs.check("diffusion_dpo", DiffusionDPO(), scored)
    with pytest.raises(DataError, match=r"record 'votes' has none, its numbers are of scale 'votes'; .*visalign label"):
        needs.check("flow_rwr", FlowRWR(), [*scored, voted])
    with pytest.raises(DataError, match="nobody judged record 'bare'"):
        needs.check("flow_rwr", FlowRWR(), [Preference("a", ("x.png", "y.png"), key="bare")])


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"temperature must be positive and most above 1, got 0 and 20\.0"):
        FlowRWR(temperature=0)
    with pytest.raises(ValueError, match=r"got 1\.0 and 1\.0"):
        FlowRWR(most=1.0)
