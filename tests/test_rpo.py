"""RPO: the reward's and the loss's published numbers, labels drawn anew at each visit, and the best weights kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import methods
import numpy as np
import pytest
import torch
from torch import Tensor

from visalign import config, playground, transforms
from visalign.batches import Anchored, Condition
from visalign.data import store
from visalign.draws import Draws
from visalign.jobs import denoising, watch
from visalign.process import Ddpm
from visalign.trainers import RPO
from visalign.training.selection import Selection


def double(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("balance", "value"), [(0.0, 0.65), (0.3, 0.7090909193), (0.5, 0.7548387199), (0.7, 0.8068965620), (1.0, 0.9)]
)
def test_the_harmonic_reward_s_published_numbers(balance: float, value: float) -> None:
    """Cosines 0.8 (picture to picture) and 0.3 (picture to text), each mapped to [0, 1]."""
    mapped = (double([[0.8], [0.3]]) + 1) / 2
    assert float(transforms.harmonic(mapped, balance=balance)) == pytest.approx(
        value, abs=2e-8
    )  # the guard of 1e-8 included


@dataclass
class Erring:
    """A denoiser that errs by what is written down: its condition is the noise that it should see."""

    policy_error: Tensor
    reference_error: Tensor
    process: Ddpm

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return condition.text.reshape(x_t.shape) + self.policy_error.sqrt().reshape(x_t.shape)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return condition.text.reshape(x_t.shape) + self.reference_error.sqrt().reshape(x_t.shape)


def one(scores: list[float], visit: int = 0, key: str = "k") -> Anchored:
    """A pair of pictures of one number, told the noise that will be drawn."""
    draw, like = Draws(0, (key,), (visit,)), double(0.0)
    noise = torch.cat([draw.normal(f"noise/{side}", (1, 1, 1), like) for side in ("first", "second")])
    zero, ones = torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    return Anchored(zero, zero, Condition(noise.reshape(2, 1, 1)), draw, ones, ones, double([scores]))


@pytest.mark.parametrize(("label", "total"), [(1, 0.7684596480), (0, 0.8184596480)])
def test_the_loss_s_published_numbers(label: int, total: float) -> None:
    """(m_ref, m_gen, r_ref, r_gen) = (.10, .20, .14, .19): k = .05."""
    model = Erring(double([0.10, 0.20]), double([0.14, 0.19]), Ddpm.from_config(methods.STABLE))
    sure = [60.0, -60.0] if label else [-60.0, 60.0]
    loss = RPO().loss(one(sure), model)
    assert float(loss.metrics["margin"]) == pytest.approx(0.05, abs=1e-12)
    assert float(loss.metrics["subject_preferred"]) == label
    assert float(loss.each) == pytest.approx(total, abs=1e-10)


def test_at_the_start_it_is_the_subject_s_error_and_log_2() -> None:
    model = Erring(double([0.1, 0.2]), double([0.1, 0.2]), Ddpm.from_config(methods.STABLE))
    assert float(RPO(beta=7.0).loss(one([0.6, 0.5]), model).each) == pytest.approx(0.1 + np.log(2), abs=1e-12)
    assert float(RPO(similarity=0.0).loss(one([0.6, 0.5]), model).each) == pytest.approx(np.log(2), abs=1e-12)


def test_labels_are_drawn_anew_at_each_visit_by_the_rewards() -> None:
    scores, visits = [0.9, 0.5], 3000
    drawn = [float(RPO(temperature=0.5).labels(one(scores, visit))) for visit in range(visits)]
    chance = float(torch.sigmoid(double(0.8)))
    assert np.mean(drawn) == pytest.approx(chance, abs=4 * (chance * (1 - chance) / visits) ** 0.5)
    assert drawn == [float(RPO(temperature=0.5).labels(one(scores, visit))) for visit in range(visits)]


def test_equal_rewards_are_a_fair_coin_and_the_order_of_the_record_stays() -> None:
    fair = np.mean([float(RPO().labels(one([0.5, 0.5], visit))) for visit in range(2000)])
    assert fair == pytest.approx(0.5, abs=0.05)
    lost = one([0.1, 0.9])
    assert torch.equal(lost.items[0], lost.win[0])


def test_the_two_of_a_pair_have_times_and_noises_of_their_own() -> None:
    """The same picture and text on both sides: still two errors."""
    given = methods.anchored()
    found = RPO().loss(replace(given, lose=given.win), methods.denoiser())
    assert float((found.metrics["win_error"] - found.metrics["lose_error"]).abs().min()) > 1e-3


def test_records_without_rewards_are_refused_and_settings_too() -> None:
    given = one([0.5, float("nan")])
    with pytest.raises(
        ValueError,
        match=r"rpo needs a scorer's values of both items, .* 'k' the first; .*visalign label",
    ):
        RPO().labels(given)
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        RPO(temperature=0)
    with pytest.raises(ValueError, match="similarity is a weight of 0 or more"):
        RPO(similarity=-1)


# The best validation ------------------------------------------------------------------------------------------------


def weights(value: float) -> dict[str, Tensor]:
    return {"w": torch.full((2,), value)}


def test_the_best_weights_are_kept_and_the_first_of_equals(tmp_path: Path) -> None:
    found = Selection(tmp_path)
    for step, score in ((40, 0.5), (80, 0.7), (120, 0.7), (160, 0.6)):
        found.sees(step, score, weights(step))
    assert found.best == 80
    held = weights(0.0)
    assert found.put(held) == 80
    assert held["w"].tolist() == [80.0, 80.0]


def test_it_stops_after_as_many_validations_as_patience_allows(tmp_path: Path) -> None:
    found = Selection(tmp_path)
    assert found.stale(2) == ""
    found.sees(40, 0.7, weights(1))
    found.sees(80, 0.6, weights(2))
    assert (found.stale(2), found.stale(0)) == ("", "")
    found.sees(120, 0.7, weights(3))
    assert found.stale(2) == "2 validations since step 40 scored no higher than its 0.7"


def test_a_resumed_run_forgets_what_lies_beyond_it(tmp_path: Path) -> None:
    found = Selection(tmp_path)
    for step, score in ((40, 0.5), (80, 0.4), (120, 0.9)):
        found.sees(step, score, weights(step))
    found.sees(80, 0.6, weights(81))
    assert (found.rows, found.best) == ({40: 0.5, 80: 0.6}, 80)
    held = weights(0.0)
    found.put(held)
    assert held["w"].tolist() == [81.0, 81.0]


class Screen:
    """Somebody who hears what is said."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, title: str, total: int | None = None) -> Any:
        from contextlib import nullcontext

        return nullcontext(lambda *_, **__: None)

    def say(self, text: str) -> None:
        self.heard.append(text)

    warn = say


