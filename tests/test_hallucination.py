"""Hallucination measures on numbers that were worked out by hand, with the quirks of the published code by name."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faulty
import numpy as np
import pytest

from visalign import cli, registry
from visalign.data import answers as kept
from visalign.data import hallucination as files
from visalign.evaluation import amber, asking, language, mmhal, objhal, pope
from visalign.evaluation import chair as chairs
from visalign.evaluation.asking import Reply
from visalign.evaluation.objects import DOUBLES, Objects, ours, synonyms, table
from visalign.evaluation.shares import Share, plain
from visalign.records import DataError

OBJECTS = Objects.chair(ours())
RELEASE = Objects.chair(ours(), variant="release")


def written(path: Path, value: Any) -> Path:
    """JSON, or JSON lines where the name says so."""
    lines = "".join(json.dumps(row) + "\n" for row in value) if path.suffix == ".jsonl" else json.dumps(value)
    path.write_text(lines, encoding="utf-8")
    return path


def ratio(share: Share) -> tuple[int, int]:
    return share.part, share.whole


# CHAIR


def test_chair_of_four_captions_worked_out_by_hand() -> None:
    """Mentions: person, dog, dog, cat | car | none | bus, bus. There: person, dog | car, bus | tree | car."""
    mentioned = [["person", "dog", "dog", "cat"], ["car"], [], ["bus", "bus"]]
    found = chairs.chair(mentioned, [{"person", "dog"}, {"car", "bus"}, {"tree"}, {"car"}])
    assert ratio(found.instance) == (3, 7), "repetitions count"
    assert ratio(found.sentence) == (2, 4), "a caption without objects is a caption"
    assert ratio(found.refined) == (2, 3), "and is none where only captions with objects count"
    assert ratio(found.recall) == (3, 6)
    assert ratio(found.unique) == (2, 5)
    assert found.hallucinated == (("cat",), (), (), ("bus", "bus"))
    assert found.instance.interval is not None
    assert found.instance.interval.low <= 3 / 7 <= found.instance.interval.high
    assert found.sentence.interval is not None
    assert found.sentence.interval.method == "Wilson", "one trial a caption"
    assert found.sentence.interval.low == pytest.approx(0.15004, abs=1e-5)


def test_chair_of_nothing_is_not_a_number_and_never_zero() -> None:
    found = chairs.chair([[]], [{"dog"}])
    assert found.instance.value != found.instance.value
    assert plain(found)["instance"]["value"] is None
    assert ratio(found.sentence) == (0, 1)
    with pytest.raises(ValueError, match="each caption needs its truth"):
        chairs.chair([["dog"]], [])


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Two men and three women ride buses.", ["person", "person", "bus"]),
        ("A baby elephant and an adult cat", ["elephant", "cat"]),
        ("A baby plays", ["person"]),
        ("a passenger train by a passenger jet", ["train", "airplane"]),
        ("hot dogs, wine glasses and TEDDY BEARS", ["hot dog", "wine glass", "teddy bear"]),
        ("a hot, dog", ["dog"]),
        ("he wears a bow tie", ["tie"]),
        ("the toilet seat is up", ["toilet"]),
        ("the seat of the toilet, another seat", ["toilet"]),
        ("a seat", ["chair"]),
        ("a train track", []),
        ("a baseball player at home plate", ["person"]),
        ("geese, mice, knives, ponies, calves, donuts, benches", ["bird", "mouse", "knife", "horse", "cow", "donut",
                                                                 "bench"]),
        ("scissors and skis beside two pairs of skis", ["scissors", "skis", "skis"]),
        ("a stove top oven", ["oven", "oven"]),
        ("traffic lights at street lights", ["traffic light", "traffic light"]),
        ("a sheepdog-like thing and glasses", []),
    ],
)  # fmt: skip
def test_captions_are_read_as_chair_reads_them(text: str, named: list[str]) -> None:
    assert OBJECTS.mentioned(text) == named


def test_the_release_takes_the_s_of_a_bus_and_makes_no_tie_of_ties() -> None:
    assert OBJECTS.mentioned("a bus and buses") == ["bus", "bus"]
    assert RELEASE.mentioned("a bus and buses") == ["bus"]
    assert OBJECTS.mentioned("ties and canoes") == ["tie", "boat"]
    assert RELEASE.mentioned("a tie, ties, canoes") == ["tie"], "which become ty and cano"
    assert RELEASE.mentioned("skis, a wine glass, scissors") == ["skis", "wine glass", "scissors"]
    with pytest.raises(ValueError, match="right or release"):
        Objects.chair(ours(), variant="wrong")  # type: ignore[arg-type]


def test_there_are_27_double_words_and_80_classes() -> None:
    assert len(set(DOUBLES)) == 27
    assert len(set(ours().values())) == 80
    assert all(ours()[name] == name for name in ours().values())


def test_a_table_of_synonyms_is_read_with_blanks_off_or_as_released(tmp_path: Path) -> None:
    path = tmp_path / "synonyms.txt"
    path.write_text("motorcycle, scooter,  motor bike\ndog, puppy, hound \n\n", encoding="utf-8")
    assert synonyms(path)["motor bike"] == "motorcycle"
    assert synonyms(path)["hound"] == "dog"
    assert "motor bike" not in synonyms(path, "release")
    assert Objects.chair(synonyms(path)).mentioned("a motor bike and hounds") == ["motorcycle", "dog"]
    with pytest.raises(DataError, match="no synonyms can be read"):
        synonyms(tmp_path / "none.txt")


def test_singulars_and_words_may_be_another_librarys() -> None:
    plugged = Objects.chair(ours(), singular=lambda word: word.removesuffix("s"), tokens=str.split)
    assert plugged.mentioned("dogs bus") == ["dog"]


def coco(folder: Path) -> list[Path]:
    """Annotations of pictures 1 (a dog, a person by its caption) and 42 (a bus)."""
    categories = [{"id": 18, "name": "dog"}, {"id": 6, "name": "bus"}, {"id": 3, "name": "car"}]
    instances = [{"image_id": 1, "category_id": 18}, {"image_id": 1, "category_id": 18},
                 {"image_id": 42, "category_id": 6}, {"image_id": 42, "category_id": 3}]  # fmt: skip
    texts = [{"image_id": 1, "caption": "A man walks his dogs."}, {"image_id": 42, "caption": "A bus."}]
    return [
        written(folder / "instances_val2014.json", {"categories": categories, "annotations": instances}),
        written(folder / "captions_val2014.json", {"annotations": texts}),
    ]


def test_what_is_there_are_instances_and_what_captions_name(tmp_path: Path) -> None:
    found = files.coco(coco(tmp_path))
    assert found.present == {"1": ("dog",), "42": ("bus", "car")}
    truth = chairs.there(OBJECTS, found.present, found.captions)
    assert truth == {"1": {"dog", "person"}, "42": {"bus", "car"}}
    with pytest.raises(DataError, match="no line for the category 'gnu'"):
        chairs.there(OBJECTS, {"1": ["gnu"]}, {})


# POPE


@pytest.mark.parametrize(
    ("answer", "read", "exactly"),
    [
        ("Yes", "yes", "yes"),
        ("no", "no", "no"),
        (" No ", "no", "no"),
        ("No, there is none.", "no", None),
        ("There is not a dog. Yes.", "no", None),
        ("I see a cat. There is no dog.", "yes", None),
        ("NO", "yes", "no"),
        ("None", "yes", None),
        ("yes\nno", "yes", None),
        ("There is a dog, not a cat", "no", None),
        ("not,", "no", None),
        ("", "yes", None),
    ],
)
def test_yes_and_no_as_pope_and_lmms_eval_read_them(answer: str, read: str, exactly: str | None) -> None:
    assert pope.said(answer) == read
    assert pope.exactly(answer) == exactly


def questions(*labels: str) -> list[pope.Question]:
    return [pope.Question(str(n), f"{n // 2}.jpg", "?", label) for n, label in enumerate(labels)]  # type: ignore[arg-type]


def test_pope_by_hand() -> None:
    """TP 2 (one of them "NO"), FN 1, FP 1, TN 2."""
    asked = questions("yes", "no", "yes", "no", "yes", "no")
    found = pope.pope(asked, ["yes", "no", "NO", "Yes.", "No", "not at all"])
    assert ratio(found.accuracy) == (4, 6)
    assert ratio(found.precision) == (2, 3)
    assert ratio(found.recall) == (2, 3)
    assert found.f1 == pytest.approx(2 / 3)
    assert ratio(found.yes_ratio) == (3, 6)
    assert found.unread == 2
    assert found.accuracy.interval is not None
    assert found.accuracy.interval.groups == 3, "pictures are drawn anew, not questions"


def test_pope_as_lmms_eval_has_it() -> None:
    """Read are yes, no, no, None, no, None: TP 1, FN 2, FP 0; what is not read is wrong, and in no precision."""
    asked = questions("yes", "no", "yes", "no", "yes", "no")
    found = pope.pope(asked, ["yes", "no", "NO", "Yes.", "No", "not at all"], "lmms_eval")
    assert ratio(found.accuracy) == (2, 6)
    assert ratio(found.precision) == (1, 1)
    assert ratio(found.recall) == (1, 3)
    assert found.f1 == pytest.approx(2 * 1 * (1 / 3) / (4 / 3))
    assert ratio(found.yes_ratio) == (3, 6), "of the labels"


def test_a_model_that_says_no_throughout_has_no_precision() -> None:
    found = pope.pope(questions("yes", "no"), ["no", "no"])
    assert found.precision.value != found.precision.value
    assert found.f1 == 0.0
    assert ratio(found.recall) == (0, 1)


SCENES = [
    pope.Scene("a", ("person", "car", "dog")),
    pope.Scene("b", ("person", "car", "bus")),
    pope.Scene("c", ("dog", "apple", "person", "cup")),
    pope.Scene("d", ("car", "bus", "apple")),
    pope.Scene("e", ("person", "cat")),
    pope.Scene("f", ("person", "cat", "kite")),
]


def asked_of(made: Sequence[pope.Question], image: str) -> list[str]:
    """The objects that a picture's questions are about, in order."""
    texts = [each.text.removesuffix(" in the image?") for each in made if each.image == image]
    return [text.split(maxsplit=3)[3] for text in texts]


