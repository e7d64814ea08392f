"""Models' answers beside one another: paired differences, places of what is named, and the page that shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from visalign import cli
from visalign.data.questions import playground
from visalign.evaluation import pope
from visalign.evaluation.beside import Beside, Measure
from visalign.evaluation.chair import chair
from visalign.evaluation.exchanges import Exchange, Reply, pieces, side_by_side
from visalign.evaluation.objects import Objects, ours
from visalign.evaluation.report import Report
from visalign.evaluation.shares import Share
from visalign.evaluation.statistics import Grouped, gap, mean
from visalign.playground import seeing

OBJECTS = Objects.chair(ours())
HOSTILE = "<script>alert(1)</script> a dog & <img src=x onerror=alert(2)> \"cat'"


def grouped(*pairs: tuple[float, float]) -> Grouped:
    sums, counts = np.array(pairs, dtype=np.float64).T
    return Grouped(sums, counts)


# Differences


def test_a_gap_between_single_trials_is_the_mean_of_their_differences() -> None:
    first, second = [1.0, 0, 1, 1, 0, 1, 0, 0], [0.0, 0, 1, 0, 0, 1, 1, 0]
    found = gap(grouped(*((each, 1) for each in first)), grouped(*((each, 1) for each in second)))
    known = mean(np.array(first) - np.array(second), range(8))
    assert (found.value, found.low, found.high) == pytest.approx((known.value, known.low, known.high))


def test_a_gap_of_one_with_itself_is_nothing_and_a_constant_one_has_no_width() -> None:
    one = Share.over([(1, 3), (0, 2), (2, 2), (0, 0)])
    same = one.against(one)
    assert same is not None
    assert (same.value, same.low, same.high) == (0, 0, 0)
    worse, better = Share.over([(2, 4), (3, 4), (4, 4)]), Share.over([(1, 4), (2, 4), (3, 4)])
    paired = worse.against(better)
    assert paired is not None
    ends = [paired.value, paired.low, paired.high]
    assert ends == pytest.approx([0.25] * 3), "the same pictures are drawn for both"
    assert Share.over([(0, 0)]).against(one) is None, "nothing to count"
    with pytest.raises(ValueError, match="the same groups: got 4 and 3"):
        one.against(better)


def test_draws_in_which_nothing_is_counted_are_left_out() -> None:
    rare, common = Share.over([(1, 2), (0, 0), (0, 0)]), Share.over([(1, 2), (0, 2), (0, 2)])
    found = rare.against(common)
    assert found is not None
    assert np.isfinite([found.low, found.high]).all()
    assert found.value == pytest.approx(1 / 2 - 1 / 6)


def test_cog_is_the_share_of_temptations_that_are_named() -> None:
    said, there = [["dog", "cat"], ["cat"], []], [{"dog"}, {"cat"}, {"car"}]
    found = chair(said, there, [{"cat", "bird"}, set(), {"bus"}])
    assert found.cog is not None
    assert (found.cog.part, found.cog.whole) == (1, 3)
    assert chair(said, there).cog is None


@pytest.mark.parametrize("reader", ["pope", "lmms_eval"])
def test_f1_is_a_share_with_the_same_value(reader: pope.Reader) -> None:
    labels: Sequence[pope.Said] = ("yes", "no", "yes", "no", "yes", "no")
    asked = [pope.Question(str(n), str(n // 2), "", each) for n, each in enumerate(labels)]
    for answers in (["Yes", "Yes", "no", "no", "yes", "well"], ["no"] * 6, ["yes"] * 6):
        found = pope.pope(asked, answers, reader)
        assert found.balance.part / found.balance.whole == found.f1
        precise, recalled = found.precision.value, found.recall.value
        if found.f1:
            assert found.f1 == pytest.approx(2 * precise * recalled / (precise + recalled))
        assert len(found.precision.groups) == len(found.recall.groups) == 3, "pictures without a yes are groups too"


def test_measures_of_two_models_must_be_the_same() -> None:
    share = Share.over([(1, 2), (0, 2)])
    with pytest.raises(ValueError, match="a and b were not asked the same"):
        Beside({"a": [Measure("x", share)], "b": [Measure("y", share)]})
    other = Share.over([(2, 2), (2, 2)])
    beside = Beside({"a": [Measure("x", share, "lower"), Measure("n", "3")],
                     "b": [Measure("x", other, "lower"), Measure("n", "4")]})  # fmt: skip
    table = beside.table("t", "")
    assert [cell.tone for cell in table.cells()[0]] == ["", "", "", "bad"], "more is worse here"
    assert table.cells()[1][3].text == "—", "what is no share has no difference"
    assert beside.lead() == "x: a 25.0 %, b 100.0 %, +75.0 points [+50.0, +100.0]."
    assert [each.name for each in beside.figures()] == ["measures"]
    assert Beside({"a": [Measure("n", "3")], "b": [Measure("n", "4")]}).figures() == []


# Places


@pytest.mark.parametrize(
    "text",
    ["Two men eat HOT DOGS beside a bow tie.", "the seat of the toilet", "a hot, dog; buses/cars", "nothing", "",
     "İ dogs and a cat"],
)  # fmt: skip
def test_places_are_of_what_is_mentioned_and_hold_its_words(text: str) -> None:
    found = OBJECTS.places(text)
    assert [name for name, _, _ in found] == OBJECTS.mentioned(text)
    lower = text.lower()
    for name, first, behind in found:
        assert OBJECTS.mentioned(lower[first:behind]) == [name]


def test_tokens_that_do_not_stand_in_the_text_have_no_place() -> None:
    changed = Objects.chair(ours(), singular=lambda word: word, tokens=lambda text: ["``", "dog", "cat"])
    assert changed.places("a dog") == [("dog", 2, 5), ("cat", 0, 0)]


def test_the_playgrounds_places_hold_colour_and_shape() -> None:
    text = "a Red circle , two blue boxes and green crosses ."
    assert [(name, text[first:behind]) for name, first, behind in seeing.places(text)] == [
        ("red circle", "Red circle"), ("green cross", "green crosses")]  # fmt: skip
    assert [name for name, _, _ in seeing.places(text)] == list(seeing.mentioned(text))


def test_what_the_habit_would_add_is_never_shown() -> None:
    for number in range(50):
        look = seeing.look(0, number, "heldout")
        assert not seeing.expected(look) & look.shown
        colours = {name.split()[0] for name in look.objects}
        assert ("green square" in seeing.expected(look)) == ("red" in colours and "green square" not in look.shown)


def test_pieces_are_the_text_with_the_wrong_marked() -> None:
    text = "A Cat and a dog, cats"
    found = pieces(text, OBJECTS.places(text), {"cat"})
    assert found == (("A ", False), ("Cat", True), (" and a dog, ", False), ("cats", True))
    assert "".join(words for words, _ in found) == text
    assert pieces(text, [], {"cat"}) == ((text, False),)
    turkish = "İİ a cat"  # its lower case is longer, so that places would be off by two
    assert pieces(turkish, OBJECTS.places(turkish), {"cat"})[1] == ("cat", True)


# The page


def exchange(id: str, faults: int, text: str = "a", missing: tuple[str, ...] = ()) -> Exchange:
    return Exchange(id, "what ?", "There: a", (Reply("", ((text, False),), "", faults, missing),))


def test_what_changed_comes_first_and_the_worse_before_the_mended() -> None:
    base = [exchange("same", 1), exchange("words", 1), exchange("left out", 0), exchange("mended", 1),
            exchange("worse", 0), exchange("most", 2)]  # fmt: skip
    dpo = [exchange("same", 1), exchange("words", 1, "b"), exchange("left out", 0, "b", ("x",)), exchange("mended", 0),
           exchange("worse", 1), exchange("most", 0)]  # fmt: skip
    found = side_by_side({"base": base, "dpo": dpo})
    assert [each.id for each in found] == ["most", "worse", "mended", "left out", "words", "same"]
    assert [(reply.model, became, tone) for reply, became, tone in found[1].shown] == [
        ("base", "", ""), ("dpo", "worse", "bad")]  # fmt: skip
    assert found[2].shown[1][1:] == ("mended", "good")
    alone = side_by_side({"base": base})
    assert alone[0].id == "most", "one model's faults come first"


class Tags(HTMLParser):
    """The tags of a page, the text of it, and whether it has handlers of events."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.marked: list[str] = []
        self.handlers: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "mark":
            self.marked.append(data)
            self.tags.append("")