def test_a_run_is_stopped_by_its_validations_and_publishes_the_best(tmp_path: Path) -> None:
    """A rate that ruins the model: the first validation is the best, and the run ends `patience` later."""
    from visalign.models.folder import Folder

    model = Path(Folder.open("playground").path)
    votes = store.read(playground.shipped_votes())[:8]
    root = playground.shipped_votes().parent
    listed = [replace(each, items=tuple(str(root / item) for item in each.items[:2]), scores=np.array([1.0, 0.5]),
                      seeds=(), models=(), key="") for each in votes]  # fmt: skip
    store.write(listed, tmp_path / "records.jsonl")
    run = config.load("playground_rpo", [
        f"model.folder={model}", f"data.path={tmp_path / 'records.jsonl'}", f"data.cache={tmp_path / 'cache'}",
        f"out={tmp_path / 'run'}", "steps=4", "batch=2", "micro_batch=2", "optimizer.lr=1e-2", "optimizer.warmup=0",
        "validation.prompts=[a red circle, a blue square]", "validation.every=1", "validation.steps=2",
        "validation.patience=1", "validation.scorer=rules",
    ])  # fmt: skip
    screen = Screen()
    outcome = denoising.train(run, screen)
    found = Selection(run.out / "validation")
    assert outcome.summary.stopped == "validation"
    assert outcome.summary.steps == (found.best or 0) + 1
    assert f"kept the weights of step {found.best}, whose validation pictures scored best" in screen.heard


def test_a_scorer_without_pictures_to_judge_is_refused(tmp_path: Path) -> None:
    run = config.load("playground_rpo", [f"out={tmp_path}", "validation.prompts=[]"])
    with pytest.raises(config.ConfigError, match="judges pictures: give"):
        watch.judge(run.validation)
