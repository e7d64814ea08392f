"""Where two answers differ."""

from __future__ import annotations

import pytest

from visalign.text.spans import changed


def marks(first: str, second: str) -> tuple[str, str]:
    """The letters in which two words differ, the others as dots."""
    return tuple(  # type: ignore[return-value]
        "".join(letter if hit else "." for letter, hit in zip(word, hits, strict=True))
        for word, hits in zip(
            (first, second), changed([ord(each) for each in first], [ord(each) for each in second]), strict=True
        )
    )


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("abcdefg", "abcdefg", (".......", ".......")),
        ("abcXefg", "abcYefg", ("...X...", "...Y...")),
        ("abcefg", "abcYYefg", ("......", "...YY...")),
        ("abXde", "abYde", ("abXde", "abYde")),  # runs of two are chance
        ("abcXX", "YYabc", ("...XX", "YY...")),
        ("ab", "ab", ("..", "..")),
        ("", "abc", ("", "abc")),
    ],
)
def test_what_lies_outside_runs_of_three_is_changed(first: str, second: str, expected: tuple[str, str]) -> None:
    assert marks(first, second) == expected


def test_a_shorter_run_can_be_made_to_count() -> None:
    assert changed([1, 2, 3], [1, 2, 4], shortest=2) == ([False, False, True], [False, False, True])


def test_a_token_that_comes_often_is_not_taken_for_junk() -> None:
    """Difflib ignores what makes up over 1 % of 200 elements or more, unless it is told not to."""
    long = [7, 8, 9] * 100
    assert not any(changed(long, [*long, 1, 2])[0])
