"""Endpoints that fail: every question is answered once or says why not, tries are bounded, keys stay where they are."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import faulty
import pytest
import tenacity

from visalign.scorers.answer_book import Book
from visalign.scorers.chat import Answer, Question, Sampling, Token, fingerprint
from visalign.scorers.endpoint import Endpoint, EndpointError

SAMPLING = Sampling(tokens=8)
FAULTS = ("status 429 0", "status 500", "status 503", "status 408", "garbage", "shape", "cut", "slam")


def endpoint(server: faulty.Server, *, waits: bool = False, **settings: Any) -> Endpoint:
    made = Endpoint(server.url, "tiny", **{"timeout": 20.0, **settings})
    if not waits:
        made.backoff = tenacity.wait_none()
    return made


def asked(*texts: str) -> list[Question]:
    return [Question((text,)) for text in texts]


def answers(made: Endpoint, *texts: str) -> list[Answer]:
    came = list(made.chat(asked(*texts), SAMPLING))
    assert sorted(place for place, _ in came) == list(range(len(texts)))
    return [answer for _, answer in sorted(came, key=lambda each: each[0])]


def test_no_answer_is_lost_and_none_comes_twice_in_a_storm_of_faults() -> None:
    rng = random.Random(0)
    texts = [f"question {number}" for number in range(60)]
    scripts: dict[str, Sequence[str]] = {text: rng.choices(FAULTS, k=rng.randint(0, 3)) for text in texts}
    wanted = {text: len(script) + 1 for text, script in scripts.items()}
    with faulty.serving(scripts) as server:
        found = answers(endpoint(server, tries=4), *texts)
        assert [each.text for each in found] == [f"you said {text}" for text in texts]
        assert dict(server.asked) == wanted
        assert server.most <= 8


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("status 500", "HTTP 500: no"), ("status 429", "HTTP 429"), ("garbage", "the body is no chat completion"),
        ("cut", "connection broken"), ("slam", "connection broken"), ("packed", "connection broken"),
        ("deep", "the body is no chat completion"), ("unsure NaN", "no chat completion"),
        ("unsure 900", "no chat completion"),
    ],
)  # fmt: skip
def test_tries_are_bounded_and_the_reason_is_told(fault: str, says: str) -> None:
    with faulty.serving(always=fault) as server:
        found = answers(endpoint(server, tries=3), "a", "b")
        assert [each.text for each in found] == ["", ""]
        assert all(each.failure and says in each.failure and "(tried 3 times)" in each.failure for each in found)
        assert dict(server.asked) == {"a": 3, "b": 3}


def test_a_server_that_hangs_is_given_up_and_asked_again() -> None:
    with faulty.serving({"slow": ["hang"], "dead": ["hang", "hang"]}) as server:
        slow, dead = answers(endpoint(server, tries=2, timeout=0.7), "slow", "dead")
        assert slow.text == "you said slow"
        assert dead.failure == "no answer within 0.7 s (tried 2 times)"
        assert server.asked == {"slow": 2, "dead": 2}


def test_a_body_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visalign.scorers.endpoint.MOST", 2**22)
    with faulty.serving({"a": ["endless"]}) as server:
        assert answers(endpoint(server, tries=2), "a")[0].text == "you said a"
        server.scripts["b"] = ["endless"]
        (bad,) = answers(endpoint(server, tries=1), "b")
        assert bad.failure == "the body is longer than 4194304 bytes (tried 1 time)"


def test_a_fraction_of_a_second_is_waited_for_too() -> None:
    with faulty.serving({"a": ["status 429 0.6"]}) as server:
        assert answers(endpoint(server), "a")[0].text == "you said a"
        first, second = server.times["a"]
        assert second - first >= 0.6


def test_retry_after_is_waited_for_in_seconds_and_as_a_date() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    with faulty.serving({"seconds": ["status 429 1"], "date": [f"status 503 {date}"]}) as server:
        began = time.time()
        assert [each.text for each in answers(endpoint(server), "seconds", "date")] == [
            "you said seconds", "you said date"
        ]  # fmt: skip
        first, second = server.times["seconds"]
        assert second - first >= 1.0
        assert time.time() >= began + 1.5  # a date has whole seconds: up to one is cut off


def test_a_server_that_wants_to_be_left_alone_for_longer_than_one_has_patience_has_failed() -> None:
    with faulty.serving(always="status 429 3600") as server:
        (found,) = answers(endpoint(server, patience=5.0), "a")
        assert found.failure and "HTTP 429" in found.failure
        assert server.asked == {"a": 1}


def test_what_cannot_get_better_is_not_tried_again() -> None:
    with faulty.serving({"a": ["status 400"]}) as server:
        bad, good = answers(endpoint(server), "a", "b")
        assert (bad.failure or "").startswith("HTTP 400") and good.text == "you said b"
        assert server.asked == {"a": 1, "b": 1}


@pytest.mark.parametrize(("status", "says"), [(401, "the key is not accepted"), (404, "no such address or model")])
def test_what_concerns_every_question_raises(status: int, says: str) -> None:
    with faulty.serving(always=f"status {status}") as server, pytest.raises(EndpointError, match=says):
        answers(endpoint(server), *map(str, range(40)))
    assert server.asked.total() <= 8  # those under way


def test_a_refusal_is_a_failure() -> None:
    with faulty.serving() as server:
        server.replies = {"a": {"content": None, "refusal": "I cannot judge people"}}
        assert answers(endpoint(server), "a")[0].failure == "refused: I cannot judge people"


def test_the_key_is_sent_and_shown_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    caplog.set_level(logging.DEBUG)
    with faulty.serving({"a": ["status 400"]}) as server:
        made = endpoint(server, key_from="JUDGE_KEY")
        book = Book(tmp_path / "book")
        found = book.ask(made, asked("a", "b"), SAMPLING)
        book.close()
        assert {each["Authorization"] for each in server.headers} == {"Bearer sk-very-secret"}
    assert found[0].failure == "HTTP 400: no: Bearer …"
    shown = [caplog.text, str(found), json.dumps(dict(made.identity)), (tmp_path / "book").read_text(), str(vars(made))]
    assert [each for each in shown if "secret" in each] == []


def test_settings_that_cannot_be_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOBODY", raising=False)
    wrong: list[tuple[str, dict[str, Any], str]] = [
        ("localhost:8000", {}, "should look like http"),
        ("http://user:pass@host/v1", {}, "keys belong in the variable"),
        ("http://host/v1", {"key_from": "NOBODY"}, "NOBODY, which is not set"),
        ("http://host/v1", {"tries": 0}, "at least 1"),
    ]
    for url, settings, says in wrong:
        with pytest.raises(ValueError, match=says):
            Endpoint(url, "m", **settings)


def test_what_is_sent_is_what_the_interface_says() -> None:
    with faulty.serving() as server:
        made = endpoint(server, limit="max_completion_tokens", extra={"seed": None, "top_p": 0.5})
        list(made.chat([Question(("look", b"\x89PNG"))], Sampling(tokens=4, top_logprobs=5)))
        body = server.bodies[0]
    assert body.pop("messages") == [{"role": "user", "content": [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
    ]}]  # fmt: skip
    assert body == {"model": "tiny", "temperature": 0.0, "max_completion_tokens": 4, "top_p": 0.5, "logprobs": True,
                    "top_logprobs": 5}  # fmt: skip


def test_leaving_early_gives_up_what_is_under_way() -> None:
    with faulty.serving() as server:
        server.pause = 0.05
        came = endpoint(server, concurrency=2).chat(asked(*map(str, range(200))), SAMPLING)
        next(came)
        came.close()
        time.sleep(0.3)
        assert server.asked.total() < 10


def test_it_runs_where_a_loop_runs_already_as_in_a_notebook() -> None:
    async def cell() -> list[Answer]:
        return answers(endpoint(server), "a")

    with faulty.serving() as server:
        assert asyncio.run(cell())[0].text == "you said a"


def test_a_book_answers_what_was_asked_before_and_asks_the_rest(tmp_path: Path) -> None:
    with faulty.serving({"c": ["status 400"]}) as server:
        made, book = endpoint(server), Book(tmp_path / "book")
        assert [each.text for each in book.ask(made, asked("a", "b", "a"), SAMPLING)] == [
            "you said a", "you said b", "you said a"
        ]  # fmt: skip
        assert book.ask(made, asked("c"), SAMPLING)[0].failure
        book.close()
        again = Book(tmp_path / "book")
        again.ask(made, asked("c", "b", "a"), SAMPLING)
        assert server.asked == {"a": 1, "b": 1, "c": 2}  # failures are not kept
        again.ask(made, asked("a"), Sampling(tokens=9))
        assert server.asked["a"] == 2  # other sampling, another answer


def test_the_last_line_that_a_kill_cut_off_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "book"
    book = Book(path)
    book.add("k", Answer("whole", (Token("whole", {"whole": -0.5}),)))
    book.close()
    with path.open("ab") as file:
        file.write(b'{"key": "l", "ans')
    again = Book(path)
    assert again.answers == {"k": Answer("whole", (Token("whole", {"whole": -0.5}),))}
    again.add("m", Answer("more"))
    again.close()
    assert list(Book(path).answers) == ["k", "m"]
    path.write_text("no book\n")
    with pytest.raises(ValueError, match=r"book:1 is no answer"):
        Book(path)


@pytest.mark.parametrize("text", ["my notes, in one line", '{"prompt": "p"}'])
def test_a_file_that_is_no_book_is_left_as_it_is(text: str, tmp_path: Path) -> None:
    """Half a line of a book is cut away, since a kill leaves one; anything else is somebody's."""
    path = tmp_path / "notes"
    path.write_text(text)
    with pytest.raises(ValueError, match="ends in what is no answer"):
        Book(path)
    assert path.read_text() == text
    with pytest.raises(ValueError, match="answers cannot be kept in"):
        Book(path / "below" / "book")


