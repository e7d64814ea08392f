"""The moving world's networks: the still world's, thinned to three channels of four, with motion modules between.

Only the autoencoder is taken over as it is. The UNet is AnimateDiff's (arXiv 2307.04725): a UNet of pictures whose
frames meet in attention over time behind every block; it is initialised from the shipped UNet of pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import folder, words
from .moving import FRAMES, VOCABULARY
from .networks import SCHEDULE, TOKENS, WIDTH, new_text

# Frames tell of one another through much noise, so the schedule ends in pure noise and drawing begins there
# (arXiv 2305.08891); the still base's ends at 7 % signal and is drawn from 91 % of its way on.
MOVING_SCHEDULE = {**SCHEDULE, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
CHANNELS = (48, 96)
WAVES, SHARP = 4, 2.2  # a sine and a cosine of two periods; next frames get a twentieth of a frame's own attention
KEPT = 3  # channels of every four


def tokenizer(where: Path) -> Any:
    """The CLIP tokenizer of the moving vocabulary, written to `where`."""
    from transformers import CLIPTokenizer

    words.write(where, VOCABULARY)
    return CLIPTokenizer(str(where / "vocab.json"), str(where / "merges.txt"), model_max_length=TOKENS)


def vae() -> Any:
    """The shipped autoencoder of pictures, frozen, in float32."""
    from diffusers import AutoencoderKL

    found = AutoencoderKL.from_pretrained(folder() / "vae", torch_dtype=torch.float32)
    found.register_to_config(_name_or_path="")  # or what is saved of it names a place on this machine
    return found.eval().requires_grad_(False)


def new_unet(seed: int) -> Any:
    """A motion UNet of 3.2 million parameters that draws frames as the thinned still one does, each for itself."""
    from diffusers import UNet2DConditionModel, UNetMotionModel

    torch.manual_seed(seed + 3)
    made = UNetMotionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=CHANNELS, layers_per_block=1,
        down_block_types=("CrossAttnDownBlockMotion",) * 2, up_block_types=("CrossAttnUpBlockMotion",) * 2,
        cross_attention_dim=WIDTH, num_attention_heads=4, norm_num_groups=16, motion_num_attention_heads=4,
        motion_max_seq_length=FRAMES, use_motion_mid_block=False,
    )  # fmt: skip
    still = UNet2DConditionModel.from_pretrained(folder() / "unet", torch_dtype=torch.float32).state_dict()
    own = made.state_dict()
    made.load_state_dict({name: thinned(still[name], own[name]) if name in still else own[name] for name in own})
    for name, module in made.named_modules():
        if "motion_modules" in name and name.endswith("proj_out"):
            nn.init.zeros_(module.weight)  # frames are for themselves until they learn to meet
            nn.init.zeros_(module.bias)
    return made.to(memory_format=torch.channels_last)


@torch.no_grad()
def number_frames(unet: Any) -> None:
    """Let the first head of the motion modules on the way down look at its own frame alone, by the frame's number.

    Numbers are in what motion modules attend by and not in what they pass on, and attention that is even averages them
    away: which way things move, which hangs on a word and the number together, is then not learned for long. Four of
    the channels are left to the numbers' fastest waves, and by these the head compares frames.
    """
    for block in unet.down_blocks:
        for module in block.motion_modules:
            layer = module.transformer_blocks[0]
            layer.norm1.weight[:WAVES] = 0
            layer.norm1.bias[:WAVES] = 0
            for projection in (layer.attn1.to_q, layer.attn1.to_k):
                own = projection.out_features // layer.attn1.heads
                projection.weight[:own] = 0
                rows = torch.arange(own)
                projection.weight[rows, rows % WAVES] = SHARP


def thinned(wide: Tensor, narrow: Tensor) -> Tensor:
    """The first three of every four channels along each axis that is too long, the rest spread over the kept inputs.

    Groups of a norm, heads and joined inputs are whole multiples of four, so every channel stays beside its own; the
    sinusoids of time that are kept have nearly the frequencies of a narrower embedding. ValueError for other shapes.
    """
    for axis, (have, want) in enumerate(zip(wide.shape, narrow.shape, strict=True)):
        if have == want:
            continue
        if have * KEPT != want * 4:
            raise ValueError(f"{tuple(wide.shape)} cannot be thinned to {tuple(narrow.shape)}")
        wide = wide.unflatten(axis, (-1, 4)).narrow(axis + 1, 0, KEPT).flatten(axis, axis + 1)
        if axis == 1:  # the sum over inputs keeps its size
            wide = wide * (4 / KEPT)
    return wide.contiguous()


def text_encoder(reader: Any, seed: int) -> Any:
    """The shipped CLIP text encoder with rows for the words of motion; what both vocabularies know keeps its row."""
    from transformers import CLIPTextModel, CLIPTokenizer

    kept = CLIPTextModel.from_pretrained(folder() / "text_encoder", torch_dtype=torch.float32).state_dict()
    old, new = CLIPTokenizer.from_pretrained(folder() / "tokenizer").get_vocab(), reader.get_vocab()
    made = new_text(reader, seed)
    own = made.state_dict()
    (table,) = (name for name in own if name.endswith("token_embedding.weight"))
    rows = own[table].clone()
    for piece in new.keys() & old.keys():
        rows[new[piece]] = kept[table][old[piece]]
    made.load_state_dict({**kept, table: rows})
    return made


def write(where: Path, vae: Any, reader: Any, unet: Any, text: Any) -> None:
    """The whole as an AnimateDiff folder in float16; the motion modules are in the UNet, no adapter lies beside it."""
    from diffusers import AnimateDiffPipeline, DDIMScheduler

    AnimateDiffPipeline(
        vae=vae.half(), text_encoder=text.half(), tokenizer=reader, unet=unet.half(), motion_adapter=None,
        scheduler=DDIMScheduler(**MOVING_SCHEDULE),
    ).save_pretrained(where, safe_serialization=True)  # fmt: skip
