"""A CLIP for the playground, trained as CLIP is (Radford et al., arXiv 2103.00020), on families of captioned pictures.

It stands where LAION's CLIP stands for HPS v2: the network that a scorer is trained from. A batch is 16 families of 4
pictures that differ in one thing, so that the other captions of a family are the hard ones (NegCLIP's idea).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from . import captions, families, words
from .build import Saved, Say, cosine
from .networks import TOKENS

WIDTH = 128
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
LARGEST = math.log(100.0)  # of logit_scale


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    families: int = 24_000
    steps: int = 1_600
    batch: int = 16  # families a step
    rate: float = 1.0e-3
    save_every: int = 100


def config(vocabulary: int) -> dict[str, Any]:
    """The arguments of `open_clip.CLIP`: 1.3 million parameters for 32 x 32 pixels in patches of 8.

    A step costs two fifths of one with patches of 4 and teaches as much: no thing of the world fits into one patch.
    """
    image = {"image_size": 32, "patch_size": 8, "layers": 4, "width": WIDTH, "head_width": 32}
    text = {"context_length": TOKENS, "vocab_size": vocabulary, "layers": 2, "width": WIDTH, "heads": 4}
    return {"embed_dim": WIDTH, "vision_cfg": image, "text_cfg": text}


def build(folder: Path, seed: int = 0, plan: Plan | None = None, say: Say = print) -> Path:
    """Make the network in `folder`, going on from what an interrupted call left; returns the folder."""
    import open_clip

    plan, rooms = plan or Plan(), folder / ".building"
    rooms.mkdir(parents=True, exist_ok=True)
    words.write(folder, captions.VOCABULARY)
    reader = words.Tokenizer(folder, TOKENS)
    pictures, tokens = drawn(plan.families, seed, rooms, reader, say)
    torch.manual_seed(seed)
    clip = open_clip.CLIP(**config(len(reader.pieces)), output_dict=True)
    train(clip, pictures, tokens, plan, seed, rooms, say)
    write(folder, clip.visual.image_size, config(len(reader.pieces)), clip.state_dict())
    return folder


def drawn(count: int, seed: int, rooms: Path, reader: words.Tokenizer, say: Say) -> tuple[Tensor, Tensor]:
    """uint8 pictures (n, 4, 3, 32, 32) and token ids (n, 4, 24) of n families, drawn once."""
    kept = rooms / "families.npz"
    if not kept.exists():
        say(f"drawing {count} families of pictures")
        found = [families.family(seed, index) for index in range(count)]
        draft = rooms / "families.tmp.npz"
        np.savez(draft, pictures=np.stack([each for each, _ in found]), captions=np.array([each for _, each in found]))
        os.replace(draft, kept)
    with np.load(kept, allow_pickle=False) as held:
        pictures, texts = torch.from_numpy(held["pictures"]).permute(0, 1, 4, 2, 3).contiguous(), held["captions"]
    tokens = reader([str(each) for each in texts.reshape(-1)])
    return pictures, tokens.view(*texts.shape, -1)


def train(clip: Any, pictures: Tensor, tokens: Tensor, plan: Plan, seed: int, rooms: Path, say: Say) -> None:
    """CLIP's symmetric cross-entropy; the last weights stay in `clip`."""
    draw = torch.Generator()
    saved = Saved(rooms / "clip.safetensors", dict(clip.named_parameters()), plan.rate, 0.05, (0.9, 0.98))
    for step in saved.steps(plan.steps, plan.save_every, seed, draw):
        rows = torch.randint(0, len(pictures), (plan.batch,), generator=draw)
        images = clip.encode_image(normalized(pictures[rows].flatten(0, 1)), normalize=True)
        texts = clip.encode_text(tokens[rows].flatten(0, 1), normalize=True)
        logits = clip.logit_scale.exp() * images @ texts.T
        own = torch.arange(len(logits))
        loss = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        saved.update(loss, cosine(step, plan.steps, 100))
        with torch.no_grad():
            clip.logit_scale.clamp_(max=LARGEST)
        if step % 100 == 0:
            say(f"contrast {step}/{plan.steps}: loss {loss.detach():.3f}")


def opened(folder: Path) -> Any:
    """The network that `write` wrote to `folder`, in float32."""
    import open_clip

    weights = load_file(folder / "open_clip_model.safetensors")
    clip = open_clip.CLIP(**config(len(weights["token_embedding.weight"])), output_dict=True)
    clip.load_state_dict({name: each.float() for name, each in weights.items()})
    return clip


def written(folder: Path, start: Path, clip: Any) -> Path:
    """`clip` in `folder`, with the words of `start`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).write_bytes((start / name).read_bytes())
    write(folder, clip.visual.image_size, config(len(clip.token_embedding.weight)), clip.state_dict())
    return folder


def normalized(pictures: Tensor) -> Tensor:
    """uint8 (n, 3, 32, 32) as the image tower reads them."""
    mean, std = (torch.tensor(each)[:, None, None] for each in (MEAN, STD))
    return (pictures.float() / 255 - mean) / std


def write(folder: Path, size: tuple[int, int], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Weights in float16 and their configuration, as open_clip's "local-dir:" reads a folder."""
    about = {"model_cfg": dict(arguments), "preprocess_cfg": {"resize_mode": "longest", "size": list(size)}}
    (folder / "open_clip_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    halves = {name: each.detach().half().contiguous() for name, each in weights.items()}
    save_file(halves, folder / "open_clip_model.safetensors")
