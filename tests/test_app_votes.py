"""Blind votes: fair sides, one vote a trial, records that train reads, and what a restart brings back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest
from compared import drawn, setup

from visalign.apps import booth, desk, pool
from visalign.apps.safety import Refused
from visalign.data import media, pairing, sources, store
from visalign.drawing import Drawer, Settings
from visalign.records import Preference

LOADED: dict[str, Drawer] = {}  # models are loaded once for all tests of this file


def opened(folder: Path) -> desk.Desk:
    """A desk whose models are in memory and whose pictures are drawn."""
    made = desk.Desk(setup(folder, seeds=range(3), aspects=("colours", "layout")))
    for artist in made.pool.artists:
        artist.drawer = LOADED.get(artist.name)
    made.start()
    LOADED.update({artist.name: artist.load() for artist in drawn(made).pool.artists})
    return made


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for pictures that every test may use."""
    return tmp_path_factory.mktemp("compare") / "session"


@pytest.fixture
def at(pictures: Path) -> Iterator[desk.Desk]:
    """A desk on those pictures without votes."""
    for file in [*(pictures / "votes").glob("*.jsonl"), *(pictures / "votes").glob("*.parquet")]:
        file.unlink()
    made = opened(pictures)
    yield made
    made.close()


def kept(at: desk.Desk) -> list[Preference]:
    """The records on the disk."""
    return store.read(at.votes)


def trial(at: desk.Desk, rater: str = "ada") -> booth.Trial:
    found = at.booth.next(rater)
    assert found is not None
    return found


def test_a_vote_is_a_record_whichever_side_the_winner_stood_on(at: desk.Desk) -> None:
    at.booth.random = Random(1)
    seen = set()
    for _ in range(8):
        asked = trial(at)
        at.booth.vote(asked.id, "ada", "left")
        record = kept(at)[-1]
        winner = 1 if asked.swapped else 0
        assert record.verdict == ("first", "second")[winner]
        assert record.scores[:, 0].tolist() == [1.0 - winner, float(winner)]
        assert record.shown_first == winner
        assert record.models == tuple(artist.id for artist in asked.pair)
        assert (record.user, record.aspect, record.prompt) == ("ada", "overall", asked.spot.prompt)
        assert media.fetch(record.items[winner], at.votes) == at.booth.picture(asked.blind[0]).read_bytes()
        seen.add(asked.swapped)
    assert seen == {True, False}


def test_sides_are_drawn_at_random(at: desk.Desk) -> None:
    at.booth.random = Random(0)
    sides = Counter(trial(at, f"rater {number}").swapped for number in range(300))
    assert 120 < sides[True] < 180


@pytest.mark.parametrize(("said", "verdict", "left_out"), [("tie", "tie", ""), ("both_bad", "both_bad", "both bad")])
def test_ties_and_both_bad_are_what_training_takes_them_for(
    said: str, verdict: str, left_out: str, at: desk.Desk
) -> None:
    at.booth.vote(trial(at).id, "ada", said)
    (record,) = kept(at)
    found = pairing.paired(record)
    assert record.verdict == verdict
    assert (found if isinstance(found, str) else "") == left_out
    assert isinstance(found, str) or found.confidence == 0.5


def test_a_second_answer_to_a_trial_changes_nothing(at: desk.Desk) -> None:
    asked = trial(at)
    at.booth.vote(asked.id, "ada", "left")
    assert at.booth.vote(asked.id, "ada", "right").said == "left"
    assert len(kept(at)) == 1


def test_fifty_votes_at_once_are_fifty_records_and_fifty_clicks_on_one_are_one(at: desk.Desk) -> None:
    asked = [trial(at, f"rater {number}") for number in range(50)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda each: at.booth.vote(each.id, each.rater, "left"), asked))
        again = trial(at)
        list(threads.map(lambda said: at.booth.vote(again.id, "ada", said), ["left", "right"] * 25))
    assert len(kept(at)) == 51
    assert len({record.user for record in kept(at)}) == 51


def test_nobody_is_shown_a_pair_twice_until_all_are_seen(at: desk.Desk) -> None:
    shown = []
    while (asked := at.booth.next("ada")) is not None:
        shown.append(asked.spot)
        at.booth.vote(asked.id, "ada", "tie")
    assert len(shown) == len(set(shown)) == len(at.booth._ready((at.pool.artists[0], at.pool.artists[1])))
    assert at.shown(None, "ada")["progress"]["mine"] == len(shown)


