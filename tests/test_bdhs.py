"""BDHS: a hidden picture says nothing, what was true before stays, and every number is drawn from its record's key."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_vlm
import torch
from PIL import Image
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from visalign.answering import Settings as Sampling
from visalign.answering import hallucinations, sentences
from visalign.answering.blinded import Blinded, Blindfold
from visalign.answering.hallucinations import Hallucinated, Maker, Settings
from visalign.answering.similarity import WordOverlap, overlap
from visalign.cli import main
from visalign.config import ConfigError
from visalign.data import store
from visalign.draws import generator
from visalign.models.reading import Asked, Reader
from visalign.models.sentence_encoder import SentenceEncoder
from visalign.records import DataError, Preference

FAMILIES = {"llava": tiny_vlm.llava, "qwen2_vl": tiny_vlm.qwen2_vl, "qwen2_5_vl": tiny_vlm.qwen2_5_vl}
TRUE = "Yes, there is a dog. It costs 3.5 francs."


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILIES[request.param](tmp_path_factory.mktemp(request.param), layers=2)


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlm.llava(tmp_path_factory.mktemp("llava"))


@cache
def opened(folder: Path) -> tuple[Any, Reader]:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(folder).eval(), Reader.open(folder)


def blinded(folder: Path, by: str = "mask", threshold: float = 0.99, **sampling: Any) -> Blinded:
    how = Sampling(**({"max_new_tokens": 6} | sampling))
    return Blinded(*opened(folder), Blindfold(by, threshold), how)  # type: ignore[arg-type]


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (32, 32), colour)


def asked(folder: Path, colour: str = "red") -> Asked:
    return opened(folder)[1].ask("What is it?", [picture(colour)])


def logits(folder: Path, colour: str, threshold: float, by: str = "mask") -> Tensor:
    """(n, V) what the model would say next after a short and a long beginning, of which the short one is padded."""
    seeing = blinded(folder, by, threshold)
    begun = [seeing.begun(asked(folder, colour), text).asked for text in ("A", "A very long")]
    given = seeing.shown("key", begun, visit=0)
    found: Tensor = seeing.network(**given, use_cache=False).logits[:, -1].detach()
    return found


def test_a_model_whose_picture_is_masked_out_says_the_same_of_every_picture(folder: Path) -> None:
    blind = logits(folder, "red", 1.0)
    assert bool(blind.isfinite().all())
    assert torch.equal(blind, logits(folder, "blue", 1.0))
    assert not torch.equal(logits(folder, "red", 0.5), logits(folder, "blue", 0.5))


def test_a_model_whose_picture_is_not_hidden_at_all_sees_as_ever(folder: Path) -> None:
    """Threshold 0 masks nothing: positions that were made before the mask are those of the whole picture."""
    network, reader = opened(folder)
    seeing = blinded(folder, threshold=0.0)
    begun = [seeing.begun(asked(folder), text).asked for text in ("A", "A very long")]
    alone = [network(**reader.generation([each]), use_cache=False).logits[0, -1] for each in begun]
    torch.testing.assert_close(logits(folder, "red", 0.0), torch.stack(alone).detach(), atol=2e-5, rtol=0)


def test_what_is_masked_is_drawn_anew_in_every_iteration_and_alike_for_all_sentences(llava: Path) -> None:
    seeing = blinded(llava, threshold=0.5)
    begun = [seeing.begun(asked(llava), text).asked for text in ("A", "A dog")]

    def kept(key: str, visit: int) -> Tensor:
        given = seeing.shown(key, begun, visit)
        places = given["input_ids"] == seeing.network.config.image_token_id
        return given["attention_mask"][places].reshape(2, -1)

    first = kept("key", 0)
    assert torch.equal(first[0], first[1])
    rho = torch.from_numpy(generator(0, "key", 0, "image mask").random(16))
    assert torch.equal(first[0].bool(), rho >= 0.5)
    assert not torch.equal(first, kept("key", 1))
    assert not torch.equal(first, kept("other", 0))
    assert torch.equal(first, kept("key", 0))


def test_noise_moves_the_pixels_and_masks_nothing(folder: Path) -> None:
    seeing, question = blinded(folder, "noise"), asked(folder)
    given = seeing.shown("key", [question], visit=0)
    plain = seeing.reader.generation([question])
    assert torch.equal(given["attention_mask"], plain["attention_mask"])
    moved = given["pixel_values"] - 0.744798526**0.5 * plain["pixel_values"]
    assert float(moved.std()) == pytest.approx((1 - 0.744798526) ** 0.5, rel=0.1)
    assert not torch.equal(given["pixel_values"], seeing.shown("key", [question], visit=1)["pixel_values"])


class Heard(Blinded):
    """The same, remembering what it was asked to go on with."""

    heard: list[str]

    def completed(
        self, key: str, asked: Asked, beginnings: Sequence[str], *, visit: int, whole: bool = False
    ) -> list[str]:
        self.heard = [*getattr(self, "heard", []), *beginnings]
        return super().completed(key, asked, beginnings, visit=visit, whole=whole)


def maker(folder: Path, alike: float = 0.97, iterations: int = 5, **sampling: Any) -> Maker:
    how = Sampling(**({"max_new_tokens": 6} | sampling))
    seeing = Heard(*opened(folder), Blindfold(), how)
    return Maker(seeing, WordOverlap(), Settings(seeing.blindfold, how, iterations, alike))


def test_what_stands_before_a_sentence_is_always_the_truth(llava: Path) -> None:
    """Whatever was made up of the first sentence, the second is gone on with behind the true one."""
    how = maker(llava, alike=-2.0, iterations=9)  # nothing is ever taken before the last
    assert how.made_up("key", asked(llava), TRUE).iteration == 9
    heard: list[str] = how.blinded.heard  # type: ignore[attr-defined]
    first, second = "Yes, there is a dog.", "It costs 3.5 francs."
    swaps = first.replace("Yes", "No")
    for text in heard[:-1]:
        behind = text.startswith(first)
        assert text in (TRUE[: len(text)], swaps[: len(text)])
        assert not behind or second.startswith(text[len(first) :].strip())
    assert heard[-1] == ""
    assert any(text.startswith("No") for text in heard)
    assert any(text.startswith(first) for text in heard)


def test_an_answer_keeps_the_heads_of_its_sentences(llava: Path) -> None:
    how = maker(llava)
    heard: list[str]
    made = how.guided("key", asked(llava), TRUE, visit=3)
    heard = how.blinded.heard  # type: ignore[attr-defined]
    heads = [text.removeprefix("Yes, there is a dog.").strip() for text in heard]
    assert all(head in made for head in heads)
    assert made != TRUE


def test_an_answer_is_taken_once_it_is_unlike_enough(llava: Path) -> None:
    assert maker(llava, alike=1.1).made_up("key", asked(llava), TRUE).iteration == 1
    assert maker(llava, iterations=1).made_up("key", asked(llava), TRUE).iteration == 1
    how = maker(llava)
    found = how.made_up("key", asked(llava), TRUE)
    assert found.iteration < 5
    assert overlap(TRUE, found.text) < 0.97
    earlier = [how.guided("key", asked(llava), TRUE, visit) for visit in range(found.iteration - 1)]
    assert all(overlap(TRUE, text) >= 0.97 for text in earlier)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_what_is_made_up_is_a_function_of_seed_and_key(llava: Path, temperature: float) -> None:
    def made(key: str, seed: int = 0) -> str:
        return maker(llava, temperature=temperature, seed=seed).made_up(key, asked(llava), TRUE).text

    assert made("key") == made("key")
    assert len({made("key"), made("other"), made("key", seed=1)}) > 1


def test_sentences_end_where_they_end() -> None:
    text = 'It costs 3.5 francs in 1990. "No!" he said... (Yes.) and so on'
    found = sentences.sentences(text)
    assert [each.text for each in found] == [
        "It costs 3.5 francs in 1990.", '"No!"', "he said...", "(Yes.)", "and so on",
    ]  # fmt: skip
    assert all(text[each.start : each.end] == each.text for each in found)
    assert sentences.up_to_end(" of 3.") is None  # the next token may be a digit
    assert sentences.up_to_end(" of 3. Then") == " of 3."
    assert sentences.sentences("  ") == []


def test_a_yes_becomes_a_no_and_a_note_does_not() -> None:
    assert sentences.swapped("Yes, it is.") == "No, it is."
    assert sentences.swapped("no .") == "yes ."
    assert sentences.swapped("Note that it is not.") is None


def test_a_sentence_is_broken_off_before_each_of_its_words_as_often() -> None:
    heads = {sentences.broken_off("a red dog .", generator(0, str(n), 0, "break")) for n in range(200)}
    assert heads == {"", "a", "a red", "a red dog"}
    assert "" not in {sentences.broken_off("No .", generator(0, str(n), 0, "break"), least=1) for n in range(50)}
    assert sentences.broken_off("No.", generator(0, "", 0, "break"), least=1) == "No."


def test_word_overlap_is_a_cosine_of_counts() -> None:
    assert overlap("a red dog .", "A red, dog") == pytest.approx(1.0)
    assert overlap("a dog", "a cat") == pytest.approx(0.5)
    assert overlap("a dog", ".") == 0.0


def test_a_sentence_encoder_is_the_mean_over_real_tokens(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog", "cat", "very", "old"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(tmp_path / "vocab.txt"))
    torch.manual_seed(0)
    network = BertModel(BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
    )).eval()  # fmt: skip
    network.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    encoder = SentenceEncoder(tmp_path)
    texts = ["a dog", "a very very old red cat"]
    alone = network(**tokenizer(texts[0], return_tensors="pt")).last_hidden_state[0].mean(0)
    torch.testing.assert_close(encoder.embedded(texts)[0], alone / alone.norm(), atol=1e-5, rtol=1e-4)
    assert encoder.alike(texts, texts) == pytest.approx([1.0, 1.0], abs=1e-5)
    assert encoder.alike(texts[:1], texts[1:])[0] < 0.999
    with pytest.raises(ValueError, match=r"no config.json"):
        SentenceEncoder(tmp_path / "nowhere")


def records(folder: Path) -> list[Preference]:
    """Two usable ones, a tie, a question alone, a repetition."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("a", "b"):
        picture("red" if name == "a" else "blue").save(folder / f"{name}.png")
    pair = Preference("What?", (TRUE, "A cat."), verdict="first", media=("a.png",), answers=True)
    alone = Preference("Who?", ("A dog sits. It is old.",), media=("b.png",), answers=True)
    tie = dataclasses.replace(pair, verdict="tie", prompt="Where?", key="")
    return [pair, alone, tie, Preference("When?", media=("b.png",), answers=True), pair]


