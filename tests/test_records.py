"""A record says one thing, survives every trip through JSON, and is named by what it is about."""

from __future__ import annotations

import json
from typing import TypeVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from visalign.records import SCALES, VERDICTS, DataError, Preference, repeated

T = TypeVar("T")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NUMBER = st.one_of(st.just(float("nan")), st.floats(allow_nan=False, allow_infinity=False))


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    """Any record on the utility scale, without a verdict."""
    count, segments = draw(st.integers(1, 4)), draw(st.integers(1, 3))

    def listed(values: st.SearchStrategy[T]) -> tuple[T, ...]:
        return tuple(draw(st.one_of(st.lists(values, max_size=0), st.lists(values, min_size=count, max_size=count))))

    return Preference(
        prompt=draw(TEXT),
        items=tuple(draw(st.lists(WORDS, min_size=count, max_size=count))),
        scores=np.array(draw(st.lists(NUMBER, min_size=count * segments, max_size=count * segments))).reshape(
            count, -1
        ),
        user=draw(st.none() | WORDS),
        media=tuple(draw(st.lists(WORDS, max_size=2))),
        aspect=draw(TEXT),
        judge=draw(TEXT),
        shown_first=draw(st.none() | st.integers(0, count - 1)),
        seeds=listed(st.integers(0, 2**63 - 1)),
        models=listed(WORDS),
        captions=listed(TEXT),
        answers=draw(st.booleans()),
        segment=draw(st.none() | st.floats(0.5, 1e6)),
    )


@given(preferences())
def test_json_gives_back_an_equal_record(record: Preference) -> None:
    text = json.dumps(record.to_json(), allow_nan=False)
    again = Preference.from_json(json.loads(text))
    assert again == record
    assert again.key == record.key
    np.testing.assert_array_equal(again.scores, record.scores)


def test_the_key_is_what_is_judged_by_whom_and_not_what_was_said() -> None:
    record = Preference("a red circle", ("a.png", "b.png"), np.array([1.0, 0.0]), judge="ann")
    assert record.key == "57f61d70a913de0c"
    assert (
        Preference("a red circle", ("a.png", "b.png"), np.array([0.0, 1.0]), judge="ann", seeds=(1, 2)).key
        == record.key
    )
    for other in (
        Preference("a red square", ("a.png", "b.png"), judge="ann"),
        Preference("a red circle", ("b.png", "a.png"), judge="ann"),
        Preference("a red circle", ("a.png", "b.png"), judge="bob"),
        Preference("a red circle", ("a.png", "b.png"), judge="ann", user="ann"),
        Preference("a red circle", ("a.png", "b.png"), judge="ann", aspect="colors"),
        Preference("a red circle", ("a.png", "b.png"), judge="ann", media=("c.png",)),
    ):
        assert other.key != record.key
    assert Preference("a", ("x",), key="mine").key == "mine"


def test_another_judge_makes_another_record_without_the_old_verdict() -> None:
    record = Preference("a", ("x", "y"), np.array([1.0, 0.0]), verdict="first", judge="ann", seeds=(3, 4), key="mine")
    other = record.judged([0.2, 0.9], scale="utility", judge="rules")
    assert (other.verdict, other.judge, other.seeds) == (None, "rules", (3, 4))
    assert other.key not in ("mine", record.key)
    assert other.scores.tolist() == [[0.2], [0.9]]


def test_scores_are_a_table_that_nobody_can_change() -> None:
    record = Preference.from_json({"prompt": "a", "items": ["x", "y"], "scores": [1, None]})
    assert record.scores.shape == (2, 1)
    assert np.isnan(record.scores[1, 0])
    with pytest.raises(ValueError, match="read-only"):
        record.scores[0, 0] = 2.0
    assert np.isnan(Preference("a", ("x", "y")).scores).all()


