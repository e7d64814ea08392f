"""What stands behind the pages: the board, the marks of scorers, the pool, answers, runs, exports and the recipe."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from compared import EVIL, PROMPTS, Broken, drawn, setup, until
from PIL import Image

from visalign import config
from visalign.apps import answers, board, desk, marks, pool, runs, taste
from visalign.apps.safety import Refused
from visalign.data import media, sources, store
from visalign.evaluation import arena
from visalign.records import Preference
from visalign.scoring import Sample, Scores


class Counting:
    """The mean of a picture; counts what it is asked, and cannot judge crosses."""

    name = "counting"

    def __init__(self) -> None:
        self.asked = 0

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Brightness."""
        self.asked += len(samples)
        valid = torch.tensor(["cross" not in each.prompt for each in samples])
        values = torch.tensor([float(np.asarray(each.image).mean()) for each in samples])
        return Scores(torch.where(valid, values, torch.nan), valid=valid)


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[desk.Desk]:
    given = setup(tmp_path_factory.mktemp("pages") / "session", scorers=[Counting(), Broken()])
    made = desk.Desk(given)
    made.start()
    yield drawn(made)
    made.close()


def cast(at: desk.Desk, rater: str, words: Sequence[str]) -> None:
    """Votes of a rater, by side."""
    for said in words:
        asked = at.booth.next(rater)
        assert asked is not None
        at.booth.vote(asked.id, rater, said)


def test_pictures_are_the_same_from_the_same_noise_and_are_kept(at: desk.Desk) -> None:
    """A second desk on the folder draws nothing: names of files are hashes of what made the pictures."""
    spot = pool.Spot(PROMPTS[0], 0)
    proofs = [artist.proof(spot) for artist in at.pool.artists]
    assert proofs[0]["noise"] == proofs[1]["noise"] and proofs[0]["weights"] != proofs[1]["weights"]
    assert proofs[0]["noise"] != at.pool.artists[0].proof(pool.Spot(PROMPTS[0], 1))["noise"]
    keys = [at.pool.cell(artist, spot).key for artist in at.pool.artists]
    stored = {key: at.pool.path(key).read_bytes() for key in keys}
    assert np.asarray(Image.open(at.pool.path(keys[0]))).shape == (32, 32, 3)
    again = desk.Desk(replace(at.setup, scorers=[counting := Counting()]))
    for artist, loaded in zip(again.pool.artists, at.pool.artists, strict=True):
        artist.drawer = loaded.drawer
        artist.draw = None  # type: ignore[method-assign, assignment]
    again.start()
    drawn(again).close()
    assert again.pool.progress()["failed"] == 0
    assert {key: again.pool.path(key).read_bytes() for key in keys} == stored
    assert counting.asked == 0


def test_other_settings_are_other_pictures(at: desk.Desk) -> None:
    spot, artist = pool.Spot(PROMPTS[0], 0), at.pool.artists[0]
    slower = pool.Artist("base", artist.source, replace(artist.settings, steps=3))
    assert slower.key(spot) != artist.key(spot)
    assert pool.Artist("another name", artist.source, artist.settings).key(spot) == artist.key(spot)


def test_an_error_of_a_model_is_told_in_its_cell_and_the_queue_goes_on(at: desk.Desk) -> None:
    artist = at.pool.artists[1]
    real, artist.draw = artist.draw, lambda spots: (_ for _ in ()).throw(RuntimeError(EVIL))  # type: ignore[method-assign]
    text = at.ask("a prompt that fails")
    until(lambda: not at.pool.progress()["waiting"])
    artist.draw = real  # type: ignore[method-assign]
    states = [cell["state"] for cell in at.row(text)["seeds"][0]["cells"]]
    assert states == ["ready", "failed"]
    assert EVIL in at.row(text)["seeds"][0]["cells"][1]["why"]
    at.ask("a prompt that fails")
    until(lambda: not at.pool.progress()["waiting"])
    assert [cell["state"] for cell in at.row(text)["seeds"][0]["cells"]] == ["ready", "ready"]


def test_marks_say_values_silence_and_errors(at: desk.Desk) -> None:
    def mark(prompt: str) -> dict[str, marks.Mark]:
        return at.marks.of(at.pool.cell(at.pool.artists[0], pool.Spot(prompt, 0)).key)

    found = mark(PROMPTS[0])["counting"]
    assert found.value is not None and 0 < found.value < 255
    assert mark("a pink cross")["counting"] == marks.Mark()
    assert mark(PROMPTS[0])["broken"].why == f"ValueError: {EVIL}"
    file = at.folder / marks.FOLDER / "counting.jsonl"
    with file.open("a") as opened:
        opened.write('{"key": "cut o')
    assert marks.Marks(at.folder, [Counting()]).of("cut o") == {}
    assert not (at.folder / marks.FOLDER / "broken.jsonl").read_text()


