"""The playground's judges, on pictures that went through the shipped autoencoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rendered import CHANGES, COUNT, changed_captions, rendered, through_vae

from visalign.playground import captions, checker, corpus, second_judge


def test_true_pictures_score_above_95_hundredths_after_the_autoencoder() -> None:
    scenes, pictures = rendered()
    overall = checker.scores(pictures, [captions.caption(each) for each in scenes])["overall"]
    assert (overall > 0.95).mean() >= 0.99


@pytest.mark.parametrize("kind", CHANGES)
def test_captions_with_one_attribute_changed_score_below_60_hundredths(kind: str) -> None:
    asked = changed_captions(kind, COUNT)
    pictures = rendered()[1]
    overall = checker.scores([pictures[index] for index, _ in asked], [text for _, text in asked])["overall"]
    assert (overall < 0.6).mean() >= 0.99


def test_exchanged_colours_are_seen() -> None:
    scenes, pictures = rendered()
    asked = []
    for index, scene in enumerate(scenes):
        if scene.relation and len({each.colour for each in scene.things}) == 2:
            one, two = scene.things
            crossed = (replace(one, colour=two.colour), replace(two, colour=one.colour))
            asked.append((index, captions.caption(replace(scene, things=crossed))))
    overall = checker.scores([pictures[index] for index, _ in asked], [text for _, text in asked])["overall"]
    assert len(asked) > 300 and (overall < 0.6).mean() >= 0.99


@pytest.mark.parametrize(("flaw", "overlooked"), [("clutter", 0.02), ("blur", 0.08)])
def test_flawed_pictures_are_seldom_clean_and_right(flaw: str, overlooked: float) -> None:
    examples = [corpus.example(5, index, {flaw: 1.0}) for index in range(200)]
    pictures = through_vae(np.stack([each.picture for each in examples]))
    overall = checker.scores(pictures, [each.caption for each in examples])["overall"]
    assert (overall > checker.CLEAN_AND_RIGHT).mean() <= overlooked


def test_a_batch_is_judged_as_its_pictures_are_one_by_one() -> None:
    scenes, pictures = rendered()
    texts = [captions.caption(each) for each in scenes[:20]]
    together = checker.scores(pictures[:20], texts)
    alone = [checker.check(picture, text) for picture, text in zip(pictures[:20], texts, strict=True)]
    assert together["overall"].tolist() == [each.overall for each in alone]
    for name in checker.ASPECTS:
        assert ((together[name] >= 0) & (together[name] <= 1)).all()


def test_the_checker_refuses_what_it_cannot_read() -> None:
    blank = np.zeros((32, 32, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="'a happy dog'"):
        checker.check(blank, "a happy dog")
    with pytest.raises(ValueError, match=r"\(64, 64, 3\)"):
        checker.check(np.zeros((64, 64, 3), dtype=np.uint8), "a red circle")


# The second judge


def test_the_second_judge_agrees_on_what_is_plain_and_shares_no_rule() -> None:
    scenes, pictures = rendered()[0][:150], rendered()[1][:150]
    right = second_judge.scores(pictures, [captions.caption(each) for each in scenes])
    assert (right > second_judge.RIGHT).mean() >= 0.95
    for kind in CHANGES:
        asked = [(index, text) for index, text in changed_captions(kind, 150) if index < 150]
        wrong = second_judge.scores([pictures[index] for index, _ in asked], [text for _, text in asked])
        assert (wrong < right[[index for index, _ in asked]]).mean() >= 0.95, kind
    assert "checker" not in Path(second_judge.__file__).read_text().split("from __future__")[1]
