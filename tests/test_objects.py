"""GenEval: which detections count, its rules and numbers, what prompts ask, colours by a CLIP, and real detectors."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_eyes
import tiny_scorers
import torch
from PIL import Image

from visalign import registry, scorers
from visalign.playground import captions, corpus, world
from visalign.records import DataError
from visalign.scorers.clip import Cosine
from visalign.scorers.colours import COLOURS, ClipColours, crop
from visalign.scorers.demands import Clause, Demand, of_caption, read
from visalign.scorers.detection import Box, Detection, Detector, Limits, shared
from visalign.scorers.detectors import TransformersDetector, boxed, instances
from visalign.scorers.objects import GenEval, Met, overall, relations, rules
from visalign.scoring import Sample, Specified

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def thing(label: str, sure: float = 0.95, box: Box = (0, 0, 10, 10), colour: str | None = None) -> Detection:
    return Detection(label, box, sure, colour=colour)


def asked(*include: dict[str, Any], exclude: list[dict[str, Any]] | None = None, tag: str = "") -> Demand:
    return Demand.from_json({"include": list(include), "exclude": exclude or [], "tag": tag, "prompt": "p"})


def verdict(demand: Demand, *things: Detection) -> list[Met]:
    found = Limits().found(things, counting=demand.counting)
    made: list[Met] = rules(demand, found, lambda label, seen: [str(each.colour) for each in seen])
    return made


def right(demand: Demand, *things: Detection) -> bool:
    return all(each.fault is None for each in verdict(demand, *things))


# the rules


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ((10, 10, 50, 50), (100, 20, 160, 80), ["left of"]),
        ((0, 0, 40, 40), (60, 70, 100, 110), ["left of", "above"]),
        ((0, 0, 40, 40), (2, 3, 42, 43), []),
        ((5, 5, 9, 9), (5, 5, 9, 9), []),
        ((0, 90, 10, 100), (0, 0, 10, 10), ["below"]),
    ],
)  # fmt: skip
def test_relations_are_the_released_ones(one: Box, other: Box, said: list[str]) -> None:
    assert relations(one, other) == said
    opposite = {"left of": "right of", "above": "below", "below": "above"}
    assert relations(other, one) == [opposite[each] for each in said]


def test_centres_must_part_by_a_tenth_of_both_sizes() -> None:
    wide, near, far = (0, 0, 100, 10), (19, 0, 119, 10), (45, 0, 145, 10)
    assert relations(wide, near) == []
    assert relations(wide, far) == ["left of"]  # 45 - 20 of 45 is more than a half
    assert relations(wide, (39, 0, 139, 10)) == []  # 39 - 20 of 39 is less


def test_only_the_surest_things_of_a_label_are_looked_at() -> None:
    red = asked({"class": "cup", "count": 1, "color": "red"})
    assert right(red, thing("cup", 0.9, colour="red"), thing("cup", 0.8, colour="blue"))
    assert not right(red, thing("cup", 0.8, colour="red"), thing("cup", 0.9, colour="blue"))


def test_counting_wants_sure_things_and_not_one_more() -> None:
    two = asked({"class": "cup", "count": 2}, exclude=[{"class": "cup", "count": 3}], tag="counting")
    assert right(two, thing("cup"), thing("cup"), thing("cup", 0.85))
    assert not right(two, thing("cup"), thing("cup", 0.85))
    assert not right(two, thing("cup"), thing("cup"), thing("cup", 0.91))
    plain = asked({"class": "cup", "count": 2})
    assert right(plain, thing("cup", 0.31), thing("cup", 0.31)) and not right(plain, thing("cup"), thing("cup", 0.3))


def test_every_thing_must_stand_right_to_every_one_of_the_other_clause() -> None:
    dog_left = asked({"class": "cup", "count": 1}, {"class": "dog", "count": 2, "position": ["left of", 0]})
    cup, left, over = thing("cup", box=(90, 0, 100, 10)), thing("dog"), thing("dog", box=(90, 80, 100, 90))
    assert right(dog_left, cup, left, left) and not right(dog_left, cup, left, over)
    (_, _, stands) = verdict(dog_left, cup, left, over)
    assert stands == Met("relations", "expected dog left of it, found below")
    assert [each.fault for each in verdict(dog_left, left, left)] == [
        "expected cup >= 1, found 0", None, "nothing that dog could be left of",
    ]  # fmt: skip


def test_a_colour_says_what_was_seen_instead() -> None:
    found = verdict(asked({"class": "cup", "count": 1, "color": "red"}), thing("cup", colour="blue"))
    assert found == [Met("objects"), Met("colours", "expected red cup >= 1, found 0, and blue")]


def test_what_is_excluded_makes_it_wrong() -> None:
    no_dog = asked({"class": "cup", "count": 1}, exclude=[{"class": "dog", "count": 1}])
    assert right(no_dog, thing("cup")) and not right(no_dog, thing("cup"), thing("dog"))


def test_limits_keep_sixteen_of_a_label_and_part_boxes_only_if_asked() -> None:
    many = [thing("cup", 0.5 + 0.01 * row, (row, 0, row + 10, 10)) for row in range(20)]
    kept = Limits().found(many)["cup"]
    assert len(kept) == 16 and kept[0].confidence == pytest.approx(0.69)
    assert [each.box[0] for each in Limits(overlap=0.1).found(many)["cup"]] == [19, 9]  # 17 of 4 … 19 were kept
    assert shared((0, 0, 9, 9), (0, 0, 9, 9)) == 1.0 and shared((0, 0, 9, 9), (5, 0, 14, 9)) == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="most is at least 1"):
        Limits(most=0)


def test_the_overall_number_is_the_mean_of_the_tasks() -> None:
    found = overall(["colors", "colors", "colors", "counting"], [1, 1, 1, 0])
    assert found == {"colors": 1.0, "counting": 0.0, "overall": 0.5}


# what prompts ask


def test_captions_of_the_playground_in_geneval_s_terms() -> None:
    assert of_caption("a red circle") == Demand((Clause("circle", 1, "red"),), tag="colors")
    assert of_caption("three blue rings") == Demand(
        (Clause("ring", 3, "blue"),), (Clause("ring", 4),), "counting"
    )  # fmt: skip
    assert of_caption("a red circle to the left of a large blue square").include == (
        Clause("square", 1, "blue"), Clause("circle", 1, "red", ("left of", 0)),
    )  # fmt: skip
    assert of_caption("a red circle and a blue square").tag == "color_attr"
    with pytest.raises(ValueError, match="one shape in two colours"):
        of_caption("a red circle above a blue circle")
    with pytest.raises(ValueError, match="cannot read"):
        of_caption("a dog")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"prompt": "p", "include": [{"class": "cup", "count": 0}]}, "whole number from 1"),
        ({"prompt": "p", "include": [{"class": "cup", "size": 2}]}, "of class, count, color, position alone"),
        ({"prompt": "p", "include": [{"class": "cup", "position": ["left of", 0]}]}, "index of an earlier clause"),
        ({"prompt": "p", "include": [{"class": "cup", "position": "left"}]}, "is \\[relation, clause\\]"),
        ({"prompt": "p"}, "lists of clauses"), ({"include": []}, "prompt"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_used_names_its_line(tmp_path: Path, line: dict[str, Any], says: str) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_text(
        json.dumps({"prompt": "good", "include": [{"class": "cup", "count": 1}]}) + f"\n{json.dumps(line)}\n"
    )
    with pytest.raises(DataError, match=f"metadata.jsonl:2: .*{says}"):
        read(file)


def test_one_prompt_asks_one_thing(tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    lines = [json.dumps({"prompt": "p", "include": [{"class": each}]}) for each in ("cup", "cup", "dog")]
    file.write_text("\n".join(lines[:2]))
    assert read(file) == {"p": Demand((Clause("cup"),))}
    file.write_text("\n".join(lines))
    with pytest.raises(DataError, match=":3: 'p' asks for something else"):
        read(file)
    with pytest.raises(DataError, match="no file of metadata"):
        read(tmp_path / "none")


# on the playground


def shown(prompt: str, seed: int = 0) -> Image.Image:
    return Image.fromarray(world.draw(world.place(captions.parse(prompt), np.random.default_rng(seed))))


def told(prompt: str) -> bool:
    try:
        return bool(of_caption(prompt))
    except ValueError:
        return False


def test_true_pictures_are_right_and_those_of_other_captions_are_not() -> None:
    prompts = [each for each in corpus.prompts("heldout", 90) if told(each) and "style" not in each][:50]
    scorer = scorers.load("geneval")
    true = scorer.score([Sample(each, image=shown(each)) for each in prompts])
    assert true.judged.all() and float(true.values.mean()) >= 0.98
    others = prompts[1:] + prompts[:1]
    wrong = scorer.score([Sample(each, image=shown(other)) for each, other in zip(prompts, others, strict=True)])
    assert float(wrong.values.mean()) <= 0.1
    assert float(wrong.aspects["rules met"].mean()) < 0.6


@pytest.mark.parametrize(
    ("picture", "kind"),
    [
        ("a red circle left of a green square", "colours"), ("a blue square left of a red circle", "relations"),
        ("a red circle left of a blue ring", "objects"),
    ],
)  # fmt: skip
def test_a_mistake_is_seen_as_what_it_is(picture: str, kind: str) -> None:
    found = scorers.load("geneval").score([Sample("a red circle left of a blue square", image=shown(picture))])
    assert found.values.tolist() == [0.0] and found.right is not None and not found.right.any()
    assert float(found.aspects[kind][0]) < 1.0
    assert kind == "objects" or float(found.aspects["objects"][0]) == 1.0


def test_what_cannot_be_told_is_invalid_with_its_reason_and_a_batch_is_its_singletons() -> None:
    good = Sample("two red circles", image=shown("two red circles"))
    samples = [
        good, Sample("two red circles", image=Image.new("RGB", (64, 64))), Sample("a dog", image=good.image),
        Sample("two red circles", image=b"junk"), Sample("two red circles"), Sample("a red ring", image=good.image),
    ]  # fmt: skip
    scorer = GenEval()
    assert isinstance(scorer.detector, Detector) and isinstance(scorer, Specified)
    found = scorer.score(samples)
    assert found.judged.tolist() == [True, False, False, False, False, True]
    assert found.values[[0, 5]].tolist() == [1.0, 0.0]
    assert math.isnan(float(found.aspects["relations"][0]))
    for row, says in {1: "this one is 64 x 64", 2: "cannot read", 3: "not a PNG", 4: "no image"}.items():
        assert says in found.reasons[row]
    apart = torch.cat([scorer.score([each]).values for each in samples])
    torch.testing.assert_close(apart, found.values, rtol=0, atol=0, equal_nan=True)


# real detectors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("eyes")


@pytest.fixture(scope="module")
def yolos(folder: Path) -> Path:
    return tiny_eyes.yolos(folder / "yolos")


def test_boxes_are_the_network_s_own_in_pixels_of_the_picture(yolos: Path) -> None:
    detector = TransformersDetector(yolos, least=0.0)
    (found,) = detector.detect([NOISE])
    assert not isinstance(found, Exception) and len(found) == 5
    inputs = detector.processor(images=NOISE, return_tensors="pt")
    answer = detector.network(**inputs)
    chances = answer.logits[0].softmax(-1)[:, :-1].max(-1)
    surest = int(chances.values.argmax())
    x, y, wide, high = (answer.pred_boxes[0, surest] * torch.tensor([70.0, 50.0, 70.0, 50.0])).tolist()
    assert found[0].box == pytest.approx((x - wide / 2, y - high / 2, x + wide / 2, y + high / 2), abs=1e-3)
    assert found[0].confidence == pytest.approx(float(chances.values[surest]), rel=1e-5)
    assert found[0].label == tiny_eyes.LABELS[int(chances.indices[surest])]


def test_neighbours_change_nothing_and_names_are_ours(yolos: Path) -> None:
    detector = TransformersDetector(yolos, names={"mouse": "computer mouse"}, least=0.0)
    assert detector.labels == {"bench", "computer mouse", "dog"}
    small = NOISE.resize((20, 40))
    together, apart = detector.detect([small, NOISE]), [detector.detect([each])[0] for each in (small, NOISE)]
    for one, other in zip(together, apart, strict=True):
        assert not isinstance(one, Exception) and not isinstance(other, Exception)
        assert [(each.label, each.box, each.confidence) for each in one] == [
            (each.label, each.box, each.confidence) for each in other
        ]


def test_geneval_over_a_detector_and_a_clip_as_settings(yolos: Path, tmp_path: Path) -> None:
    file = tmp_path / "metadata.jsonl"
    lines = [
        {"tag": "colors", "include": [{"class": "bench", "count": 1, "color": "red"}], "prompt": "a red bench"},
        {"tag": "two_object", "include": [{"class": "cup", "count": 1}], "prompt": "a cup"},
        {"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a bench"},
    ]
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    clip = {"name": "clipscore", "weights": str(tiny_scorers.clip_file(tmp_path)), "config": tiny_scorers.HF_CLIP}
    detector = {"name": "transformers", "folder": str(yolos)}
    limits = {"confidence": 0.2}
    scorer: Any = scorers.load("geneval", detector=detector, metadata=str(file), colours=clip, limits=limits)
    samples = [Sample(each, image=NOISE) for each in ("a red bench", "a cup", "a bench", "a dog")]
    found = scorer.score(samples)
    assert found.judged.tolist() == [True, False, True, False]
    assert "knows no 'cup'" in found.reasons[1] and "does not say what 'a dog' asks" in found.reasons[3]
    assert found.values[2] == 1.0 and found.aspects["objects"][0] == 1.0
    named = scorer.colours.of(NOISE, "bench", scorer.limits.found(scorer.detector.detect([NOISE])[0])["bench"][:1])
    assert found.values[0] == float(named == ["red"])
    blind = scorers.load("geneval", detector=detector, metadata=str(file), limits=limits)
    with pytest.raises(registry.BadSetting, match="names no colours"):
        blind.score(samples[:1])
    with pytest.raises(ValueError, match="no two towers"):
        scorers.load("geneval", colours="looks")


def test_a_mask_s_confidence_is_that_of_its_class_times_that_of_its_pixels() -> None:
    classes = torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 9.0]])  # two labels and none
    masks = torch.full((2, 4, 6), -5.0)
    masks[0, 1:3, 2:5] = 3.0
    found = instances(classes, masks)
    assert [label for label, _, _ in found] == [0, 1]  # the second query has no mask
    chance = classes[0].softmax(0)[0] * torch.sigmoid(torch.tensor(3.0))
    assert found[0][1] == pytest.approx(float(chance), rel=1e-5)
    assert boxed(found[0][2]) == (2.0, 1.0, 5.0, 3.0)


def test_mask2former_tells_outlines_of_the_picture_and_not_of_its_padding(folder: Path) -> None:
    detector = TransformersDetector(tiny_eyes.mask2former(folder / "mask2former"), least=0.0)
    (found,) = detector.detect([NOISE])
    assert not isinstance(found, Exception) and found
    for each in found:
        assert each.mask is not None and each.mask.shape == (50, 70) and each.box == boxed(each.mask)
    assert [each.confidence for each in found] == sorted((each.confidence for each in found), reverse=True)


def test_owl_looks_for_the_words_it_is_given(folder: Path) -> None:
    path = tiny_eyes.owlv2(folder / "owlv2")
    (found,) = TransformersDetector(path, words=["bench", "dog"], least=0.0).detect([NOISE])
    assert not isinstance(found, Exception)
    assert len(found) == 16 and {each.label for each in found} <= {"bench", "dog"}
    with pytest.raises(ValueError, match="which need them"):
        TransformersDetector(path)


def test_folders_that_hold_no_detector_say_what_would(yolos: Path, tmp_path: Path) -> None:
    with pytest.raises(registry.BadSetting, match="no detector at nowhere"):
        registry.build("detector", {"name": "transformers", "folder": "nowhere"})
    with pytest.raises(ValueError, match="holds yolos"):
        TransformersDetector(yolos, words=["dog"])
    with pytest.raises(ValueError, match="names speaks of 'cat'"):
        TransformersDetector(yolos, names={"cat": "dog"})
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ValueError, match="holds clip, which finds no objects"):
        TransformersDetector(tmp_path)


# colours


def test_a_crop_is_grey_around_its_mask_and_never_empty() -> None:
    red = Image.new("RGB", (8, 8), "red")
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:4, 2:4] = True
    cut = np.asarray(crop(red, Detection("x", (2.0, 2.0, 5.0, 4.0), 1.0, mask)))
    assert cut.shape == (2, 3, 3)
    assert cut[0, 0].tolist() == [255, 0, 0] and cut[0, 2].tolist() == [0x99] * 3
    assert crop(red, Detection("x", (3.2, 3.2, 3.3, 3.3), 1.0)).size == (1, 1)


def test_colours_are_the_likest_mean_of_three_sentences(tmp_path: Path) -> None:
    clip: Any = scorers.load("clipscore", weights=tiny_scorers.clip_file(tmp_path), config=tiny_scorers.HF_CLIP)
    assert isinstance(clip, Cosine)
    (named,) = ClipColours(clip).of(NOISE, "bench", [thing("bench", box=(5, 5, 40, 30))])
    likeness = []
    for colour in COLOURS:
        said = [f"a photo of a {colour} bench", f"a photo of a {colour}-colored bench", f"a photo of a {colour} object"]
        likeness.append(torch.nn.functional.normalize(clip.towers.texts(said)[0].mean(0), dim=0))
    seen = clip.embed([NOISE.crop((5, 5, 40, 30))])[0]
    assert named == COLOURS[int(torch.stack([each @ seen for each in likeness]).argmax())]