def test_reloading_shows_the_same_pair_and_another_window_another(at: desk.Desk) -> None:
    first = trial(at)
    again = at.booth.next("ada", first.id)
    assert again is first
    assert trial(at).spot != first.spot
    assert at.booth.next("somebody else", first.id) is not first


def test_skip_passes_over_and_undo_brings_back_the_same_sides(at: desk.Desk) -> None:
    skipped = trial(at)
    at.booth.skip(skipped.id, "ada")
    with pytest.raises(Refused, match="not known any more"):
        at.booth.vote(skipped.id, "ada", "left")
    asked = trial(at)
    at.booth.vote(asked.id, "ada", "left", {"colours": "tie"})
    assert len(kept(at)) == 2
    back = at.booth.undo("ada")
    assert (back.id, back.blind, kept(at)) == (asked.id, asked.blind, [])
    at.booth.vote(back.id, "ada", "right")
    assert len(kept(at)) == 1
    at.booth.undo("ada")
    with pytest.raises(Refused, match="no vote of yours"):
        at.booth.undo("ada")


def test_aspects_are_records_of_their_own(at: desk.Desk) -> None:
    at.booth.vote(trial(at).id, "ada", "left", {"colours": "right", "layout": "tie"})
    records = {each.aspect: each for each in kept(at)}
    assert set(records) == {"overall", "colours", "layout"}
    assert {records["overall"].verdict, records["colours"].verdict} == {"first", "second"}
    assert records["layout"].verdict == "tie"
    with pytest.raises(Refused, match="an aspect must be one of colours, layout"):
        at.booth.vote(trial(at).id, "ada", "left", {"taste": "left"})


def test_words_that_are_no_vote_are_refused_before_anything_is_written(at: desk.Desk) -> None:
    asked = trial(at)
    for said in ("first", "", "LEFT", None):
        with pytest.raises(Refused, match="the vote must be one of left, right, tie, both_bad"):
            at.booth.vote(asked.id, "ada", said)  # type: ignore[arg-type]
    with pytest.raises(Refused, match="not known"):
        at.booth.vote(asked.id, "eve", "left")
    with pytest.raises(Refused, match="no such picture"):
        at.booth.picture("../../etc/passwd")
    assert kept(at) == []


def test_a_restart_keeps_votes_and_who_has_seen_what(at: desk.Desk, pictures: Path) -> None:
    asked = trial(at)
    at.booth.vote(asked.id, "ada", "left")
    at.close()
    assert [path.name for path in at.votes.iterdir() if path.is_file()] == ["votes.parquet"]
    anew = opened(pictures)
    assert anew.booth.progress("ada")["mine"] == 1
    rest = set()
    while (found := anew.booth.next("ada")) is not None:
        rest.add(found.spot)
        anew.booth.vote(found.id, "ada", "tie")
    assert asked.spot not in rest
    anew.close()


def test_what_would_tell_most_is_asked_next(at: desk.Desk) -> None:
    """Three models, two of which have met often: the third is shown until it has caught up."""
    base, shaken = at.pool.artists
    third = pool.Artist("third", base.source, Settings(steps=3, guidance=1.0))
    at.pool.artists.append(third)
    at.pool.want(list({spot for _, spot in at.pool.cells}), [third])
    drawn(at)
    for number in range(12):
        seen = Preference("p", (f"{number}", "x"), verdict="tie", models=(base.id, shaken.id), seeds=(9, 9), user="bo")
        at.booth.tally.add(seen)
    assert third in trial(at).pair


def test_some_trials_are_on_what_others_saw_so_that_agreement_can_be_measured(at: desk.Desk) -> None:
    at.booth.overlap = 1.0
    first = trial(at)
    at.booth.vote(first.id, "ada", "left")
    assert trial(at, "bo").spot == first.spot
    at.booth.overlap = 0.0
    assert trial(at, "cleo").spot != first.spot


def test_training_reads_the_folder_of_votes_as_it_is(at: desk.Desk) -> None:
    for _ in range(3):
        at.booth.vote(trial(at).id, "ada", "left")
    records = sources.open_source(at.votes)
    root = sources.root(at.votes)
    assert len(records) == 3
    assert all(media.fetch(item, root).startswith(b"\x89PNG") for record in records for item in record.items)
