"""The report on a judge finds leanings of a known size that were put into it, and none that were not."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visalign import rulings
from visalign.cli import judge as command
from visalign.cli import main
from visalign.data import store
from visalign.evaluation import bias, odds
from visalign.evaluation.ruled import Pair
from visalign.playground import corpus, flawed
from visalign.records import DataError, Preference
from visalign.rulings import PairJudge, Ruling
from visalign.scorers import Rules
from visalign.scoring import Sample

PROMPTS, ITEMS = 60, 4


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def world(seed: int = 0) -> Iterator[tuple[str, tuple[str, str], float, tuple[float, float], tuple[str, str]]]:
    """Every pair of every prompt: what it is, how much better the first is in log-odds, sizes, models."""
    rng = np.random.default_rng(seed)
    for prompt in range(PROMPTS):
        worth, sizes = rng.normal(size=ITEMS), np.exp2(rng.normal(size=ITEMS)) * 1000
        for i in range(ITEMS):
            for j in range(i):
                models = (f"model {i % 2}", f"model {j % 2}")
                yield f"p{prompt}", (f"i{i}", f"i{j}"), worth[i] - worth[j], (sizes[i], sizes[j]), models


def ruled(place: float = 0.0, size: float = 0.0, own: float = 0.0, lapse: float = 0.0) -> list[Ruling]:
    """A judge's chances in both orders: quality, and what it leans to, in log-odds; `lapse` it only sees the place."""
    made = []
    for prompt, items, gap, sizes, models in world():
        for shown in (0, 1):
            family = (models[0] == "model 1") - (models[1] == "model 1")
            lean = place * (1 - 2 * shown) + size * math.log2(sizes[0] / sizes[1]) + own * family
            chance = lapse * (1 - shown) + (1 - lapse) * sigmoid(gap + lean)
            made.append(Ruling(prompt, items, chance, shown, sizes=sizes, models=models))
    return made


def truth() -> dict[Pair, float]:
    records = [
        Preference(prompt, items, np.array([[sigmoid(gap)], [1 - sigmoid(gap)]]), scale="probability")
        for prompt, items, gap, *_ in world()
    ]
    return bias.trusted(records)


def drawn(rulings: Iterable[Ruling], seed: int = 0, repeats: int = 1) -> list[Ruling]:
    """Verdicts of 0 or 1 by those chances."""
    rng = np.random.default_rng(seed)
    kept = list(rulings)
    return [
        replace(each, chance=float(rng.random() < each.chance), repeat=repeat)
        for repeat in range(repeats)
        for each in kept
    ]


def measured(report: bias.Report, name: str) -> float:
    found = report[name].measured
    assert found is not None
    return found.value


def covers(report: bias.Report, name: str, value: float) -> bool:
    found = report[name].measured
    return found is not None and found.low <= value <= found.high


@pytest.mark.parametrize("lapse", [0.0, 0.2, 0.6])
def test_a_judge_that_only_sees_the_place_this_often_favours_it_by_half_of_that(lapse: float) -> None:
    """Both orders of each pair: quality cancels exactly, and the first place wins 1/2 + lapse / 2."""
    assert measured(bias.examine(ruled(lapse=lapse)), "position") == pytest.approx(0.5 + lapse / 2, abs=1e-12)


def test_a_lean_to_the_place_is_found_in_verdicts_and_said() -> None:
    report = bias.examine(drawn(ruled(lapse=0.3)))
    assert covers(report, "position", 0.65)
    assert "leans to the first place" in report["position"].words
    other = bias.examine(drawn(ruled(place=-1.0)))
    assert "leans to the second place" in other["position"].words


def test_a_fair_judge_is_called_fair() -> None:
    report = bias.examine(drawn(ruled()), own={"model 1"}, trusted=truth())
    for name, value in [("position", 0.5), ("position_odds", 0.0), ("size_odds", 0.0), ("self_odds", 0.0)]:
        assert covers(report, name, value), name
    assert "no lean to be seen" in report["position"].words and "may be chance" in report["size_odds"].words