def test_the_board_is_what_the_statistics_say(at: desk.Desk) -> None:
    cast(at, "ada", ["left", "right", "tie", "both_bad", "left"])
    cast(at, "bo", ["right", "left"])
    found, votes = at.board(), at.booth.votes()
    ids = [artist.id for artist in at.pool.artists]
    bouts = arena.Bouts.of(votes, ids)
    assert (found["votes"], found["verdicts"]) == (7, {"tie": 1, "both_bad": 1})
    rows = {row["id"]: row for row in found["models"]}
    for name in ids:
        assert rows[name]["rating"] == arena.ratings(bouts, resamples=board.RESAMPLES)[name].json()
        assert rows[name]["win_rate"] == arena.win_rates(bouts)[name].json()
    points = [row["rating"]["value"] for row in found["models"]]
    assert points == sorted(points, reverse=True)
    assert found["raters"] == [{"name": "ada", "votes": 5}, {"name": "bo", "votes": 2}]
    assert found["left"]["count"] == 5
    assert [each["scorer"] for each in found["scorers_agree"]] == ["counting", "broken"]
    assert found["scorers_agree"][1] == {"scorer": "broken", "share": None, "silent": 7}
    assert at.board(rater="bo")["votes"] == 2
    assert at.board(aspect="nothing")["votes"] == 0
    assert at.board(aspect="nothing")["models"][0]["rating"] is None
    gone = [Preference("p", ("a", "b"), verdict="first", models=("base@0", "gone@1"), user="x")]
    assert board.board([*votes, *gone], ids, {})["others"] == 1


def pixels(item: str, root: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(media.fetch(item, root)))).astype(int)


def test_votes_are_taken_away_in_three_forms_that_read_back(at: desk.Desk, tmp_path: Path) -> None:
    cast(at, "cleo", ["left", "both_bad"])
    votes = {each.key: each for each in at.booth.votes()}
    for kind in ("parquet", "jsonl"):
        with zipfile.ZipFile(at.exported(kind)) as file:
            assert set(file.namelist()) == {f"records.{kind}", "pictures.parquet"}
            file.extractall(tmp_path / kind)
        for record in sources.open_source(tmp_path / kind / f"records.{kind}"):
            mine = votes[record.key]
            assert replace(record, items=mine.items) == mine
            for item, own in zip(record.items, mine.items, strict=True):
                assert np.array_equal(pixels(item, tmp_path / kind), pixels(own, at.votes))
    rows = sources.open_source(at.exported("pickapic"))
    assert len(rows) == len(votes)
    for row, mine in zip(rows, votes.values(), strict=True):
        expected = {"first": [1.0, 0.0], "second": [0.0, 1.0], "tie": [0.5, 0.5]}.get(str(mine.verdict))
        assert (row.utilities.tolist() if expected else np.isnan(row.scores).all()) == (expected or True)
        assert (row.prompt, row.user, row.models) == (mine.prompt, mine.user, mine.models)
        near = pixels(row.items[0], at.folder / "exports") - pixels(mine.items[0], at.votes)
        assert np.abs(near).mean() < 6  # JPEG
    with pytest.raises(Refused, match="an export must be one of parquet, jsonl, pickapic"):
        at.exported("pickle")