@pytest.mark.parametrize("strategy", ["random", "popular", "adversarial"])
def test_popes_questions_keep_their_rules(strategy: pope.Strategy) -> None:
    made = pope.build(SCENES, strategy, 3, count=5)
    assert made == pope.build(SCENES, strategy, 3, count=5), "a function of the seed"
    assert [each.label for each in made] == ["yes", "no"] * 15
    assert [each.id for each in made] == [str(number) for number in range(30)]
    assert "e" not in {each.image for each in made}, "three objects at least"
    for scene in SCENES[:4]:
        names = asked_of(made, scene.image)
        assert tuple(names[::2]) == scene.objects[:3]
        assert not set(names[1::2]) & set(scene.objects)
        assert len(set(names)) == 6


def test_popular_negatives_by_hand() -> None:
    """In a, b, c, d and f: person 4, car 3, dog, bus and apple 2, cup, cat and kite 1."""
    made = pope.build(SCENES, "popular", 0, count=5)
    assert asked_of(made, "d")[1::2][:2] == ["person", "dog"]
    assert asked_of(made, "c")[1::2][:2] == ["car", "bus"]
    assert set(asked_of(made, "a")[1::2][:2]) == {"bus", "apple"}


def test_adversarial_negatives_by_hand() -> None:
    """Beside a person: car and dog 2, others 1; beside a car: person and bus 2, dog and apple 1."""
    made = pope.build(SCENES, "adversarial", 0, count=5)
    assert asked_of(made, "b")[1::2][:2] == ["dog", "apple"]
    assert asked_of(made, "d")[1] == "person"
    assert asked_of(made, "b")[5] in {"cup", "cat", "kite"}, "nothing else was ever beside a bus: any other"