@pytest.mark.parametrize(("place", "size", "own"), [(0.7, 0.0, 0.0), (0.0, 0.5, 0.0), (0.3, -0.4, 0.6)])
def test_leanings_of_known_size_are_measured_one_beside_the_other(place: float, size: float, own: float) -> None:
    """Chances told in full beside the true odds: the coefficients themselves, but for the ridge and CERTAIN."""
    report = bias.examine(ruled(place, size, own), own={"model 1"}, trusted=truth())
    assert measured(report, "position_odds") == pytest.approx(place, abs=0.03)
    assert measured(report, "size_odds") == pytest.approx(size, abs=0.03)
    assert measured(report, "self_odds") == pytest.approx(own, abs=0.03)


def test_intervals_cover_leanings_of_known_size_as_often_as_they_say() -> None:
    """Of 24 intervals of 95 %, eight draws of three leanings, 22.8 are to cover; fewer than 20 is one in a hundred."""
    known = {"position_odds": 0.5, "size_odds": 0.4, "self_odds": 0.6}
    chances, really = ruled(*known.values()), truth()
    reports = [bias.examine(drawn(chances, seed), own={"model 1"}, trusted=really) for seed in range(8)]
    assert sum(covers(each, name, value) for each in reports for name, value in known.items()) >= 20
    assert not any(covers(each, name, 0.0) for each in reports for name in known)
    assert "beside what trusted votes say" in reports[0]["size_odds"].words


def test_votes_and_rankings_are_trusted_as_verdicts_are() -> None:
    """Of counts the share, of a ranking every two items; verdicts both bad say nothing."""
    votes = Preference("p", ("b", "a"), np.array([1.0, 3.0]), scale="votes")
    ranking = Preference("q", ("x", "y", "z"), np.array([-1.0, -2.0, -2.0]))
    bad = Preference("r", ("a", "b"), verdict="both_bad")
    assert bias.trusted([votes, ranking, bad]) == {
        ("p", ("a", "b"), "overall"): 0.75,
        ("q", ("x", "y"), "overall"): 1.0,
        ("q", ("x", "z"), "overall"): 1.0,
        ("q", ("y", "z"), "overall"): 0.5,
    }


def test_votes_on_other_pairs_are_not_passed_over_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [Ruling("p", ("a", "b"), 0.7, shown) for shown in (0, 1)]
    rulings.write(made, tmp_path / "x.rulings")
    for items, code, says in ((("c", "d"), 2, "says nothing of the pairs"), (("b", "a"), 0, "2 of 2 rulings are on")):
        store.write([Preference("p", items, verdict="first")], tmp_path / "people.jsonl")
        asked = ["judge", "bias", str(tmp_path / "x.rulings"), "--against", str(tmp_path / "people.jsonl")]
        assert main([*asked, "--out", str(tmp_path / "new" / "bias.json")]) == code
        captured = capsys.readouterr()
        assert says in captured.out + captured.err
    assert json.loads((tmp_path / "new" / "bias.json").read_text())["rulings"] == 2
    store.write([Preference("p", ("a", "b"))], tmp_path / "x.parquet")
    assert main(["judge", "bias", str(tmp_path / "x.parquet")]) == 2
    assert "x.parquet:1: " in capsys.readouterr().err


def test_without_trusted_votes_the_report_says_what_is_mixed() -> None:
    assert "mixed with quality" in bias.examine(ruled(size=0.4))["size_odds"].words


