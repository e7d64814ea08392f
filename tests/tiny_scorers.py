"""Official checkpoints of the CLIP family in tiny sizes, with their own names and nesting, and every scorer of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from PIL import Image
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from visalign import scorers

SIDE = 32
OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 32, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
HF_CLIP = {
    "projection_dim": 16,
    "text_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "projection_dim": 16, "vocab_size": 49408, "eos_token_id": 49407, "hidden_act": "quick_gelu",
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": SIDE, "patch_size": 16, "projection_dim": 16, "hidden_act": "quick_gelu",
    },
}  # fmt: skip
BLIP = {
    "vision": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "patch_size": 16,
        "image_size": SIDE,
    },
    "text": {
        "vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48,
        "encoder_hidden_size": 32, "max_position_embeddings": 64,
    },
}  # fmt: skip
MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*MARKS, "a", "red", "blue", "green", "circle", "square", "of", "left", "right", "above", "painting")
MPS = {"layers": 2, "heads": 4}


def filled(shapes: dict[str, tuple[int, ...]], seed: int, scale: float = 0.2) -> dict[str, Tensor]:
    """Random tensors; what scales a normalized value lies around 1."""
    draw = torch.Generator().manual_seed(seed)
    around = {name: 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0 for name in shapes}
    return {name: around[name] + scale * torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def shaken(module: torch.nn.Module, seed: int = 0) -> None:
    """Make a network's answers differ from input to input more than a fresh one's; in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, each in module.named_parameters():
            if name != "logit_scale":
                each.add_(0.1 * torch.randn(each.shape, generator=draw))
    module.eval()


def open_clip_model() -> open_clip.CLIP:
    torch.manual_seed(0)
    network = open_clip.CLIP(**OPEN_CLIP, output_dict=True)
    shaken(network)
    return network


def hf_clip_model() -> CLIPModel:
    torch.manual_seed(0)
    network = CLIPModel(CLIPConfig(**HF_CLIP))
    shaken(network)
    network.visual_projection.weight.data.neg_()  # so that most cosines are positive
    return network


def hps_file(folder: Path) -> Path:
    """As HPS_v2.1_compressed.pt: the state dict beside what training left."""
    path = folder / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 3, "name": "hps", "state_dict": open_clip_model().state_dict()}, path)
    return path


def clip_file(folder: Path) -> Path:
    """As an old pytorch_model.bin: with the counted positions that newer releases do not save."""
    path = folder / "pytorch_model.bin"
    state = dict(hf_clip_model().state_dict())
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    torch.save(state, path)
    return path


def head_shapes(prefix: str, sizes: Iterable[tuple[int, int, int]]) -> dict[str, tuple[int, ...]]:
    """Linear layers by (number, inputs, outputs)."""
    return {
        f"{prefix}{number}.{part}": (out, given) if part == "weight" else (out,)
        for number, given, out in sizes
        for part in ("weight", "bias")
    }


def aesthetic_file(folder: Path, version: str) -> Path:
    path = folder / f"aesthetic_{version}.pth"
    v2 = head_shapes("layers.", [(0, 16, 12), (2, 12, 8), (4, 8, 6), (6, 6, 4), (7, 4, 1)])
    torch.save(filled({"weight": (1, 16), "bias": (1,)} if version == "1" else v2, 5, 0.5), path)
    return path


