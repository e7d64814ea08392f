"""Labels of segments become labels of latent frames, and a clip's own label is the majority of its segments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filmed import Filming, pairs
from hypothesis import given
from hypothesis import strategies as st

from visalign.batches import Pairs, Segments
from visalign.contract import View
from visalign.data import segments
from visalign.data.encode import Encoded, encode
from visalign.data.pairing import Pair, paired
from visalign.data.views import Settings, view
from visalign.records import DataError, Preference

SIDE, FRAMES = 16, 9


def labels(said: Sequence[float], frames: int, stride: int, length: float | None, whole: int = 0) -> list[float]:
    """Labels of latent frames from chances."""
    chances = torch.tensor(said, dtype=torch.float64)
    made = segments.labels(chances, frames=frames, stride=stride, length=length, whole=whole or frames)
    return made.tolist()


# Where clips are cut --------------------------------------------------------------------------------------------------


def test_segments_of_clips() -> None:
    assert [len(each) for each in segments.segments(121, 24)] == [24, 24, 24, 24, 25]  # the stub belongs to the last
    assert [len(each) for each in segments.segments(36, 24)] == [24, 12]
    assert segments.segments(5, 24) == [range(5)]
    assert [len(each) for each in segments.segments(10, 2.5)] == [3, 2, 3, 2]  # floor(f / 2.5)


def test_majority_of_segments() -> None:
    for label, said in [([1.0, 1.0, 0.0], 1.0), ([0.0, 0.5, math.nan], 0.0), ([0.5], 0.5), ([1.0, 0.0], 0.5)]:
        assert float(segments.majority(torch.tensor(label))) == said
    assert segments.majority(torch.tensor([math.nan])).isnan()


# From segments to latent frames ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["length known", "equal parts"])
@pytest.mark.parametrize(
    ("frames", "rate", "count", "latents"),
    [(121, 24, 5, [7, 6, 6, 6, 6]), (81, 16, 5, [5, 4, 4, 4, 4]), (49, 8, 6, [3, 2, 2, 2, 2, 2])],
)
def test_latent_frames_of_a_causal_vae_belong_to_a_second_by_majority(
    frames: int, rate: int, count: int, latents: list[int], known: bool
) -> None:
    said = [float(place % 2 == 0) for place in range(count)]
    found = labels(said, frames, 4, rate if known else None)
    assert [len(list(same)) for _, same in groupby(found)] == latents
    assert found[0] == 1.0


def test_a_latent_frame_that_two_segments_share_evenly_says_nothing() -> None:
    assert labels([1.0, 0.0], 9, 4, 3.0) == [1.0, 0.0, -1.0]  # frames 1 … 4 are 1 1 | 2 2
    assert labels([1.0, 1.0], 9, 4, 3.0) == [1.0, 1.0, 1.0]
    assert labels([1.0, 0.0], 9, 4, 4.0) == [1.0, 1.0, -1.0]  # 3 against 1
    assert labels([1.0, 0.5, 0.0, 0.0], 9, 4, 2.0) == [1.0, 0.0, -1.0]  # 1 | 2 | 1


def test_a_vae_of_single_frames_has_a_label_for_each() -> None:
    assert labels([1.0, 0.5, 0.0], 8, 1, 3.0) == [1, 1, 1, 0, 0, 0, -1, -1]
    assert labels([1.0, 0.0], 8, 1, None) == [1, 1, 1, 1, -1, -1, -1, -1]


def test_what_is_between_is_a_label_between_and_what_is_not_known_is_none() -> None:
    assert labels([0.75, math.nan, 0.5, 0.0], 4, 1, 1.0) == [0.5, 0.0, 0.0, -1.0]


def test_segments_of_the_whole_clip_that_are_not_trained_on_say_nothing() -> None:
    said = [1.0, 0.0, 0.0, 0.0]
    assert labels(said, 5, 1, None, whole=16) == [1, 1, 1, 1, -1]
    assert labels(said, 5, 1, 4.0) == [1, 1, 1, 1, -1]
    assert labels([1.0], 5, 1, 2.0) == [1] * 5  # the last segment has the rest


@given(st.integers(1, 80), st.integers(1, 12))
def test_equal_parts_differ_by_one_frame_at_most(frames: int, count: int) -> None:
    places = segments.by_frame(torch.arange(count), frames, None, frames)
    held = places.bincount(minlength=count)
    assert bool((places.diff() >= 0).all())
    assert int(held.max() - held.min()) <= 1


@given(st.integers(1, 200), st.floats(1.0, 40.0))
def test_a_frame_has_the_label_of_the_segment_that_the_judge_saw_it_in(frames: int, length: float) -> None:
    cuts = segments.segments(frames, length)
    expected = [place for place, cut in enumerate(cuts) for _ in cut]
    assert segments.by_frame(torch.arange(len(cuts)), frames, length, frames).tolist() == expected


# From records to labels -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "given", "said"),
    [
        ([[0.9, 0.5, None], [0.1, 0.5, None]], {"scale": "probability"}, [0.9, 0.5, math.nan]),
        ([[3, 0, 2], [1, 0, 2]], {"scale": "votes"}, [0.75, math.nan, 0.5]),
        ([[3, 1, None], [1, 1, 5]], {}, [1.0, 0.5, math.nan]),
        ([[None], [None]], {"verdict": "second"}, [0.0]),
        ([[None, None], [None, None]], {"verdict": "tie"}, [0.5]),
        ([[None, None], [None, None]], {}, [math.nan, math.nan]),
    ],
)
def test_scores_of_every_scale_become_chances(scores: Any, given: dict[str, Any], said: list[float]) -> None:
    record = Preference("a", ("x", "y"), scores, **given)
    np.testing.assert_allclose(segments.chances(record), said)


def test_a_temperature_makes_utilities_of_segments_bradley_terry() -> None:
    record = Preference("a", ("x", "y"), np.array([[1.0, 0.0], [0.0, 2.0]]))
    np.testing.assert_allclose(segments.chances(record, 0.5), 1 / (1 + np.exp([-2.0, 4.0])))


@pytest.mark.parametrize(
    ("scores", "scale", "expected"),
    [
        ([[1, 0.5, 0, 1], [0, 0.5, 1, 0]], "probability", (0, 1, 0.625)),
        ([[0.99, 0.4, 0.4], [0.01, 0.6, 0.6]], "probability", (1, 0, 2 / 3)),  # the mean would say the first
        ([[9, 1, 1], [1, 2, 2]], "utility", (1, 0, 2 / 3)),
        ([[0, 0, 3], [0, 0, 1]], "votes", (0, 1, 1.0)),  # nobody voted on two of them
        ([[1, 0], [0, 1]], "probability", (0, 1, 0.5)),
        ([[None, 1], [2, None]], "utility", (1, 0, 1.0)),  # never side by side: as two items with a score each
    ],
)
def test_a_clip_is_won_by_the_majority_of_its_segments(scores: Any, scale: str, expected: Any) -> None:
    found = paired(Preference("a", ("x", "y"), scores, scale=scale))
    assert isinstance(found, Pair)
    assert (found.win, found.lose) == expected[:2]
    assert found.confidence == pytest.approx(expected[2], abs=1e-12)


def test_segments_of_answers_are_no_voters() -> None:
    found = paired(Preference("a", ("x", "y"), np.array([[9, 1, 1], [1, 2, 2.0]]), answers=True, media=("m.png",)))
    assert isinstance(found, Pair)
    assert found.win == 0


# Batches --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=[False, True], ids=["per frame", "causal"])
def encoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("clips")
    records = pairs(folder, 6, FRAMES + 1)
    cache = folder / "cache"
    encoders = Filming(causal=request.param)
    return encode(records, encoders, root=folder, cache=cache, resolution=SIDE, frames=FRAMES)


def judged(scores: Sequence[Any], **changes: Any) -> list[Preference]:
    """Records of the encoded pairs of clips with these scores; None: no record."""
    names = [(f"{i}-one.webp", f"{i}-other.webp") for i in range(len(scores))]
    return [
        Preference(f"a red circle {i % 2}", names[i], table, scale="probability", key=f"pair-{i}", **changes)
        for i, table in enumerate(scores)
    ]


def table(*first: float) -> list[list[float]]:
    """Probabilities of both from those of the first."""
    return [list(first), [1 - each for each in first]]


def test_pairs_of_clips_come_in_their_records_order_with_their_labels(encoded: Encoded) -> None:
    records = judged([table(1.0, 0.0), table(0.0), table(0.5, 1.0)], segment=5.0)
    made = view(Segments, records, encoded)
    batch = made.batch([0, 1, 2], [0, 0, 0], seed=1)
    frames = encoded.latent_shape[1]
    assert (type(batch), batch.labels.shape, batch.labels.dtype) == (Segments, (3, frames), torch.float32)
    first = [1, 1, 1, 1, 1, -1, -1, -1, -1] if frames == 9 else [1, 1, -1]
    third = [0, 0, 0, 0, 0, 1, 1, 1, 1] if frames == 9 else [0, 0, 1]
    assert batch.labels.tolist() == [first, [-1] * frames, third]
    assert batch.weight.tolist() == [made.weight(i) for i in range(3)] == [frames, frames, sum(third)]
    assert batch.confidence.tolist() == [1.0] * 3
    items = [encoded.latent(record.items[0]) for record in records]
    noise = batch.draw.normal("posterior/win", encoded.latent_shape, like=batch.win)
    expected = torch.stack([each.mean for each in items]) + torch.stack([each.deviation for each in items]) * noise
    assert torch.equal(batch.win, expected)


def test_equal_parts_are_those_of_the_whole_clip(encoded: Encoded) -> None:
    (label,) = view(Segments, judged([table(1.0, 0.0)]), encoded).batch([0], [0], 0).labels.tolist()
    assert label == ([1] * 5 + [-1] * 4 if len(label) == 9 else [1, 1, -1])  # ten frames, of which nine are read


def test_a_batch_of_three_is_three_batches_of_one_bit_for_bit(encoded: Encoded) -> None:
    made: View = view(
        Segments, judged([table(1.0, 0.0), table(0.0), table(1.0)]), encoded, Settings(prompt_dropout=0.5)
    )
    together = made.batch([2, 0, 1], [1, 0, 4], 3)
    apart = [made.batch([i], [visit], 3) for i, visit in ((2, 1), (0, 0), (1, 4))]
    for name in ("win", "lose", "labels", "weight", "confidence"):
        assert torch.equal(getattr(together, name), torch.cat([getattr(each, name) for each in apart])), name
    text = torch.cat([each.condition.text[:1] for each in apart] + [each.condition.text[1:] for each in apart])
    assert torch.equal(together.condition.text, text)


def test_clips_with_few_labels_are_left_out_and_counted(encoded: Encoded) -> None:
    told = [table(1.0, 0.0), table(0.5, 0.5), table(1.0, 0.5, 0.5, 0.5), [[None], [None]], [[None], [None]]]
    records = judged(told)
    records[4] = Preference("a", records[4].items, verdict="both_bad", key="pair-4")
    records.append(Preference("a", ("0-one.webp",), np.ones(1), scale="probability", key="alone"))
    made = view(Segments, records, encoded, Settings(segments_min=0.5))
    assert [made.key(i) for i in range(len(made))] == ["pair-0"]
    assert made.left_out == {
        "tie": 1, "labels of few frames": 1, "not judged": 1, "both bad": 1, "not two clips": 1,
    }  # fmt: skip
    least = view(Segments, records, encoded, Settings(segments_min=0.0))
    assert [least.key(i) for i in range(len(least))] == ["pair-0", "pair-2"]


def test_a_verdict_on_clips_is_said_of_every_frame(encoded: Encoded) -> None:
    record = Preference("a red circle 0", ("0-one.webp", "0-other.webp"), verdict="second", key="pair-0")
    assert view(Segments, [record], encoded).batch([0], [0], 0).labels.unique().tolist() == [-1]


def test_pairs_of_clips_are_won_by_the_majority_and_carry_over_to_other_views(encoded: Encoded) -> None:
    records = judged([table(0.0, 0.0, 1.0), table(1.0, 0.0), table(1.0, 0.5)])
    made = view(Pairs, records, encoded)
    assert [made.key(i) for i in range(len(made))] == ["pair-0", "pair-2"]
    assert made.left_out == {"tie": 1}
    batch = made.batch([0, 1], [0, 0], 0)
    assert batch.confidence.tolist() == pytest.approx([2 / 3, 0.75])
    winner = encoded.latent("0-other.webp")
    noise = batch.draw.normal("posterior/win", encoded.latent_shape, like=batch.win)[0]
    assert torch.equal(batch.win[0], winner.mean + winner.deviation * noise)


def test_frames_have_labels_in_clips_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"segments_min must lie in 0 … 1, got 2"):
        Settings(segments_min=2)
    encoders = Filming(causal=False)
    records = judged([table(1.0)])
    nothing = encode(records, encoders, root=tmp_path, cache=tmp_path, resolution=SIDE, frames=FRAMES, texts_only=True)
    with pytest.raises(DataError, match=r"set data\.frames"):
        view(Segments, records, replace(nothing, frames=None))
