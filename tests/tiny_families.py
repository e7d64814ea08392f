"""More tiny random vision-language models, one of each family that reads pictures in a way of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tiny_vlm import QWEN, SHOWN, TEMPLATE, WIDTH, llava, qwen2_5_vl, qwen2_vl, saved, tokenizer

SIGLIP: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
GRIDS = [[32, 64], [64, 32], [32, 32]]
TEXT: dict[str, Any] = {
    "hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip


def words(reader: Any, **changes: Any) -> dict[str, Any]:
    """Settings of a language model of a tokenizer's vocabulary."""
    return {**TEXT, "vocab_size": len(reader), "eos_token_id": reader.eos_token_id, **changes}


def llava_next(folder: Path) -> Path:
    """A LLaVA-NeXT: a picture is seen whole and in tiles of 32 pixels a side, as many as its shape asks for."""
    torch.manual_seed(0)
    reader = tokenizer(("<image>",))
    network = t.LlavaNextForConditionalGeneration(
        t.LlavaNextConfig(
            vision_config=t.CLIPVisionConfig(**SIGLIP), text_config=t.LlamaConfig(**words(reader)),
            image_token_id=reader.convert_tokens_to_ids("<image>"), image_grid_pinpoints=GRIDS, image_seq_length=16,
        )
    )  # fmt: skip
    pictures = t.LlavaNextImageProcessor(size={"shortest_edge": 32}, crop_size=32, image_grid_pinpoints=GRIDS)
    processor = t.LlavaNextProcessor(
        image_processor=pictures, tokenizer=reader, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return saved(network, processor, folder)


def onevision(folder: Path) -> Path:
    """A LLaVA-OneVision: tiles too, seen by SigLIP, under a Qwen2."""
    torch.manual_seed(0)
    reader = tokenizer(("<image>", "<video>"))
    image, video = reader.convert_tokens_to_ids(["<image>", "<video>"])
    network = t.LlavaOnevisionForConditionalGeneration(
        t.LlavaOnevisionConfig(
            vision_config=t.SiglipVisionConfig(**SIGLIP, vision_use_head=False),
            text_config=t.Qwen2Config(**words(reader)), image_token_id=image, video_token_id=video,
            image_grid_pinpoints=GRIDS, vision_aspect_ratio="anyres_max_9",
        )
    )  # fmt: skip
    processor = t.LlavaOnevisionProcessor(
        image_processor=t.LlavaOnevisionImageProcessor(
            size={"height": 32, "width": 32}, image_grid_pinpoints=GRIDS
        ),
        tokenizer=reader, video_processor=t.LlavaOnevisionVideoProcessor(size={"height": 32, "width": 32}),
        num_image_tokens=16, vision_feature_select_strategy="full",
        chat_template=TEMPLATE.replace("IMAGE", "<image>"),
    )  # fmt: skip
    return saved(network, processor, folder)


def qwen3_vl(folder: Path) -> Path:
    """A Qwen3-VL: pictures are put in at several layers."""
    torch.manual_seed(0)
    reader = tokenizer(QWEN)
    start, end, image, video = (reader.convert_tokens_to_ids(each) for each in QWEN)
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": WIDTH, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    network = t.Qwen3VLForConditionalGeneration(
        t.Qwen3VLConfig(
            text_config=words(reader, head_dim=16, rope_parameters=rope), vision_config=vision, image_token_id=image,
            video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
        )
    )  # fmt: skip
    settings: dict[str, Any] = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    sizes = {"shortest_edge": 64, "longest_edge": 1024}
    processor = t.Qwen3VLProcessor(
        image_processor=t.Qwen2VLImageProcessor(**settings, size=sizes), tokenizer=reader,
        video_processor=t.Qwen3VLVideoProcessor(**settings),
        chat_template=TEMPLATE.replace("IMAGE", SHOWN.replace("video", "image")).replace("VIDEO", SHOWN),
    )  # fmt: skip
    return saved(network, processor, folder)


IDEFICS = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
CHAT = (
    "<|begin|>{% for message in messages %}{{ message['role'] | capitalize }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)


def idefics3(folder: Path, kind: str = "Idefics3") -> Path:
    """An Idefics3: pictures nested by dialogue; its template has a first mark and an end mark of its own."""
    torch.manual_seed(0)
    rows = tuple(f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6))
    reader = tokenizer((*IDEFICS, *rows, "<|begin|>"))
    reader.bos_token = "<|begin|>"
    config = getattr(t, f"{kind}Config")(
        vision_config=SIGLIP, text_config=t.LlamaConfig(**words(reader)),
        image_token_id=reader.convert_tokens_to_ids("<image>"), scale_factor=2, pad_token_id=reader.eos_token_id,
    )  # fmt: skip
    network = getattr(t, f"{kind}ForConditionalGeneration")(config)
    pictures = t.Idefics3ImageProcessor(
        size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, do_image_splitting=True
    )
    processor = t.Idefics3Processor(image_processor=pictures, tokenizer=reader, image_seq_len=4, chat_template=CHAT)
    saved(network, processor, folder)
    ends = t.GenerationConfig.from_pretrained(folder)
    ends.eos_token_id = [reader.eos_token_id, reader.convert_tokens_to_ids("<end_of_utterance>")]
    ends.save_pretrained(folder)
    return folder


