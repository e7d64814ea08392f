"""What a model is shown: the question's tokens, where its own words are, and what an answer ends with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import FAMILIES
from tiny_vlm import llava
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoProcessor, PreTrainedTokenizerFast

from visalign.batches import stacked
from visalign.models.folder import FolderError
from visalign.models.reading import Read, Reader, Unreadable
from visalign.models.seeing import SeeingFolder

QUESTION = "What is it, a cat?"
WHOLE = {"llava": 16, "qwen2_vl": 16, "gemma3": 4}  # tokens of a picture of 32 x 32


def picture(seed: int = 0, tall: int = 32, wide: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (tall, wide, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module", params=FAMILIES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Reader:
    return Reader.open(FAMILIES[request.param](tmp_path_factory.mktemp("model") / request.param))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llava(tmp_path_factory.mktemp("model") / "llava")


@pytest.fixture
def plain(folder: Path) -> Iterator[Reader]:
    yield Reader.open(folder)


def said(reader: Reader, read: Read) -> str:
    """The answer's tokens as text, its end mark included."""
    return str(reader.tokenizer.decode(read.ids[read.answer]))


def test_a_question_is_what_the_processor_itself_makes_of_it(reader: Reader) -> None:
    """Where there is a template: its own tokens. PaliGemma: pictures, first token, question, line break."""
    asked = reader.ask(QUESTION, [picture(tall=20, wide=70)])
    parts: list[dict[str, Any]] = [
        {"type": "image", "image": picture(tall=20, wide=70)},
        {"type": "text", "text": QUESTION},
    ]
    if reader.processor.chat_template:
        theirs = reader.processor.apply_chat_template(
            [{"role": "user", "content": parts}], tokenize=True, return_dict=True, return_tensors="pt",
            add_generation_prompt=True,
        )  # fmt: skip
    else:
        theirs = reader.processor(text=[f"<image>{QUESTION}"], images=[parts[0]["image"]], return_tensors="pt")
    assert asked.ids.tolist() == theirs["input_ids"][0].tolist()
    for name, value in asked.media.items():
        torch.testing.assert_close(value, torch.as_tensor(theirs[name]))
    for name, value in asked.kinds.items():
        assert value.tolist() == theirs[name][0].tolist()


def test_the_prompts_mask_has_the_questions_words_and_nothing_else(reader: Reader) -> None:
    read = reader.read(QUESTION, [picture()], "What is it, a cat? No.")
    assert "".join(reader.words(read)) == QUESTION.replace(" ", "")
    assert not (read.prompt & read.answer).any()
    special = torch.tensor(reader.tokenizer.all_special_ids)
    assert not torch.isin(read.ids[read.prompt], special).any()


def test_an_answer_ends_with_its_end_mark_and_answers_share_a_questions_tokens(reader: Reader) -> None:
    asked = reader.ask(QUESTION, [picture()])
    first, second = (reader.answered(asked, each) for each in ("yes", "no, two dogs"))
    taken = len(asked.ids)
    assert first.ids[:taken].equal(second.ids[:taken])
    assert first.answer.sum() == len(first.ids) - taken
    assert first.answer[taken:].all()
    own = "<end_of_utterance>" if "Idefics" in reader.kind else "<|end|>"
    assert said(reader, first) == f"{reader.wording.lead}yes{own}"


def test_a_picture_is_never_cut_and_an_answer_loses_its_end(reader: Reader) -> None:
    whole = reader.read(QUESTION, [picture()], "yes, it is")
    taken = len(whole.ids) - int(whole.answer.sum())
    try:
        reader.max_length = taken + 3
        short = reader.read(QUESTION, [picture()], "yes, it is")
        assert short.ids.equal(whole.ids[: taken + 3])
        assert short.answer.sum() == 3
        assert short.cut == whole.answer.sum() - 3
        reader.max_length = taken
        with pytest.raises(Unreadable, match=f"the question alone has {taken} tokens, and max_length is {taken}"):
            reader.read(QUESTION, [picture()], "yes, it is")
    finally:
        reader.max_length = None


