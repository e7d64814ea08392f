"""UnifiedReward: what is asked, in which order, and what counts as exactly one judgement of each form."""

from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tiny_scorers
import tiny_vlm
from PIL import Image

import visalign.scorers.unified_forms as unified_forms
from visalign import scorers
from visalign.scorers.chat import Answer, Question
from visalign.scorers.unified_reward import UnifiedReward, by
from visalign.scoring import Sample, paired


def pictures() -> list[Image.Image]:
    return tiny_scorers.pictures(4)


def asked(folder: Path, text: str) -> Path:
    file = folder / "wording.txt"
    file.write_text(text)
    return file


class Says:
    """A backend that answers from a list, over and over, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.identity = texts, {"model": "says"}
        self.asked: list[Question] = []

    def chat(self, questions: Any, sampling: Any) -> Any:
        for place, question in enumerate(questions):
            self.asked.append(question)
            yield place, Answer(self.texts[(len(self.asked) - 1) % len(self.texts)])


def said(parse: Any, text: str) -> list[float] | str:
    """What a parser makes of a text: the values, or "unreadable"."""
    found = by(parse, ASPECTS_OF[parse])(Answer(text))
    assert all((each.reason is None) != math.isnan(each.value) for each in found)
    return "unreadable" if any(each.reason for each in found) else [each.value for each in found]


ASPECTS_OF = {form.read: form.aspects for form in unified_forms.FORMS.values()}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Final Score: 4", [4.0]),
        ("**Final Score:** 3.5.", [3.5]),
        ("Final Score: 2\nOn reflection,\nfinal score: 4.25", [4.25]),
        ("<think>Final Score: 1</think>Final Score: 5", [5.0]),
        ("Final Score: 0", "unreadable"),
        ("Final Score: -3", "unreadable"),
        ("Final Score: 10", "unreadable"),
        ("Final Score: 8/10", "unreadable"),
        ("<think>Final Score: 3", "unreadable"),
        ("Score: 3", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_a_final_score(text: str, wanted: Any) -> None:
    assert said(unified_forms.final, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Alignment Score (1-5): 3.5\nCoherence Score (1-5): 4\nStyle Score (1-5): 2", [3.5, 4.0, 2.0]),
        ("**Style Score (1-5):** 2\nAlignment Score: 1\ncoherence score (1-5): 5", [1.0, 5.0, 2.0]),
        ("Alignment Score (1-5): 3\nStyle Score (1-5): 2", "unreadable"),
        ("Alignment Score (1-5): 6\nCoherence Score (1-5): 4\nStyle Score (1-5): 2", "unreadable"),
    ],
)
def test_three_axes(text: str, wanted: Any) -> None:
    assert said(unified_forms.axes, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("So image 1 is better.", [1.0]),
        ("Image 2 is better", [0.0]),
        ("Both images are equally good.", [0.5]),
        ("<think>Image 2 is better.</think><answer>Image 1 is better</answer>", [1.0]),
        ("Image 2 is better in colour. <answer>Image 1 is better</answer>", [1.0]),
        ("Image 1 is better in colour, but image 2 is better.", "unreadable"),
        ("Neither.", "unreadable"),
    ],
)
def test_one_verdict(text: str, wanted: Any) -> None:
    assert said(unified_forms.winner, text) == wanted


def flexed(first: float = 6, second: float = 4, winner: Any = "Image 1") -> str:
    dims = [{"name": "colour", "score_1": first, "score_2": second}]
    return json.dumps({"categories": [{"name": "quality", "dims": dims, "cat_winner": "Image 1"}], "winner": winner})


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (flexed(), [1.0]),
        (f"Here:\n```json\n{flexed(3, 7, 'Image 2')}\n```", [0.0]),
        (flexed(6, 5), "unreadable"),
        (flexed(12, -2), "unreadable"),
        (flexed(winner="neither"), "unreadable"),
        (flexed(winner=None), "unreadable"),
        (flexed()[:-4], "unreadable"),
        ('{"winner": "Image 1"}', "unreadable"),
        ('{"winner": "Image 1", "categories": [{"dims": [3]}]}', "unreadable"),
    ],
)
def test_a_table_with_a_winner(text: str, wanted: Any) -> None:
    assert said(unified_forms.flex, text) == wanted


def test_ratings_that_cannot_be_read_are_invalid_and_never_0() -> None:
    scorer = scorers.load("unified_reward", backend=Says("Final Score: 4", "No."))
    found = scorer.score([*paired(pictures()[:2], "a"), Sample("a")])
    assert found.judged.tolist() == [True, False, False]
    assert found.values[0].item() == 4 and found.values[1:].isnan().all()
    assert "no final score" in found.reasons[1] and "no image" in found.reasons[2]
    assert scorer.score([]).values.shape == (0,)


def test_axes_are_aspects_and_the_score_their_mean() -> None:
    told = "Alignment Score (1-5): 3\nCoherence Score (1-5): 4\nStyle Score (1-5): 2"
    found = UnifiedReward(Says(told), rating="axes").score(paired(pictures()[:1], "a"))
    assert {name: each.item() for name, each in found.aspects.items()} == {"Alignment": 3, "Coherence": 4, "Style": 2}
    assert found.values.tolist() == [3]


def test_both_orders_are_asked_pictures_first_and_a_place_wins_nothing() -> None:
    one, other = paired(pictures()[:2], "a red circle")
    backend = Says("Image 1 is better.")
    assert UnifiedReward(backend).prefer([one], [other]).tolist() == [0.5]
    first, second = backend.asked
    assert first.parts[:2] == second.parts[1::-1] and first.parts[0] != first.parts[1]
    assert "a red circle" in first.parts[2]
    assert UnifiedReward(Says("Image 1 is better.", "Image 2 is better.")).prefer([one], [other]).tolist() == [1]
    assert UnifiedReward(Says("Image 1 is better."), orders="one").prefer([one], [other]).tolist() == [1]
    assert UnifiedReward(Says("Image 1 is better.", "?")).prefer([one], [other]).isnan().all()
    assert UnifiedReward(Says(flexed()), comparison="flex", orders="one").prefer([one], [other]).tolist() == [1]


def test_a_wording_of_ones_own_is_asked(tmp_path: Path) -> None:
    backend = Says("Final Score: 1")
    UnifiedReward(backend, wordings={"rating": asked(tmp_path, "Rate {prompt}!")}).score(paired(pictures()[:1], "a"))
    assert backend.asked[0].parts[-1] == "Rate a!"
    with pytest.raises(ValueError, match="wordings are of rating, axes, clip, following, quality, winner, "):
        UnifiedReward(backend, wordings={"pair": tmp_path / "wording.txt"})


def test_a_model_on_this_machine_answers(tmp_path: Path) -> None:
    """A random model writes nonsense, which is invalid with its reason."""
    scorer = UnifiedReward({"name": "local", "folder": tiny_vlm.qwen2_vl(tmp_path / "a", layers=1)}, tokens=3)
    found = scorer.score(paired(pictures()[:1], "a"))
    assert found.judged.tolist() == [False] and found.reasons[0]


# Forms of the later models -------------------------------------------------------------------------------------------


SHARES = (
    "Alignment Score:\n Image 1: 0.75\n Image 2: 0.25\n\nCoherence Score:\n Image 1: 0.5\n Image 2: 0.5\n\n"
    "Style Score:\n"
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (f"{SHARES} Image 1: 0.25\n Image 2: 0.75", [0.5]),
        (f"{SHARES} Image 1: 0.4079000055\n Image 2: 0.5921000242", [(0.75 + 0.5 + 0.4079000055) / 3]),
        (f"<think>{SHARES} Image 1: 1\n Image 2: 0</think>{SHARES} Image 1: 0.25\n Image 2: 0.75", [0.5]),
        (f"**{SHARES.replace(':', ':**')}** Image 1:** 0.25\n** Image 2:** 0.75", [0.5]),
        (f"{SHARES} Image 1: 0.5\n Image 2: 0.6", "unreadable"),
        (f"{SHARES} Image 1: 1.5\n Image 2: -0.5", "unreadable"),
        (SHARES, "unreadable"),
    ],
)
def test_shares_of_each_axis_are_one_together(text: str, wanted: Any) -> None:
    assert said(unified_forms.shares, text) == (wanted if wanted == "unreadable" else pytest.approx(wanted))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Image 1: 2\nImage 2: 1", [1.0]),
        ("Image 1 Score: -1.5\nImage 2 Score: -0.5", [0.0]),  # the released pattern drops signs and whole numbers
        ("**Edited Image 1 score:** -2\n**Edited Image 2 score:** 3.25", [0.0]),
        ("Image 1: 1.50, Image 2: 1.5", [0.5]),
        ("Image 1: 5\nImage 2: 1\nOn reflection\nImage 1: 1\nImage 2: 4", [0.0]),
        ("Image 1: - 2\nImage 2: 1", "unreadable"),
        ("Image 1: \u22122\nImage 2: 1", "unreadable"),
        ("Image 1: 3/5\nImage 2: 1/5", "unreadable"),
        ("Image 1: 3", "unreadable"),
        ("3.0 1.0", "unreadable"),
    ],
)
def test_scores_of_two_edits_may_be_below_0(text: str, wanted: Any) -> None:
    assert said(unified_forms.scores, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"reasoning": "good", "score": [20, 25]}', [20.0, 25.0]),
        (
            '```json\n{\n"reasoning" : "says \\"x\\"",\n"score" : [0, 12.5],\n}\n```',
            [0.0, 12.5],
        ),  # as asked for: no JSON
        ('<think>"score": [1, 1]</think>{"score": [2, 3]}', [2.0, 3.0]),
        ('{"score": [20]}', "unreadable"),
        ('{"score": [20, 21, 22]}', "unreadable"),
        ('{"score": [26, 2]}', "unreadable"),
        ('{"score": [-1, 2]}', "unreadable"),
        ('{"score": [20/25, 2]}', "unreadable"),
        ('{"score": [1, 2]} or {"score": [3, 4]}', "unreadable"),
        ('{"score": 20}', "unreadable"),
    ],
)
def test_two_numbers_of_an_edit(text: str, wanted: Any) -> None:
    assert said(unified_forms.points, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "Alignment Score (1-5): 2.4036\nPhysics Score (1-5): 3.0987\nStyle Score (1-5): 3.3889",
            [2.4036, 3.0987, 3.3889],
        ),
        ("Alignment Score (1-5): 2\nCoherence Score (1-5): 3\nStyle Score (1-5): 3", "unreadable"),
    ],
)
def test_a_clip_has_physics_for_coherence(text: str, wanted: Any) -> None:
    assert said(unified_forms.clip_axes, text) == wanted


@pytest.mark.parametrize("sign", ["-", "\u2212", "\u2013"])
def test_a_sign_apart_from_its_number_is_not_dropped(sign: str) -> None:
    assert said(unified_forms.final, f"Final Score: {sign} 3") == "unreadable"
    axes = f"Alignment Score: {sign} 1\nCoherence Score: 2\nStyle Score: 2"
    assert said(unified_forms.axes, axes) == "unreadable"


def test_a_thought_that_the_template_opened_is_a_thought() -> None:
    """Templates of reasoning models may open <think> in the question, so that only its end is in the answer."""
    told = "Image 2 is better in colour. Final Score: 1\n</think>\n"
    assert said(unified_forms.winner, f"{told}Image 1 is better.") == [1.0]
    assert said(unified_forms.flex, f"{told.replace('Image', '{Image}')}{flexed()}") == [1.0]
    assert said(unified_forms.final, f"{told}<THINK>Final Score: 2</THINK>Final Score: 4") == [4.0]
    assert said(unified_forms.final, told) == "unreadable"


def test_what_was_cut_off_may_have_gone_on() -> None:
    (read,) = by(unified_forms.final, [""])(Answer("Final Score: 4", cut=True))
    assert math.isnan(read.value) and "cut off" in str(read.reason)


def edits(*shown: int) -> list[Sample]:
    every = pictures()
    return [Sample("make it red", image=every[place], source=every[0]) for place in shown]


def test_an_edit_is_asked_about_twice_and_pooled_as_viescore() -> None:
    """sqrt(min(20, 9) min(25, 16)) = 12; the second question shows the edit alone."""
    backend = Says('{"score": [20, 9]}', '{"score": [25, 16]}')
    scorer = UnifiedReward(backend, rating="edit")
    found = scorer.score(edits(1))
    assert found.values.item() == pytest.approx(12)
    assert {name: each.item() for name, each in found.aspects.items()} == {
        "success": 20, "restraint": 9, "naturalness": 25, "cleanness": 16,
    }  # fmt: skip
    following, quality = backend.asked
    assert [len(each.parts) for each in backend.asked] == [3, 2]
    assert following.parts[1] == quality.parts[0] and following.parts[0] != following.parts[1]
    assert "make it red" in str(following.parts[-1])
    assert scorer.spec.uses_source and scorer.spec.range == (0, 25)
    without = scorer.score([Sample("make it red", image=pictures()[1])])
    assert not without.judged.any() and "no source" in without.reasons[0]
    half = UnifiedReward(Says('{"score": [20, 9]}', "?"), rating="edit").score(edits(1))
    assert half.judged.tolist() == [False] and half.aspects["success"].item() == 20


@pytest.mark.parametrize("form", ["edit_winner", "edit_scores"])
def test_two_edits_are_compared_behind_their_source(form: Any) -> None:
    one, other = edits(1, 2)
    backend = Says("Image 1 is better.", "Image 2 is better.") if form == "edit_winner" else Says(
        "Image 1: 2\nImage 2: -1", "Image 1: -1\nImage 2: 2"
    )  # fmt: skip
    assert UnifiedReward(backend, comparison=form).prefer([one], [other]).tolist() == [1]
    first, second = (each.parts for each in backend.asked)
    assert len(first) == 4 and first[0] == second[0] and first[1:3] == second[2:0:-1]
    assert (
        UnifiedReward(backend, comparison=form)
        .prefer(paired(pictures()[:1], "a"), paired(pictures()[:1], "a"))
        .isnan()
        .all()
    )


def test_shares_are_chances() -> None:
    one, other = paired(pictures()[:2], "a")
    told = f"{SHARES} Image 1: 0.25\n Image 2: 0.75".replace("0.75\n Image 2: 0.25", "1\n Image 2: 0")
    only = UnifiedReward(Says(told), comparison="shares", orders="one").prefer([one], [other])
    assert only.item() == pytest.approx((1 + 0.5 + 0.25) / 3)
    both = UnifiedReward(Says(told), comparison="shares").prefer([one], [other])
    assert both.item() == pytest.approx(0.5)  # whoever stands first gets as much: nothing is said of the pictures


@pytest.mark.parametrize(("count", "wanted"), [(24, [0, 3, 6, 9, 12, 15, 18, 21]), (3, [0, 1, 2]), (8, [*range(8)])])
def test_eight_frames_of_a_clip_are_shown(count: int, wanted: list[int], tmp_path: Path) -> None:
    shades = [Image.new("L", (8, 8), 5 * place) for place in range(count)]
    told = "Alignment Score (1-5): 2\nPhysics Score (1-5): 3\nStyle Score (1-5): 4"
    backend = Says(told)
    for place, each in enumerate(shades):
        each.save(tmp_path / f"{place}.png")
    found = UnifiedReward(backend, rating="clip").score(
        [Sample("a", video=tuple(shades)), Sample("a", video=tmp_path), Sample("a", image=shades[0])]
    )
    assert found.values[:2].tolist() == [3, 3] and found.judged.tolist() == [True, True, False]
    assert "no video" in found.reasons[2]
    assert len(backend.asked[0].parts) == len(wanted) + 1
    assert len(backend.asked) == 1  # frames and their folder are the same question
    assert [unified_forms.spread(Sample("a", video=tuple(shades)))[i].getpixel((0, 0)) for i in range(len(wanted))] == [
        (5 * place,) * 3 for place in wanted
    ]
    assert UnifiedReward.describe("clip").reads == ("prompt", "video")


def test_a_form_that_is_none_is_refused() -> None:
    for wrong in ({"rating": "winner"}, {"comparison": "axes"}, {"orders": "all"}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is one of"):
            UnifiedReward(Says(""), **wrong)


def test_the_quality_of_an_edit_may_be_asked_without_its_instruction(tmp_path: Path) -> None:
    UnifiedReward(Says(""), wordings={"quality": asked(tmp_path, "How natural?")})
    with pytest.raises(ValueError, match=r"holds no \{prompt\}"):
        UnifiedReward(Says(""), wordings={"following": asked(tmp_path, "How well?")})


# Two clips -----------------------------------------------------------------------------------------------------------


def clip(*greys: int) -> Sample:
    """A clip of one grey a frame."""
    return Sample("it brightens", video=[Image.new("RGB", (32, 32), (each, each, each)) for each in greys])


def greys(question: Question) -> list[int]:
    """What is shown."""
    shown = [Image.open(BytesIO(each)).convert("RGB") for each in question.parts if isinstance(each, bytes)]
    return [each.getpixel((0, 0))[0] for each in shown]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Video 1 is better.", [1.0]),
        ("<think>Video 1 (9/10), Video 2 (7/10)</think>\n<answer>Video 2 is better</answer>", [0.0]),
        ("Both videos are equally good.", [0.5]),
        ("Video 1 is better in motion, but Video 2 is better.", "unreadable"),
        ("Image 1 is better.", "unreadable"),
    ],
)
def test_one_verdict_on_two_clips(text: str, wanted: Any) -> None:
    assert said(unified_forms.FORMS["clip_winner"].read, text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (flexed(winner="Video 1"), [1.0]),
        (f"```json\n{flexed(3, 7, 'Video 2')}\n```", [0.0]),
        (flexed(winner="Image 1"), "unreadable"),
        (flexed(6, 5, winner="Video 1"), "unreadable"),
    ],
)
def test_a_table_with_a_winner_of_two_clips(text: str, wanted: Any) -> None:
    assert said(unified_forms.FORMS["clip_flex"].read, text) == wanted


@pytest.mark.parametrize("form", ["clip_winner", "clip_flex"])
def test_two_clips_are_shown_by_eight_frames_each_from_the_first_to_the_last_in_both_orders(form: Any) -> None:
    """Of 15 frames every other one; of 3, some more than once: the halves must be told apart."""
    told = ["Video 1 is better.", "Video 2 is better."] if form == "clip_winner" else [
        flexed(winner=f"Video {place}") for place in (1, 2)
    ]  # fmt: skip
    backend = Says(*told)
    long, short = clip(*range(15)), clip(100, 110, 120)
    assert UnifiedReward(backend, comparison=form).prefer([long], [short]).tolist() == [1]
    halves = [0, 2, 4, 6, 8, 10, 12, 14], [100, 100, 100, 100, 110, 110, 110, 120]
    assert [greys(each) for each in backend.asked] == [halves[0] + halves[1], halves[1] + halves[0]]
    assert all("it brightens" in str(each.parts[-1]) and "Image" not in str(each.parts[-1]) for each in backend.asked)
    still = Sample("it brightens", image=pictures()[0])
    assert UnifiedReward(backend, comparison=form).prefer([long], [still]).isnan().all()