def test_the_order_of_a_pairs_items_does_not_matter() -> None:
    turned = [
        replace(
            each, items=each.items[::-1], chance=1 - each.chance, shown_first=1 - each.shown_first,
            sizes=each.sizes and each.sizes[::-1], models=each.models and each.models[::-1],
        )
        for each in ruled(0.3, 0.2)
    ]  # fmt: skip
    mixed = [a if i % 3 else b for i, (a, b) in enumerate(zip(ruled(0.3, 0.2), turned, strict=True))]
    one, other = bias.examine(ruled(0.3, 0.2)), bias.examine(mixed)
    for name in ("position", "position_odds", "size_odds", "consistency", "cycles"):
        assert measured(one, name) == pytest.approx(measured(other, name), abs=1e-9)


def test_consistency_is_the_share_of_pairs_with_one_winner_in_both_orders() -> None:
    assert measured(bias.examine(ruled()), "consistency") == 1.0
    always = [replace(each, chance=1.0 - each.shown_first) for each in ruled()]
    assert measured(bias.examine(always), "consistency") == 0.0
    assert measured(bias.examine(always), "position") == 1.0


def test_a_coin_goes_round_in_a_ring_a_quarter_of_the_time_and_a_scale_never() -> None:
    assert measured(bias.examine(ruled()), "cycles") == 0.0
    rng = np.random.default_rng(1)
    coin = [replace(each, chance=float(rng.random() < 0.5)) for each in ruled() if each.shown_first == 0]
    assert covers(bias.examine(coin), "cycles", 0.25)


def test_a_ring_is_a_ring() -> None:
    beats = [("a", "b", 1.0), ("b", "c", 1.0), ("c", "a", 1.0), ("a", "d", 1.0), ("b", "d", 1.0), ("c", "d", 0.5)]
    report = bias.examine([Ruling("p", (one, other), chance) for one, other, chance in beats])
    assert measured(report, "cycles") == 0.5  # abc is one, abd is none; a tie leaves the others out


def test_a_question_asked_again_agrees_with_itself_by_the_chances() -> None:
    """Two verdicts drawn at p agree with p^2 + (1 - p)^2."""
    report = bias.examine(drawn(ruled(), repeats=2))
    expected = float(np.mean([each.chance**2 + (1 - each.chance) ** 2 for each in ruled()]))
    assert covers(report, "retest", expected)
    assert measured(bias.examine(ruled() + [replace(each, repeat=1) for each in ruled()]), "retest") == 1.0


def test_what_cannot_be_told_is_not_measured() -> None:
    single = [replace(each, sizes=None, models=None) for each in ruled() if each.shown_first == 0]
    report = bias.examine(single)
    for name in ("position", "position_odds", "consistency", "size_odds", "self_odds", "retest"):
        assert report[name].measured is None and report[name].words.startswith("not measured: "), name
    with pytest.raises(DataError, match="no rulings"):
        bias.examine([])


def test_invalid_rulings_are_counted_and_weigh_nothing() -> None:
    """A quarter could not be read; the rest gives the very numbers that it gives alone."""
    kept = ruled(0.3)
    broken = [replace(each, chance=math.nan, reason="?") if i % 4 == 0 else each for i, each in enumerate(kept)]
    report, alone = bias.examine(broken), bias.examine([each for each in broken if each.valid])
    assert measured(report, "invalid") == pytest.approx(0.25, abs=0.01)
    assert measured(report, "position") == measured(alone, "position")
    silent = bias.examine([replace(each, chance=math.nan) for each in kept])
    assert measured(silent, "invalid") == 1.0 and silent["position"].measured is None


def test_few_prompts_are_warned_of_and_the_report_is_json() -> None:
    report = bias.examine([each for each in ruled() if each.prompt in ("p0", "p1")])
    assert "only 2 prompts" in report["position"].words
    found = json.loads(report.text())
    assert found["prompts"] == 2 and found["findings"]["position"]["unbiased"] == 0.5
    assert [row[0] for row in report.rows()] == list(found["findings"])


def test_the_odds_of_verdicts_that_one_feature_tells_apart_stay_finite() -> None:
    found = odds.effects({"x": [1.0, -1.0] * 50}, [1.0, 0.0] * 50, list(range(100)), resamples=20)
    assert 4 < found["x"].value < 20
    assert odds.effects({"x": [0.0, 0.0]}, [1.0, 0.0], [0, 1]) == {}