def test_one_process_writes_a_book_at_a_time(tmp_path: Path) -> None:
    book = Book(tmp_path / "book")
    with pytest.raises(ValueError, match="being written to by another judge"):
        Book(tmp_path / "book")
    book.close()
    Book(tmp_path / "book").close()


def test_a_fingerprint_changes_with_everything_that_changes_the_answer() -> None:
    told = [
        ({"model": "a"}, Question(("x", b"1")), Sampling()),
        ({"model": "b"}, Question(("x", b"1")), Sampling()),
        ({"model": "a"}, Question((b"1", "x")), Sampling()),
        ({"model": "a"}, Question(("x", b"2")), Sampling()),
        ({"model": "a"}, Question(("x", b"1")), Sampling(seed=1)),
        ({"model": "a"}, Question(("x", b"1")), Sampling(temperature=1.0)),
        ({"model": "a"}, Question(("x", b"1")), Sampling(tokens=1)),
        ({"model": "a"}, Question(("x", b"1")), Sampling(top_logprobs=1)),
    ]
    assert len({fingerprint(*each) for each in told}) == len(told)
    assert fingerprint(*told[0]) == fingerprint({"model": "a"}, Question(("x", b"1")), Sampling())


KILLED = """
import sys
from visalign.scorers.answer_book import Book
from visalign.scorers.chat import Question, Sampling
from visalign.scorers.endpoint import Endpoint

book, endpoint = Book(sys.argv[2]), Endpoint(sys.argv[1], "tiny", concurrency=4)
book.ask(endpoint, [Question((str(each),)) for each in range(60)], Sampling(tokens=8))
book.close()
"""


def test_after_a_kill_only_what_was_under_way_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "book"
    with faulty.serving() as server:
        server.pause = 0.03
        command = [sys.executable, "-c", KILLED, server.url, str(path)]
        process = subprocess.Popen(command)
        deadline = time.monotonic() + 60
        while server.asked.total() < 20 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        kept = path.read_bytes().count(b"\n")
        assert 0 < kept < 60
        subprocess.run(command, check=True)
        assert set(server.asked) == set(map(str, range(60)))
        assert server.asked.total() <= 60 + 4 + 4  # under way, and answered but not yet written
        book = Book(path)
        assert sorted(each.text for each in book.answers.values()) == sorted(f"you said {each}" for each in range(60))