def test_masks_do_not_come_from_the_padding_id(reader: Reader) -> None:
    """The end mark is the padding of these tokenizers."""
    short, long = (reader.read(QUESTION, [picture()], each) for each in ("yes", "yes, and two dogs"))
    batch = reader.collated([short, long])
    assert batch.answer.sum(1).tolist() == [int(short.answer.sum()), int(long.answer.sum())]
    assert batch.attention.sum(1).tolist() == [len(short.ids), len(long.ids)]
    left = reader.collated([short, long], left=True)
    for name in ("ids", "attention", "answer", "prompt"):
        ours, theirs = getattr(batch, name)[0], getattr(left, name)[0]
        assert ours.roll(len(long.ids) - len(short.ids)).equal(theirs)


def test_pictures_of_other_shapes_go_into_one_batch(reader: Reader) -> None:
    """Rows are in the order of the dialogues; one of fewer tiles is filled up, here and where batches are stacked."""
    shapes = [(32, 32), (20, 70), (70, 20)]
    reads = [reader.read(QUESTION, [picture(n, *shape)], "yes") for n, shape in enumerate(shapes)]
    whole = reader.collated(reads)
    parts = stacked(reader.collated(reads[:1]), reader.collated(reads[1:]))
    for name, rows in whole.media.items():
        assert parts.media[name].equal(rows), name
    assert parts.ids.where(parts.attention, -1).equal(whole.ids.where(whole.attention, -1))


def test_two_pictures_and_none(plain: Reader) -> None:
    two = plain.ask(QUESTION, [picture(0), picture(1)])
    assert two.media["pixel_values"].shape[0] == 2
    assert plain.ask(QUESTION, []).media == {}
    assert len(two.ids) - len(plain.ask(QUESTION, []).ids) == 2 * WHOLE["llava"]


def test_text_that_means_something_to_the_model_is_refused(plain: Reader) -> None:
    with pytest.raises(Unreadable, match="the question holds <image>"):
        plain.read("<image> what?", [picture()], "a cat")
    with pytest.raises(Unreadable, match=r"the answer holds <\|end\|>"):
        plain.read("what?", [picture()], "a cat<|end|>")


def test_a_mark_that_no_list_of_specials_names_is_refused_and_a_word_of_its_own_is_not(folder: Path) -> None:
    """Llama 3's tokenizers know <|eot_id|> by their added tokens alone; Qwen 3's <think> is text like any other."""
    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.add_tokens([AddedToken("<|eot_id|>", special=True), AddedToken("<think>", special=False)])
    assert "<|eot_id|>" not in processor.tokenizer.all_special_tokens
    reader = Reader(processor)
    with pytest.raises(Unreadable, match=r"the answer holds <\|eot_id\|>"):
        reader.read("what?", [picture()], "a cat<|eot_id|> a dog")
    assert reader.read("what?", [picture()], "<think>a cat").cut == 0


def changed(folder: Path, template: str) -> Any:
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template = template
    return processor


PARTS = "{% for m in messages %}{% for p in m['content'] %}PART{% endfor %}{% endfor %}"


def test_templates_that_show_no_picture_or_other_words_are_found_out(folder: Path, tmp_path: Path) -> None:
    blind = Reader(changed(folder, PARTS.replace("PART", "{{ p['text'] }}")))
    with pytest.raises(Unreadable, match=r"refuses it: .*0 <image> tokens"):
        blind.read("what?", [picture()], "a cat")
    with pytest.raises(Unreadable, match="does not show what it is told"):
        Reader(changed(folder, "<image>Describe."))
    with pytest.raises(Unreadable, match=r"the LlavaProcessor has no chat template: put a chat_template\.jinja in"):
        Reader(changed(folder, ""))
    changed(folder, "").save_pretrained(tmp_path)
    with pytest.raises(FolderError, match="no chat template"):
        SeeingFolder(tmp_path).reader()
    shown = "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'].replace('color', 'colour') }}{% endif %}"
    british = Reader(changed(folder, PARTS.replace("PART", shown)))
    with pytest.raises(Unreadable, match="changes the question"):
        british.read("which color?", [picture()], "red")
    assert said(british, british.read("which one?", [picture()], "red")) == "red<|end|>"


