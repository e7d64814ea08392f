"""Training a reward model: objectives by their numbers, laws of the method, exact resume, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from visalign import config, registry
from visalign.batches import Comparisons
from visalign.contract import Rated, RewardModel
from visalign.data.comparisons import ComparisonsView, Reading, compared
from visalign.draws import Draws
from visalign.models.reward_heads import NAMES, head_of
from visalign.records import DataError, Preference
from visalign.trainers.reward_model import RewardModelling
from visalign.training.healthy import HEALTHY
from visalign.training.learner import Step

NAN = math.nan


def d(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# The method ----------------------------------------------------------------------------------------------------------


class Bilinear(nn.Module):
    """A reward of (b, K, 3) features for (b, 3) texts, with every column that objectives read."""

    def __init__(self, head: str = "") -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 3, generator=draw, dtype=torch.float64))
        self.head = head_of(head, 3).double() if head else None

    def rewards(self, batch: Comparisons) -> Rated:
        images = batch.pictures @ self.weight
        if self.head is not None:
            told: Rated = self.head(images, batch.texts, scale=torch.ones((), dtype=torch.float64), user=batch.user)
            return told
        crossed = torch.einsum("bkd,cd->bkc", images, batch.texts)
        return Rated((images * batch.texts[:, None]).sum(-1), crossed=crossed)


def batch(count: int = 4, many: int = 3) -> Comparisons:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(count, many, generator=draw, dtype=torch.float64)
    chance = torch.sigmoid(scores[:, :, None] - scores[:, None])
    chance[0, 0, 1] = chance[0, 1, 0] = 0.5
    chance[1, 0, -1] = chance[1, -1, 0] = NAN
    return Comparisons(
        pictures=torch.randn(count, many, 3, generator=draw, dtype=torch.float64),
        texts=torch.randn(count, 3, generator=draw, dtype=torch.float64),
        scores=scores,
        confidence=chance.masked_fill(torch.eye(many, dtype=torch.bool), NAN),
        repeats=torch.tensor([1.0, 2.0, 2.0, 4.0]).repeat(count // 4 + 1)[:count].double(),
        draw=Draws(0, tuple(str(row) for row in range(count)), (0,) * count),
        weight=torch.ones(count, dtype=torch.float64),
    )


def rows(given: Comparisons, which: list[int]) -> Comparisons:
    tensors = {name: getattr(given, name)[which] for name in ("pictures", "texts", "scores", "confidence", "repeats")}
    keys = tuple(given.draw.keys[row] for row in which)
    return replace(given, **tensors, weight=given.weight[which], draw=Draws(0, keys, (0,) * len(which)))


OBJECTIVES: dict[str, tuple[Any, str]] = {
    "bradley_terry": ("bradley_terry", ""), "hpsv2": ("hpsv2", ""), "pickscore": ("pickscore", ""),
    "ties": ("bradley_terry_ties", ""), "davidson": ("davidson_ties", ""), "margin": ("bradley_terry_by_margin", ""),
    "strength": ("scaled_bradley_terry", ""), "centred": ([("bradley_terry", 1.0), ("centering", 0.01)], ""),
    "ratings": ("squared_rating", "linear"), "all pairs": ("all_pairs", ""), "Plackett-Luce": ("plackett_luce", ""),
    "RankList": ({"name": "ranklist", "skips": [1, 2]}, "linear"), "Gaussian": ("gaussian_bradley_terry", "gaussian"),
    "general": ("general_preference", "general"), "mixture": ("mixture_bradley_terry", "mixture"),
    "ideal point": ("smooth_hinge", "ideal_point"),
}  # fmt: skip


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_of_four_is_four_batches_of_one(name: str) -> None:
    spec, head = OBJECTIVES[name]
    method, model, given = RewardModelling(spec), Bilinear(head), batch()
    together = Step(method, model)(given)
    apart = [Step(method, model)(rows(given, [row])) for row in range(4)]
    torch.testing.assert_close(together.each, torch.cat([one.each for one in apart]), rtol=1e-10, atol=1e-12)
    assert together.each.shape == (4,)
    gradients = torch.autograd.grad(together.each.sum(), list(model.parameters()), allow_unused=True)
    assert sum(float(each.norm()) for each in gradients if each is not None) > 0


@pytest.mark.parametrize("name", ["bradley_terry", "ties", "Gaussian", "general", "Plackett-Luce"])
def test_the_order_of_a_records_pictures_means_nothing(name: str) -> None:
    spec, head = OBJECTIVES[name]
    model, given, order = Bilinear(head), batch(), [2, 0, 1]
    turned = replace(
        given, pictures=given.pictures[:, order], scores=given.scores[:, order],
        confidence=given.confidence[:, order][:, :, order],
    )  # fmt: skip
    first, second = (RewardModelling(spec).loss(each, model) for each in (given, turned))
    torch.testing.assert_close(first.each, second.each, rtol=1e-10, atol=1e-12)
    for metric, value in first.metrics.items():
        torch.testing.assert_close(value, second.metrics[metric])


def test_a_model_that_cannot_tell_has_log_2_and_half_the_votes() -> None:
    given = batch()
    with torch.no_grad():
        (model := Bilinear()).weight.zero_()
    loss = RewardModelling("bradley_terry").loss(given, model)
    torch.testing.assert_close(loss.each, torch.full((4,), math.log(2), dtype=torch.float64))
    assert loss.metrics["accuracy"].tolist() == [0.5] * 4
    assert loss.metrics["certainty"].tolist() == [0.5] * 4
    assert set(loss.metrics) <= set(HEALTHY)


def test_a_tie_pulls_nothing_where_scores_are_equal_and_is_no_vote_for_the_accuracy() -> None:
    given = rows(batch(many=2), [0])
    with torch.no_grad():
        (model := Bilinear()).weight.zero_()
    loss = RewardModelling("pickscore").loss(given, model)
    assert float(loss.each.detach()) == pytest.approx(0.0, abs=1e-15)
    assert torch.equal(torch.autograd.grad(loss.each.sum(), model.weight)[0], torch.zeros_like(model.weight))


def test_pairs_that_nobody_compared_have_no_say() -> None:
    given, model = batch(), Bilinear()
    alone = replace(given, confidence=given.confidence.clone())
    alone.confidence[:, 2, :] = alone.confidence[:, :, 2] = NAN
    changed = replace(alone, pictures=alone.pictures.clone())
    changed.pictures[:, 2] += 5
    first, second = (RewardModelling("hpsv2").loss(each, model) for each in (alone, changed))
    assert torch.equal(first.each, second.each)


def test_pickscores_weights_are_one_over_the_records_of_a_prompt() -> None:
    """Three examples with n = 2, 1, 4: weights 2/7, 4/7, 1/7, and the loss that they give."""
    each, weight = d(0.1269280110, 1.7014132780, 0.0198680718), 1 / d(2, 1, 4)
    assert float((weight * each).sum() / weight.sum()) == pytest.approx(1.0113396008, abs=1e-9)
    found = RewardModelling("pickscore", per_prompt=True).loss(batch(), Bilinear())
    assert found.weight is not None
    torch.testing.assert_close(found.weight, d(1, 0.5, 0.5, 0.25))


def test_negatives_are_the_cross_entropy_of_the_liked_pictures_own_prompt() -> None:
    given, model = batch(), Bilinear()
    without, with_them = (RewardModelling("hpsv2", negatives=each).loss(given, model).each for each in (0.0, 0.5))
    crossed = model.rewards(given).crossed
    assert crossed is not None
    best = given.scores.argmax(-1)
    expected = [float(-crossed.detach()[row, best[row]].log_softmax(-1)[row]) for row in range(4)]
    torch.testing.assert_close(with_them - without, 0.5 * d(*expected))


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"objective": "bradly_terry"}, "did you mean bradley_terry"),
        ({"objective": "dpo"}, "dpo"),
        ({"objective": "sft_best"}, "reads logp"),
        ({"negatives": -1.0}, "negative"),
    ],
)
def test_what_cannot_be_an_objective_is_said(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RewardModelling(**settings)


@pytest.mark.parametrize("name", NAMES)
def test_every_head_gives_a_score_a_picture(name: str) -> None:
    found = Bilinear(name).rewards(batch())
    assert found.score.shape == (4, 3)
    assert found.score.isfinite().all()
    for value in found.items.values():
        assert value.shape[:2] == (4, 3)


def test_a_users_ideal_point_is_a_mixture_of_the_shared_ones() -> None:
    head = head_of({"name": "ideal_point", "users": 2, "prototypes": 3}, 3).double()
    with torch.no_grad():
        head.mixture.weight.copy_(torch.tensor([[9e9, 0, 0], [0, 9e9, 0]]))
    given = batch(2)
    found = head(given.pictures, given.texts, scale=torch.ones(()), user=torch.tensor([0, 1]))
    at = head.place(torch.cat([given.pictures, given.texts[:, None].expand_as(given.pictures)], -1))
    expected = -(at - head.prototypes[:2, None]).square().sum(-1)
    torch.testing.assert_close(found.score, expected)


# Records -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "chance"),
    [
        ({"scores": [3, 1], "scale": "votes"}, 0.75),
        ({"scores": [0.2, 0.8], "scale": "probability"}, 0.2),
        ({"scores": [1.0, 0.4]}, 1.0),
        ({"verdict": "second"}, 0.0),
    ],
)
def test_a_record_says_who_is_better_and_how_surely(record: dict[str, Any], chance: float) -> None:
    table = compared(Preference("a ring", ("a.png", "b.png"), **record))
    assert isinstance(table, np.ndarray)
    assert table[0, 1] == pytest.approx(chance)
    assert table[1, 0] == pytest.approx(1 - chance)
    assert np.isnan(np.diag(table)).all()


def test_utilities_become_probabilities_at_a_temperature() -> None:
    table = compared(Preference("a ring", ("a", "b", "c"), scores=np.array([1.0, 0.4, NAN])), temperature=0.3)
    assert isinstance(table, np.ndarray)
    assert table[0, 1] == pytest.approx(1 / (1 + math.exp(-2)))
    assert np.isnan(table[2]).all()


@pytest.mark.parametrize(
    ("record", "ties", "why"),
    [
        ({"verdict": "both_bad"}, "half", "both bad"),
        ({"verdict": "tie"}, "skip", "tie"),
        ({"scores": [2, 2]}, "skip", "tie"),
        ({}, "half", "not judged"),
        ({"scores": [0, 0], "scale": "votes"}, "half", "not judged"),
    ],
)
def test_records_without_a_comparison_say_why(record: dict[str, Any], ties: str, why: str) -> None:
    assert compared(Preference("a ring", ("a", "b"), **record), ties=ties) == why


@pytest.fixture
def votes(tmp_path: Path) -> list[Preference]:
    """Two records of two and of three pictures, and one whose picture is missing."""
    from PIL import Image

    for number, name in enumerate("abcde"):
        Image.new("RGB", (4, 4), (40 * number, 0, 0)).save(tmp_path / f"{name}.png")
    return [
        Preference("a ring", ("a.png", "b.png"), scores=np.array([1, 0]), key="two"),
        Preference("a ring", ("c.png", "d.png", "e.png"), scores=np.array([0, 1, 2]), key="three"),
        Preference("a cross", ("a.png", "gone.png"), scores=np.array([1, 0]), key="lost"),
    ]


def view(votes: list[Preference], root: Path) -> ComparisonsView:
    reading = Reading(
        lambda image: torch.tensor([float(image.getpixel((0, 0))[0])]),  # type: ignore[index]
        lambda texts: torch.tensor([[len(text)] for text in texts]),
    )
    return ComparisonsView(votes, root, reading, listed=root / "bad.jsonl")


def test_a_view_fills_up_short_records_and_sets_bad_ones_aside(votes: list[Preference], tmp_path: Path) -> None:
    made = view(votes, tmp_path)
    given = made.batch([1, 0], [0, 0], seed=0)
    assert [made.key(row) for row in range(len(made))] == ["two", "three"]
    assert given.pictures.tolist() == [[[80], [120], [160]], [[0], [40], [0]]]
    assert given.repeats.tolist() == [2, 2]
    assert torch.isnan(given.scores[1, 2])
    assert torch.isnan(given.confidence[1, 2]).all()
    assert given.confidence[1, 0, 1] == 1
    assert [(each.key, each.path) for each in made.quarantine] == [("lost", "gone.png")]


def test_a_view_of_nothing_is_refused(votes: list[Preference], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="both bad"):
        view([replace(votes[0], verdict="both_bad", scores=np.array([NAN, NAN]), key="x")], tmp_path)


# The whole -----------------------------------------------------------------------------------------------------------


class Quiet:
    """A screen that nobody watches."""

    def stage(self, title: str, total: int | None = None) -> Any:
        import contextlib

        return contextlib.nullcontext(lambda *done, **more: None)

    def say(self, text: str) -> None: ...

    warn = say


def settings(out: Path, *changes: str) -> config.Run:
    fixed = [f"out={out}", f"data.cache={out.parent / 'cache'}", "batch=8", "micro_batch=4", "log_every=1"]
    return config.load("playground_reward", [*fixed, *changes])


def weights(out: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(out / "weights" / "open_clip_model.safetensors")


def test_a_resumed_run_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    from visalign.jobs import rewards
    from visalign.training.metrics import read

    rewards.train(settings(tmp_path / "whole", "steps=4", "save_every=2"), Quiet())
    half = settings(tmp_path / "parts", "steps=4", "save_every=2")
    view_, model = rewards.opened(half, made := rewards.network(half), Quiet()), made
    stopped = StopAfter(2)
    with pytest.raises(KeyboardInterrupt):
        from visalign.training import engine

        engine.train(half, registry.build("method", half.method), model, view_, on_step=stopped)
    rewards.train(half, Quiet())
    one, other = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(one[name], other[name]) for name in one)
    rows_ = [read(tmp_path / name / "metrics.jsonl")[-1] for name in ("whole", "parts")]
    assert [row["loss"] for row in rows_[:1]] == [row["loss"] for row in rows_[1:]]
    assert {"accuracy", "certainty", "vote_nll", "score_gap"} <= rows_[0].keys()


class StopAfter:
    """Raise after so many steps, as a kill would."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, moment: Any) -> None:
        if moment.step == self.steps:
            raise KeyboardInterrupt