def test_random_negatives_are_uniform() -> None:
    many = [pope.Scene(str(number), ("person",)) for number in range(400)] + [pope.Scene("x", ("cat", "bus", "kite"))]
    made = [each.text for each in pope.build(many, "random", 0, count=401, each=1) if each.image != "x"]
    counts = [sum(f" {name} " in text for text in made) for name in ("cat", "bus", "kite")]
    assert sum(counts) == 400
    assert all(100 < count < 170 for count in counts)


def test_all_strategies_of_a_seed_ask_about_the_same_pictures() -> None:
    kinds = (("person", "car", "dog"), ("cat", "bus", "kite"))
    many = [pope.Scene(str(number), kinds[number % 2]) for number in range(400)]
    strategies: tuple[pope.Strategy, ...] = ("random", "popular", "adversarial")
    first, *others = ([each.image for each in pope.build(many, name, 7, count=20)] for name in strategies)
    assert others == [first, first]
    assert first != [each.image for each in pope.build(many, "random", 8, count=20)]


def test_pope_says_what_is_too_few_and_writes_an_before_vowels(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="5 of 6 pictures have 3 objects or more, and 500 are wanted"):
        pope.build(SCENES, "random", 0)
    with pytest.raises(DataError, match="no object is left that is not in 'only'"):
        pope.build([pope.Scene("only", ("a", "b", "c"))], "random", 0, count=1)
    assert pope.asked("apple") == "Is there an apple in the image?"
    made = pope.build(SCENES, "popular", 0, count=5)
    path = tmp_path / "coco_pope_popular.json"
    files.write_questions(made, path)
    assert files.questions(path) == made


# AMBER

LEXICON = amber.Lexicon(
    {"person": ["man", "hiker"], "man": ["guy"], "ship": ["boat"], "sky": [], "dog": ["puppy"], "sun": ["sunlight"],
     "lake": ["water"]},
    {"light", "sign"},
)  # fmt: skip


def alike(*pairs: tuple[str, str]) -> amber.Similarity:
    return lambda one, other: 1.0 if one == other or (one, other) in pairs else 0.8


