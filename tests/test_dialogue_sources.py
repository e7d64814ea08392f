"""Published preferences between answers: each layout, as it is published, becomes the same kind of record."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from visalign import cli
from visalign.data import media, store
from visalign.data.dialogue_sources import untagged
from visalign.data.faults import fault
from visalign.data.quarantine import Bad
from visalign.data.sources import open_source, root
from visalign.images import ImageError
from visalign.records import DataError, Preference

QUESTION, GOOD, WORSE = "What is on the table?", "A red cup.", "A red cup and a green apple."
SAID = {"question": QUESTION, "chosen": GOOD, "rejected": WORSE}


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def cell(seed: int) -> dict[str, Any]:
    """A picture as `datasets` writes it."""
    return {"bytes": png(seed), "path": f"{seed}.jpg"}


def table(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(list(rows)), path, row_group_size=2)
    return path


def listed(path: Path, rows: Sequence[Any]) -> Path:
    """A JSON list, or JSON lines, by the file's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(json.dumps(list(rows)) if path.suffix == ".json" else lines, encoding="utf-8")
    for name in ("a.png", "b.png"):
        (path.parent / name).write_bytes(png(0))
    return path


def rlhf_v(text: Any = SAID, **more: Any) -> dict[str, Any]:
    """A row of openbmb/RLHF-V-Dataset."""
    row = {"ds_name": "RLHF-V", "image": cell(0), "text": text if isinstance(text, str) else json.dumps(text)}
    origin = {"origin_dataset": "vqav2", "origin_split": "train", "idx": 0, "image_path": "x.jpg"}
    return row | origin | more


def rlaif_v(**more: Any) -> dict[str, Any]:
    """A row of openbmb/RLAIF-V-Dataset."""
    row = {name: value for name, value in rlhf_v().items() if name != "text"}
    return row | SAID | {"logps": "[[-3.5], [-4.0]]"} | more