def test_a_taste_is_read_from_votes_and_ranks_by_it(at: desk.Desk) -> None:
    """One rater votes for the darker picture, one for the brighter: each one's ranking is by their own taste."""
    for prompt in PROMPTS[:4]:
        at.ask(prompt, 6)
    drawn(at)
    with pytest.raises(Refused, match="start the app with --taste"):
        at.taste("dark")
    object.__setattr__(at.setup, "taste", taste.Taste("checker"))
    with pytest.raises(Refused, match="8 decided votes or more; nobody has 0"):
        at.taste("nobody")
    for rater, sign in (("dark", -1), ("bright", 1)):
        while (asked := at.booth.next(rater)) is not None:
            left, right = (sign * shade(at.booth.picture(name)) for name in asked.blind)
            at.booth.vote(asked.id, rater, "left" if left > right else "right")
    dark, bright = at.taste("dark"), at.taste("bright")
    assert 20 <= dark["votes"] <= at.booth.progress("dark")["mine"]  # not those on prompts that cannot be read
    assert dark["checked"]["count"] == -(-dark["votes"] // taste.KEPT_BACK)
    shades = [np.mean([shade(at.pool.path(each["key"])) for each in one["pictures"]]) for one in (dark, bright)]
    assert shades[0] < shades[1]
    assert {"value", "prompt", "model", "seed", "key"} == set(dark["pictures"][0])
    for rater in ("dark", "bright"):
        ranked = at.taste(rater)["models"]
        assert ranked == sorted(ranked, key=lambda row: -row["mean"])


def shade(path: Path) -> float:
    """How bright a picture is."""
    return float(np.asarray(Image.open(path)).mean())


def test_prompts_that_users_asked_for_are_there_after_a_restart(at: desk.Desk) -> None:
    at.ask("two blue rings", 3)
    drawn(at)
    again = desk.Desk(at.setup)
    assert again.prompts[0] == "two blue rings"
    assert [line["seed"] for line in again.row("two blue rings")["seeds"]] == [0, 1, 2]
    again.booth.journal.close()


def test_the_recipe_is_a_run_on_the_votes_as_they_are(at: desk.Desk) -> None:
    cast(at, "dora", ["left"])
    made = at.recipe()
    assert made["command"] == f"visalign train {at.folder / 'train.yaml'}"
    run = config.load(made["path"])
    assert (run.model.folder, run.out) == ("playground", at.folder / "trained")
    records = store.read(run.data.path)
    assert [each.verdict for each in records] == [each.verdict for each in at.booth.votes()]
    assert all(media.fetch(item, Path("/nowhere")) for each in records for item in each.items)
    assert at.trained() == ""
    with pytest.raises(Refused, match="run the recipe's command first"):
        at.admit()


@pytest.mark.parametrize(
    ("text", "names", "found"),
    [
        ("Two dogs and a cat.", ["dog"], ["dogs"]),
        ("A hotdog, a DOG.", ["dog"], ["DOG"]),
        ("boxes of berries", ["box", "berry"], ["boxes", "berries"]),
        ("a traffic light, a light", ["light", "traffic light"], ["traffic light", "light"]),
        ("grass and a glass", ["glass"], ["glass"]),
        ("nothing (a+b)*", ["(a+b)*"], ["(a+b)*"]),
        ("nothing", [], []),
    ],
)
def test_names_are_marked_as_whole_words_alone_or_as_plurals(text: str, names: list[str], found: list[str]) -> None:
    pieces = answers.marked(text, names)
    assert "".join(piece["text"] for piece in pieces) == text
    assert [piece["text"] for piece in pieces if piece["marked"]] == found


def test_an_object_that_only_other_images_show_is_a_hallucination(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "question": "q", "model": "m", "answer": "a dog and a cat", "objects": ["cat"]},
        {"image": "a.png", "question": "q", "model": "n", "answer": "a cat"},
        {"image": "b.png", "question": "q", "answers": {"m": "dogs"}, "objects": ["dog"]},
        {"image": "c.png", "question": "q", "answers": {"m": "a dog"}},
        {"image": "d.png", "question": "q", "model": "m", "answer": "a red dog", "hallucinated": ["red dog"]},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = answers.Answers(tmp_path / "a.jsonl")
    assert len(read.questions) == 4
    shown = [read.shown(number)["answers"] for number in range(4)]
    said = [{each["model"]: (each["judged"], each["hallucinated"]) for each in row} for row in shown]
    assert said[0] == {"m": (True, ["dog"]), "n": (True, [])}
    assert said[1:] == [{"m": (True, [])}, {"m": (False, [])}, {"m": (True, ["red dog"])}]


def test_curves_are_thinned_to_means_and_end_where_the_run_ends() -> None:
    rows = [{"step": step, "loss": float(step), "loss_hex": "0x0", "gap": None} for step in range(1, 1002)]
    thin = runs.thinned(rows, most=100)
    assert len(thin) <= 100 and thin[-1]["step"] == 1001
    assert thin[0] == {"step": 11, "loss": 6.0}
    assert runs.thinned(rows[:5]) == [{"step": row["step"], "loss": row["loss"]} for row in rows[:5]]
    assert runs.thinned([]) == []


def test_runs_show_what_is_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    for name in ("step-000010.png", "other.png", "step-1.png.html"):
        (tmp_path / "validation" / name).write_bytes(b"x")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    found = runs.Runs({"run": tmp_path})
    shown = found.shown("run")
    assert (shown["step"], shown["done"], shown["sheets"]) == (1, False, ["step-000010.png"])
    assert found.shown("run", after=1)["rows"] == []
    for name, file in (("run", "other.png"), ("run", "../metrics.jsonl"), ("x", "step-000010.png")):
        with pytest.raises(Refused):
            found.sheet(name, file)
    assert runs.Runs({}).listed() == []