def test_a_noun_is_safe_there_or_made_up() -> None:
    scene = amber.Scene("1", ("person", "sky"), ("dog", "sun"))
    found = amber.mark(["man", "sky", "light", "puppy", "boat", "boat"], scene, LEXICON, None)
    assert found.nouns == 6
    assert found.hallucinated == ("puppy", "boat", "boat")
    assert found.covered == {0, 1}
    assert found.tempted == {0}
    assert found.cognitive == 1


def test_truth_that_stands_twice_is_covered_once() -> None:
    scene = amber.Scene("1", ("ship", "ship", "man"), ("sun",))
    assert amber.mark(["ship", "ship", "boat"], scene, LEXICON, None).covered == {0}


def test_a_man_covers_the_person_that_he_is_associated_with() -> None:
    scene = amber.Scene("1", ("person", "man"), ("sun",))
    assert amber.mark(["man"], scene, LEXICON, None).covered == {0}
    assert amber.mark(["guy"], scene, LEXICON, None).covered == {1}


def test_likeness_tempts_first_and_then_forgives() -> None:
    """A word like a tempting one and like a true one counts in Cog and not in CHAIR; exactly 0.8 is not alike."""
    scene = amber.Scene("1", ("lake",), ("sun", "dog"))
    both = amber.mark(["boat"], scene, LEXICON, alike(("boat", "dog"), ("boat", "water")))
    assert (both.hallucinated, both.covered, both.tempted) == ((), frozenset({0}), frozenset({1}))
    neither = amber.mark(["boat"], scene, LEXICON, alike())
    assert (neither.hallucinated, neither.covered, neither.tempted) == (("boat",), frozenset(), frozenset())


def test_ambers_generative_numbers_by_hand() -> None:
    """Nouns 4 + 1 + 0, made up 2 + 0 + 0; truth 3 + 1 + 1, covered 1 + 1 + 0; temptations 2 + 1 + 1, named 1."""
    scenes = [amber.Scene("1", ("person", "sky", "lake"), ("dog", "sun")), amber.Scene("2", ("dog",), ("sun",)),
              amber.Scene("3", ("sky",), ("sun",))]  # fmt: skip
    texts = ["man dog light boat cup", "puppy", "nothing"]
    found = amber.described(texts, scenes, LEXICON, nouns=lambda text: text.split(), similarity=None)
    assert found.name == "AMBER without embedding similarity"
    known = amber.Lexicon({**LEXICON.association, "light": []}, LEXICON.safe)
    found = amber.described(texts, scenes, known, nouns=lambda text: text.split(), similarity=alike())
    assert found.name == "AMBER"
    assert found.chair == round(100 * 2 / 5.001, 1) == 40.0, "a safe word stays in the denominator, a cup is no object"
    assert found.cover == round(100 * 2 / 5.001, 1)
    assert found.hal == round(100 - 100 * 2 / 3.001, 1) == 33.4, "the public code's 0.001"
    assert found.cog == round(100 * 1 / 4.001, 1) == 25.0
    assert found.cog_paper == round(100 * (1 / 4) / 3, 1) == 8.3


def test_ambers_yes_and_no_by_hand() -> None:
    """Existence: said No 2, right 1; to be No 2. F1 of the rounded 50.0 and 50.0 with 1e-3, all else with 1e-4."""
    kinds = ["discriminative-hallucination"] * 4 + ["discriminative-attribute-state", "relation"]
    truths = ["no", "no", "yes", "yes", "no", "yes"]
    asked = [amber.Asked(str(n), kind, truth) for n, (kind, truth) in enumerate(zip(kinds, truths, strict=True))]
    found = amber.answered(["No", "Yes", "Yes", "No", "No.", "Yes"], asked)
    assert set(found) == {"all", "existence", "attribute", "state", "relation"}
    one = found["existence"]
    assert (one.accuracy, one.precision, one.recall) == (50.0, 50.0, 50.0)
    assert one.f1 == round(2 * 0.25 / (1 + 1e-3) * 100, 1) == 50.0
    assert found["state"].accuracy == 0.0, "'No.' is not 'No'"
    assert found["all"].unread == 1
    assert found["relation"].accuracy == 99.9, "1 of 1.001"
    assert found["relation"].f1 == 0.0
    assert amber.score(8.4, 83.2) == pytest.approx(87.4)


@pytest.mark.parametrize(("kind", "f1"), [("relation", 12.6), ("discriminative-hallucination", 12.5)])
def test_f1_is_of_precision_and_recall_as_they_are_rounded(kind: str, f1: float) -> None:
    """P = 1/1.001 -> 99.9, R = 1/15.001 -> 6.7. Unrounded, F1 would be 12.5; existence has a larger denominator."""
    asked = [amber.Asked(str(number), kind, "no") for number in range(15)]
    found = amber.answered(["No"] + ["Yes"] * 14, asked)["all" if kind == "relation" else "existence"]
    assert (found.precision, found.recall, found.f1) == (99.9, 6.7, f1)


