"""The seeing model's parts, untrained: a LLaVA (2304.08485) of 1.2 million parameters, its tokenizer and processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from . import captions, seeing
from .world import SIDE

PATCH = 8
SEEN = (SIDE // PATCH) ** 2  # image tokens
WIDTH = 128
SPECIAL = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
TEMPLATE = (  # a marked answer starts at a word: transformers finds no token at a space
    "{{ '<s>' }}{% for message in messages %}{{ message['role'] + ' : ' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{% for part in message['content'] %}{{ part['text'] + ' ' }}{% endfor %}{{ '</s>' }}{% endgeneration %}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '<image> ' if part['type'] == 'image' else part['text'] + ' ' }}{% endfor %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant :' }}{% endif %}"
)


def tokenizer() -> Any:
    """A word is a token: `transformers.PreTrainedTokenizerFast` over the world's words and those of the questions."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys([*SPECIAL, "user", "assistant", ":", *seeing.VOCABULARY, *seeing.NUMBERS])
    words |= dict.fromkeys(captions.VOCABULARY)
    inner = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"], clean_up_tokenization_spaces=False, model_max_length=96,
    )  # fmt: skip


def processor() -> Any:
    """The `transformers.LlavaProcessor`: 32 x 32 pixels become 16 image tokens; `{% generation %}` marks answers."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    looks = CLIPImageProcessor(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.5, 0.5, 0.5], image_std=[0.5, 0.5, 0.5],
    )  # fmt: skip
    return LlavaProcessor(
        image_processor=looks, tokenizer=tokenizer(), patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>", chat_template=TEMPLATE,
    )  # fmt: skip


def new_model(reader: Any, seed: int) -> Any:
    """An untrained `transformers.LlavaForConditionalGeneration`; `reader` is the tokenizer."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(seed)
    eye = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=3, num_attention_heads=4, image_size=SIDE,
        patch_size=PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    tongue = LlamaConfig(
        vocab_size=len(reader), hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=128, pad_token_id=reader.pad_token_id,
        bos_token_id=reader.bos_token_id, eos_token_id=reader.eos_token_id,
    )  # fmt: skip
    return LlavaForConditionalGeneration(LlavaConfig(
        vision_config=eye, text_config=tongue, image_token_index=reader.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1, vision_feature_select_strategy="default", image_seq_length=SEEN,
        pad_token_id=reader.pad_token_id, bos_token_id=reader.bos_token_id, eos_token_id=reader.eos_token_id,
    ))  # fmt: skip


def write(folder: Path, model: Any, reading: Any) -> None:
    """The whole as a transformers folder in float16; `reading` is the processor."""
    model.half().save_pretrained(folder, safe_serialization=True)
    reading.save_pretrained(folder)


def message(question: str, answer: str | None = None) -> list[dict[str, Any]]:
    """The conversation about one picture, as chat templates take it."""
    asked = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    if answer is None:
        return [asked]
    return [asked, {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
