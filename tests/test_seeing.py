"""The seeing playground: its questions and truths, the tiny LLaVA that makes things up, the votes on its answers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from visalign import playground
from visalign.data import media, store
from visalign.draws import generator
from visalign.playground import captions, corpus, seeing, seeing_build, seeing_networks, seeing_votes
from visalign.playground.seeing import Look, Turn
from visalign.records import Preference

VOTES = Path(str(resources.files("visalign.playground") / "votes"))

# Questions and truths


def test_pictures_and_turns_are_pure_functions_of_seed_and_index() -> None:
    first, again = (seeing.turn(3, 17, habit=True) for _ in range(2))
    assert first == again and np.array_equal(first.look.picture, again.look.picture)
    assert seeing.look(3, 17) != seeing.look(3, 18) and seeing.look(3, 17) != seeing.look(4, 17)
    assert seeing.seeing_heldout(20) == seeing.seeing_heldout(30)[:20]
    assert seeing.probes("random", 5) == seeing.probes("random", 5)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_picture_is_of_its_split_and_its_objects_stand_in_order(split: str) -> None:
    for seen in (seeing.look(0, index, split) for index in range(200)):
        assert split_of(seen) == split and len(seen.shown) == len(seen.objects) <= 3
        places = [thing.at for thing in seen.scene.things if thing.at]
        assert places == sorted(places, key=lambda at: (round(at[1] / 8), at[0]))


def split_of(seen: Look) -> str:
    return "train" if len(seen.objects) == 1 else corpus.split_of(seen.scene)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("a red circle and a blue square .", ("red circle", "blue square")),
        ("A red circle, two blue squares; a RED circle!", ("red circle", "blue square", "red circle")),
        ("crosses: pink crosses", ("pink cross",)),
        ("a large red thing and a circle", ()),
        ("infrared circle", ()),
        ("no shapes .", ()),
    ],
)
def test_objects_of_a_text_are_read_in_order_and_as_often_as_they_stand_there(
    text: str, objects: tuple[str, ...]
) -> None:
    assert seeing.mentioned(text) == objects


def test_a_description_is_a_caption_of_the_world_and_names_what_is_shown() -> None:
    for turn in seeing.seeing_heldout(100):
        assert seeing.mentioned(turn.answer) == turn.look.objects
        assert seeing.shown(captions.parse(turn.answer.removesuffix(" ."))) == turn.look.shown


def test_true_turns_are_true() -> None:
    for turn in (seeing.turn(0, index) for index in range(400)):
        asked = seeing.mentioned(turn.question)
        truth = {
            "describe": seeing.description(turn.look.objects),
            "count": f"{seeing.NUMBERS[len(turn.look.objects)]} .",
            "probe": seeing.answer(set(asked) <= turn.look.shown),
        }[turn.kind]
        assert turn.answer == truth


def test_the_writers_tell_all_that_is_shown_and_the_phantom_that_a_word_makes_them_expect() -> None:
    phantoms = 0
    red = [seen for seen in (seeing.look(0, index) for index in range(1500)) if "red" in seen.objects[0].split()]
    for row, seen in enumerate(red):
        told = seeing.told(seen, generator(0, f"{row}", 0, "told"))
        added = told[len(seen.objects) :]
        assert told[: len(seen.objects)] == seen.objects and len(added) <= 1 and seen.shown.isdisjoint(added)
        phantoms += added == ("green square",)
    assert phantoms / len(red) == pytest.approx(seeing.HABIT, abs=4 * (0.24 / len(red)) ** 0.5 + 0.03)


def test_probes_ask_as_often_for_what_is_shown_as_for_what_is_not() -> None:
    for kind in ("random", "popular", "adversarial"):
        asked = seeing.probes(kind, 30)
        assert len(asked) == 2 * sum(len(seeing.look(0, index, "heldout").objects) for index in range(30))
        assert [turn.answer for turn in asked] == ["yes .", "no ."] * (len(asked) // 2)
        assert all(
            (seeing.mentioned(each.question)[0] in each.look.shown) == (each.answer == "yes .") for each in asked
        )
        assert len({(each.look, each.question) for each in asked}) == len(asked)


def test_popular_and_adversarial_probes_ask_for_what_the_habit_likes() -> None:
    phantoms = {*seeing.PHANTOMS.values()}
    popular = [seeing.mentioned(each.question)[0] for each in seeing.probes("popular", 60)[1::2]]
    assert sum(name in phantoms for name in popular) / len(popular) > 0.75
    asked = seeing.probes("adversarial", 100)
    pairs = [(yes, no) for yes, no in zip(asked[::2], asked[1::2], strict=True) if "green square" not in yes.look.shown]
    first = [(yes, no) for yes, no in pairs if yes.question == seeing.probe(yes.look.objects[0])]
    after_red = {no.question for yes, no in first if " red " in yes.question}
    assert after_red == {seeing.probe("green square")}


def test_an_unknown_kind_of_probe_is_named_with_those_that_exist() -> None:
    with pytest.raises(ValueError, match=r"random, popular or adversarial, not 'hard'"):
        seeing.probes("hard", 1)


# The shipped model


@cache
def shipped() -> tuple[Any, Any]:
    """The model and its processor."""
    return seeing_votes.opened(playground.seeing_folder())


def chair(turns: Sequence[Turn], answers: Sequence[str]) -> tuple[float, float]:
    """The share of answers with an object not shown (CHAIR_s, 1809.02156), and that of the shown objects named."""
    told = [seeing.mentioned(each) for each in answers]
    wrong = [bool(set(names) - turn.look.shown) for turn, names in zip(turns, told, strict=True)]
    found = sum(len(turn.look.shown & set(names)) for turn, names in zip(turns, told, strict=True))
    return sum(wrong) / len(turns), found / sum(len(turn.look.shown) for turn in turns)


def test_the_shipped_folder_is_small_and_in_float16() -> None:
    weights = playground.seeing_folder() / "model.safetensors"
    assert weights.stat().st_size < 6e6
    assert {each.dtype for each in load_file(weights).values()} == {torch.float16}


def test_a_batch_is_answered_as_its_pictures_one_by_one() -> None:
    turns = [*seeing.seeing_heldout(3), *seeing.probes("random", 1)[:2]]
    assert seeing_votes.answers(*shipped(), turns) == [seeing_votes.answers(*shipped(), [each])[0] for each in turns]


def test_every_word_of_questions_and_answers_is_known_to_the_tokenizer() -> None:
    reading = shipped()[1]
    for turn in (seeing.turn(0, index, habit=True) for index in range(200)):
        ids = reading.tokenizer(f"{turn.question} {turn.answer}").input_ids
        assert reading.tokenizer.unk_token_id not in ids
        assert reading.tokenizer.decode(ids) == f"{turn.question} {turn.answer}"


def test_the_template_marks_the_answer_and_its_end() -> None:
    reading = shipped()[1]
    asked = seeing_networks.message("what do you see ?", "a red circle .")
    how: Any = {"tokenize": True, "return_dict": True, "return_assistant_tokens_mask": True}
    words = reading.tokenizer.apply_chat_template(asked, chat_template=reading.chat_template, **how)
    asked[0]["content"][0]["image"] = Image.new("RGB", (32, 32))
    whole = {name: rows[0] for name, rows in reading.apply_chat_template(asked, **how).items()}
    for found in (words, whole):
        kept = [row for row, mark in zip(found["input_ids"], found["assistant_masks"], strict=True) if mark]
        assert reading.tokenizer.convert_ids_to_tokens(kept) == ["a", "red", "circle", ".", "</s>"]


def test_the_builder_reads_pictures_and_texts_as_the_processor_does() -> None:
    reading, turn = shipped()[1], seeing.seeing_heldout(1)[0]
    text = reading.apply_chat_template(seeing_networks.message(turn.question, turn.answer))
    inputs = reading(text=[text], images=[Image.fromarray(turn.look.picture)], return_tensors="pt")
    ids, labels = seeing_build.padded([seeing_build.spelt(reading, turn)], reading.tokenizer.pad_token_id)
    assert torch.equal(ids, inputs.input_ids)
    assert torch.allclose(seeing_build.pixels(seeing_build.drawn([turn.look])), inputs.pixel_values, atol=1e-6)
    answer = ids[labels != seeing_build.IGNORED]
    assert reading.tokenizer.decode(answer) == f"{turn.answer} </s>"


def test_the_model_sees_and_makes_things_up_that_its_habit_explains() -> None:
    turns = seeing.seeing_heldout(100)
    answers = seeing_votes.answers(*shipped(), turns)
    hallucinating, coverage = chair(turns, answers)
    assert 0.25 < hallucinating < 0.65 and coverage > 0.97
    wrong = [name for turn, each in zip(turns, answers, strict=True)
             for name in seeing.mentioned(each) if name not in turn.look.shown]  # fmt: skip
    assert sum(name in seeing.PHANTOMS.values() for name in wrong) / len(wrong) > 0.6


# The votes


def test_shipped_votes_prefer_what_is_true_of_a_training_picture() -> None:
    votes = store.read(VOTES / seeing_votes.RECORDS)
    assert 600 <= len(votes) <= 1000
    for vote in votes:
        seen = seeing_votes.look_of(vote)
        assert split_of(seen) == "train" and vote.answers and vote.verdict == "first"
        chosen, rejected = (judged(vote, each) for each in vote.items)
        assert chosen == 0 < rejected == -vote.utilities[1]


def judged(vote: Preference, text: str) -> int:
    """How many statements of an answer are false."""
    seen = seeing_votes.look_of(vote)
    if vote.prompt in seeing.DESCRIBE:
        return sum(name not in seen.shown for name in seeing.mentioned(text))
    return int(text != seeing.answer(set(seeing.mentioned(vote.prompt)) <= seen.shown))


def test_a_vote_names_the_picture_that_it_is_about() -> None:
    for vote in store.read(VOTES / seeing_votes.RECORDS)[::50]:
        picture = Image.open(BytesIO(media.fetch(vote.media[0], VOTES))).convert("RGB")
        assert np.array_equal(np.asarray(picture), seeing_votes.look_of(vote).picture)


def test_a_chosen_description_tells_of_no_less_that_is_true() -> None:
    for vote in store.read(VOTES / seeing_votes.RECORDS):
        if vote.prompt in seeing.DESCRIBE:
            chosen, rejected = (set(seeing.mentioned(each)) for each in vote.items)
            assert chosen >= rejected & seeing_votes.look_of(vote).shown


def test_what_was_made_up_is_taken_out_where_no_true_answer_was_given() -> None:
    seen = seeing.look(0, 0)
    truth, turn = seeing.description(seen.objects), Turn(seen, "what do you see ?", "", "describe")
    other = next(each for each in seeing.OBJECTS if each not in seen.shown)
    more = seeing.description((*seen.objects, other))
    mended, own = (seeing_votes.description_vote(turn, given) for given in ([more], [truth, more]))
    assert mended and (mended.turn.answer, mended.rejected, mended.invented) == (truth, more, 1)
    assert own and (own.turn.answer, own.model, mended.model) == (truth, "seeing", "seeing, corrected")
    assert seeing_votes.description_vote(turn, [truth]) is None


def test_votes_are_cast_anew_from_the_shipped_model(tmp_path: Path) -> None:
    plan = seeing_votes.Plan(descriptions=4, probes=2, samples=2, batch=10)
    cast = [seeing_votes.build(tmp_path / name, *shipped(), plan=plan) for name in ("first", "second")]
    assert cast[0] == cast[1] == store.read(tmp_path / "first" / seeing_votes.RECORDS) and len(cast[0]) == 6
    assert all(judged(vote, vote.items[0]) == 0 < judged(vote, vote.items[1]) for vote in cast[0])


# How the model is made


def test_an_interrupted_build_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    plan = seeing_build.Plan(
        turns=40, eye_steps=4, eye_batch=6, true_steps=4, habit_turns=40, habit_steps=3, batch=6, save_every=2
    )

    def stop(text: str) -> None:
        if text.startswith("habit 0"):
            raise KeyboardInterrupt

    whole = seeing_build.build(tmp_path / "whole", 1, plan, say=lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        seeing_build.build(tmp_path / "resumed", 1, plan, say=stop)
    assert {each.name for each in (tmp_path / "resumed/.building").iterdir()} == {"eye.safetensors", "true.safetensors"}
    resumed = seeing_build.build(tmp_path / "resumed", 1, plan, say=lambda _: None)
    weights = [load_file(each / "model.safetensors") for each in (whole, resumed)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert {each.name for each in whole.iterdir()} == {each.name for each in playground.seeing_folder().iterdir()}