def test_a_model_without_a_mark_for_the_end_of_an_answer_is_refused(folder: Path) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    processor.chat_template = processor.chat_template.replace("<|end|>", "")
    processor.tokenizer.eos_token = None
    with pytest.raises(Unreadable, match="has a mark for the end of an answer"):
        Reader(processor)


def test_a_trimmed_question_is_still_found(folder: Path) -> None:
    trim = "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] | trim }}{% endif %}"
    reader = Reader(changed(folder, PARTS.replace("PART", trim) + "{% if add_generation_prompt %} >{% endif %}"))
    assert "".join(reader.words(reader.read("  a cat?\n", [picture()], "no"))) == "acat?"


def test_the_words_are_those_of_the_question_not_of_the_template(folder: Path) -> None:
    """A question of one letter that the template's own text holds too."""
    shown = "{% if p['type'] == 'image' %}<image>{% else %}say: {{ p['text'] }}{% endif %}"
    reader = Reader(changed(folder, PARTS.replace("PART", shown) + "{% if add_generation_prompt %} say:{% endif %}"))
    read = reader.read("a", [picture()], "a")
    assert read.prompt.nonzero().flatten().tolist() == [len(read.ids) - len(" say:") - len("a") - 2]


def test_a_first_token_is_not_written_twice(folder: Path) -> None:
    """Once by the tokenizer where the template writes none, and once by a template that does."""
    shown = "{% if p['type'] == 'image' %}<image>{% else %}{{ p['text'] }}{% endif %}"
    for begin in ("", "<|s|>"):
        processor = changed(folder, begin + PARTS.replace("PART", shown))
        processor.tokenizer.add_special_tokens({"bos_token": "<|s|>"})
        first = processor.tokenizer.bos_token_id
        backend = processor.tokenizer.backend_tokenizer
        backend.post_processor = processors.TemplateProcessing("<|s|> $A", None, [("<|s|>", first)])
        read = Reader(processor).read("what?", [picture()], "a cat")
        assert int((read.ids == first).sum()) == 1
        assert read.ids[0] == first


def test_an_answer_is_tokenised_as_it_stands_behind_its_question(folder: Path) -> None:
    """SentencePiece's kind writes a blank before a text that begins, and an answer does not begin one.

    Where question and answer would melt into one token, the answer is tokenised by itself: the question's tokens stay.
    """
    processor = AutoProcessor.from_pretrained(folder)
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, ">": 2, "▁": 3, ">a": 4, "<image>": 5, "<|end|>": 6}, [(">", "a")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace()
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|end|>", additional_special_tokens=["<image>"]
    )
    processor.image_token_id = processor.tokenizer.convert_tokens_to_ids("<image>")
    reader = Reader(processor)
    read = reader.read("b", [picture()], "b a")
    assert read.ids[read.answer].tolist() == [1, 3, 0, 6]
    assert reader._ids("b a") == [3, 1, 3, 0]
    melted = reader.read("b", [picture()], "a b")
    assert melted.ids[melted.answer].tolist() == [3, 0, 3, 1, 6]
    assert melted.ids[~melted.answer].equal(read.ids[~read.answer])


def test_generation_is_asked_from_the_left(reader: Reader) -> None:
    asked = [reader.ask(each, [picture(n)]) for n, each in enumerate(("who?", "what is it?"))]
    made = reader.generation(asked)
    assert made["input_ids"][:, -1].tolist() == [int(each.ids[-1]) for each in asked]
    assert made["attention_mask"].sum(1).tolist() == [len(each.ids) for each in asked]
    assert made["attention_mask"][0, 0] == 0


def test_generated_answers_do_not_depend_on_their_neighbours(folder: Path, plain: Reader) -> None:
    network = SeeingFolder.open(folder).network()
    asked = [plain.ask(each, [picture(n)]) for n, each in enumerate(("who?", "what is it?"))]
    settings = {"max_new_tokens": 6, "do_sample": False}
    together = network.generate(**plain.generation(asked), **settings)[:, -6:]
    for row, one in enumerate(asked):
        assert network.generate(**plain.generation([one]), **settings)[0, -6:].equal(together[row])