def test_known_nouns_know_plurals() -> None:
    nouns = language.known_nouns(LEXICON.known)
    assert nouns("Men, puppies and SHIPS; a bus") == ["man", "puppy", "ship"]


def test_likeness_is_the_cosine_of_spacys_vectors(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    made = spacy.blank("en")
    for word, vector in {"dog": (1, 0), "puppy": (0.8, 0.6), "car": (0, 1)}.items():
        made.vocab.set_vector(word, np.array(vector, dtype=np.float32))
    made.to_disk(tmp_path / "vectors")
    similarity = language.spacy_similarity(str(tmp_path / "vectors"))
    assert similarity("dog", "puppy") == pytest.approx(0.8)
    assert similarity("dog", "car") == 0.0
    assert (similarity("dog", "unheard-of"), similarity("unheard-of", "unheard-of")) == (0.0, 1.0)


# Object HalBench


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["dog", "traffic light"]', ["dog", "traffic light"]),
        ('Here you are:\n["dog"]', ["dog"]),
        ("[]", []),
        ("()", []),
        ("a dog and a cat", None),
        ('["dog"] and ["cat"]', None),
        ("[1, 2]", None),
    ],
)
def test_lists_are_read_or_not(text: str, names: list[str] | None) -> None:
    assert objhal.listed(text) == names


def test_object_halbench_counts_each_word_once_and_leaves_failures_out() -> None:
    """Read: man, woman, dogs, dog | failure | nothing | umbrella: 3 words + 1, of which dog and umbrella are wrong."""
    objects = Objects.halbench(ours())
    texts = ["He and her and dogs and a dog", "A long answer about dogs", "yes", "It shows one umbrella there"]
    truth = [{"person"}, {"dog"}, {"cat"}, {"car"}]
    replies = [Reply('["man", "woman", "dogs", "brown dog"]'), Reply(failure="503"), Reply("[]"), Reply('["umbrella"]')]
    found = objhal.objhal(texts, truth, objects, replies, extractor="gpt")
    assert found.name == "Object HalBench by gpt"
    assert (found.unread, found.reasons) == (1, ("503",))
    assert ratio(found.chair.instance) == (2, 4), "man and woman are two words of one class"
    assert found.response == 1.0, "both answers that name an object"
    assert found.object == 0.5
    assert found.recall == pytest.approx(1 / 3)
    with pytest.raises(DataError, match="none could be read"):
        objhal.objhal(["x"], [{"dog"}], objects, [Reply(failure="503")])


def test_object_halbench_by_words_has_another_name() -> None:
    found = objhal.objhal(["a dog, a dog and a bus"], [{"dog"}], Objects.halbench(ours()))
    assert found.name == "Object HalBench by words"
    assert ratio(found.chair.instance) == (1, 2)


def test_names_stand_for_their_double_words_themselves_or_their_last_word() -> None:
    names = objhal.head(Objects.halbench(ours()))
    assert names("wooden dining tables") == ["dining table"]
    assert names("cell phones") == ["cell phone"]
    assert names("old bus") == ["bus"]
    assert names("dogs") == ["dog"]
    assert names("baby bird") == ["bird"]


# MMHal-Bench


@pytest.mark.parametrize(
    ("text", "value"),
    [("So: Rating: 6", 6), ("RATING: 0, bad", 0), ("Rating: 3 or rating: 4", None), ("Rating: 3. Rating: 3", 3),
     ("I say 4", None), ("Rating: **5**", None)],
)  # fmt: skip
def test_ratings_are_read_as_published(text: str, value: int | None) -> None:
    assert mmhal.rated(text) == value


def items(count: int) -> list[mmhal.Item]:
    return [mmhal.Item(str(n), ("attribute", "counting")[n % 2], ("Cat", "Dog"), "Q?", "A.") for n in range(count)]


def test_mmhal_leaves_muddles_out_and_the_release_calls_them_zero() -> None:
    replies = [
        Reply("Rating: 6"),
        Reply("rating: 2"),
        Reply("Rating: 3"),
        Reply("a muddle"),
        Reply(failure="timed out"),
    ]
    found = mmhal.mmhal(items(5), replies, judge="j")
    assert found.ratings == (6, 2, 3, None, None)
    assert found.invalid == 2
    assert found.reasons == ("several ratings or none: 'a muddle'", "timed out")
    assert found.score.value == pytest.approx(11 / 3)
    assert found.hallucination.value == pytest.approx(1 / 3)
    assert found.informativeness == pytest.approx((3 + 2 + 0) / 9)
    assert found.by_kind == {"attribute": 4.5, "counting": 2.0}
    released = mmhal.mmhal(items(5), replies, judge="j", variant="release")
    assert released.ratings == (6, 2, 3, 0, None), "what never came has no rating"
    assert released.score.value == pytest.approx(11 / 4)
    with pytest.raises(DataError, match="none of 1 answers has a rating: timed out"):
        mmhal.mmhal(items(1), [Reply(failure="timed out")], judge="j")