def messages(*turns: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


def swift(*turns: tuple[str, Any], **more: Any) -> dict[str, Any]:
    turns = turns or (("user", f"<image>{QUESTION}"), ("assistant", GOOD))
    return {"messages": messages(*turns), "rejected_response": WORSE, "images": ["a.png"]} | more


def factory(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    said = [{"from": who, "value": text} for who, text in turns or (("human", f"<image>{QUESTION}"),)]
    answers = {"chosen": {"from": "gpt", "value": GOOD}, "rejected": {"from": "gpt", "value": WORSE}}
    return {"conversations": said, "images": ["a.png"], **answers, **more}


def templated(question: str = f"<image>\n{QUESTION}") -> str:
    return f"A chat between a curious user and an assistant. USER: {question} ASSISTANT:"


TRL = {"prompt": QUESTION, "chosen": GOOD, "rejected": WORSE}
CHAT = {
    "prompt": messages(("user", [{"type": "image", "text": None}, {"type": "text", "text": QUESTION}])),
    "chosen": messages(("assistant", [{"type": "text", "text": GOOD}])),
    "rejected": messages(("assistant", [{"type": "text", "text": WORSE}])),
}
LAYOUTS: dict[str, tuple[str, str, dict[str, Any], tuple[str, ...]]] = {  # format, file, a row, its pictures
    "RLHF-V": ("rlhf_v", "a.parquet", rlhf_v(), ("a.parquet#0#image",)),
    "RLAIF-V": ("rlaif_v", "a.parquet", rlaif_v(), ("a.parquet#0#image",)),
    "MM-RLHF": ("mm_rlhf", "dpo_pairs.jsonl", {"id": 7, "image": "a.png", **TRL, "is_tie": False}, ("a.png",)),
    "mDPO": ("mdpo", "a.json", {"img_path": "a.png", **TRL, "prompt": templated()}, ("a.png",)),
    "TRL texts": ("trl_vision", "a.parquet", {"image": cell(0), **TRL}, ("a.parquet#0#image",)),
    "TRL chat": ("trl_vision", "a.parquet", {"images": [cell(0)], **CHAT}, ("a.parquet#0#images#0",)),
    "TRL lines": ("trl_vision", "a.jsonl", {"images": ["a.png"], **CHAT}, ("a.png",)),
    "LLaMA-Factory": ("llama_factory", "a.json", factory(), ("a.png",)),
    "LLaMA-Factory parquet": ("llama_factory", "a.parquet", factory(images=[cell(0)]), ("a.parquet#0#images#0",)),
    "ms-swift": ("ms_swift", "a.jsonl", swift(), ("a.png",)),
    "ms-swift cells": ("ms_swift", "a.jsonl", swift(images=[{"bytes": None, "path": "a.png"}]), ("a.png",)),
}


def written(path: Path, rows: Sequence[Any]) -> Path:
    return table(path, rows) if path.suffix == ".parquet" else listed(path, rows)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_says_the_same_and_is_told_from_its_columns(layout: str, tmp_path: Path) -> None:
    name, file, row, pictures = LAYOUTS[layout]
    path = written(tmp_path / file, [row])
    expected = Preference(QUESTION, (GOOD, WORSE), media=pictures, verdict="first", judge=name, answers=True)
    assert open_source(path) == open_source(path, name) == [expected]
    assert media.fetch(expected.media[0], root(path)) == png(0)
    assert fault(expected, root(path)) is None


@pytest.mark.parametrize("file", ["again.parquet", "again.jsonl"])
def test_records_of_answers_survive_our_own_files(file: str, tmp_path: Path) -> None:
    records = open_source(
        listed(tmp_path / "a.jsonl", [swift(), swift(rejected_response=GOOD), swift(images=[])]), None
    )
    store.write(records, tmp_path / file)
    again = open_source(tmp_path / file)
    assert again == records
    assert all(each.answers for each in again)
    with pytest.raises(DataError, match="answers must be true or false, got 1"):
        Preference.from_json({"prompt": "a", "items": ["b"], "answers": 1})


def test_pictures_of_every_row_are_found_across_row_groups_and_shards(tmp_path: Path) -> None:
    for shard in range(2):
        rows = [rlaif_v(image=cell(10 * shard + i), question=f"{shard} {i}") for i in range(5)]
        table(tmp_path / f"part-{shard}.parquet", rows)
    records = open_source(tmp_path)
    assert [record.prompt for record in records] == [f"{shard} {i}" for shard in range(2) for i in range(5)]
    assert len({record.key for record in records}) == 10
    for i in (9, 0, 4, 5, 2):
        assert media.fetch(records[i].media[0], tmp_path) == png(i + 5 * (i > 4))


def test_several_pictures_keep_their_order_and_plain_bytes_are_pictures_too(tmp_path: Path) -> None:
    two = TRL | {"prompt": f"<image><image>{QUESTION}"}
    (record,) = open_source(table(tmp_path / "a.parquet", [two | {"images": [cell(1), cell(2)]}]))
    assert (record.prompt, record.media) == (QUESTION, ("a.parquet#0#images#0", "a.parquet#0#images#1"))
    assert [media.fetch(each, tmp_path) for each in record.media] == [png(1), png(2)]
    (record,) = open_source(table(tmp_path / "b.parquet", [{"image": png(3), **TRL}]))
    assert media.fetch(record.media[0], tmp_path) == png(3)
    (record,) = open_source(table(tmp_path / "c.parquet", [{"images": [png(3)], **TRL}]))
    assert media.fetch(record.media[0], tmp_path) == png(3)


def test_a_picture_that_was_left_outside_of_its_table_is_read_beside_it(tmp_path: Path) -> None:
    table(
        tmp_path / "in" / "a.parquet", [{"image": {"bytes": None, "path": each}, **TRL} for each in ("x.png", "../x")]
    )
    (tmp_path / "in" / "x.png").write_bytes(png(4))
    (tmp_path / "x").write_bytes(png(5))
    assert media.fetch("a.parquet#0#image", tmp_path / "in") == png(4)
    with pytest.raises(ImageError, match="leads out of"):
        media.fetch("a.parquet#1#image", tmp_path / "in")


@pytest.mark.parametrize(
    ("cell_of", "said"),
    [
        ("#0#images", "holds no bytes but list"),
        ("#0#images#1", "asks for number 1, counted from 0, of 1 pictures"),
        ("#0#prompt#0", "asks for number 0, counted from 0, of str"),
        ("#0#images#x", "should read FILE.parquet#ROW#COLUMN, or"),
        ("#0#images#0#0", "should read FILE.parquet#ROW#COLUMN, or"),
        ("#0", "should read FILE.parquet#ROW#COLUMN, or"),
    ],
)
def test_a_wrong_place_in_a_table_is_named(cell_of: str, said: str, tmp_path: Path) -> None:
    table(tmp_path / "a.parquet", [{"images": [cell(0)], **TRL}])
    with pytest.raises(ImageError, match=said):
        media.fetch(f"a.parquet{cell_of}", tmp_path)


# Questions ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "pictures", "question"),
    [
        ("What?", 1, "What?"),
        (" What? ", 1, " What? "),
        ("<image>\nWhat?", 1, "What?"),
        ("What?\n<image>", 1, "What?"),
        ("<image> <image>What?", 2, "What?"),
        ("<image>", 1, ""),
    ],
)
def test_tags_before_and_after_a_question_are_taken_off(given: str, pictures: int, question: str) -> None:
    assert untagged(given, pictures) == question


@pytest.mark.parametrize(
    ("given", "pictures", "said"),
    [
        ("<image>What?", 0, "1 <image> tags for 0 pictures"),
        ("<image>What?", 2, "1 <image> tags for 2 pictures"),
        ("Is <image> red?", 1, "an <image> tag stands inside the question"),
    ],
)
def test_tags_that_do_not_fit_are_an_error(given: str, pictures: int, said: str) -> None:
    with pytest.raises(DataError, match=said):
        untagged(given, pictures)


# MM-RLHF ------------------------------------------------------------------------------------------------------------


def pair_of_mm_rlhf(folder: Path, **more: Any) -> Preference:
    (record,) = open_source(listed(folder / "dpo_pairs.jsonl", [{"id": 7, "image": "a.png", **TRL, **more}]), "mm_rlhf")
    return record


def test_reasons_become_captions_and_a_tie_is_one(tmp_path: Path) -> None:
    record = pair_of_mm_rlhf(tmp_path, chosen_reason="right", rejected_reason="no apple", is_tie=True)
    assert (record.captions, record.verdict) == (("right", "no apple"), "tie")
    assert pair_of_mm_rlhf(tmp_path, chosen_reason="right", rejected_reason=None).captions == ()


def test_a_margin_is_kept_and_gives_the_published_factor_again(tmp_path: Path) -> None:
    """beta = 0.1 (1 + w ls_factor), ls_factor = 1 - exp(-k margin) with k = 0.5 (arXiv 2502.10391, App. F.2)."""
    assert pair_of_mm_rlhf(tmp_path, scores=[3.5, 1.0]).utilities.tolist() == [3.5, 1.0]
    first, second = pair_of_mm_rlhf(tmp_path, ls_factor=0.7).utilities
    assert 1 - math.exp(-0.5 * (first - second)) == pytest.approx(0.7)
    first, second = pair_of_mm_rlhf(tmp_path, ls_factor=1.0).utilities
    assert 1 - math.exp(-0.5 * (first - second)) == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize("said", [{"scores": [1.0, 3.5]}, {"ls_factor": -0.3}, {"ls_factor": 0.0}])
def test_a_person_outweighs_a_reward_model_that_disagrees(said: dict[str, Any], tmp_path: Path) -> None:
    record = pair_of_mm_rlhf(tmp_path, **said)
    assert record.verdict == "first"
    assert np.isnan(record.scores).all()
    assert pair_of_mm_rlhf(tmp_path, is_tie=True, scores=[2, 2]).utilities.tolist() == [2, 2]


# Rows that make no record -------------------------------------------------------------------------------------------

BAD_ROWS: dict[str, tuple[str, Any, str]] = {
    "no JSON inside": ("rlhf_v", {"text": "{", "image": "a.png"}, "text is not JSON"),
    "not an object inside": ("rlhf_v", {"text": "[1]", "image": "a.png"}, "text must be an object with question"),
    "no text at all": ("rlhf_v", {"text": None, "image": "a.png"}, "text must be a text, got None"),
    "no answer": ("rlhf_v", {"text": '{"question": "a"}', "image": "a.png"}, "no column 'chosen' but question"),
    "answer null": ("rlaif_v", SAID | {"chosen": None, "image": "a.png"}, "chosen must be a text, got None"),
    "picture a number": ("rlaif_v", SAID | {"image": 3}, "image must be the path of a picture, got 3"),
    "a video": ("mm_rlhf", {"video": "a.mp4", **TRL}, "video cannot be used"),
    "a word for a score": ("mm_rlhf", {"image": "a.png", **TRL, "scores": ["good", "bad"]}, "scores must be two num"),
    "three scores": ("mm_rlhf", {"image": "a.png", **TRL, "scores": [3, 2, 1]}, "scores must be two numbers"),
    "no template": ("mdpo", {"img_path": "a.png", **TRL}, "prompt should read"),
    "two turns": ("mdpo", {"img_path": "a.png", **TRL, "prompt": templated("a ASSISTANT: b USER: c")}, "one turn"),
    "a system message": (
        "trl_vision",
        CHAT | {"prompt": messages(("system", "Be kind."), ("user", "a"))},
        "system, user",
    ),
    "an answer of two": ("trl_vision", CHAT | {"chosen": CHAT["chosen"] * 2}, "an answer is one message"),
    "an answer by the user": ("trl_vision", CHAT | {"chosen": CHAT["prompt"]}, "an answer is one message"),
    "tags without pictures": ("trl_vision", CHAT, "1 <image> tags for 0 pictures"),
    "a part unknown": ("trl_vision", CHAT | {"prompt": messages(("user", [{"type": "audio"}]))}, "a text or an image"),
    "a prompt of nothing": ("trl_vision", CHAT | {"prompt": []}, "a conversation is a list of messages"),
    "no tag": ("llama_factory", factory(("human", QUESTION)), "1 images need as many <image> tags"),
    "a history": ("llama_factory", factory(("human", "a"), ("gpt", "b"), ("human", "c")), "user, assistant, user"),
    "tools": ("llama_factory", factory(tools="[x]"), "tools cannot be used"),
    "no last answer": ("ms_swift", swift(("user", "a")), "the last of messages must be the assistant's"),
    "pictures of the rejected": ("ms_swift", swift(rejected_images=["b.png"]), "rejected_images cannot be used"),
    "no message": ("ms_swift", swift() | {"messages": ["a"]}, "a message has role and content"),
    "no object": ("ms_swift", [1], "a row is an object with columns"),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_is_named_and_the_others_are_read(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    format, row, said = BAD_ROWS[name]
    good = {"rlhf_v": rlhf_v(image="a.png"), "rlaif_v": rlaif_v(image="a.png"), "ms_swift": swift()}
    good |= {"mm_rlhf": {"image": "a.png", **TRL}, "mdpo": LAYOUTS["mDPO"][2], "llama_factory": factory()}
    rows = [good.get(format, {"images": ["a.png"], **CHAT}), row]
    bad: list[Bad] = []
    assert len(open_source(listed(tmp_path / "a.jsonl", rows), format, bad=bad)) == 1
    assert [(each.key, each.path) for each in bad] == [("line 2", str(tmp_path / "a.jsonl"))]
    assert said in bad[0].reason
    with caplog.at_level(logging.WARNING):
        assert len(open_source(tmp_path / "a.jsonl", format)) == 1
    assert "1 of 2 rows of" in caplog.text
    assert said in caplog.text


def test_a_line_that_is_no_json_loses_no_other(tmp_path: Path) -> None:
    path = listed(tmp_path / "a.jsonl", [swift(), swift()])
    path.write_text(path.read_text().replace('{"messages"', "{messages", 1), encoding="utf-8")
    bad: list[Bad] = []
    assert len(open_source(path, "ms_swift", bad=bad)) == 1
    assert bad[0].key == "line 1"


def test_too_many_bad_rows_are_an_error_and_so_are_none_but_bad_ones(tmp_path: Path) -> None:
    rows = [swift(), *[swift(videos=["a.mp4"])] * 11]
    with pytest.raises(DataError, match=r"11 of 12 rows of .* line 2 .*videos cannot be used"):
        open_source(listed(tmp_path / "a.jsonl", rows))
    with pytest.raises(DataError, match="holds no records that can be read: line 1"):
        open_source(listed(tmp_path / "b.jsonl", rows[1:2]))
    with pytest.raises(DataError, match="must be a JSON list of objects, got dict"):
        open_source(written_text(tmp_path / "c.json", "{}"), "mdpo")
    with pytest.raises(DataError, match="is not JSON"):
        open_source(written_text(tmp_path / "c.json", "["), "mdpo")
    with pytest.raises(DataError, match=r"cannot tell the format of .*d\.json"):
        open_source(written_text(tmp_path / "d.json", '[{"caption": "a"}]'))


def written_text(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Faults, and the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"media": ()}, "media", "shows no picture"),
        ({"media": ("gone.png",)}, "gone.png", "no such file"),
        ({"items": (GOOD, "")}, "answer 2", "empty"),
        ({"items": (" \n", GOOD)}, "answer 1", "empty"),
        ({"items": (GOOD, "<image> " + WORSE)}, "answer 2", "would be taken for a picture"),
        ({"prompt": "<image> " + QUESTION}, "question", "which the chat template writes"),
    ],
)
def test_a_record_that_cannot_be_learned_says_why(changes: Any, path: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    values = {"prompt": QUESTION, "items": (GOOD, WORSE), "media": ("a.png",), "answers": True} | changes
    found = fault(Preference(**values), tmp_path)
    assert found is not None
    assert found.path == path
    assert said in found.reason


def test_an_edits_items_and_its_source_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(0))
    edit = Preference("make it red", ("a.png", "a.png"), media=("a.png",))
    assert fault(edit, tmp_path) is None
    for broken in (replace(edit, items=("a.png", "gone.png")), replace(edit, media=("gone.png",))):
        found = fault(broken, tmp_path)
        assert found is not None
        assert found.path == "gone.png"


