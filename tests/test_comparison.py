"""Models on the same prompts and seeds: who is preferred, what is right, whether pictures drifted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from visalign.evaluation import comparison
from visalign.scorers import Redrawing, Rules, Taste
from visalign.scoring import Sample, Scores

PROMPTS = ["a red circle", "a red circle", "a blue square", "two green rings"]


@dataclass
class Brightness:
    """Judges by the mean of all channels; a picture is right above one half. It cannot judge black."""

    name = "brightness"

    def score(self, samples: Sequence[Sample]) -> Scores:
        values = torch.tensor([np.asarray(each.image).mean() / 255 for each in samples], dtype=torch.float64)
        known = values > 0
        values = torch.where(known, values, torch.nan)
        return Scores(values, {"light": values}, valid=known, right=values > 0.5)


def grey(*levels: int) -> np.ndarray:
    return np.stack([np.full((32, 32, 3), level, np.uint8) for level in levels])


def test_wins_gains_and_shares_are_those_of_the_pairs() -> None:
    found = comparison.judge(Brightness(), PROMPTS, {"base": grey(100, 100, 200, 200), "new": grey(200, 90, 200, 250)})
    base, new = found.standings["base"], found.standings["new"]
    assert (base.win, base.gain) == (None, None)
    assert new.win is not None and new.gain is not None and new.right is not None
    assert new.win.value == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    assert new.gain.value == pytest.approx(1 / 4)
    assert new.right.value == pytest.approx(3 / 4)
    assert (new.win.count, new.win.groups) == (4, 3)
    assert set(new.aspects) == {"light"}


def test_a_model_against_itself_is_a_draw() -> None:
    drawn = grey(10, 20, 30, 40)
    found = comparison.judge(Brightness(), PROMPTS, {"base": drawn, "copy": drawn})
    win = found.standings["copy"].win
    assert win is not None
    assert (win.value, win.low, win.high) == (0.5, 0.5, 0.5)


def test_what_one_model_left_unjudged_counts_for_none() -> None:
    found = comparison.judge(Brightness(), PROMPTS, {"base": grey(100, 100, 200, 200), "new": grey(0, 90, 210, 250)})
    assert (found.judged, found.asked) == (3, 4)
    assert found.standings["base"].value.count == 3
    assert "1 could not be judged" in comparison.standings_table(found).note
    with pytest.raises(comparison.CannotJudge, match="could judge none of 4"):
        comparison.judge(Brightness(), PROMPTS, {"base": grey(0, 0, 0, 0), "new": grey(1, 1, 1, 1)})


@dataclass
class Flicker:
    """Judges clips by how much they change from the first frame to the last."""

    name = "flicker"

    def score(self, samples: Sequence[Sample]) -> Scores:
        clips = []
        for each in samples:
            assert isinstance(each.video, tuple)
            clips.append(np.stack([np.asarray(frame) for frame in each.video]).astype(float))
        return Scores(torch.tensor([np.abs(clip[-1] - clip[0]).mean() for clip in clips]))


def test_clips_are_compared_as_pictures_are() -> None:
    still = np.stack([grey(90, 90, 90)] * 4)
    moving = np.stack([grey(0, 90, 180)] * 4)
    found = comparison.Comparison.of(PROMPTS, {"base": moving, "new": still}, [Flicker()])
    assert found.first.standings["new"].win.value == 0.0  # type: ignore[union-attr]
    assert [each.name for each in found.drifts["new"] if not each.holds][-1] == "motion"
    assert b"data:image/png" in found.report("clips", settings={}).html().encode()


def test_one_model_or_ragged_pictures_are_no_comparison() -> None:
    with pytest.raises(comparison.CannotJudge, match="needs two models"):
        comparison.judge(Brightness(), PROMPTS, {"base": grey(1, 2, 3, 4)})
    with pytest.raises(comparison.CannotJudge, match=r"4 prompts, \{'base': 4, 'new': 1\}"):
        comparison.judge(Brightness(), PROMPTS, {"base": grey(1, 2, 3, 4), "new": grey(1)})


def test_tables_say_in_color_who_is_surely_better() -> None:
    drawn = {"base": grey(*range(50, 90)), "new": grey(*range(150, 190)), "worse": grey(*range(10, 50))}
    prompts = [f"prompt {number}" for number in range(40)]
    found = comparison.Comparison.of(prompts, drawn, [Brightness()])
    cells = {row[0].text: row[-1] for row in found.tables()[0].cells()}
    assert (cells["base"].text, cells["new"].tone, cells["worse"].tone) == ("—", "good", "bad")
    assert found.lead().startswith("new is preferred to base in 100.0% of the pairs")
    assert {each.name for each in found.drifts["new"] if not each.holds} >= {"brightness"}
    told = found.numbers()["judges"]["brightness"]["new"]
    assert told["win_rate"]["value"] == 1.0
    assert told["win_rate"]["method"] == "Wilson"


def test_cards_show_the_first_prompts_and_what_the_judge_said() -> None:
    found = comparison.Comparison.of(PROMPTS, {"base": grey(9, 90, 200, 20), "new": grey(200, 9, 9, 9)}, [Brightness()])
    first, *_ = comparison.cards(PROMPTS, found.drawn, found.first, 2)
    assert first.prompt == "a red circle"
    assert [(shot.model, shot.tone) for shot in first.shots] == [("base", "bad"), ("new", "good")]


@pytest.mark.parametrize("scorer", [Rules(), Taste(), Redrawing()])
def test_the_playground_s_judges_know_right_from_wrong_and_what_they_cannot_read(
    scorer: Rules | Taste | Redrawing,
) -> None:
    from visalign.cli.playground import rendered

    prompts = ["a red circle left of a blue square", "a green ring"]
    true = comparison.samples(prompts, rendered(prompts))
    swapped = [Sample(prompts[1], image=true[0].image), Sample(prompts[0], image=true[1].image)]
    foreign = [Sample("an oil painting", image=true[0].image), Sample(prompts[0])]
    found = scorer.score([*true, *swapped, *foreign])
    assert found.judged.tolist() == [True] * 4 + [False] * 2
    assert found.right is not None and found.right.tolist() == [True] * 2 + [False] * 4
    assert bool((found.values[:2] > 0.9).all()) and bool((found.values[2:4] < 0.6).all())
    assert torch.equal(scorer.score(true[:1]).values, found.values[:1])  # a batch is its singletons
