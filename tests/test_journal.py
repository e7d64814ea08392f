"""Votes on the disk: what was thanked for is there, what a kill cut off is not, and a folder reads as what it means."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visalign.data import journal, sources, store
from visalign.data.journal import Journal
from visalign.records import DataError, Preference


def vote(number: int, verdict: str = "first") -> Preference:
    return Preference("a red circle", (f"{number}.png", "other.png"), verdict=verdict, user="ada", shown_first=1)


def test_a_vote_is_on_the_disk_when_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync

    def sync(file: int) -> None:
        synced.append(file)
        real(file)

    monkeypatch.setattr(os, "fsync", sync)
    book = Journal(tmp_path)
    book.append(vote(1), seconds=2.5)
    assert len(synced) == 1
    assert store.read(tmp_path) == [vote(1)]
    (line,) = book.path.read_text().splitlines()
    assert json.loads(line)["seconds"] == 2.5
    book.close()


def test_a_vote_again_replaces_and_an_undo_takes_away(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.append(vote(1), vote(2))
    book.append(vote(1, "second"))
    book.undo(vote(2).key)
    assert [(each.items[0], each.verdict) for each in store.read(tmp_path)] == [("1.png", "second")]
    book.append(vote(2, "tie"))
    assert [each.verdict for each in store.read(tmp_path)] == ["second", "tie"]
    book.close()


def test_two_writers_have_two_files_and_the_later_word_wins(tmp_path: Path) -> None:
    one, other = Journal(tmp_path, "one"), Journal(tmp_path, "other")
    one.append(vote(1))
    other.append(vote(1, "second"))
    one.append(vote(1, "tie"))
    assert one.path != other.path
    assert [each.verdict for each in store.read(tmp_path)] == ["tie"]
    one.close()
    other.close()


@given(cut=st.integers(1, 200))
def test_a_line_that_a_kill_cut_off_is_no_vote(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("journal")
    book = Journal(folder)
    book.append(vote(1))
    book.append(vote(2))
    book.close()
    content = book.path.read_bytes()
    book.path.write_bytes(content[:-cut])
    assert store.read(folder) == [vote(1)]


def test_damage_in_the_middle_is_told_with_its_line(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    for number in range(3):
        book.append(vote(number))
    book.close()
    lines = book.path.read_bytes().splitlines(keepends=True)
    book.path.write_bytes(lines[0] + lines[1][:40] + b"\n" + lines[2])
    with pytest.raises(DataError, match=r"journal\.jsonl:2 is no line of a journal"):
        store.read(tmp_path)
    book.path.write_bytes(b'{"at": "2026", "undo": "a", "record": {}}\n')
    with pytest.raises(DataError, match="either a record or the key"):
        store.read(tmp_path)


def test_threads_share_a_journal_without_mixing_lines(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: book.append(vote(number)), range(50)))
    book.close()
    assert sorted(each.items[0] for each in store.read(tmp_path)) == sorted(f"{number}.png" for number in range(50))


def test_what_a_killed_writer_was_told_is_kept_is_kept(tmp_path: Path) -> None:
    """A process that says each number after its vote is down is killed at any moment: nothing that it said is lost."""
    code = f"""
from pathlib import Path
from visalign.data.journal import Journal
from visalign.records import Preference
book = Journal(Path({str(tmp_path)!r}))
for number in range(10**6):
    book.append(Preference("a", (str(number), "b"), verdict="first"))
    print(number, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    said = [int(writer.stdout.readline()) for _ in range(20)]
    writer.send_signal(signal.SIGKILL)
    said += [int(line) for line in writer.stdout.read().splitlines()]
    writer.wait()
    writer.stdout.close()
    kept = [int(each.items[0]) for each in store.read(tmp_path)]
    assert kept[: len(said)] == said
    assert len(kept) - len(said) in (0, 1)


def test_compaction_says_the_same_and_puts_closed_journals_away(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    first.append(vote(1), vote(2), vote(3))
    first.undo(vote(2).key)
    first.close()
    before = store.read(tmp_path)
    assert store.compact(tmp_path) == tmp_path / "votes.parquet"
    assert journal.found(tmp_path) == []
    assert [path.name for path in (tmp_path / journal.COMPACTED).iterdir()] == [first.path.name]
    assert store.read(tmp_path) == before == store.read(tmp_path / "votes.parquet")
    second = Journal(tmp_path)
    second.undo(vote(1).key)
    second.append(vote(4))
    second.close()
    assert [each.items[0] for each in store.read(tmp_path)] == ["3.png", "4.png"]
    store.compact(tmp_path)
    assert [each.items[0] for each in sources.open_source(tmp_path)] == ["3.png", "4.png"]


def test_a_journal_that_is_being_written_stays_and_is_not_lost(tmp_path: Path) -> None:
    """The parquet file then holds its votes too; read together they count once."""
    closed, live = Journal(tmp_path, "closed"), Journal(tmp_path, "live")
    closed.append(vote(1))
    closed.close()
    live.append(vote(2))
    store.compact(tmp_path)
    assert len(journal.found(tmp_path)) == 2
    live.undo(vote(2).key)
    live.append(vote(1, "second"))
    assert [each.verdict for each in store.read(tmp_path)] == ["second"]
    live.close()


def test_a_kill_between_parquet_and_putting_away_does_no_harm(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.append(vote(1))
    book.append(vote(1, "second"))
    book.close()
    store.write(store.read(tmp_path), tmp_path / "votes.parquet")  # the first half of a compaction
    assert [each.verdict for each in store.read(tmp_path)] == ["second"]
    store.compact(tmp_path)
    assert [each.verdict for each in store.read(tmp_path)] == ["second"]


def test_an_empty_journal_leaves_nothing(tmp_path: Path) -> None:
    book = Journal(tmp_path)
    book.close()
    assert list(tmp_path.iterdir()) == []


def test_a_writer_s_name_is_no_path(tmp_path: Path) -> None:
    book = Journal(tmp_path, "../../etc/passwd")
    assert book.path.parent == tmp_path
    book.close()
