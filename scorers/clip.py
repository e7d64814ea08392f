"""Scores that are a number of the cosine between an image's and a prompt's embedding: HPS v2, PickScore, CLIPScore.

`OpenClip` and `HfClip` are the two libraries' networks behind one face; `Cosine` makes a scorer of either. A scorer of
a network of one's own, while it is trained for one, is
`Cosine(spec, OpenClip(network, tokenizer), Letterbox(224))`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from visalign.images import Picture
from visalign.models import states
from visalign.scoring import Prefers, Sample, Scores, Spec, several

from . import reading
from .preprocess import Geometry, asked, checked
from .running import full_precision

PathLike = str | os.PathLike[str]
Tokenizer = Callable[[list[str]], Tensor]  # prompts -> (n, context) token ids, cut to the context


class Towers(Protocol):
    """An image tower and a text tower with one space of embeddings."""

    @property
    def network(self) -> nn.Module:
        """Both, as a module."""

    @property
    def context(self) -> int:
        """Tokens of a prompt that are read, marks included."""

    def images(self, pixels: Tensor) -> Tensor:
        """(n, d) unit vectors of (n, 3, size, size) normalized pixels."""

    def texts(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool | None]]:
        """(n, d) unit vectors, and for each prompt whether it was cut (None: the tokenizer does not tell)."""

    def scale(self) -> Tensor:
        """exp(logit_scale), the factor of the cosine in the softmax that the network was trained with."""


class Cosine(Prefers):
    """A scorer: `value` of the cosine of image and prompt, computed in float32.

    Args:
        spec: what it is.
        towers: the network.
        geometry: how a picture is made square.
        value: from cosines to scores, any shape; None is the cosine itself.
        template: what is put around a prompt.
        batch: pictures at a time.
    """

    def __init__(
        self,
        spec: Spec,
        towers: Towers,
        geometry: Geometry,
        *,
        value: Callable[[Tensor], Tensor] | None = None,
        template: str = "{}",
        batch: int = 32,
    ) -> None:
        self.spec, self.towers, self.geometry, self.template, self.batch = spec, towers, geometry, template, batch
        self.value = value or _itself
        self.texts = reading.Remembered(towers.texts)
        frozen(towers.network)

    @property
    def name(self) -> str:
        """What records and reports call it."""
        return self.spec.name

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return device_of(self.towers.network)

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a sample; prompts longer than the context are cut, and counted in `truncated`."""
        return reading.scores(
            samples, self.geometry, self._values, batch=self.batch, device=self.device,
            cut=lambda prompts: self.texts.cut(self._worded(prompts)),
        )  # fmt: skip

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        """(n,) scores of pixels (n, 3, h, w) in [0, 1], with their graph."""
        return self._values(self.geometry.pixels(checked(pixels)), asked(pixels, prompts))

    @torch.no_grad()
    @full_precision()
    def score_matrix(self, images: Sequence[Picture], prompts: Sequence[str]) -> Tensor:
        """(images, prompts): one pass an image and one a prompt; NaN in the row of an image that cannot be read."""
        encode, texts = self.towers.images, self._worded(several(prompts))
        rows, found = reading.features(images, self.geometry, encode, batch=self.batch, device=self.device)
        table = torch.full((len(images), len(texts)), torch.nan)
        if rows and texts:
            table[rows] = self.value(found @ self.texts(texts).T).cpu()
        return table

    @torch.no_grad()
    def embed(self, pictures: Sequence[Picture]) -> Tensor:
        """(n, d) unit vectors of the image tower; NaN in the row of a picture that cannot be read."""
        encode = self.towers.images
        rows, found = reading.features(pictures, self.geometry, encode, batch=self.batch, device=self.device)
        table = torch.full((len(pictures), found.shape[-1]), torch.nan)
        if rows:
            table[rows] = found.cpu()
        return table

    @full_precision()
    def _values(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        texts = self.texts(self._worded(prompts))
        return self.value((self.towers.images(pixels) * texts).sum(-1))

    def _worded(self, prompts: Sequence[str]) -> list[str]:
        return [self.template.replace("{}", each) for each in prompts]


class Unprompted(Prefers):
    """A scorer that reads no prompt: `value` of the unit vectors of an image tower, computed in float32.

    Args:
        spec: what it is.
        towers: the network.
        geometry: how a picture is made square.
        value: from unit vectors (n, d) to scores (n,).
        batch: pictures at a time.
    """

    def __init__(
        self, spec: Spec, towers: Towers, geometry: Geometry, value: Callable[[Tensor], Tensor], *, batch: int = 32
    ) -> None:
        self.spec, self.towers, self.geometry, self.value, self.batch = spec, towers, geometry, value, batch
        frozen(towers.network)

    @property
    def name(self) -> str:
        """What records and reports call it."""
        return self.spec.name

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a picture."""
        device = device_of(self.towers.network)
        return reading.scores(samples, self.geometry, self._values, batch=self.batch, device=device)

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str] = ()) -> Tensor:
        """(n,) scores of pixels (n, 3, h, w) in [0, 1], with their graph; prompts are not read."""
        return self._values(self.geometry.pixels(checked(pixels)), prompts)

    @full_precision()
    def _values(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.value(self.towers.images(pixels))


def _itself(cosine: Tensor) -> Tensor:
    return cosine


class OpenClip:
    """A CLIP of open_clip.

    Args:
        network: an `open_clip.CLIP`.
        tokenizer: prompts to ids; None is CLIP's own. One without an `encode` cannot say which prompts it cut.
    """

    def __init__(self, network: Any, tokenizer: Tokenizer | None = None) -> None:
        import open_clip

        self.network = network
        self.context = int(network.context_length)
        self.tokenizer = tokenizer or open_clip.SimpleTokenizer(context_length=self.context)

    def images(self, pixels: Tensor) -> Tensor:
        """(n, d) unit vectors."""
        return unit_vectors(self.network.encode_image(pixels.to(dtype_of(self.network))))

    def texts(self, prompts: list[str]) -> tuple[Tensor, Sequence[bool | None]]:
        """(n, d) unit vectors, and which prompts were cut."""
        ids = self.tokenizer(prompts).to(device_of(self.network))
        encode = getattr(self.tokenizer, "encode", None)
        cut = [None if encode is None else len(encode(each)) + 2 > self.context for each in prompts]
        return unit_vectors(self.network.encode_text(ids)), cut

    def scale(self) -> Tensor:
        """exp(logit_scale)."""
        return exp_scale(self.network)


def open_clip_network(config: str | Mapping[str, Any] | PathLike, weights: Path, dtype: torch.dtype) -> Any:
    """An `open_clip.CLIP` of a configuration with the weights of a file, loaded strictly.

    `config` is a name that open_clip knows ("ViT-H-14"), a mapping of `open_clip.CLIP`'s arguments (embed_dim,
    vision_cfg, text_cfg, quick_gelu), or the path of a JSON file with one.
    """
    import open_clip

    with torch.device("meta"):  # no memory and no time for random weights that are replaced at once
        network = open_clip.CLIP(**open_clip_config(config), output_dict=True)
    states.load_into(network, states.read(weights), str(weights), dtype)
    if network.attn_mask is not None:  # the one buffer that files do not hold
        length = network.context_length
        network.attn_mask = torch.full((length, length), float("-inf"), dtype=dtype).triu_(1)
    return network


def open_clip_config(config: str | Mapping[str, Any] | PathLike) -> dict[str, Any]:
    """The arguments of `open_clip.CLIP`."""
    import open_clip

    if isinstance(config, Mapping):
        return dict(config.get("model_cfg", config))
    if Path(config).suffix == ".json":
        if not Path(config).is_file():
            raise ValueError(f"no model configuration at {config}")
        return open_clip_config(json.loads(Path(config).read_text(encoding="utf-8")))
    found = open_clip.get_model_config(str(config))
    if found is None:
        raise ValueError(
            f"open_clip knows no model {str(config)!r}; give a name it lists, or a mapping of its arguments"
        )
    return dict(found)


def unit_vectors(features: Tensor) -> Tensor:
    """Rows of length 1, in float32."""
    return nn.functional.normalize(features.float(), dim=-1)


def exp_scale(network: Any) -> Tensor:
    """exp(logit_scale) of either library's network."""
    scale: Tensor = network.logit_scale.detach().float().exp()
    return scale


def frozen(network: nn.Module) -> nn.Module:
    """In evaluation mode, without gradients of its own."""
    return network.eval().requires_grad_(False)


def device_of(network: nn.Module) -> torch.device:
    """Where a module's parameters are."""
    return next(network.parameters()).device


def dtype_of(network: nn.Module) -> torch.dtype:
    """What a module's parameters are stored in."""
    return next(network.parameters()).dtype
