"""The moving playground: its words, its clips and their truth, the checker that reads them, the scorer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rendered import through_vae

from visalign import registry
from visalign.playground import captions, checker, corpus, moving, moving_checker, moving_corpus
from visalign.playground.moving import FRAMES, Motion, Moving
from visalign.playground.moving_corpus import Clip
from visalign.scoring import Sample

COUNT = 24  # clips of each flaw


def coded(clip: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A clip after the autoencoder, frame by frame."""
    return through_vae(clip)


@cache
def judged(flaw: str = "", count: int = COUNT) -> list[tuple[Clip, moving_checker.Seen]]:
    """Held-out clips with one flaw or none, and what the checker says of them after the autoencoder."""
    found = [moving_corpus.example(5, index, {flaw: 1.0} if flaw else {}, "heldout") for index in range(count)]
    return [(each, moving_checker.check(coded(each.frames), each.caption)) for each in found]


# Words and scenes -----------------------------------------------------------------------------------------------------


def test_every_caption_is_read_back_as_the_scene_it_was_made_of() -> None:
    for wanted in moving.scenes("train", 300) + moving.scenes("heldout", 100):
        assert moving.parse(moving.caption(wanted)) == wanted


def test_the_moving_thing_is_the_one_that_the_motion_stands_behind() -> None:
    first = moving.parse("a red circle moving up fast left of a small blue square")
    second = moving.parse("a red circle left of a small blue square moving up fast")
    assert (first.motion, second.motion) == (Motion("up", True, 0), Motion("up", True, 1))
    assert first.scene == second.scene == captions.parse("a red circle left of a small blue square")


@pytest.mark.parametrize(
    "text",
    ["a red circle", "a red circle moving", "a red circle moving left of a blue square", "a red zorp moving left",
     "a red circle moving left above a blue square moving right"],
)  # fmt: skip
def test_captions_without_one_motion_are_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=text):
        moving.parse(text)


def test_a_motion_along_its_relation_is_refused() -> None:
    with pytest.raises(ValueError, match="can move up or down, got 'left'"):
        moving.place(moving.parse("a red circle moving left right of a blue square"), np.random.default_rng(0))


def test_nothing_leaves_the_picture_and_relations_hold_in_every_frame() -> None:
    random = np.random.default_rng(3)
    for wanted in moving.scenes("train", 150):
        placed = moving.place(wanted, random)
        for number in range(FRAMES):
            places = np.array([thing.at for thing in placed.frame(number).things])
            assert (places > moving.LANE[0] - 1).all() and (places < moving.LANE[1] + 1).all()
            if wanted.scene.relation:
                axis = 0 if wanted.scene.relation in ("left of", "right of") else 1
                gap = places[1, axis] - places[0, axis]
                assert (gap if wanted.scene.relation in ("left of", "above") else -gap) > 14


def test_splits_are_those_of_the_still_world() -> None:
    for split in corpus.SPLITS:
        assert all(corpus.split_of(each.scene) == split for each in moving.scenes(split, 40))
    with pytest.raises(ValueError, match="'test' is not one of train, heldout, scorers"):
        moving.scenes("test", 1)


def test_an_example_is_a_pure_function_of_its_arguments() -> None:
    once, again = moving_corpus.example(1, 7), moving_corpus.example(1, 7)
    assert once.caption == again.caption and np.array_equal(once.frames, again.frames)
    assert not np.array_equal(once.frames, moving_corpus.example(2, 7).frames)
    assert np.array_equal(moving_corpus.rendered(once.caption).frames, moving_corpus.rendered(once.caption).frames)


def test_flaws_that_pass_leave_other_frames_as_they_should_be() -> None:
    for flaw in ("melts", "recoloured", "vanishes", "clutter"):
        for index in range(10):
            right = moving_corpus.example(3, index, {flaw: 1.0}).right
            assert 2 <= (~right).sum() <= moving_corpus.LONGEST
            assert np.abs(np.diff(right.astype(int))).sum() <= 2  # one run
    for flaw in moving_corpus.WHOLE:
        assert not moving_corpus.example(3, 0, {flaw: 1.0}).right.any()


# The checker ----------------------------------------------------------------------------------------------------------


def test_true_clips_score_above_95_hundredths_after_the_autoencoder() -> None:
    seen = [each for _, each in judged(count=120)]
    assert np.mean([each.overall > 0.95 for each in seen]) >= 0.98  # what is below are pink crosses
    assert np.mean([each.right for each in seen]) >= 0.99


@pytest.mark.parametrize("flaw", moving_corpus.FLAWS)
def test_every_flaw_is_caught_in_the_frames_where_it_is(flaw: str) -> None:
    found = judged(flaw)
    wrong = np.concatenate([seen.frames[~clip.right] for clip, seen in found])
    good = np.concatenate([seen.frames[clip.right] for clip, seen in found])
    assert not any(seen.right for clip, seen in found if not clip.right.all())
    assert (wrong < checker.CLEAN_AND_RIGHT).mean() >= 0.99
    assert len(good) == 0 or (good > checker.CLEAN_AND_RIGHT).mean() >= 0.96


