"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206): a transformer over latents and words, told by two CLIPs and T5.

The text states are both CLIPs' layer before the last side by side, filled up with zeros to T5's width, and T5's states
behind them; the pooled text is both CLIPs' projections. A folder without T5 (`text_encoder_3` empty in its index) has
zeros in its place, as diffusers' pipeline does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from ..batches import Condition
from .encoders import PictureCoder, Reader
from .family import Config, Family
from .stable_diffusion import clip, factor, ids, size
from .weights import JOINT

if TYPE_CHECKING:
    from .folder import Folder

T5_TOKENS = 256  # of a prompt, the pipeline's `max_sequence_length`; longer ones are cut
TOKENS = 77 + T5_TOKENS  # that the transformer sees: the CLIPs' window, and T5's
Words = Callable[[Sequence[str]], Tensor]  # prompts -> (n, tokens, width)


def ask(network: Any, x_t: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """(n, c, h, w) of a `SD3Transformer2DModel`; ValueError for a condition without pooled text."""
    if condition.pooled is None:
        raise ValueError("a Stable Diffusion 3 transformer needs the condition's `pooled` text, and it is missing")
    dtype = network.proj_out.weight.dtype
    answer: Tensor = network(
        x_t.to(dtype), condition.text.to(dtype), condition.pooled.to(dtype), time, return_dict=False
    )[0]
    return answer


def t5(folder: Folder, suffix: str, dtype: torch.dtype, device: torch.device, tokens: int) -> Words:
    """The last states of the T5 encoder in a folder, of so many tokens: prompts are padded, and cut."""
    import transformers

    encoder = transformers.T5EncoderModel.from_pretrained(
        folder.path / f"text_encoder{suffix}", dtype=dtype, use_safetensors=True, local_files_only=True
    )
    encoder.to(device).eval().requires_grad_(False)
    tokenizer = transformers.T5TokenizerFast.from_pretrained(folder.path / f"tokenizer{suffix}", local_files_only=True)

    def words(prompts: Sequence[str]) -> Tensor:
        states: Tensor = encoder(ids(tokenizer, prompts, device, tokens)).last_hidden_state
        return states

    return words


def nothing(folder: Folder, dtype: torch.dtype, device: torch.device) -> Words:
    """Zeros of the width that the transformer reads, where a folder has no T5."""
    width = int(folder.network_config().get("joint_attention_dim", 4096))
    return lambda prompts: torch.zeros(len(prompts), T5_TOKENS, width, dtype=dtype, device=device)


def read(folder: Folder, dtype: torch.dtype, device: torch.device) -> Reader:
    """The three encoders together: (n, window + 256, width) and (n, both CLIPs' widths)."""
    readers = [clip(folder, suffix, dtype, device, projected=True) for suffix in ("", "_2")]
    window = readers[0][0].model_max_length  # the pipeline cuts for both CLIPs where the first ends
    there = (folder.path / "text_encoder_3").is_dir()
    words = t5(folder, "_3", dtype, device, T5_TOKENS) if there else nothing(folder, dtype, device)

    def encoded(prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        answers = [
            encoder(ids(tokenizer, prompts, device, window), output_hidden_states=True)
            for tokenizer, encoder in readers
        ]
        seen = torch.cat([each.hidden_states[-2] for each in answers], dim=-1)
        said = words(prompts)
        text = torch.cat([functional.pad(seen, (0, said.shape[-1] - seen.shape[-1])), said], dim=1)
        return text, torch.cat([each.text_embeds for each in answers], dim=-1)

    return encoded


def patch(config: Config) -> int:
    """Latents of a token along a side."""
    return int(config.get("patch_size", 2))


def example(config: Config, shape: tuple[int, ...], tokens: int) -> tuple[Tensor, Condition]:
    """A latent of (height, width) and its condition, on the meta device."""
    with torch.device("meta"):
        x = torch.empty(1, int(config.get("in_channels", 16)), *shape)
        text = torch.empty(1, tokens, int(config.get("joint_attention_dim", 4096)))
        return x, Condition(text, torch.empty(1, int(config.get("pooled_projection_dim", 2048))))


SD3 = Family(
    "sd3", "StableDiffusion3Pipeline", "transformer", "SD3Transformer2DModel", ask, PictureCoder, read, factor, size,
    example, targets=JOINT, tokens=TOKENS, patch=patch,
)  # fmt: skip