def run(folder: Path, root: Path, given: Sequence[Preference], **settings: Any) -> Hallucinated:
    return hallucinations.hallucinate(
        maker(folder, **settings), given, root, root / "out.parquet", model="m", fingerprint="f"
    )


def test_records_become_pairs_of_a_true_answer_and_one_made_up(llava: Path, tmp_path: Path) -> None:
    found = run(llava, tmp_path, records(tmp_path))
    assert [each.items[0] for each in found.records] == [TRUE, "A dog sits. It is old."]
    assert all(each.verdict == "first" and each.judge == "bdhs" and each.answers for each in found.records)
    assert [each.media for each in found.records] == [("a.png",), ("b.png",)]
    assert sum(found.accepted.values()) == 2
    assert found.left_out == {"tie": 1, "no answer": 1, "the key occurs twice: the first stays": 1}


def test_an_interrupted_call_goes_on_where_it_was(llava: Path, tmp_path: Path) -> None:
    given = records(tmp_path)[:2]
    whole = run(llava, tmp_path, given)
    journal = tmp_path / ".out.answers.jsonl"
    first, second = journal.read_text().splitlines(keepends=True)
    journal.write_text(first.replace(json.loads(first)["answer"][:3], "!!!") + second[:9])  # a kill cut the second off
    again = run(llava, tmp_path, given)
    assert again.records[0].items[1].startswith("!!!")  # it was not asked again
    assert again.records[1] == whole.records[1]
    with pytest.raises(DataError, match="give another file"):
        run(llava, tmp_path, given, alike=0.5)


def test_own_pairs_stand_beside_those_that_are_made_up(tmp_path: Path) -> None:
    given = records(tmp_path)[:4]
    both = hallucinations.beside(given, [], tmp_path, tmp_path / "elsewhere")
    assert [each.prompt for each in both] == ["What?", "Where?"]
    assert both[0].media == (str(tmp_path / "a.png"),)


def test_the_command_writes_what_training_reads(
    llava: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write(records(tmp_path)[:2], tmp_path / "records.jsonl")
    words = [
        "hallucinate",
        str(tmp_path / "records.jsonl"),
        "--model",
        str(llava),
        "--out",
        str(tmp_path / "o.parquet"),
    ]
    assert main([*words, "--max-new-tokens", "4"]) == 0
    assert [len(each.items) for each in store.read(tmp_path / "o.parquet")] == [2, 2]
    assert "iteration" in capsys.readouterr().out
    assert main([*words, "--threshold", "2"]) == 2


def test_settings_that_cannot_be_are_said() -> None:
    with pytest.raises(ValueError, match="threshold"):
        Blindfold(threshold=1.5)
    with pytest.raises(ConfigError, match="iterations"):
        Settings(iterations=0)