def test_each_flaw_is_told_by_its_own_aspect() -> None:
    told = {"melts": "objects", "recoloured": "colours", "clutter": "cleanliness", "still": "motion", "jumps": "motion"}
    for flaw, aspect in told.items():
        means = {
            name: np.mean([seen.aspects[name].min() for _, seen in judged(flaw)]) for name in moving_checker.ASPECTS
        }
        assert min(means, key=lambda name: means[name]) == aspect, flaw


def test_the_dynamic_degree_is_the_speed_in_pixels_per_frame() -> None:
    random = np.random.default_rng(0)
    for text in ("a red circle moving left", "a blue square moving down fast right of a pink ring"):
        placed = moving.place(moving.parse(text), random)
        seen = moving_checker.check(moving.draw(placed), text)
        assert seen.dynamic == pytest.approx(placed.motion.speed, abs=0.05)
    assert all(seen.dynamic < 0.05 for _, seen in judged("still"))


@pytest.mark.parametrize(("shown", "asked"), [("left", "right"), ("left", "up"), ("down", "up"), ("right", "left")])
def test_another_way_is_no_motion_as_asked(shown: str, asked: str) -> None:
    clip = moving_corpus.rendered(f"a red circle moving {shown}").frames
    assert moving_checker.check(clip, f"a red circle moving {asked}").aspects["motion"].max() < 0.05


def test_fast_is_faster_than_plain_motion() -> None:
    slow, fast = (moving_corpus.rendered(f"a red circle moving left{how}").frames for how in ("", " fast"))
    assert moving_checker.check(slow, "a red circle moving left fast").aspects["motion"].max() < 0.05
    assert moving_checker.check(fast, "a red circle moving left").overall > 0.95


def test_a_thing_out_of_sight_is_thought_to_go_on() -> None:
    places = np.array([[np.nan, np.nan], [2.0, 5.0], [np.nan, np.nan], [6.0, 5.0], [np.nan, np.nan]])
    assert moving_checker.steps_of(places).tolist() == [[2.0, 0.0]] * 4
    assert moving_checker.steps_of(places[:3]).tolist() == [[0.0, 0.0]] * 2


def test_a_jump_spoils_the_frames_beside_it_alone() -> None:
    wanted = Moving(captions.parse("a red circle"), Motion("right"))
    steps = np.array([[1.0, 0.0]] * 3 + [[9.0, 0.0]] + [[1.0, 0.0]] * 3)
    assert (moving_checker.motion(steps, wanted) > 0.5).tolist() == [True] * 3 + [False] * 2 + [True] * 3


@pytest.mark.parametrize("shape", [(32, 32, 3), (1, 32, 32, 3), (8, 16, 16, 3)])
def test_the_checker_refuses_what_is_no_clip(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="clips"):
        moving_checker.check(np.zeros(shape, dtype=np.uint8), "a red circle moving left")


# The scorer -----------------------------------------------------------------------------------------------------------


def video(clip: NDArray[np.uint8]) -> tuple[Image.Image, ...]:
    return tuple(Image.fromarray(frame) for frame in clip)


def test_the_scorer_says_of_each_clip_what_the_checker_says() -> None:
    scorer: Any = registry.build("scorer", "motion")
    found = [judged()[0], *judged("jumps")[:2]]
    said = scorer.score([Sample(clip.caption, video=video(coded(clip.frames))) for clip, _ in found])
    assert said.values.tolist() == pytest.approx([seen.overall for _, seen in found])
    assert said.right.tolist() == [True, False, False]
    assert [*said.aspects] == [*moving_checker.ASPECTS, "dynamic"]
    assert said.aspects["dynamic"].tolist() == pytest.approx([seen.dynamic for _, seen in found])
    assert said.aspects["motion"].tolist() == pytest.approx([seen.aspects["motion"].mean() for _, seen in found])


def test_the_scorer_marks_what_it_cannot_judge_and_says_why(tmp_path: Path) -> None:
    scorer: Any = registry.build("scorer", "motion")
    clip = moving_corpus.rendered("a red circle moving left")
    for number, frame in enumerate(video(clip.frames)):
        frame.save(tmp_path / f"{number}.png")
    odd = (*video(clip.frames)[:2], Image.new("RGB", (16, 16)))
    said = scorer.score([
        Sample(clip.caption, video=str(tmp_path)), Sample(clip.caption), Sample(clip.caption, video=odd),
        Sample("a dog runs", video=video(clip.frames)),
    ])  # fmt: skip
    assert said.judged.tolist() == [True, False, False, False]
    assert said.values[0] > 0.95 and said.values[1:].isnan().all()
    assert [said.reasons[row] for row in (1, 2)] == ["the sample has no video", "the frames of the clip differ in size"]
    assert "a dog runs" in said.reasons[3]


def test_the_scorer_compares_and_has_a_spec() -> None:
    scorer: Any = registry.build("scorer", "motion")
    true, flawed = judged()[0][0], moving_corpus.example(5, 0, {"still": 1.0}, "heldout")
    pair = [Sample(true.caption, video=video(each.frames)) for each in (true, flawed)]
    assert scorer.prefer(pair[:1], pair[1:]).tolist() == [1.0]
    assert scorer.spec.name == "motion" and scorer.spec.reads == ("prompt", "video")
    assert len(scorer.score([])) == 0