def test_judges_words_may_be_a_file_with_named_or_bare_places(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("C {} Q {} S {} R {}")
    text = asking.template(path, mmhal.PLACES)
    assert (
        asking.filled(text, contents="{question}", question="b", standard="c", response="{}")
        == "C {question} Q b S c R {}"
    )
    path.write_text("only {question}")
    with pytest.raises(DataError, match=r"no place for \{answer\}"):
        asking.template(path, ("question", "answer"))


# Answers


def test_answers_are_found_under_the_names_in_use(tmp_path: Path) -> None:
    rows = [{"question_id": 3, "text": "Is there?", "answer": "yes"}, {"question_id": 1, "answer": "no"}]
    found = kept.read(written(tmp_path / "a.jsonl", rows))
    assert found.to(["1", "3"]) == ["no", "yes"]
    assert kept.read(written(tmp_path / "b.json", [{"id": 1, "response": "x"}])).to(["1"]) == ["x"]
    image = [{"image": "COCO_val2014_000000000042.jpg", "caption": "a bus"}]
    assert kept.read(written(tmp_path / "c.jsonl", image), id_of=files.image_id).to(["42"]) == ["a bus"]
    bare = kept.read(written(tmp_path / "d.jsonl", [{"answer": "yes"}, {"answer": "no"}]))
    assert bare.to(["7", "8"]) == ["yes", "no"]
    with pytest.raises(DataError, match="2 rows for 3 questions"):
        bare.to(["7", "8", "9"])


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"id": 1, "answer": "a"}, {"id": 1, "answer": "b"}], "a.jsonl:2 is a second, other answer for '1'"),
        ([{"id": 1, "answer": "a"}, {"answer": "b"}], "a.jsonl:2 has none of"),
        ([{"id": 1, "reply": "a"}], "a.jsonl:1 has no answer as text under answer, caption"),
        ([{"id": 1, "answer": 5}], "no answer as text"),
        ([], "holds no answers"),
    ],
)
def test_answers_that_cannot_be_are_named(tmp_path: Path, rows: list[Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        kept.read(written(tmp_path / "a.jsonl", rows))


def test_a_writer_goes_on_after_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    with kept.Writer(path) as writer:
        writer.add("1", "yes", model="m")
        writer.add("2", "nö")
    path.write_bytes(path.read_bytes() + b'{"question_id": "3", "ans')
    with kept.Writer(path) as writer:
        assert writer.done == {"1", "2"}
        with pytest.raises(DataError, match="'2' is answered already"):
            writer.add("2", "no")
        writer.add("3", "no")
    assert kept.read(path).to(["1", "2", "3"]) == ["yes", "nö", "no"]


# The command


def said(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    code = cli.main([str(each) for each in ("evaluate", *words)])
    out = capsys.readouterr()
    return code, out.out + out.err


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_chair_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"image_id": 1, "caption": "A man with a dog and a cat."}, {"image_id": 42, "caption": "A bus on a street"}]
    answers = written(tmp_path / "captions.jsonl", rows)
    words = ("--bench", "chair", "--answers", answers, "--annotations", *coco(tmp_path), "--out", tmp_path / "out")
    code, text = said(capsys, *words)
    assert code == 0, text
    found = report(tmp_path / "out")
    assert (found["instance"]["part"], found["instance"]["whole"]) == (1, 4)
    assert found["each"][0]["hallucinated"] == ["cat"]
    assert "not comparable with published numbers" in found["note"]
    written(answers, [*rows, {"image_id": 77, "caption": "A cat"}])
    code, text = said(capsys, *words)
    assert (code, text.strip().splitlines()[-1]) == (2, "visalign: 1 of 3 pictures are not in the annotations: '77' …")
    code, text = said(capsys, "--bench", "chair", "--answers", answers, "--annotations", coco(tmp_path)[0])
    assert code == 2
    assert "needs COCO's captions_*.json too" in text


def test_pope_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotations = tmp_path / "coco_pope_random.json"
    files.write_questions(questions("yes", "no", "yes", "no"), annotations)
    answers = tmp_path / "answers.jsonl"
    with kept.Writer(answers) as writer:
        for id, text in zip("0123", ["Yes", "No", "no", "NO"], strict=True):
            writer.add(id, text)
    words = ("--bench", "pope", "--answers", answers, "--annotations", annotations, "--out", tmp_path / "out")
    code, text = said(capsys, *words)
    assert code == 0, text
    assert report(tmp_path / "out")["accuracy"]["value"] == 0.5
    assert said(capsys, *words, "--reader", "lmms_eval")[0] == 0
    assert report(tmp_path / "out")["accuracy"]["value"] == 0.75
    written(answers, [{"question_id": 0, "answer": "Yes"}, {"question_id": 2, "answer": "Yes"}])
    code, text = said(capsys, *words)
    assert code == 2
    assert text.strip().splitlines()[-1].endswith("has no answer for 2 of 4 ids: '1', '3'")


def amber_folder(folder: Path) -> Path:
    """One picture and a question of each dimension."""
    rows: list[dict[str, Any]] = [{"id": 1, "type": "generative", "truth": ["person", "sky"], "hallu": ["dog", "sun"]}]
    kinds = ("discriminative-hallucination", "discriminative-attribute-state", "relation")
    rows += [{"id": 2 + n, "type": kind, "truth": ("no", "yes")[n % 2]} for n, kind in enumerate(kinds)]
    written(folder / "annotations.json", rows)
    written(folder / "relation.json", {key: list(each) for key, each in LEXICON.association.items()})
    (folder / "safe_words.txt").write_text("light\nsign\n")
    return folder


def test_amber_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["A man and a dog under the sky.", "No", "Yes", "No"]
    rows = [{"id": n + 1, "response": text} for n, text in enumerate(texts)]
    answers = written(tmp_path / "answers.json", rows)
    words = ("--bench", "amber", "--answers", answers, "--annotations", amber_folder(tmp_path), "--out", tmp_path / "o",
             "--nouns", "words", "--similarity", "none")  # fmt: skip
    code, text = said(capsys, *words)
    assert code == 0, text
    found = report(tmp_path / "o")
    assert found["name"] == "AMBER with known words for nouns without embedding similarity"
    assert found["generative"]["chair"] == 33.3
    assert found["discriminative"]["all"]["accuracy"] == 100.0
    assert found["score"] == pytest.approx((100 - 33.3 + found["discriminative"]["all"]["f1"]) / 2)
    written(answers, rows[:2])
    assert said(capsys, *words)[0] == 0
    assert "score" not in report(tmp_path / "o"), "a dimension alone has no AMBER score"


@pytest.mark.parametrize(("words", "says"), [(("--similarity", "none"), "nltk"), (("--nouns", "words"), "spaCy")])
def test_amber_without_its_libraries_says_how_to_get_them(
    words: tuple[str, str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """True where neither is installed, and where the data that they load from their sites is not there."""
    answers = written(tmp_path / "a.json", [{"id": 1, "response": "A man."}])
    code, text = said(capsys, "--bench", "amber", "--answers", answers, "--annotations", amber_folder(tmp_path),
                      "--out", tmp_path / "o", *words)  # fmt: skip
    if code == 0:
        pytest.skip("the library and its data are here")
    assert code == 2
    assert says in text
    assert "pip install 'visalign[amber]'" in text or "python -m" in text


def halbench(folder: Path) -> list[Path]:
    rows = [{"image_id": 1, "question": "What is there?"}, {"image_id": 42, "question": "Describe it."}]
    return [written(folder / "obj_halbench_300.jsonl", rows), *coco(folder)]


@pytest.mark.parametrize(
    "rows",
    [
        [{"image_id": 42, "answer": "b"}, {"image_id": 1, "answer": "a"}],
        [{"image": "COCO_val2014_000000000042.jpg", "answer": "b"}, {"image": "val/000000000001.jpg", "answer": "a"}],
        [{"question_id": 1, "answer": "b"}, {"question_id": 0, "answer": "a"}],
        [{"answer": "a"}, {"answer": "b"}],
    ],
)
def test_answers_to_object_halbench_are_by_pictures_places_or_in_order(
    rows: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"a": "A man with two dogs", "b": "A cat on a bus"}
    answers = written(tmp_path / "a.jsonl", [{**row, "answer": texts[row["answer"]]} for row in rows])
    code, text = said(capsys, "--bench", "objhal", "--answers", answers, "--annotations", *halbench(tmp_path),
                      "--out", tmp_path / "o")  # fmt: skip
    assert code == 0, text
    found = report(tmp_path / "o")["chair"]["instance"]
    assert (found["part"], found["whole"]) == (1, 4)


def test_a_picture_that_stands_twice_is_asked_about_by_place(tmp_path: Path) -> None:
    rows = [{"image_id": 1, "question": "What?"}, {"image_id": 1, "question": "Where?"}]
    items = files.halbench(written(tmp_path / "h.jsonl", rows))
    assert [(each.id, each.image) for each in items] == [("0", "1"), ("1", "1")]


@pytest.mark.parametrize(("name", "id"), [("COCO_val2014_000000000042.jpg", "42"), ("42", "42"), ("000000000042", "42"),
                                          ("train/7.png", "7"), ("5b18b22f53ccc661", "5b18b22f53ccc661")])  # fmt: skip
def test_cocos_numbers_in_names(name: str, id: str) -> None:
    assert files.image_id(name) == id


def template(folder: Path) -> Path:
    rows = [{"question_type": kind, "image_id": f"f{n}", "image_content": ["Cat"], "question": "How many cats?",
             "gt_answer": "One.", "model_answer": ""} for n, kind in enumerate(("counting", "other"))]  # fmt: skip
    return written(folder / "response_template.json", rows)


def test_object_halbench_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["A man with two dogs and a cat", "There is a bus in the street"]
    rows = [{"question_id": n, "answer": text} for n, text in enumerate(texts)]
    answers = written(tmp_path / "answers.jsonl", rows)
    asked = [asking.filled(objhal.WORDS, question=question, answer=text)
             for question, text in zip(("What is there?", "Describe it."), texts, strict=True)]  # fmt: skip
    with faulty.serving({}) as server:
        replies = ('["man", "dogs", "cat"]', "I cannot tell")
        server.replies = {
            text: {"role": "assistant", "content": reply} for text, reply in zip(asked, replies, strict=True)
        }
        chat = f"{{name: endpoint, url: '{server.url}', model: tiny}}"
        words = ("--bench", "objhal", "--answers", answers, "--annotations", *halbench(tmp_path), "--chat", chat,
                 "--out", tmp_path / "out")  # fmt: skip
        code, text = said(capsys, *words)
        assert code == 0, text
        first = sum(server.asked.values())
        assert said(capsys, *words)[0] == 0
        assert sum(server.asked.values()) == first, "replies are in the book"
    found = report(tmp_path / "out")
    assert found["name"] == "Object HalBench by tiny"
    assert found["unread"] == 1
    assert (found["chair"]["instance"]["part"], found["chair"]["instance"]["whole"]) == (1, 3)
    code, text = said(capsys, *words[:-4], "--out", tmp_path / "by_words")
    assert code == 0, text
    assert report(tmp_path / "by_words")["name"] == "Object HalBench by words"


def test_mmhal_over_http(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = template(tmp_path)
    rows = json.loads(made.read_text())
    answers = written(tmp_path / "filled.json", [{**row, "model_answer": f"{n} cats"} for n, row in enumerate(rows)])
    words = tmp_path / "words.txt"
    words.write_text("{} | {} | {} | {}")
    asked = [f"Cat | How many cats? | One. | {n} cats" for n in range(2)]
    with faulty.serving({asked[1]: ["status 400"] * 9}) as server:
        server.replies = {asked[0]: {"role": "assistant", "content": "Fine. Rating: 5"}}
        chat = f"{{name: endpoint, url: '{server.url}', model: tiny, tries: 1}}"
        code, text = said(capsys, "--bench", "mmhal", "--answers", answers, "--annotations", made, "--chat", chat,
                          "--judge-words", words, "--out", tmp_path / "out")  # fmt: skip
    assert code == 0, text
    found = report(tmp_path / "out")
    assert found["score"]["value"] == 5.0
    assert found["invalid"] == 1
    assert [each["rating"] for each in found["each"]] == [5, None]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bench", "pope"), "--bench pope needs --answers"),
        (("--bench", "mmhal", "--answers", "a", "--annotations", "t"), "--bench mmhal needs a judge: --chat"),
        (("--bench", "chiar", "--answers", "a"), "no benchmark is named 'chiar'; did you mean chair?"),
        (("--bench", "pope", "--answers", "a", "--annotations", "none.json"), "no such file: none.json"),
        (("--bench", "pope", "--answers", "a", "--annotations", "b", "--judge", "rules"), "asks no scorer"),
        (("--bench", "hpd_v2", "--data", "x"), "--bench hpd_v2 needs --judge NAME"),
        (("a", "b", "--prompts", "c"), "evaluate needs --judge NAME"),
    ],
)
def test_what_is_missing_is_one_line_with_exit_code_two(
    words: tuple[str, ...],
    says: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = said(capsys, *words)
    last = text.strip().splitlines()[-1]
    assert code == 2
    assert says in last
    assert last.startswith("visalign: ")


def test_an_asker_is_made_from_the_registry() -> None:
    with faulty.serving({}) as server:
        asker = registry.build(
            "asker", {"name": "chat", "backend": {"name": "endpoint", "url": server.url, "model": "m"}}
        )
        assert isinstance(asker, asking.Asker)
        assert asker.ask(["one", "two", "one"]) == [Reply("you said one"), Reply("you said two"), Reply("you said one")]
        asker.close()
    assert table(["a, b"]) == {"a": "a", "b": "a"}