def test_an_items_utility_is_the_mean_of_the_segments_that_were_looked_at() -> None:
    table = [[1, None, 3], [None, None, None], [5, 6, 7]]
    record = Preference.from_json({"prompt": "a", "items": ["x", "y", "z"], "scores": table})
    np.testing.assert_array_equal(record.utilities, [2.0, np.nan, 6.0])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": ("",)}, "an item's name is empty"),
        ({"items": ("x", "")}, "an item's name is empty"),
        ({"items": "xy"}, "items must be a list, got 'xy'"),
        ({"items": ("x", 2)}, "items must hold texts, got 2"),
        ({"prompt": 3}, "prompt must be a text, got 3"),
        ({"prompt": "\ud800"}, "not valid Unicode"),
        ({"user": ""}, "user must be a name or null"),
        ({"scores": [1, 2, 3]}, r"shape \(2, S\), got \(3,\)"),
        ({"scores": [[1], [1, 2]]}, "K lists of S numbers"),
        ({"scores": ["good", "bad"]}, "K numbers"),
        ({"scores": [1, float("inf")]}, "infinite; write null"),
        ({"scale": "stars"}, f"'stars' is not one of {', '.join(SCALES)}"),
        ({"scale": "votes", "scores": [-1, 2]}, "votes cannot be negative"),
        ({"scale": "probability", "scores": [0.5, 0.6]}, "must sum to 1"),
        ({"scale": "probability", "scores": [1.5, None]}, "at most 1"),
        ({"verdict": "left"}, f"'left' is not one of {', '.join(VERDICTS)}"),
        ({"verdict": "first", "scores": [0, 1]}, "verdict is 'first' but the scores are 0.0 and 1.0"),
        ({"verdict": "tie", "scores": [0, 1]}, "verdict is 'tie'"),
        ({"shown_first": 2}, "index below 2, got 2"),
        ({"shown_first": True}, "index below 2, got True"),
        ({"seeds": (1,)}, "2 items need 2 seeds or none, got 1"),
        ({"seeds": (1, -1)}, r"0 … 2\^63 - 1"),
        ({"seeds": (1, 0.5)}, "whole numbers, got 0.5"),
        ({"captions": ("one",)}, "2 captions or none"),
        ({"segment": 0.0}, "segment is a number of frames above 0, got 0.0"),
        ({"segment": True}, "segment is a number of frames above 0, got True"),
        ({"segment": float("nan")}, "segment is a number of frames"),
    ],
)
def test_a_contradiction_is_refused_in_words(changes: dict[str, object], said: str) -> None:
    good: dict[str, object] = {"prompt": "a", "items": ("x", "y")}
    with pytest.raises(DataError, match=said):
        Preference(**{**good, **changes})  # type: ignore[arg-type]


def test_a_verdict_needs_two_items() -> None:
    with pytest.raises(DataError, match="about two items, got 3"):
        Preference("a", ("x", "y", "z"), verdict="first")


def test_both_bad_goes_with_any_scores() -> None:
    assert Preference("a", ("x", "y"), np.array([0.2, 0.1]), verdict="both_bad").verdict == "both_bad"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"prompt": "a", "items": ["x"], "winner": 1}, "a record has no field 'winner'; Known: "),
        ({"prompt": "a"}, "needs items"),
        ({}, "needs prompt and items"),
        ([1, 2], "a record is an object"),
        ({"prompt": "a", "items": ["x"], "scale": ["votes"]}, "scale must be a text"),
        ({"prompt": "a", "items": ["x", "y"], "verdict": ["first"]}, "is not one of"),
    ],
)
def test_json_that_is_no_record_is_refused_in_words(values: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        Preference.from_json(values)  # type: ignore[arg-type]


def test_keys_that_occur_again_are_found_once_each() -> None:
    records = [Preference("a", ("x",), key=key) for key in "abacabd"]
    assert repeated(records) == ["a", "b"]
    assert repeated(records[:2]) == []
