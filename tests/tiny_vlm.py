"""Tiny random vision-language models, saved whole: network, processor and chat template of real transformers parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

QWEN = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'video' %}VIDEO"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}>{% endif %}"
)
SHOWN = "<|vision_start|><|video_pad|><|vision_end|>"
WIDTH = 32


def tokenizer(special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """Bytes, an end, and the special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", additional_special_tokens=list(special)
    )


def qwen2_vl(folder: Path, layers: int = 3, seed: int = 0) -> Path:
    """A Qwen2-VL of some layers and width WIDTH."""
    torch.manual_seed(seed)
    reader = tokenizer(QWEN)
    start, end, image, video = (reader.convert_tokens_to_ids(each) for each in QWEN)
    text = {
        "vocab_size": len(reader), "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": layers,
        "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": reader.eos_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]},
    }  # fmt: skip
    vision = {
        "depth": 1, "embed_dim": 16, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    network = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=text, vision_config=vision, image_token_id=image, video_token_id=video,
            vision_start_token_id=start, vision_end_token_id=end,
        )
    )  # fmt: skip
    pictures = Qwen2VLImageProcessor(
        patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
    )
    template = TEMPLATE.replace("IMAGE", SHOWN.replace("video", "image")).replace("VIDEO", SHOWN)
    processor = Qwen2VLProcessor(
        image_processor=pictures, tokenizer=reader, video_processor=Qwen2VLVideoProcessor(patch_size=4),
        chat_template=template,
    )  # fmt: skip
    return saved(network, processor, folder)


def qwen2_5_vl(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    """A Qwen2.5-VL of some layers and width WIDTH, with everything else as in `qwen2_vl`."""
    qwen2_vl(folder, layers, seed)
    config = json.loads((folder / "config.json").read_text())
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 32, "out_hidden_size": WIDTH, "num_heads": 2,
        "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    text = {name: each for name, each in config["text_config"].items() if name != "model_type"}
    ids = {name: each for name, each in config.items() if name.endswith("token_id") and isinstance(each, int)}
    torch.manual_seed(seed)
    network = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))
    return saved(network, Qwen2VLProcessor.from_pretrained(folder), folder)


def llava(folder: Path, layers: int = 2, seed: int = 0) -> Path:
    """A LLaVA of some layers and width WIDTH."""
    torch.manual_seed(seed)
    reader = tokenizer(("<image>",))
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    text = LlamaConfig(
        vocab_size=len(reader), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=layers,
        num_attention_heads=2, bos_token_id=None, eos_token_id=reader.eos_token_id,
    )  # fmt: skip
    image = reader.convert_tokens_to_ids("<image>")
    network = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=image, image_seq_length=16)
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32), tokenizer=reader, patch_size=8,
        vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return saved(network, processor, folder)


def saved(network: Any, processor: Any, folder: Path) -> Path:
    """Both in a folder, with what generation stops at."""
    end = processor.tokenizer.eos_token_id
    network.generation_config.eos_token_id = network.generation_config.pad_token_id = end
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