def mps_shapes(dim: int, layers: int, heads: int) -> dict[str, tuple[int, ...]]:
    """The parameters and buffers of the official cross model."""
    width = dim // heads
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        look, think = (f"cross_model.layers.{layer}.{part}.fn" for part in (0, 1))
        shapes |= {
            f"{look}.norm.weight": (dim,), f"{look}.norm.bias": (dim,), f"{look}.to_q.weight": (dim, dim),
            f"{look}.to_kv.weight": (2 * width, dim), f"{look}.to_out.weight": (dim, dim),
            f"{look}.ff.0.weight": (8 * dim, dim), f"{look}.ff.2.weight": (dim, 4 * dim),
            f"{think}.norm.weight": (dim,), f"{think}.norm.bias": (dim,), f"{think}.rotary_emb.inv_freq": (width // 2,),
            f"{think}.fused_attn_ff_proj.weight": (dim + 2 * width + 8 * dim, dim),
            f"{think}.attn_out.weight": (dim, dim), f"{think}.ff_out.1.weight": (dim, 4 * dim),
        }  # fmt: skip
    return shapes


def mps_state() -> dict[str, Tensor]:
    """The state dict of the official module."""
    cross = filled(mps_shapes(16, **MPS), 6)
    constant = {
        name: torch.zeros_like(each) for name, each in cross.items() if name.endswith(("norm.bias", "inv_freq"))
    }
    return {f"model.{name}": each for name, each in hf_clip_model().state_dict().items()} | cross | constant


def blip_shapes(config: dict[str, dict[str, int]]) -> dict[str, tuple[int, ...]]:
    """Every tensor of ImageReward.pt: BLIP's towers, projections that nothing reads, and the head."""
    vision, text = config["vision"], config["text"]
    wide, inner, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    eye, ear = "blip.visual_encoder.", "blip.text_encoder."
    dim, middle = text["hidden_size"], text["intermediate_size"]

    def linear(name: str, out: int, given: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, given), f"{name}.bias": (out,)}

    def norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    shapes: dict[str, tuple[int, ...]] = {
        f"{eye}cls_token": (1, 1, wide),
        f"{eye}pos_embed": (1, (vision["image_size"] // patch) ** 2 + 1, wide),
        f"{eye}patch_embed.proj.weight": (wide, 3, patch, patch),
        f"{eye}patch_embed.proj.bias": (wide,),
        **norm(f"{eye}norm", wide),
        f"{ear}embeddings.word_embeddings.weight": (text["vocab_size"], dim),
        f"{ear}embeddings.position_embeddings.weight": (text["max_position_embeddings"], dim),
        **norm(f"{ear}embeddings.LayerNorm", dim),
        **linear("blip.vision_proj", 8, wide), **linear("blip.text_proj", 8, dim),
        **head_shapes("mlp.layers.", [(0, dim, 20), (2, 20, 12), (4, 12, 8), (6, 8, 4), (7, 4, 1)]),
    }  # fmt: skip
    for layer in range(vision["num_hidden_layers"]):
        block = f"{eye}blocks.{layer}"
        shapes |= norm(f"{block}.norm1", wide) | norm(f"{block}.norm2", wide)
        shapes |= linear(f"{block}.attn.qkv", 3 * wide, wide) | linear(f"{block}.attn.proj", wide, wide)
        shapes |= linear(f"{block}.mlp.fc1", inner, wide) | linear(f"{block}.mlp.fc2", wide, inner)
    for layer in range(text["num_hidden_layers"]):
        block = f"{ear}encoder.layer.{layer}"
        for kind, source in (("attention", dim), ("crossattention", wide)):
            shapes |= linear(f"{block}.{kind}.self.query", dim, dim) | linear(f"{block}.{kind}.self.key", dim, source)
            shapes |= linear(f"{block}.{kind}.self.value", dim, source)
            shapes |= linear(f"{block}.{kind}.output.dense", dim, dim) | norm(f"{block}.{kind}.output.LayerNorm", dim)
        shapes |= linear(f"{block}.intermediate.dense", middle, dim) | linear(f"{block}.output.dense", dim, middle)
        shapes |= norm(f"{block}.output.LayerNorm", dim)
    return shapes


def blip_state() -> dict[str, Tensor]:
    positions = torch.arange(BLIP["text"]["max_position_embeddings"])[None]
    return filled(blip_shapes(BLIP), 7) | {"blip.text_encoder.embeddings.position_ids": positions}


def bert() -> BertTokenizer:
    return BertTokenizer(vocab={word: number for number, word in enumerate(WORDS)})


def saved(state: dict[str, Tensor], path: Path) -> Path:
    torch.save(state, path)
    return path


def makers(folder: Path) -> dict[str, Callable[..., Any]]:
    """Each scorer of the family, made of tiny official files in `folder`, by what the tests call it."""
    hps, clip = hps_file(folder), clip_file(folder)
    v1, v2 = aesthetic_file(folder, "1"), aesthetic_file(folder, "2")
    mps = saved(mps_state(), folder / "mps.pt")
    blip = saved(blip_state(), folder / "ImageReward.pt")

    def maker(name: str, **given: Any) -> Callable[..., Any]:
        return lambda **more: scorers.load(name, **given | more)

    return {
        "hpsv2.1": maker("hpsv2.1", weights=hps, config=OPEN_CLIP),
        "hpsv2.0 without antialias": maker("hpsv2.0", weights=hps, config=OPEN_CLIP, antialias=False),
        "pickscore": maker("pickscore", weights=clip, config=HF_CLIP),
        "pickscore cosine": maker("pickscore", weights=clip, config=HF_CLIP, scale="cosine"),
        "clipscore": maker("clipscore", weights=clip, config=HF_CLIP),
        "clipscore torchmetrics": maker("clipscore", weights=clip, config=HF_CLIP, variant="torchmetrics"),
        "clip_iqa": maker("clip_iqa", weights=clip, config=HF_CLIP),
        "aesthetic_v1": maker("aesthetic_v1", weights=v1, clip=clip, config=HF_CLIP),
        "aesthetic_v2": maker("aesthetic_v2", weights=v2, clip=clip, config=HF_CLIP),
        "mps": maker("mps", weights=mps, config=HF_CLIP, **MPS),
        "image_reward": maker("image_reward", weights=blip, config=BLIP, tokenizer=bert()),
    }


def pictures(count: int = 7, seed: int = 0) -> list[Image.Image]:
    """Random pictures of many shapes."""
    draw = np.random.default_rng(seed)
    shapes = [(32, 32), (20, 48), (57, 31), (1, 1), (100, 7), (64, 64), (33, 32)]
    return [
        Image.fromarray(draw.integers(0, 256, (*shapes[row % len(shapes)], 3), dtype=np.uint8)) for row in range(count)
    ]