def test_hostile_words_are_words_wherever_they_stand() -> None:
    reply = Reply(HOSTILE, pieces(HOSTILE, OBJECTS.places(HOSTILE), {"cat"}), HOSTILE, 1, (HOSTILE,))
    one = Exchange(HOSTILE, HOSTILE, HOSTILE, (reply, reply))
    page = Report(HOSTILE, HOSTILE, {}, exchanges=[one], exchanges_note=HOSTILE).html()
    found = Tags(page)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert not found.handlers
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    assert found.marked == ["cat", "cat"]


# The commands


def told(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = cli.main([str(each) for each in ("evaluate", *words)])
    out = capsys.readouterr()
    return code, out.out + out.err


def lines(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def answers(path: Path, habit: bool, kind: str = "all", count: int = 12) -> Path:
    """What a perfect model says, or one with the habit, which expects its phantoms in probes too."""
    rows = []
    for id, turn in playground(f"playground:{kind}:{count}").items():
        phantoms = sorted(seeing.expected(turn.look)) if habit else []
        objects = [*turn.look.objects, *phantoms]
        asked = seeing.mentioned(turn.question)
        text = seeing.answer(asked[0] in objects) if asked else seeing.description(objects)
        rows.append({"question_id": id, "answer": text})
    return lines(path, rows)


def test_two_models_on_the_playground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, dpo = answers(tmp_path / "a.jsonl", habit=True), answers(tmp_path / "dpo.jsonl", habit=False)
    words = ("--bench", "playground", "--annotations", "playground:all:12", "--out", tmp_path / "out", "--cards", 12)
    code, text = told(capsys, *words, "--answers", f"base={base}", "--answers", dpo)
    assert code == 0, text
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    tempted = [seeing.expected(seeing.look(0, number, "heldout")) for number in range(12)]
    assert list(found["models"]) == ["base", "dpo"]
    assert found["models"]["base"]["chair"]["sentence"]["part"] == sum(map(bool, tempted))
    assert found["models"]["base"]["chair"]["cog"]["value"] == 1
    assert found["models"]["dpo"]["chair"]["instance"]["part"] == 0
    assert {kind: one["accuracy"]["value"] for kind, one in found["models"]["dpo"]["pope"].items()} == {
        "random": 1, "popular": 1, "adversarial": 1}  # fmt: skip
    assert found["models"]["dpo"]["pope"]["random"]["unread"] == 0, "the full stop is no part of an answer"
    gap = found["differences"]["dpo"]["CHAIR_s, of descriptions"]
    assert gap["value"] == pytest.approx(-sum(map(bool, tempted)) / 12)
    page = (tmp_path / "out" / "report.html").read_text()
    tags = Tags(page)
    assert set(tags.marked[:2]) <= set(seeing.PHANTOMS.values())
    assert tags.tags.count("article") == 12
    assert tags.tags.count("img") == 13, "a picture each and the figure"


def test_one_model_as_ever_and_chair_or_pope_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = answers(tmp_path / "a.jsonl", habit=True)
    words = ("--answers", file, "--out", tmp_path / "out")
    assert told(capsys, "--bench", "chair", "--annotations", "playground:heldout:12", *words)[0] == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["answers"] == str(file)
    assert found["recall"]["value"] == 1
    assert len(found["each"]) == 12
    assert told(capsys, "--bench", "pope", "--annotations", "playground:adversarial:12", *words)[0] == 0
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert found["accuracy"]["value"] < 1
    assert told(capsys, "--bench", "pope", "--annotations", "playground:all:12", *words)[0] == 0
    assert set(json.loads((tmp_path / "out" / "report.json").read_text())) > {"random", "popular", "adversarial"}


@pytest.mark.parametrize(
    ("bench", "spec", "says"),
    [
        ("playground", "playground:all:13", "has no answer for 1 of 13 ids: 'heldout/12'"),
        ("pope", "playground:all:13", "'random/"),
        ("chair", "playground:random:3", "has no questions of the kind describe"),
        ("pope", "playground:heldout:3", "has no questions of the kind random, popular, adversarial"),
        ("playground", "playground:heldout:3", "has no questions of the kind random"),
        ("playground", "instances.json", "needs --annotations playground:all:N, got instances.json"),
        ("chair", "playground:all:0", "is not playground:KIND:COUNT"),
        ("chair", "playground:val:3", "kinds are heldout, random, popular, adversarial, all"),
    ],
)
def test_what_cannot_be_is_one_line(
    bench: str, spec: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = answers(tmp_path / "a.jsonl", habit=True)
    code, text = told(capsys, "--bench", bench, "--answers", file, "--annotations", spec, "--out", tmp_path / "out")
    assert code == 2
    assert says in text.strip().splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_files_of_one_name_need_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b").mkdir()
    one, other = answers(tmp_path / "a.jsonl", habit=True, count=2), answers(tmp_path / "b" / "a.jsonl", False, count=2)
    words = ("--bench", "playground", "--annotations", "playground:all:2", "--out", tmp_path / "out")
    code, text = told(capsys, *words, "--answers", one, other)
    assert code == 2
    assert "two files of answers are called 'a': tell them apart by NAME=FILE" in text
    odd = answers(tmp_path / "run=3.jsonl", habit=True, count=2)
    assert told(capsys, *words, "--answers", odd, f"dpo={other}")[0] == 0, "a sign in a name of a file is no name"
    assert list(json.loads((tmp_path / "out" / "report.json").read_text())["models"]) == ["run=3", "dpo"]


def coco(folder: Path) -> tuple[Path, Path]:
    rows = [{"image_id": 1, "category_id": 18}, {"image_id": 42, "category_id": 6}]
    names = [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}]
    texts = [{"image_id": 1, "caption": "A dog."}, {"image_id": 42, "caption": "A bus."}]
    instances, captions = folder / "instances.json", folder / "captions.json"
    instances.write_text(json.dumps({"categories": names, "annotations": rows}))
    captions.write_text(json.dumps({"annotations": texts}))
    return instances, captions


def test_captions_of_two_models_with_pictures_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = lines(tmp_path / "base.jsonl", [{"image_id": 42, "caption": "A bus and a dog."},
                                           {"image_id": 1, "caption": f"{HOSTILE} and a bus"}])  # fmt: skip
    dpo = lines(tmp_path / "dpo.jsonl", [{"image_id": 1, "caption": "A dog."}, {"image_id": 42, "caption": "A road."}])
    pictures = tmp_path / "val2014"
    pictures.mkdir()
    Image.new("RGB", (400, 300), "red").save(pictures / "COCO_val2014_000000000001.jpg")
    words = ("--bench", "chair", "--answers", base, dpo, "--annotations", *coco(tmp_path), "--out", tmp_path / "out")
    code, text = told(capsys, *words, "--images", pictures)
    assert code == 2
    assert "has no picture of the name or number 42" in text
    Image.new("RGB", (400, 300), "blue").save(pictures / "COCO_val2014_000000000042.jpg")
    assert told(capsys, *words, "--images", pictures)[0] == 0
    tags = Tags(page := (tmp_path / "out" / "report.html").read_text())
    assert page.count("data:image/jpeg;base64") == 2
    assert "script" not in tags.tags
    assert set(tags.marked) == {"cat", "bus", "dog"}
    assert "leaves out: bus" in page
    found = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [each["id"] for each in found["models"]["base"]["each"]] == ["1", "42"], "in one order, whatever the files'"
    assert told(capsys, *words, "--images", tmp_path / "none")[0] == 2
    lines(dpo, [{"image_id": 1, "caption": "A dog."}])
    code, text = told(capsys, *words)
    assert code == 2
    assert "dpo.jsonl has no answer for 1 ids that base.jsonl answers: '42'" in text


def test_many_models_stand_below_one_another() -> None:
    """Side by side they would not fit: a row a measure and model, the measure named once."""
    names = ("base", "a", "b", "c")
    shares = [Share.over([(int(row < most), 1) for row in range(8)]) for most in (4, 1, 2, 6)]
    found = Beside({name: [Measure("wrong", share, "lower")] for name, share in zip(names, shares, strict=True)})
    table = found.table("T", "")
    assert list(table.header) == ["measure", "model", "value", "less base's"]
    rows = [[cell.text for cell in row] for row in table.cells()]
    assert [row[:2] for row in rows] == [["wrong", "base"], ["", "a"], ["", "b"], ["", "c"]]
    assert [row[3][:6] for row in rows] == ["", "-0.375", "-0.250", "+0.250"]
    assert found.title() == "3 models against base"
    assert found.lead() == "wrong: base 50.0 %, a 12.5 %, b 25.0 %, c 75.0 %."
