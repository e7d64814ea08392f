"""OCR: which text a prompt asks for, how near what was read comes to it, and a real network that reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faulty
import pytest
import tiny_eyes
import tiny_vlm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from visalign import registry, scorers
from visalign.images import ImageError
from visalign.scorers.ocr import OCR, Read, TextReader, Word, distance, in_order, judged, quoted
from visalign.scorers.pages import ASKED, PageReader
from visalign.scorers.trocr import TrOCR
from visalign.scoring import Sample, Specified

WORDS = st.text("abc ", max_size=7)


@pytest.mark.parametrize(
    ("texts", "read", "near"),
    [
        (["Hello World"], "Helo Wrld", 0.8), (["Hello World"], "xxhello worldyy", 1.0), (["Hello"], "", 0.0),
        (["ab"], "completely else", 0.0), (["Hello", "World"], "world hello", 1.0), (["STRASSE"], "strasse", 1.0),
        (["ab", "cd"], "abxx", 0.5),
    ],
)  # fmt: skip
def test_similarity_is_one_less_the_share_of_wrong_letters(texts: list[str], read: str, near: float) -> None:
    assert judged(texts, read)[0] == pytest.approx(near)


def test_exactness_forgives_case_and_space_alone_and_words_count_as_often_as_asked() -> None:
    assert judged(["Hello World"], "helloworld") == (1.0, 1.0, 0.0)
    assert judged(["Hello World"], "hello big world") == (1 - 3 / 10, 0.0, 1.0)
    assert judged(["go go"], "go")[2] == 0.5
    assert judged(["cafe\u0301"], "caf\u00e9") == (1.0, 1.0, 1.0)


@given(WORDS, WORDS, WORDS)
def test_the_distance_is_a_metric(one: str, other: str, third: str) -> None:
    assert distance(one, other) == distance(other, one)
    assert (distance(one, other) == 0) == (one == other)
    assert distance(one, third) <= distance(one, other) + distance(other, third)
    assert abs(len(one) - len(other)) <= distance(one, other) <= max(len(one), len(other))


def test_known_distances() -> None:
    assert [distance("kitten", "sitting"), distance("flaw", "lawn"), distance("", "abc")] == [3, 2, 3]


def test_texts_in_quotes_of_every_kind_but_single_ones() -> None:
    assert quoted('a sign "open" and “closed” and «nu» and „ja“') == ["open", "closed", "nu", "ja"]
    assert quoted("it's a dog's sign") == [] and quoted('""') == [] and quoted('" "') == []
    assert quoted('“a” then "b" then "c"', "first") == ["b"]


def word(text: str, left: float, top: float, sure: float = 1.0) -> Word:
    return Word(text, (left, top, left + 10, top + 10), sure)


def test_words_are_put_in_the_order_of_reading() -> None:
    found = in_order([word("d", 20, 30), word("b", 20, 2), word("c", 0, 28), word("a", 0, 0)])
    assert "".join(each.text for each in found) == "abcd"


class Told:
    """Reads what it was told to, and cannot read pictures of two pixels."""

    def __init__(self, *words: Word) -> None:
        self.words, self.asked = list(words), 0

    def read(self, images: Sequence[Image.Image]) -> list[Read]:
        self.asked += len(images)
        return [ImageError("too small to read") if each.width == 2 else self.words for each in images]


def test_what_cannot_be_judged_is_invalid_and_is_not_read() -> None:
    reader = Told(word("open", 0, 0), word("now", 20, 0, 0.4))
    assert isinstance(reader, TextReader)
    white = Image.new("RGB", (9, 9))
    samples = [
        Sample('says "open"', image=white), Sample("no text", image=white), Sample('says "open"', image=b"junk"),
        Sample('says "open"', image=Image.new("RGB", (2, 2))), Sample('says "shut"', image=white),
    ]  # fmt: skip
    scorer = scorers.load("ocr", reader=reader)
    assert isinstance(scorer, Specified)
    found = scorer.score(samples)
    assert reader.asked == 3
    assert found.judged.tolist() == [True, False, False, False, True]
    assert found.values[[0, 4]].tolist() == [1.0, 0.0] and found.aspects["exact"][0] == 0.0
    for row, says in {1: "no text in quotes", 2: "not a PNG", 3: "too small to read"}.items():
        assert says in found.reasons[row]
    assert scorers.load("ocr", reader=reader, least=0.5).score(samples).aspects["exact"][0] == 1.0
    with pytest.raises(registry.BadSetting, match="texts is all or first"):
        scorers.load("ocr", reader=reader, texts="some")
    with pytest.raises(registry.BadSetting, match="did you mean trocr"):
        scorers.load("ocr", reader="trorc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_eyes.reader(tmp_path_factory.mktemp("eyes") / "reader")


def test_a_network_that_learned_to_read_tells_the_texts_apart(folder: Path) -> None:
    scorer = scorers.load("ocr", reader={"name": "trocr", "folder": str(folder)})
    pictures = [tiny_eyes.line(each) for each in tiny_eyes.TEXTS]
    samples = [
        Sample(f'a sign that says "{each.title()}"', image=one)
        for each, one in zip(tiny_eyes.TEXTS, pictures, strict=True)
    ]
    found = scorer.score(samples)
    assert found.values.tolist() == [1.0] * len(samples) and found.right is not None and found.right.all()
    assert found.aspects["exact"].all() and found.aspects["words"].all()
    turned = scorer.score(
        [Sample(one.prompt, image=other.image) for one, other in zip(samples, samples[1:] + samples[:1], strict=True)]
    )
    assert float(turned.values.max()) < 0.7 and not turned.aspects["exact"].any()
    assert torch.equal(torch.cat([scorer.score([each]).values for each in samples]), found.values)


def test_a_line_s_confidence_is_the_mean_of_its_tokens(folder: Path) -> None:
    reader = TrOCR(folder)
    ((read,),) = reader.read([tiny_eyes.line("sale")])
    ids = torch.tensor([[reader.words.bos_token_id, *reader.words("sale")["input_ids"]]])
    pixels = reader.images(images=tiny_eyes.line("sale"), return_tensors="pt")["pixel_values"]
    logits = reader.network(pixel_values=pixels, decoder_input_ids=ids[:, :-1]).logits[0]
    chances = logits.softmax(-1).gather(1, ids[0, 1:, None])
    assert (read.text, read.box) == ("sale", (0.0, 0.0, 72.0, 16.0))
    assert read.confidence == pytest.approx(float(chances.mean()), rel=1e-4)


def test_a_folder_without_a_reader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(registry.BadSetting, match="no text reader at"):
        registry.build("text_reader", {"name": "trocr", "folder": str(tmp_path)})


# pages, by a model that talks


@pytest.mark.parametrize(
    ("reply", "value", "says"),
    [
        ({"content": "OPEN\n24 h"}, 1.0, ""),
        ({"content": "<think>it says SHUT</think>open 24 h"}, 1.0, ""),
        ({"content": "OPEN"}, 0.5, ""),
        ({"content": ""}, 0.0, ""),
        ({"content": "OPEN 24", "cut": True}, None, "longer than the tokens"),
        ({"content": None, "refusal": "no signs"}, None, "refused: no signs"),
    ],
)
def test_a_page_is_what_the_answer_says_and_no_answer_is_no_page(
    reply: dict[str, Any], value: float | None, says: str
) -> None:
    with faulty.serving() as server:
        server.replies[ASKED] = reply
        scorer = OCR({"name": "page", "backend": {"name": "endpoint", "url": server.url, "model": "m"}})
        found = scorer.score([Sample('a sign "open 24h"', image=Image.new("RGB", (40, 20)))])
    assert found.judged.tolist() == [value is not None]
    if value is None:
        assert says in found.reasons[0]
    else:
        assert float(found.values[0]) == pytest.approx(value, abs=0.08)


def test_a_page_is_read_offline_by_a_network_in_a_folder(tmp_path: Path) -> None:
    """A random network writes no words; it reads, says how sure it is, and says the same again."""
    reader = PageReader({"name": "local", "folder": str(tiny_vlm.llava(tmp_path, layers=1))}, asked="Read.", tokens=64)
    images = [Image.new("RGB", (32, 32), each) for each in ("red", "blue")]
    pages = reader.read(images)
    assert all(isinstance(each, ImageError) or all(0 < word.confidence <= 1 for word in each) for each in pages)
    asked = len(reader.book.answers)
    assert str(reader.read(images)) == str(pages) and len(reader.book.answers) == asked == 2