def test_what_is_published_scores_as_the_model_that_was_trained(tmp_path: Path) -> None:
    import open_clip

    from visalign.jobs import rewards
    from visalign.scorers import load
    from visalign.scoring import Sample

    run = settings(tmp_path / "run", "steps=1", "save_every=0")
    rewards.train(run, Quiet())
    folder = tmp_path / "run" / "weights"
    scorer = load("playground_hps", weights=str(folder))
    assert scorer.name == "run"
    theirs = open_clip.create_model(f"local-dir:{folder}")
    for name, value in theirs.state_dict().items():
        assert torch.equal(value, weights(tmp_path / "run")[name])
    before = load("playground_hps")
    sample = Sample("a red circle", image=np.full((32, 32, 3), 200, dtype=np.uint8))
    assert float(scorer.score([sample]).values) != float(before.score([sample]).values)


@pytest.mark.parametrize("head", ["gaussian", "mixture", "ideal_point"])
def test_a_published_head_scores_as_it_did_in_training(tmp_path: Path, head: str) -> None:
    from visalign.jobs import rewards
    from visalign.scorers import load
    from visalign.scoring import Sample

    objective = {"gaussian": "gaussian_likelihood", "mixture": "mixture_bradley_terry"}.get(head, "bradley_terry")
    asked = (f"model.network.head={head}", f"method.objective={objective}", "method.negatives=0")
    run = settings(tmp_path / "run", "steps=1", "save_every=0", *asked)
    given = rewards.opened(run, model := rewards.network(run), Quiet()).batch([0, 1], [0, 0], 0)
    model.save(run.out / "weights")
    made = load("learned", weights=str(run.out / "weights"))
    expected = model.eval().rewards(given)
    from visalign.data import media
    from visalign.jobs import denoising

    records, root = denoising.read_records(run)

    items = [(each.prompt, media.fetch(item, root)) for each in records[:2] for item in each.items]
    found = made.score([Sample(prompt, image=data) for prompt, data in items])
    torch.testing.assert_close(found.values.view(2, -1), expected.score.detach(), rtol=0, atol=1e-4)
    assert (found.sigma is not None) == (head == "gaussian")


