"""SPECS: both of a pair are right, and only their form differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from visalign.answering.distilled import Form, distilled, paired_by_form, same
from visalign.cli import main
from visalign.config import ConfigError
from visalign.data import store
from visalign.data.answers import several
from visalign.data.truth import Unusable
from visalign.evaluation.generalisation import generalisation_factor
from visalign.records import DataError, Preference

THINK = Form("think", loose=r"\b(?P<answer>\d[\d,.]*)")
GOOD = "<think>two and\ntwo</think> <answer> 4 </answer>"


def question(key: str = "q", truth: str = "4") -> Preference:
    return Preference("How many?", (truth,), media=("a.png",), answers=True, key=key)


def test_a_form_is_a_whole_answer() -> None:
    assert THINK.fits(GOOD)
    for text in (f"Well: {GOOD}", GOOD + GOOD, GOOD.replace("</think>", ""), "<answer>4</answer>", "4"):
        assert not THINK.fits(text)
    assert Form("stop").fits("two dogs .")
    assert not Form("stop").fits("two dogs")


def test_the_result_is_found_in_the_form_and_out_of_it() -> None:
    assert same(THINK.result(GOOD), "4")
    assert THINK.result("first 3, so it is 4") == "4"
    assert THINK.result("none") is None
    assert Form("think").result("4") == "4"


@pytest.mark.parametrize(
    ("first", "second", "alike"),
    [("4.", "4.0", True), ("1,200", "1200", True), ("A  Dog.", "a dog", True), ("4", "5", False), (None, None, False)],
)
def test_results_are_compared_as_numbers_or_as_words(first: str | None, second: str | None, alike: bool) -> None:
    assert same(first, second) is alike


def test_both_answers_are_right_and_only_the_form_differs() -> None:
    answers = ["<answer>4</answer>", "It is 5", GOOD, "It is 4", GOOD.replace("4", "5"), GOOD, "I think it is 4"]
    found = paired_by_form(answers, "4", THINK)
    assert found == [(GOOD, "<answer>4</answer>")]
    other = GOOD.replace("two and", "half of eight")
    assert paired_by_form([*answers, other], "4", THINK) == [(GOOD, "<answer>4</answer>"), (other, "It is 4")]


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([], "no answer of the model"),
        (["It is 5", GOOD.replace("4", "5")], "no right answer"),
        ([GOOD], "every right answer is in the form"),
        (["It is 4"], "every right answer is out of the form"),
    ],
)
def test_why_a_question_has_no_pair(answers: list[str], why: str) -> None:
    with pytest.raises(Unusable, match=f"^{why}$"):
        paired_by_form(answers, "4", THINK)


def test_records_of_the_pairs(tmp_path: Path) -> None:
    given = [question(), question("other"), Preference("Alone?", media=("a.png",), answers=True, key="alone")]
    made = distilled(given, {"q": [GOOD, "so 4", "4"]}, THINK, tmp_path, tmp_path, most=3)
    (record,) = made.records
    assert (record.items, record.verdict, record.media, record.answers) == ((GOOD, "so 4"), "first", ("a.png",), True)
    assert made.left_out == {"no answer of the model": 1, "no answer": 1}


def test_the_command_pairs_answers_of_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.write([question(truth="two dogs .")], tmp_path / "records.jsonl")
    files = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    for file, text in zip(files, ["two dogs", "Two dogs ."], strict=True):
        file.write_text(json.dumps({"question_id": "q", "answer": text}) + "\n")
    words = ["distill", str(tmp_path / "records.jsonl"), "--form", "stop", "--out", str(tmp_path / "o.jsonl")]
    assert main([*words, "--answers", *map(str, files)]) == 0
    assert store.read(tmp_path / "o.jsonl")[0].items == ("Two dogs .", "two dogs")
    assert main([*words, "--answers", str(files[0]), "--loose", "("]) == 2
    assert "regular expression" in capsys.readouterr().err
    nothing = [*words[:-1], str(tmp_path / "none.jsonl"), "--answers", str(files[0])]
    assert main(nothing) == 2, "a file without a pair would be no data"
    assert "sample more answers" in capsys.readouterr().err
    assert not (tmp_path / "none.jsonl").exists()


def test_answers_must_say_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"answer": "4"}\n')
    with pytest.raises(DataError, match="question_id"):
        several([tmp_path / "a.jsonl"])


def test_a_pattern_that_is_none_is_said() -> None:
    with pytest.raises(ConfigError, match="forms are think, stop"):
        Form("(")


def test_the_generalisation_factor_is_an_f_measure() -> None:
    assert generalisation_factor(3.0, 3.0) == pytest.approx(3.0)
    assert generalisation_factor(4.0, 1.0) == pytest.approx(5 * 4 / 17)
    assert generalisation_factor(1.0, 4.0) == pytest.approx(5 * 4 / 8)  # what carries over counts for more
    with pytest.raises(ValueError, match="positive"):
        generalisation_factor(1.0, 0.0)
