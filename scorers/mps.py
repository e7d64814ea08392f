"""MPS: Zhang et al., "Learning Multi-dimensional Human Preference for Text-to-Image Generation" (arXiv 2405.14705).

A CLIP ViT-H/14 whose image tokens look at those prompt tokens that resemble a condition (words for what is judged),
through four layers of multi-query attention after PaLM. github.com/Kwai-Kolors/MPS has two traps. The resemblance is
divided by its maximum over the whole batch, so that a score depends on its neighbours: here each sample has its own
maximum, which is the same for a batch of one, and theirs is `variant="batch"`. And tokens are kept above 0.3 in the
evaluation script, above 0.01 in the model's forward: `threshold`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visalign.images import Picture
from visalign.models import states
from visalign.scoring import Prefers, Sample, Scores, Spec, several

from . import reading
from .clip import PathLike, Tokenizer, device_of, dtype_of, frozen, unit_vectors
from .hf_clip import HfClip, empty_clip, official, with_positions
from .preprocess import CROPPED, Crop, asked, checked
from .running import full_precision, one_of, running

SOURCE = "github.com/Kwai-Kolors/MPS: MPS_overall_checkpoint.pth"
OVERALL = (
    "light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, structure, instance, "
    "texture, quantity, attributes, position, number, location, word, things."
)
KEPT = 256  # prompts; of each all token states are remembered, 0.3 MB


class MPS(Prefers):
    """exp(logit_scale) * cosine of the prompt and the image as the prompt's relevant words see it; about 5 … 15.

    Args:
        weights: what `visalign scorers convert` makes of the official file, which is a pickled module.
        condition: the words that say what is judged; the default is the official "overall".
        variant: "sample", or "batch" for the official coupling of batch mates.
        threshold: share of the greatest resemblance above which a prompt token is seen.
        config: another CLIP: a name, a mapping of `CLIPConfig`'s arguments, or a config.json.
        layers, heads: of the layers on top.
        tokenizer: prompts to ids, for a model with a vocabulary of its own.
    """

    def __init__(
        self,
        weights: PathLike,
        *,
        condition: str = OVERALL,
        variant: Literal["sample", "batch"] = "sample",
        threshold: float = 0.3,
        config: str | Mapping[str, Any] = "ViT-H-14",
        layers: int = 4,
        heads: int = 16,
        tokenizer: Tokenizer | None = None,
        device: str = "cpu",
        dtype: Literal["fp32", "bf16", "fp16"] = "fp32",
        batch: int = 32,
    ) -> None:
        if not 0 <= threshold < 1:
            raise ValueError(f"threshold must be at least 0 and below 1, got {threshold}")
        run, self.variant = running(device, dtype, batch), one_of("variant", variant, ("sample", "batch"))
        self.network = network(Path(weights).expanduser(), config, layers, heads, run.dtype).to(run.device)
        frozen(self.network)
        self.towers = HfClip(self.network["clip"], tokenizer)
        self.threshold, self.batch = threshold, batch
        size = self.towers.network.config.vision_config.image_size
        self.geometry = Crop(size)
        self.texts = reading.Remembered(self._text_states, KEPT)
        self.condition = self.texts([condition])[0, :-1]
        self.factor = float(self.towers.scale())
        self.spec = replace(
            self.describe(variant),
            range=(-self.factor, self.factor),
            context=self.towers.context,
            preprocessing=CROPPED.format(size),
        )
        self.name = self.spec.name

    @staticmethod
    def describe(variant: str = "sample") -> Spec:
        """What it is, before any weights are read."""
        return Spec(
            name="mps" if variant == "sample" else "mps_batch",
            scale="exp(logit_scale) * cosine",
            range=(-100.0, 100.0),
            typical=(5.0, 15.0),
            files=(SOURCE,),
            license="MIT (code and weights)",
            temperature=1.0,
            preprocessing=CROPPED.format(224),
            antialias=True,
            context=77,
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; in variant "batch" it depends on the samples around it."""
        device, cut = device_of(self.network), self.texts.cut
        return reading.scores(samples, self.geometry, self._values, batch=self.batch, device=device, cut=cut)

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) scores of pixels (n, 3, h, w) in [0, 1], with their graph."""
        return self._values(self.geometry.pixels(checked(pixels)), asked(pixels, prompts))

    def _text_states(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool | None]]:
        """(n, context + 1, d): the projected state of every token, padding included, then the pooled one."""
        clip = self.towers.network
        ids, cut = self.towers.tokens(prompts)
        found = clip.text_model(input_ids=ids)
        every = torch.cat([found.last_hidden_state, found.pooler_output[:, None]], 1)
        return clip.text_projection(every), cut

    def score_matrix(self, images: Sequence[Picture], prompts: Sequence[str]) -> Tensor:
        """(images, prompts): one pass of CLIP an image and one a prompt, the layers on top for each pair."""
        device, texts = device_of(self.network), several(prompts)
        return reading.crossed(images, texts, self.geometry, self._seen, self._met, batch=self.batch, device=device)

    @full_precision()
    def _values(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self._met(self._seen(pixels), prompts)

    def _seen(self, pixels: Tensor) -> Tensor:
        """(n, image tokens, d) projected states."""
        clip = self.towers.network
        states = clip.vision_model(pixel_values=pixels.to(dtype_of(clip))).last_hidden_state
        projected: Tensor = clip.visual_projection(states)
        return projected

    def _met(self, seen: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) values of images as `_seen` has them."""
        texts = self.texts(prompts)
        words, relevant = texts[:, :-1], self._relevant(texts[:, :-1])
        mixed = self.network["mixer"](seen, words, relevant)
        values = self.factor * (unit_vectors(mixed[:, 0]) * unit_vectors(texts[:, -1])).sum(-1)
        return values.where(relevant.any(-1), torch.nan)  # with the batch's maximum a prompt may be left without a word

    def _relevant(self, tokens: Tensor) -> Tensor:
        """(n, context) bool: which tokens resemble the condition, relative to the one that does most."""
        likeness = (tokens @ self.condition.T).amax(-1)
        most = likeness.amax(-1, keepdim=True) if self.variant == "sample" else likeness.max()
        return likeness / most > self.threshold