def test_a_tower_can_be_held_but_for_its_last_blocks() -> None:
    def trained(**settings: Any) -> set[str]:
        model = registry.build("reward_model", {"name": "open_clip", **settings})
        assert isinstance(model, RewardModel)
        assert isinstance(model, nn.Module)
        return {name.removeprefix("network.") for name, each in model.named_parameters() if each.requires_grad}

    some = trained(image_blocks=1, text_blocks=0)
    assert {name for name in some if "resblocks" not in name} == {
        "logit_scale", "visual.ln_post.weight", "visual.ln_post.bias", "visual.proj",
    }  # fmt: skip
    assert all(name.startswith("visual.transformer.resblocks.3.") for name in some if "resblocks" in name)
    assert trained() > trained(image_blocks=2, text_blocks=1) > some
    with pytest.raises(ValueError, match="4 blocks"):
        trained(image_blocks=5)


@pytest.mark.slow
def test_more_votes_make_the_shipped_scorer_no_worse(tmp_path: Path) -> None:
    from visalign.jobs import rewards
    from visalign.training.metrics import read

    rewards.train(settings(tmp_path / "run", "steps=40", "batch=16", "micro_batch=16"), Quiet())
    found = [row["vote_nll"] for row in read(tmp_path / "run" / "metrics.jsonl")]
    assert np.mean(found[-10:]) < np.mean(found[:10])