def smolvlm(folder: Path) -> Path:
    """A SmolVLM network, read as Idefics3 is."""
    return idefics3(folder, "SmolVLM")


def paligemma(folder: Path) -> Path:
    """A PaliGemma: no template, a question that every token sees whole, and logits under a soft cap."""
    torch.manual_seed(0)
    reader = tokenizer(("<image>", "<bos>"))
    reader.bos_token = "<bos>"
    pictures = t.SiglipImageProcessor(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = t.PaliGemmaProcessor(image_processor=pictures, tokenizer=reader)
    text = words(reader, head_dim=16, final_logit_softcapping=0.05, query_pre_attn_scalar=16, sliding_window=64)
    network = t.PaliGemmaForConditionalGeneration(
        t.PaliGemmaConfig(
            vision_config=t.SiglipVisionConfig(**SIGLIP, projection_dim=WIDTH, vision_use_head=False),
            text_config=t.Gemma2Config(**text), image_token_id=reader.convert_tokens_to_ids("<image>"),
            projection_dim=WIDTH,
        )
    )  # fmt: skip
    return saved(network, processor, folder)


def internvl(folder: Path) -> Path:
    """An InternVL: a picture is as many rows of pixels as it has tiles."""
    torch.manual_seed(0)
    marks = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    reader = tokenizer((*marks.values(), "<video>"))
    plain = t.PreTrainedTokenizerFast(
        tokenizer_object=reader.backend_tokenizer, eos_token="<|end|>", pad_token="<|end|>",
        extra_special_tokens={**marks, "video_token": "<video>"},
    )  # fmt: skip
    vision = {**SIGLIP, "image_size": [32, 32], "patch_size": [8, 8]}
    network = t.InternVLForConditionalGeneration(
        t.InternVLConfig(
            vision_config=vision, text_config=t.Qwen2Config(**words(plain)), image_seq_length=4, downsample_ratio=0.5,
            image_token_id=plain.convert_tokens_to_ids("<IMG_CONTEXT>"),
        )
    )  # fmt: skip
    pictures = t.GotOcr2ImageProcessor(
        size={"height": 32, "width": 32}, crop_to_patches=True, min_patches=1, max_patches=3
    )
    processor = t.InternVLProcessor(
        image_processor=pictures, tokenizer=plain, video_processor=t.InternVLVideoProcessor(), image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<IMG_CONTEXT>\\n"),
    )  # fmt: skip
    return saved(network, processor, folder)


def gemma3(folder: Path) -> Path:
    """A Gemma 3: the tokens of a picture see one another both ways."""
    torch.manual_seed(0)
    marks = {"image_token": "<soft>", "boi_token": "<start>", "eoi_token": "<stop>"}
    reader = tokenizer(tuple(marks.values()))
    plain = t.PreTrainedTokenizerFast(
        tokenizer_object=reader.backend_tokenizer, eos_token="<|end|>", pad_token="<|end|>",
        extra_special_tokens=marks,
    )  # fmt: skip
    ids = {f"{name}_index": plain.convert_tokens_to_ids(marks[name]) for name in ("boi_token", "eoi_token")}
    network = t.Gemma3ForConditionalGeneration(
        t.Gemma3Config(
            vision_config=SIGLIP, text_config=words(plain, head_dim=16, query_pre_attn_scalar=16, sliding_window=64),
            mm_tokens_per_image=4, image_token_id=plain.convert_tokens_to_ids("<soft>"), **ids,
        )
    )  # fmt: skip
    processor = t.Gemma3Processor(
        image_processor=t.Gemma3ImageProcessor(size={"height": 32, "width": 32}), tokenizer=plain, image_seq_length=4,
        chat_template=TEMPLATE.replace("IMAGE", "<start>"),
    )  # fmt: skip
    return saved(network, processor, folder)


FAMILIES = {
    each.__name__: each
    for each in (
        llava, llava_next, onevision, qwen2_vl, qwen2_5_vl, qwen3_vl, idefics3, smolvlm, paligemma, internvl, gemma3,
    )
}  # fmt: skip
