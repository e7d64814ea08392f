"""Records of answers as batches: who is preferred, what is set aside and why, and what a batch depends on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import language
import numpy as np
import pytest
import torch
from language import likeness

from visalign.batches import AnswerPairs, Answers, halves
from visalign.data.dialogues import VIEWS, RecordsView, Settings
from visalign.data.recalled import Recalled, Remembered, digest, folder_of, recall
from visalign.models.reading import Reader
from visalign.models.seeing import SeeingFolder
from visalign.records import DataError, Preference
from visalign.text import log_probs, token_log_probs


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("language")


@pytest.fixture(scope="session")
def reader(root: Path) -> Reader:
    return language.folder(root).reader()


def shown(
    root: Path, records: Sequence[Preference], reader: Reader, kind: type = AnswerPairs, **settings: object
) -> RecordsView:
    return VIEWS[kind](records, root / "data", reader, Settings(**settings))  # type: ignore[arg-type]


def said(view: RecordsView, reader: Reader, indices: list[int]) -> list[str]:
    """The answers of a batch, as text."""
    made = view.batch(indices, [0] * len(indices), 0).answers
    rows = zip(made.ids, made.answer, strict=True)
    return [reader.tokenizer.decode(ids[counted], skip_special_tokens=True) for ids, counted in rows]


def test_winners_come_first_and_a_pair_shares_question_and_picture(root: Path, reader: Reader) -> None:
    records = language.records(root / "data")
    swapped = replace(records[1], items=records[1].items[::-1], scores=records[1].scores[::-1], key="swapped")
    view = shown(root, [records[0], swapped], reader)
    assert said(view, reader, [0, 1]) == [
        records[0].items[0],
        records[1].items[0],
        *(each.items[1] for each in records[:2]),
    ]
    made = view.batch([0, 1], [0, 0], 0)
    win, lose = halves(made.answers)
    assert torch.equal(win.media["pixel_values"], lose.media["pixel_values"])
    assert win.prompt is not None and lose.prompt is not None
    assert [win.ids[0][win.prompt[0]].tolist()] == [lose.ids[0][lose.prompt[0]].tolist()]
    assert made.scores is not None and made.scores[1].tolist() == swapped.scores[::-1, 0].tolist()
    ends = made.answers.ids.gather(1, made.answers.answer.cumsum(1).argmax(1)[:, None])
    assert (ends == reader.tokenizer.eos_token_id).all()


@pytest.mark.parametrize("kind", [AnswerPairs, Answers])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_a_batch_of_three_is_three_batches_of_one_up_to_padding(root: Path, kind: type, family: str) -> None:
    view = language.view(root, kind, family=family)
    whole = view.batch([5, 1, 2], [0, 0, 0], 0)
    sides = len(whole.answers) // 3
    for place, index in enumerate((5, 1, 2)):
        one = view.batch([index], [0], 0)
        for side in range(sides):
            row, length = side * 3 + place, one.answers.ids.shape[1]
            for name in ("ids", "attention", "answer", "prompt"):
                assert torch.equal(getattr(whole.answers, name)[row, :length], getattr(one.answers, name)[side]), name
            assert not whole.answers.attention[row, length:].any()
            assert torch.equal(whole.answers.relevance[row, :length].isnan(), one.answers.relevance[side].isnan())
    assert torch.equal(view.batch([5, 1, 2], [4, 4, 4], 1).answers.ids, whole.answers.ids)


def test_ties_are_left_out_or_half_and_nothing_to_learn_from_is_counted(root: Path, reader: Reader) -> None:
    one, two, three, four = language.records(root / "data")[:4]
    given = [
        replace(one, scores=np.empty(0), verdict="tie"),
        replace(two, scores=np.empty(0), verdict="both_bad"),
        replace(three, items=three.items[:1], scores=np.empty(0)),
        four,
    ]
    skipped = shown(root, given, reader)
    assert (len(skipped), dict(skipped.left_out)) == (1, {"tie": 1, "both bad": 1, "not judged": 1})
    halved = shown(root, given, reader, ties="half")
    assert halved.batch([0, 1], [0, 0], 0).confidence.tolist() == [0.5, 1.0]
    alone = shown(root, given, reader, Answers)
    assert [alone.key(index) for index in range(len(alone))] == [three.key, four.key]
    assert dict(alone.left_out) == {"tie": 1, "both bad": 1}


def test_what_a_model_cannot_be_shown_is_set_aside_with_the_reason(root: Path, reader: Reader, tmp_path: Path) -> None:
    good, *rest = language.records(root / "data")
    (root / "data" / "broken.png").write_bytes(b"no picture")
    faulty = {
        "no such file": replace(rest[0], media=("gone.png",)),
        "broken.png": replace(rest[1], media=("broken.png",)),
        "empty": replace(rest[2], items=("a dot", " ")),
        "an <image> tag": replace(rest[3], prompt="is <image> this"),
        "the key occurs twice": good,
        "its items are pictures": replace(rest[4], answers=False),
    }
    listed = tmp_path / "quarantine.jsonl"
    view = VIEWS[AnswerPairs]([good, *faulty.values()], root / "data", reader, listed=listed)
    assert [view.key(index) for index in range(len(view))] == [good.key]
    assert [each.key for each in view.quarantine] == [each.key for each in faulty.values()]
    for said, bad in zip(faulty, view.quarantine, strict=True):
        assert said in f"{bad.reason} {bad.path}"
    assert [json.loads(line)["key"] for line in listed.read_text().splitlines()] == [
        each.key for each in view.quarantine
    ]


def test_an_answer_without_room_is_set_aside_and_one_that_is_cut_is_counted(root: Path) -> None:
    records, folder = language.records(root / "data"), language.folder(root)
    whole = shown(root, records[:3], folder.reader())
    lengths = whole.batch([0, 1, 2], [0] * 3, 0).answers
    question = int((lengths.attention & ~lengths.answer)[0].sum())
    view = shown(root, records[:3], folder.reader(max_length=question + 4))
    assert view.cut > 0
    cut = view.batch([0], [0], 0).answers
    assert cut.answer.sum(1).tolist() == [4, 4]
    assert reader_end(folder) not in cut.ids[cut.answer].tolist()
    with pytest.raises(DataError, match="no record is left"):
        shown(root, records[:3], folder.reader(max_length=3))


def reader_end(folder: SeeingFolder) -> int:
    return int(folder.reader().tokenizer.eos_token_id)


def test_two_answers_that_are_cut_to_the_same_words_are_no_pair(root: Path) -> None:
    record = replace(language.records(root / "data")[0], items=("a red ring", "a red dot"))
    folder = language.folder(root)
    made = shown(root, [record], folder.reader()).batch([0], [0], 0).answers
    question = int((made.attention & ~made.answer)[0].sum())
    with pytest.raises(DataError, match="the same answer twice"):
        shown(root, [record], folder.reader(max_length=question + 4))


def test_memory_is_bounded_and_what_was_let_go_is_read_again(root: Path, reader: Reader) -> None:
    records = language.records(root / "data")
    small, large = shown(root, records, reader, kept=20_000), shown(root, records, reader)
    for rows in ([0, 1, 2], [7, 6, 5], [0, 7, 3]):
        one, other = (each.batch(rows, [0] * 3, 0).answers for each in (small, large))
        assert digest(one) == digest(other)
    assert small._kept.held <= 20_000 < large._kept.held


def test_relevance_is_of_words_alone(root: Path, reader: Reader) -> None:
    made = language.view(root, AnswerPairs).batch([0], [0], 0).answers
    assert made.relevance is not None and made.prompt is not None and made.vocabulary is not None
    known = ~made.relevance.isnan()
    assert torch.equal(known, (made.prompt | made.answer) & torch.isin(made.ids, made.vocabulary.words))
    word = reader.tokenizer.decode([int(made.ids[known][0])])
    assert float(made.relevance[known][0]) == pytest.approx(likeness([word], [])[0])
    assert not torch.isin(torch.tensor(reader.tokenizer.all_special_ids), made.vocabulary.words).any()


# What the reference said --------------------------------------------------------------------------------------------


def remembered(root: Path, folder: Path, rows: list[list[int]]) -> tuple[Recalled, Remembered, int]:
    """A view whose reference was asked in these batches."""
    view, memory = language.view(root, AnswerPairs), Remembered(folder)
    model = language.model(root, "mllm_dpo", dtype=torch.float32)
    asked = recall(view, rows, model.reference, memory)
    return Recalled(view, memory), memory, asked


def test_what_was_cached_is_what_would_be_said_bit_for_bit(root: Path, tmp_path: Path) -> None:
    rows = [[0, 5, 3], [1, 2, 4], [6, 7]]
    view, _, asked = remembered(root, tmp_path, rows)
    model = language.model(root, "mllm_dpo", dtype=torch.float32)
    assert asked == 8
    for each in rows:
        made = view.batch(each, [0] * len(each), 0)
        assert made.cached is not None
        with torch.no_grad():
            fresh = token_log_probs(model.reference(made.answers))
        assert torch.equal(made.cached, fresh)
        assert torch.equal(log_probs(model, made.answers, made.cached).ratio, log_probs(model, made.answers).ratio)
    mixed = view.batch([7, 0, 2], [0] * 3, 0)
    with torch.no_grad():
        fresh = token_log_probs(model.reference(mixed.answers))
    assert mixed.cached is not None and torch.allclose(mixed.cached, fresh, atol=1e-5)


def test_what_was_asked_before_an_interruption_is_not_asked_again(root: Path, tmp_path: Path) -> None:
    assert remembered(root, tmp_path, [[0, 1], [2, 3]])[2] == 4
    assert remembered(root, tmp_path, [[0, 1], [2, 3], [4, 5]])[2] == 2
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


def test_a_damaged_file_is_set_aside_and_its_answers_are_asked_again(root: Path, tmp_path: Path) -> None:
    remembered(root, tmp_path, [[0, 1]])
    (file,) = tmp_path.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    _, memory, asked = remembered(root, tmp_path, [[0, 1]])
    assert (asked, memory.damaged) == (2, [file])


def test_another_picture_word_or_length_is_another_key(root: Path) -> None:
    records, reader = language.records(root / "data"), language.folder(root).reader()
    first = records[0]
    others = [
        replace(first, media=records[1].media),
        replace(first, prompt=first.prompt + "?"),
        replace(first, items=(first.items[0], first.items[1] + "!")),
    ]
    keys = [shown(root, [each], reader).digest(0) for each in (first, *others)]
    cut, whole = (shown(root, [first], language.folder(root).reader(max_length=length)) for length in (44, 400))
    assert cut.cut and len({*keys, cut.digest(0)}) == 5
    assert whole.digest(0) == keys[0]


def test_another_model_or_dtype_is_another_folder(root: Path, tmp_path: Path) -> None:
    folder = language.folder(root)
    prints = [folder.model(train="lora", rank=2, dtype=dtype).fingerprint for dtype in ("fp32", "bf16")]
    prints.append(language.folder(root, "qwen2_vl").model(train="lora", rank=2).fingerprint)
    settings = [{"model": each, "device": "cpu", "max_length": "None"} for each in prints]
    settings += [settings[0] | {"max_length": "64"}, settings[0] | {"device": "cuda"}]
    assert len({folder_of(tmp_path, **each) for each in settings}) == 5
