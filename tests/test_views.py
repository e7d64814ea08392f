"""Who won and how surely; and a batch is a pure function of its records, their visits and the seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from paired import pairs

from visalign.batches import Comparisons, Labelled, Pairs, Prompts, Singles
from visalign.contract import View
from visalign.data.encode import Encoded, encode
from visalign.data.pairing import Pair, paired
from visalign.data.views import LabelledView, PairsView, Settings, SinglesView, view
from visalign.draws import Draws
from visalign.models.encoders import Encoders
from visalign.models.folder import Folder
from visalign.records import DataError, Preference

SIDE = 16


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def encoders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model"), request.param)).encoders()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    pairs(path, 4, size=(23, 18))
    return path


def taken(records: Sequence[Preference], encoders: Encoders, folder: Path, **settings: Any) -> Encoded:
    where: dict[str, Any] = {"root": folder, "cache": folder / "cache", "resolution": SIDE}
    return encode(records, encoders, **where | settings)


def pairs_view(records: Sequence[Preference], encoded: Encoded, **settings: Any) -> PairsView:
    """What `view` makes for Pairs."""
    made = view(Pairs, records, encoded, Settings(**settings))
    assert isinstance(made, PairsView)
    return made


def tensors(value: Any, name: str = "batch") -> list[tuple[str, torch.Tensor]]:
    """Every tensor of a batch, by its path."""
    if isinstance(value, torch.Tensor):
        return [(name, value)]
    if not is_dataclass(value):
        return []
    return [found for each in fields(value) for found in tensors(getattr(value, each.name), f"{name}.{each.name}")]


# Who won ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"verdict": "first"}, (0, 1, 1.0)),
        ({"verdict": "second"}, (1, 0, 1.0)),
        ({"verdict": "tie"}, (0, 1, 0.5)),
        ({"verdict": "both_bad", "scores": [1, 0]}, "both bad"),
        ({}, "not judged"),
        ({"scores": [1, None]}, "not judged"),
        ({"scores": [0.2, 0.7], "scale": "utility"}, (1, 0, 1.0)),
        ({"scores": [0.7, 0.7], "scale": "utility"}, (0, 1, 0.5)),
        ({"scores": [0.25, 0.75], "scale": "probability"}, (1, 0, 0.75)),
        ({"scores": [0.5, 0.5], "scale": "probability"}, (0, 1, 0.5)),
        ({"scores": [3, 1], "scale": "votes", "verdict": "first"}, (0, 1, 0.75)),
        ({"scores": [0, 2], "scale": "votes"}, (1, 0, 1.0)),
        ({"scores": [0, 0], "scale": "votes"}, "not judged"),
        ({"scores": [2, 2], "scale": "votes"}, (0, 1, 0.5)),
        ({"scores": [[1, 5], [4, None]], "scale": "utility"}, (1, 0, 1.0)),
    ],
)
def test_a_pair_is_won_by_the_verdict_or_else_the_scores(given: dict[str, Any], expected: Any) -> None:
    record = Preference("a", ("x", "y"), **given)
    assert paired(record) == (expected if isinstance(expected, str) else Pair(record, *expected))


def test_of_more_than_two_items_the_best_meets_the_worst() -> None:
    record = Preference("a", ("p", "q", "r", "s"), np.array([0.3, np.nan, 0.9, -0.2]))
    assert paired(record) == Pair(record, 2, 3, 1.0)
    votes = Preference("a", ("p", "q", "r"), np.array([1.0, 6.0, 2.0]), scale="votes")
    assert paired(votes) == Pair(votes, 1, 0, 6 / 7)


def test_exchanging_the_items_exchanges_the_roles() -> None:
    for scale, scores in (("utility", [0.1, 0.4]), ("votes", [3.0, 2.0]), ("probability", [0.3, 0.7])):
        one = paired(Preference("a", ("x", "y"), np.array(scores), scale=scale), 0.5)
        two = paired(Preference("a", ("y", "x"), np.array(scores[::-1]), scale=scale), 0.5)
        assert isinstance(one, Pair)
        assert isinstance(two, Pair)
        assert (one.win, one.lose, one.confidence) == (two.lose, two.win, two.confidence)


def test_a_temperature_makes_utilities_bradley_terry() -> None:
    record = Preference("a", ("x", "y"), np.array([0.2, 0.8]))
    found = paired(record, temperature=0.3)
    assert isinstance(found, Pair)
    assert found.confidence == pytest.approx(1 / (1 + math.exp(-2)), rel=1e-12)


# Batches of pairs ---------------------------------------------------------------------------------------------------


def test_a_batch_of_pairs_is_what_was_encoded(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 4, size=(23, 18))
    records[1] = replace(records[1], verdict="second", captions=("a red circle", "blue square"))
    encoded = taken(records, encoders, folder)
    made: View = view(Pairs, records, encoded)
    batch = made.batch([1, 3], [0, 5], seed=7)
    draw = Draws(7, ("pair-1", "pair-3"), (0, 5))
    assert batch.draw == draw
    for side, names, stream in (
        ("win", ("1/lose.png", "3/win.png"), "posterior/win"),
        ("lose", ("1/win.png", "3/lose.png"), "posterior/lose"),
    ):
        latents = [encoded.latent(name) for name in names]
        mean = torch.stack([latent.mean for latent in latents])
        noise = draw.normal(stream, mean.shape[1:], like=mean)
        assert torch.equal(getattr(batch, side), mean + torch.stack([each.deviation for each in latents]) * noise)
    captions = ["blue square", records[3].prompt, "a red circle", records[3].prompt]  # winners, then losers
    assert torch.equal(batch.condition.text, torch.stack([encoded.text(caption)[0] for caption in captions]))
    assert batch.confidence.tolist() == [1.0, 1.0]
    assert batch.weight.tolist() == [made.weight(1), made.weight(3)] == [1.0, 1.0]
    assert [made.key(i) for i in range(len(made))] == [f"pair-{i}" for i in range(4)]


def test_sdxl_is_told_the_true_size_and_the_crop_of_each_item(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 4, size=(23, 18))
    batch = view(Pairs, records, taken(records, encoders, folder)).batch([0, 1], [0, 0], seed=0)
    if not encoders.wants_time_ids:
        assert batch.condition.time_ids is None
        assert batch.condition.pooled is None
        return
    assert batch.condition.time_ids is not None
    assert batch.condition.pooled is not None
    assert batch.condition.time_ids.tolist() == [[18, 23, 0, 2, 16, 16]] * 4  # 23 x 18 becomes 20 x 16
    assert batch.condition.pooled.shape == (4, 24)


@pytest.mark.parametrize("kind", [Pairs, Singles])
def test_a_batch_of_three_is_three_batches_of_one_bit_for_bit(encoders: Encoders, folder: Path, kind: type) -> None:
    records = pairs(folder, 4, size=(23, 18))
    made = view(kind, records, taken(records, encoders, folder), Settings(prompt_dropout=0.5))
    indices, visits = [2, 0, 3], [1, 0, 4]
    together = tensors(made.batch(indices, visits, seed=3))
    apart = [tensors(made.batch([i], [visit], seed=3)) for i, visit in zip(indices, visits, strict=True)]
    for place, (name, value) in enumerate(together):
        parts = [one[place][1] for one in apart]
        if len(value) == 6:  # conditions of pairs: winners, then losers
            parts = [part[:1] for part in parts] + [part[1:] for part in parts]
        assert torch.allclose(value, torch.cat(parts), rtol=0, atol=0, equal_nan=True), name


def test_a_batch_is_the_same_again_and_another_at_another_visit_or_seed(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 4, size=(23, 18))
    one, two = (pairs_view(records, taken(records, encoders, folder)) for _ in range(2))
    state = torch.random.get_rng_state()
    batch = one.batch([0], [0], seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(batch.win, two.batch([0], [0], seed=0).win)
    assert not torch.equal(batch.win, one.batch([0], [1], seed=0).win)
    assert not torch.equal(batch.win, one.batch([0], [0], seed=1).win)
    assert not torch.equal(batch.win, batch.lose)


def test_the_two_of_a_pair_lose_their_prompt_together_at_the_stated_rate(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 2, size=(23, 18))
    encoded = taken(records, encoders, folder)
    empty = encoded.text("")[0]
    made = view(Pairs, records, encoded, Settings(prompt_dropout=0.3))
    batch = made.batch([0] * 400, list(range(400)), seed=0)
    dropped = (batch.condition.text == empty).flatten(1).all(1)
    assert torch.equal(dropped[:400], dropped[400:])
    assert abs(dropped.float().mean().item() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / 400)
    for rate, all_dropped in ((0.0, False), (1.0, True)):
        text = view(Pairs, records, encoded, Settings(prompt_dropout=rate)).batch([0, 1], [0, 0], seed=0).condition.text
        assert bool((text == empty).flatten(1).all(1).any()) == all_dropped


def test_latents_kept_in_half_are_sampled_in_float32(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 2, size=(23, 18))
    batch = pairs_view(records, taken(records, encoders, folder, dtype=torch.bfloat16)).batch([0], [0], seed=0)
    assert batch.win.dtype is torch.float32
    assert not torch.equal(batch.win, batch.win.bfloat16().float())


# What is left out ---------------------------------------------------------------------------------------------------


def mixed(folder: Path) -> list[Preference]:
    records = pairs(folder, 4, size=(23, 18))
    verdicts = ("first", "tie", "both_bad", None)
    return [replace(record, verdict=verdict) for record, verdict in zip(records, verdicts, strict=True)]


def test_ties_are_left_out_and_counted_or_kept_at_one_half(encoders: Encoders, folder: Path) -> None:
    records = mixed(folder)
    encoded = taken(records, encoders, folder)
    skipped = PairsView(records, encoded, Settings())
    assert (len(skipped), skipped.left_out) == (1, {"tie": 1, "both bad": 1, "not judged": 1})
    kept = PairsView(records, encoded, Settings(ties="half"))
    assert (len(kept), kept.left_out) == (2, {"both bad": 1, "not judged": 1})
    assert kept.batch([0, 1], [0, 0], seed=0).confidence.tolist() == [1.0, 0.5]


def test_quarantined_records_are_in_no_view(encoders: Encoders, folder: Path) -> None:
    records = pairs(folder, 4, size=(23, 18))
    records[2] = replace(records[2], items=("0/win.png", "gone.png"))
    encoded = taken(records, encoders, folder)
    for kind in (Pairs, Singles):
        made = view(kind, records, encoded)
        assert [made.key(i) for i in range(len(made))] == ["pair-0", "pair-1", "pair-3"]


def test_single_items_are_the_winners(encoders: Encoders, folder: Path) -> None:
    records = mixed(folder)
    encoded = taken(records, encoders, folder)
    winners = SinglesView(records, encoded, Settings())
    assert ([winners.key(i) for i in range(len(winners))], winners.left_out["both bad"]) == (["pair-0"], 1)
    assert torch.equal(winners.batch([0], [2], 5).x, PairsView(records, encoded, Settings()).batch([0], [2], 5).win)


def test_what_was_liked_by_itself_is_a_single_item_too(encoders: Encoders, folder: Path) -> None:
    """A corpus of pictures and captions is such records: `sft` trains on it without pairs."""
    records = mixed(folder)
    for row, chance in enumerate((1.0, 0.2, 0.5)):
        item = (f"{row}/win.png",)
        records.append(Preference("by itself", item, np.array([chance]), scale="probability", key=f"one-{row}"))
    made = SinglesView(records, taken(records, encoders, folder), Settings())
    assert [made.key(i) for i in range(len(made))] == ["pair-0", "one-0"]
    assert made.batch([1], [0], 0).x.shape == made.batch([0], [0], 0).x.shape
    assert made.left_out["not judged"] >= 2, "disliked, or neither"


def test_labelled_items_are_winners_and_losers_each_by_itself(encoders: Encoders, folder: Path) -> None:
    records = mixed(folder)
    made = LabelledView(records, taken(records, encoders, folder), Settings())
    assert [made.key(i) for i in range(len(made))] == ["pair-0/0", "pair-0/1", "pair-2/0", "pair-2/1"]
    batch = made.batch(range(4), [0] * 4, 0)
    assert batch.label.tolist() == [1, -1, -1, -1]
    assert batch.draw.keys == tuple(made.key(i) for i in range(4))
    assert "both bad" not in made.left_out


def test_an_item_can_be_liked_or_disliked_by_itself(encoders: Encoders, folder: Path) -> None:
    items = [f"{row}/win.png" for row in range(4)]
    likes = (1.0, 0.2, 0.5, math.nan)
    records = [
        Preference(f"prompt {row}", (item,), np.array([like]), scale="probability", key=f"r{row}")
        for row, (item, like) in enumerate(zip(items, likes, strict=True))
    ]
    made = LabelledView(records, taken(records, encoders, folder), Settings())
    assert [made.key(i) for i in range(len(made))] == ["r0/0", "r1/0"]
    assert made.batch([0, 1], [0, 0], 0).label.tolist() == [1, -1]
    assert made.left_out["not judged"] == 2


def test_a_thumb_up_or_down_is_a_label_without_a_pair(encoders: Encoders, folder: Path) -> None:
    chances = (0.9, 0.2, 0.5, np.nan)
    records = [
        Preference("a red circle", (f"{i}/win.png",), np.array([chance]), scale="probability")
        for i, chance in enumerate(chances)
    ]
    made = view(Labelled, records, taken(records, encoders, folder))
    assert made.batch([0, 1], [0, 0], 0).label.tolist() == [1, -1]
    assert len(made) == 2
    assert made.left_out == {"not judged": 2}


def test_liked_items_weigh_their_share_however_many_there_are(encoders: Encoders, folder: Path) -> None:
    verdicts = ("first", "both_bad", "second", "first")
    records = [
        replace(each, verdict=said) for each, said in zip(pairs(folder, 4, size=(23, 18)), verdicts, strict=True)
    ]
    made = view(Labelled, records, taken(records, encoders, folder), Settings(liked=0.8))
    weights = [made.weight(i) for i in range(len(made))]
    labels = made.batch(range(8), [0] * 8, 0).label.tolist()
    assert made.batch(range(8), [0] * 8, 0).weight.tolist() == pytest.approx(weights)
    assert (labels.count(1), labels.count(-1)) == (3, 5)
    assert sum(w for w, label in zip(weights, labels, strict=True) if label > 0) == pytest.approx(0.8 * 8)
    assert sum(weights) == pytest.approx(8)
    with pytest.raises(DataError, match="liked is a share above 0 and at most 1, got 0"):
        Settings(liked=0.0)


def test_a_prompt_is_seen_once_whatever_was_drawn_for_it(encoders: Encoders, folder: Path) -> None:
    records = [Preference("a"), Preference("b", ("0/win.png",)), Preference("a", ("nowhere.png",))]
    made = view(Prompts, records, taken(records, encoders, folder, texts_only=True))
    batch = made.batch([0, 1], [3, 3], seed=1)
    assert (batch.texts, batch.draw.keys) == (("a", "b"), ("a", "b"))
    assert batch.shape == encoders.latent_shape((SIDE, SIDE))
    told = encoders.conditions(["a", "b"], (SIDE, SIDE))
    assert torch.allclose(batch.condition.text, told.text, atol=1e-6)
    assert (batch.condition.time_ids is None) == (told.time_ids is None)
    assert told.time_ids is None or torch.equal(batch.condition.time_ids, told.time_ids.float())


def test_scores_ride_along_and_votes_are_none(encoders: Encoders, folder: Path) -> None:
    items = ("0/win.png", "0/lose.png")
    records = [
        Preference("a", items, np.array([0.2, 0.9])),
        Preference("b", items, np.array([3.0, 1.0]), scale="votes"),
    ]
    batch = pairs_view(records, taken(records, encoders, folder)).batch([0, 1], [0, 0], seed=0)
    assert batch.scores is not None
    assert batch.scores[0].tolist() == [0.9, 0.2]
    assert batch.scores[1].isnan().all()


def test_a_condition_says_whose_taste_it_is(encoders: Encoders, folder: Path) -> None:
    record = mixed(folder)[0]
    records = [replace(record, user=user, key="") for user in ("ann", None)]
    ann = torch.randn(2, 5)
    made = pairs_view(records, taken(records, encoders, folder), users={"ann": ann})
    batch = made.batch([0, 1], [0, 0], seed=0)
    assert batch.condition.user is not None
    assert torch.equal(batch.condition.user, torch.stack([ann, 0 * ann, ann, 0 * ann]))
    assert batch.empty is not None and batch.empty.user is not None and not batch.empty.user.any()
    with pytest.raises(DataError, match="no embedding of user 'ann'"):
        pairs_view(records, taken(records, encoders, folder), users={"bob": ann}).batch([0], [0], seed=0)


def test_what_a_view_cannot_be_is_said_in_words(encoders: Encoders, folder: Path) -> None:
    records = mixed(folder)
    encoded = taken(records, encoders, folder)
    with pytest.raises(DataError, match="no view makes Comparisons; there are views for Pairs, Anchored, Segments"):
        view(Comparisons, records, encoded)
    with pytest.raises(DataError, match=r"no record is left to train on; left out were \{'tie': 1, 'both bad': 1"):
        view(Pairs, records[1:], encoded)
    with pytest.raises(DataError, match="'drop' is not one of skip, half"):
        Settings(ties="drop")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"prompt_dropout must lie in 0 … 1, got 1\.5"):
        Settings(prompt_dropout=1.5)