# on the playground: the checker's opinion with a lean of known size, asked through the command's own path


@cache
def checked(sample: Sample) -> float:
    return float(Rules().score([sample]).values[0])


class Leaning:
    """Compares by the checker's score at a temperature, and leans: to the first place, and to large files."""

    name = "leaning"

    def __init__(self, place: float, size: float) -> None:
        self.place, self.size = place, size

    def rulings(self, first: Sequence[Sample], second: Sequence[Sample]) -> list[list[Ruling]]:
        return [list(self._both(*each)) for each in zip(first, second, strict=True)]

    def _both(self, first: Sample, second: Sample) -> Iterator[Ruling]:
        sizes = [len(each.image) for each in (first, second) if isinstance(each.image, bytes)]
        odd = (checked(first) - checked(second)) / 0.5 + self.size * math.log2(sizes[0] / sizes[1])
        for shown in (0, 1):
            said = sigmoid(odd + self.place * (1 - 2 * shown))
            yield Ruling(first.prompt, ("first", "second"), said, shown)

    def settled(self, ruled: Iterable[Ruling]) -> dict[str, float]:
        return {"overall": float(np.mean([each.chance for each in ruled]))}

    def close(self) -> None:
        """It holds nothing."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Preference]]:
    """40 prompts of the playground with 3 pictures each, right and wrong ones; every second file is padded."""
    folder, records = tmp_path_factory.mktemp("playground"), []
    for row, prompt in enumerate(dict.fromkeys(corpus.prompts("heldout", 40))):
        items = []
        for number in range(3):
            name = f"{row}-{number}.png"
            Image.fromarray(flawed.picture(prompt, 0, 3 * row + number)).save(folder / name)
            if (row + number) % 2:  # readers stop at a PNG's end
                (folder / name).write_bytes((folder / name).read_bytes() + b"\0" * 2000)
            items.append(name)
        records.append(Preference(prompt, tuple(items)))
    return folder, records


def rulings_of(judge: PairJudge, folder: Path, records: Sequence[Preference]) -> list[Ruling]:
    pairs = [(each, i, j) for each in records for i in range(3) for j in range(i)]
    return [each for ruled in command.ruled_on(judge, pairs, folder) for each in ruled]


@pytest.mark.parametrize(("place", "size"), [(0.0, 0.0), (0.8, 0.0), (0.0, 0.5), (0.6, -0.3)])
def test_leanings_put_into_a_playground_judge_are_found(
    shown: tuple[Path, list[Preference]], place: float, size: float
) -> None:
    folder, records = shown
    honest = [
        Preference(each.prompt, each.items, np.array([[each.chance], [1 - each.chance]]), scale="probability")
        for each in rulings_of(Leaning(0.0, 0.0), folder, records)
    ]
    found = rulings_of(Leaning(place, size), folder, records)
    report = bias.examine(found, trusted=bias.trusted(honest))
    assert measured(report, "position_odds") == pytest.approx(place, abs=0.05)
    assert measured(report, "size_odds") == pytest.approx(size, abs=0.05)
    verdicts = bias.examine(drawn(found), trusted=bias.trusted(honest))
    assert covers(verdicts, "position_odds", place) and covers(verdicts, "size_odds", size)


def test_both_orders_together_take_the_lean_out(shown: tuple[Path, list[Preference]]) -> None:
    """However strong it is, the mean over the orders has the honest judge's winner."""
    folder, records = shown
    honest, leaning = (
        np.reshape([each.chance for each in rulings_of(Leaning(place, 0.0), folder, records)], (-1, 2)).mean(1)
        for place in (0.0, 2.0)
    )
    clear = np.abs(honest - 0.5) > 1e-9
    assert clear.any() and (np.sign(honest - 0.5)[clear] == np.sign(leaning - 0.5)[clear]).all()
