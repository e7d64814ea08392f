"""Tiny detectors and readers of text, real parts of transformers in folders of their own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessor,
    Owlv2Config,
    Owlv2ForObjectDetection,
    Owlv2ImageProcessor,
    Owlv2Processor,
    PreTrainedTokenizerFast,
    SwinConfig,
    TrOCRConfig,
    TrOCRForCausalLM,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

from visalign.scorers.hf_clip import clip_tokenizer

LABELS = {0: "bench", 1: "mouse", 2: "dog"}
TEXTS = ("open", "sale", "no dogs", "echo")  # that the tiny reader learns
LINE = (72, 16)
STEPS = 400


def yolos(folder: Path) -> Path:
    """A YOLOS of one layer that finds benches, mice and dogs, at random."""
    torch.manual_seed(0)
    config = YolosConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=[32, 48],
        patch_size=8, num_detection_tokens=5, id2label=LABELS, use_mid_position_embeddings=False,
    )  # fmt: skip
    network = YolosForObjectDetection(config)
    torch.nn.init.normal_(network.class_labels_classifier.layers[-1].weight, std=1.0)
    return _saved(folder, network, YolosImageProcessor(size={"shortest_edge": 32, "longest_edge": 48}, do_pad=False))


def mask2former(folder: Path) -> Path:
    """A Mask2Former on a Swin of four layers."""
    torch.manual_seed(0)
    backbone = SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=4, id2label=LABELS,
    )  # fmt: skip
    network = Mask2FormerForUniversalSegmentation(config)
    torch.nn.init.normal_(network.class_predictor.weight, std=1.0)
    processor = Mask2FormerImageProcessor(size={"shortest_edge": 40, "longest_edge": 80}, size_divisor=32)
    return _saved(folder, network, processor)


def owlv2(folder: Path) -> Path:
    """An OWLv2 of two layers, with CLIP's own words."""
    torch.manual_seed(0)
    words = clip_tokenizer()
    text = {
        "vocab_size": len(words), "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    network = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=16))
    processor = Owlv2Processor(Owlv2ImageProcessor(size={"height": 32, "width": 32}), words)
    return _saved(folder, network, processor)


def line(text: str, shift: tuple[int, int] = (3, 2)) -> Image.Image:
    """A text in Pillow's own font, black on white."""
    image = Image.new("RGB", LINE, "white")
    ImageDraw.Draw(image).text(shift, text, fill="black", font=ImageFont.load_default(size=11))
    return image


def reader(folder: Path) -> Path:
    """A TrOCR of one and one layer, taught to read TEXTS until it errs no more."""
    torch.manual_seed(0)
    words, images = _letters(), ViTImageProcessor(size={"height": LINE[1], "width": LINE[0]})
    eye = ViTModel(
        ViTConfig(
            image_size=[LINE[1], LINE[0]], patch_size=[16, 8], hidden_size=32, num_hidden_layers=1,
            num_attention_heads=2, intermediate_size=64, hidden_dropout_prob=0.0,
        )
    )  # fmt: skip
    mouth = TrOCRForCausalLM(
        TrOCRConfig(
            vocab_size=len(words), d_model=32, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=64,
            dropout=0.0, max_position_embeddings=16, cross_attention_hidden_size=32, pad_token_id=words.pad_token_id,
            bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id,
        )
    )  # fmt: skip
    network = VisionEncoderDecoderModel(encoder=eye, decoder=mouth)
    for config in (network.config, network.generation_config):
        config.decoder_start_token_id, config.pad_token_id = words.bos_token_id, words.pad_token_id
        config.eos_token_id = words.eos_token_id
    _taught(network, words, images)
    words.save_pretrained(folder)
    return _saved(folder, network, images)


def _taught(network: Any, words: PreTrainedTokenizerFast, images: ViTImageProcessor) -> None:
    rng, learner = random.Random(0), torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        shown = [line(each, (rng.randint(2, 4), 2)) for each in 2 * TEXTS]
        labels = words(list(2 * TEXTS), padding=True, return_tensors="pt")["input_ids"]
        labels[labels == words.pad_token_id] = -100
        loss = network(pixel_values=images(shown, return_tensors="pt")["pixel_values"], labels=labels).loss
        learner.zero_grad()
        loss.backward()
        learner.step()
        if loss.item() < 0.01:
            break
    network.eval()


def _letters() -> PreTrainedTokenizerFast:
    """A token a letter, and an end."""
    vocabulary = {each: number for number, each in enumerate(["<s>", "<pad>", "</s>", *sorted(set("".join(TEXTS)))])}
    inner = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<pad>"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def _saved(folder: Path, network: Any, processor: Any) -> Path:
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
