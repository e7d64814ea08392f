"""Captioners and rewriters over transformers: real models of random weights, in folders as they are published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from visalign import registry
from visalign.scoring import Sample
from visalign.writers import Captioner, Rewriter

WORDS = ["a", "red", "blue", "circle", "square", "of", "the", "picture", "small", "large"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("blip")
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *WORDS]))
    reader = BertTokenizer(str(folder / "vocab.txt"))
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 16}
    vision = {**small, "image_size": 16, "patch_size": 8}
    text = {
        **small, "vocab_size": len(reader), "encoder_hidden_size": 16, "bos_token_id": 2, "eos_token_id": 3,
        "pad_token_id": 0, "sep_token_id": 3,
    }  # fmt: skip
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=8))
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), reader).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def speaker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    vocabulary = {word: place for place, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    reader = PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    torch.manual_seed(0)
    ids: dict[str, Any] = {"vocab_size": len(vocabulary), "pad_token_id": 0, "eos_token_id": 1}
    if request.param == "t5":
        small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
        T5ForConditionalGeneration(T5Config(**ids, **small, decoder_start_token_id=0)).save_pretrained(folder)
    else:
        GPT2LMHeadModel(GPT2Config(**ids, bos_token_id=1, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    reader.save_pretrained(folder)
    return folder


def test_a_captioner_says_the_same_of_a_picture_alone_or_among_others(blip: Path) -> None:
    made = registry.build(
        "captioner", {"name": "local", "folder": str(blip), "instruction": "a picture of", "longest": 5}
    )
    assert isinstance(made, Captioner)
    samples = [Sample("", image=Image.new("RGB", (20, 16), color)) for color in ("red", "blue")]
    told = made.caption([*samples, Sample("", image=b"no picture")])
    assert told[2] is None
    assert told[:2] == [made.caption([each])[0] for each in samples]
    assert {word for each in told[:2] if each for word in each.split()} <= {*WORDS, "[DEC]", "[dec]"}, told


def test_a_rewriter_is_a_function_of_text_and_key_and_advances_no_generator(speaker: Path) -> None:
    settings = {"name": "local", "folder": str(speaker), "longest": 6, "top_p": 1.0}
    made = registry.build("rewriter", settings)
    assert isinstance(made, Rewriter)
    state = torch.random.get_rng_state()
    texts, keys = ["a red circle"] * 6, list("abcdef")
    once, other = made.rewrite(texts, keys), registry.build("rewriter", settings)
    assert torch.equal(state, torch.random.get_rng_state())
    assert once == [other.rewrite([text], [key])[0] for text, key in zip(texts, keys, strict=True)]
    assert len(set(once)) > 1
    assert all(each is None or len(each.split()) <= 6 for each in once)


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give the folder of a transformers model"):
        registry.build("rewriter", {"name": "local", "folder": str(tmp_path)}).rewrite(["a"], ["k"])
    with pytest.raises(ValueError, match="has no place for the text"):
        registry.build("rewriter", {"name": "local", "folder": str(tmp_path), "template": "again"})