def test_the_command_counts_questions_and_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = table(
        tmp_path / "a.parquet", [rlhf_v(image=cell(i)) for i in range(2)] + [rlhf_v(SAID | {"rejected": GOOD})]
    )
    assert cli.main(["data", "check", str(path)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for said in (
        "pairs with a winner 2", "tie 1", "pictures 3", "questions 3, 5.0 words each", "answers 6, 4.3 words each",
        "preferred answers 2, 3.0 words each", "their rivals 2, 7.0 words each", "every answer says something",
    ):  # fmt: skip
        assert said in text


def test_the_command_names_bad_rows_and_bad_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [swift(), swift(images=["gone.png"]), swift(rejected_response=""), swift(videos=["a.mp4"])]
    assert cli.main(["data", "check", str(listed(tmp_path / "a.jsonl", rows))]) == 2
    text = " ".join(capsys.readouterr().out.split())
    for said in ("3 records cannot be used", "line 4", "gone.png", "answer 2 empty", "Training sets these aside."):
        assert said in text
    plain = {"prompt": QUESTION, "items": [GOOD, WORSE], "media": ["a.png"]}
    assert cli.main(["data", "check", str(listed(tmp_path / "b.jsonl", [plain]))]) == 2
    assert '"answers": true' in capsys.readouterr().out
    assert cli.main(["data", "check", str(listed(tmp_path / "b.jsonl", [plain | {"answers": True}]))]) == 0
    assert cli.main(["data", "check", str(listed(tmp_path / "c.jsonl", rows[3:])), "--format", "ms_swift"]) == 2
    assert "line 1" in capsys.readouterr().out