class Mixer(nn.Module):
    """Layers in which image tokens look at prompt tokens, then at one another."""

    def __init__(self, dim: int, layers: int, heads: int) -> None:
        super().__init__()
        self.look = nn.ModuleList(Look(dim, dim // heads, heads) for _ in range(layers))
        self.think = nn.ModuleList(Think(dim, dim // heads, heads) for _ in range(layers))

    def forward(self, image: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """(n, image tokens, dim); `seen` (n, text tokens) bool."""
        for look, think in zip(self.look, self.think, strict=True):
            image = image + look(image, text, seen)
            image = image + think(image)
        return image


class Look(nn.Module):
    """Multi-query cross attention beside a SwiGLU, both reading the same normalized input."""

    def __init__(self, dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim, bias=False)
        self.to_q = nn.Linear(dim, width * heads, bias=False)
        self.to_kv = nn.Linear(dim, 2 * width, bias=False)
        self.to_out = nn.Linear(width * heads, dim, bias=False)
        self.widen = nn.Linear(dim, 8 * dim, bias=False)
        self.narrow = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor, text: Tensor, seen: Tensor) -> Tensor:
        """(n, tokens, dim)."""
        x = self.norm(x)
        key, value = self.to_kv(text).chunk(2, -1)
        query = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        told: Tensor = self.to_out(attended(query, key, value, seen)) + self.narrow(gated(self.widen(x)))
        return told


class Think(nn.Module):
    """Multi-query self attention with rotary positions beside a SwiGLU, all inputs from one projection."""

    def __init__(self, dim: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.parts = heads, (width * heads, width, width, 8 * dim)
        self.norm = nn.LayerNorm(dim, bias=False)
        self.fused = nn.Linear(dim, sum(self.parts), bias=False)
        self.to_out = nn.Linear(width * heads, dim, bias=False)
        self.narrow = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim)."""
        query, key, value, inner = self.fused(self.norm(x)).split(self.parts, -1)
        query = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = attended(rotated(query), rotated(key), value, None)
        thought: Tensor = self.to_out(mixed) + self.narrow(gated(inner))
        return thought


def attended(query: Tensor, key: Tensor, value: Tensor, seen: Tensor | None) -> Tensor:
    """(n, i, heads * d) of queries (n, heads, i, d) on one key and value (n, j, d) for all heads."""
    heads = query.shape[1]
    key, value = (each[:, None].expand(-1, heads, -1, -1) for each in (key, value))
    mask = None if seen is None else seen[:, None, None, :]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


def gated(x: Tensor) -> Tensor:
    """SwiGLU: the first half times the SiLU of the second."""
    value, gate = x.chunk(2, -1)
    return value * F.silu(gate)


def rotated(x: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864) on (…, tokens, d), the halves of d as pairs."""
    tokens, width = x.shape[-2:]
    speeds = 1.0 / 10000 ** (torch.arange(0, width, 2, device=x.device).float() / width)
    angles = torch.outer(torch.arange(tokens, device=x.device).float(), speeds).repeat(1, 2).to(x.dtype)
    left, right = x.chunk(2, -1)
    return x * angles.cos() + torch.cat([-right, left], -1) * angles.sin()


RENAMED = (
    (r"^model\.", "clip."),
    (r"^cross_model\.layers\.(\d+)\.0\.fn\.", r"mixer.look.\1."),
    (r"^cross_model\.layers\.(\d+)\.1\.fn\.", r"mixer.think.\1."),
    (r"\.ff\.0\.", ".widen."),
    (r"\.ff\.2\.", ".narrow."),
    (r"\.ff_out\.1\.", ".narrow."),
    (r"\.fused_attn_ff_proj\.", ".fused."),
    (r"\.attn_out\.", ".to_out."),
)
CONSTANT = re.compile(r"cross_model\..*(norm\.bias|rotary_emb\.inv_freq)$")  # buffers of fixed content


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official names as ours; what is computed here is left out."""
    found = {}
    for name, each in official(state).items():
        if CONSTANT.match(name):
            if name.endswith("bias") and bool(each.any()):
                raise states.WeightsError(f"{name} is not zero: this is no MPS checkpoint of the released kind")
            continue
        for pattern, ours in RENAMED:
            name = re.sub(pattern, ours, name)
        found[name] = each
    return found


def network(
    weights: Path, config: str | Mapping[str, Any], layers: int, heads: int, dtype: torch.dtype
) -> nn.ModuleDict:
    """`clip` and `mixer` with the weights of a converted official file, loaded strictly."""
    if not weights.is_file():
        raise states.WeightsError(f"no weights at {weights}: convert the official file, {SOURCE}")
    clip = empty_clip(config)
    with torch.device("meta"):
        made = nn.ModuleDict({"clip": clip, "mixer": Mixer(clip.config.projection_dim, layers, heads)})
    states.load_into(made, renamed(states.read(weights)), str(weights), dtype)
    with_positions(made)
    return made
