"""Whose taste, told to a frozen network: decoupled cross-attention to a user's embedding (PPD, arXiv 2501.06655).

Beside each text cross-attention stands another to the user, Z = Attn(Q, K, V) + Attn(Q, u W'_k, u W'_v), as IP-Adapter
(arXiv 2308.06721, eq. 4) does it for a picture. Only what is new is trained: W'_k, W'_v and the projection of the
embedding. The reference is the same network without the second attention, so that no second copy is held.

How the embedding is projected is not published: here a linear map to the width of the text states and a LayerNorm.
W'_k starts as the text's W_k, W'_v at zero: at the first step policy and reference are the same, bit for bit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..draws import generator

USER_FILE = "user_attention.safetensors"
HEADER = "visalign.user_attention"
READER = "user_reader"  # what the projection is called in the network


@dataclass(frozen=True)
class Shape:
    """What an embedding has to look like."""

    tokens: int
    width: int

    @classmethod
    def of(cls, embedding: Tensor) -> Shape:
        """The shape of an embedding (tokens, width)."""
        return cls(*embedding.shape)


class UserReader(nn.Module):
    """From an embedding (n, tokens, width) to what the second attention looks at, (n, tokens, context)."""

    def __init__(self, shape: Shape, context: int) -> None:
        super().__init__()
        self.shape, self.on = shape, True
        self.linear, self.norm = nn.Linear(shape.width, context), nn.LayerNorm(context)

    def forward(self, user: Tensor) -> Tensor:
        """Nobody's embedding, zeros, is read like any other."""
        read: Tensor = self.norm(self.linear(user.to(self.linear.weight.dtype)))
        return read


class UserAttention(nn.Module):
    """A diffusers attention processor: what stood there before, plus the attention to the user.

    It is handed (text, user) where there is a user and the plain text where there is none. The user's few tokens always
    go through torch's own kernel, and the query is computed once more, which leaves the other processor untouched.
    """

    def __init__(self, inner: Any, layer: Any) -> None:
        super().__init__()
        self.inner = inner
        out, context = layer.to_k.weight.shape
        self.to_k, self.to_v = (nn.Linear(context, out, bias=False) for _ in range(2))

    def forward(self, layer: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **rest: Any) -> Tensor:
        """(n, places, width) of hidden states and text states (n, tokens, context) to the same."""
        if not isinstance(encoder_hidden_states, tuple):
            answer: Tensor = self.inner(layer, hidden_states, encoder_hidden_states=encoder_hidden_states, **rest)
            return answer
        text, user = encoder_hidden_states
        seen: Tensor = self.inner(layer, hidden_states, encoder_hidden_states=text, **rest)
        # The output layer is affine: its bias is in what the text gave, and may be added only once.
        return seen + functional.linear(self._attended(layer, hidden_states, user), layer.to_out[0].weight)

    def _attended(self, layer: Any, hidden_states: Tensor, user: Tensor) -> Tensor:
        """(n, places, inner width) Attn(Q, u W'_k, u W'_v)."""
        query = layer.to_q(hidden_states)
        parts = (query, *(each(user).to(query.dtype) for each in (self.to_k, self.to_v)))
        heads = (each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in parts)
        return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def attach(network: Any, shape: Shape) -> UserReader:
    """Put the second attention beside every text cross-attention of a diffusers UNet; its weights are not set yet."""
    from diffusers.models.attention_processor import Attention

    layers = {f"{name}.processor": each for name, each in network.named_modules() if isinstance(each, Attention)}
    crossing = {name: layer for name, layer in layers.items() if layer.is_cross_attention}
    if not crossing:
        raise ValueError(
            f"attention to users stands beside a UNet's cross-attention, and a {type(network).__name__} has none"
        )
    if odd := [
        name for name, layer in crossing.items() if layer.residual_connection or layer.rescale_output_factor != 1
    ]:
        raise ValueError(f"{odd[0]} adds its input or rescales its output, and no second attention fits beside it")
    widths = {layer.to_k.weight.shape[1] for layer in crossing.values()}
    if len(widths) != 1:
        raise ValueError(f"cross-attention must read one width of text states everywhere, got {sorted(widths)}")
    kept = network.attn_processors
    where = next(network.parameters()).device
    network.set_attn_processor(
        {
            name: UserAttention(each, crossing[name]).to(where) if name in crossing else each
            for name, each in kept.items()
        }
    )
    reader = UserReader(shape, widths.pop()).to(where)
    network.add_module(READER, reader)
    return reader


def told(network: Any, text: Tensor, user: Tensor | None) -> Any:
    """What a UNet's `encoder_hidden_states` are: the text states, with the user's where the network attends to them.

    Raises ValueError if a user is given and the network has no attention to users, or for embeddings of another shape.
    """
    reader = getattr(network, READER, None)
    if user is None or (reader is not None and not reader.on):
        return text
    if reader is None:
        raise ValueError(
            "a user's embedding was given to a network without attention to users: train it with train=user"
        )
    if Shape.of(user[0]) != reader.shape:
        raise ValueError(f"this network was trained with embeddings of {reader.shape}, got {Shape.of(user[0])}")
    return text, reader(user)


class Users(nn.Module):
    """The new layers on a frozen network; the reference is the network without them."""

    def __init__(self, network: Any, shape: Shape, *, seed: int = 0) -> None:
        super().__init__()
        network.requires_grad_(False)
        self.network, self.shape = network, shape
        attach(network, shape)
        self._start(seed)

    @torch.no_grad()
    def _start(self, seed: int) -> None:
        """W'_k as the text's, W'_v at zero; the projection such that Wu and its bias weigh alike where u is normal."""
        for layer in self.network.modules():
            if isinstance(getattr(layer, "processor", None), UserAttention):
                layer.processor.to_k.weight.copy_(layer.to_k.weight)
                layer.processor.to_v.weight.zero_()
        linear = getattr(self.network, READER).linear
        for name, weight in (("weight", linear.weight), ("bias", linear.bias)):
            drawn = generator(seed, f"{READER}.linear.{name}", 0, "users").standard_normal(tuple(weight.shape))
            weight.copy_(torch.from_numpy(drawn / (self.shape.width**0.5 if name == "weight" else 1.0)))

    @contextmanager
    def reference(self) -> Iterator[nn.Module]:
        """The network without the second attention; with it again on the way out, whatever happens within."""
        reader = getattr(self.network, READER)
        reader.on = False
        try:
            yield self.network
        finally:
            reader.on = True

    def trainable(self) -> dict[str, nn.Parameter]:
        """The new layers' parameters, kept in float32 at least whatever the dtype of the network."""
        found = new_layers(self.network)
        for each in found.values():
            each.data = each.data.to(torch.promote_types(each.dtype, torch.float32))
            each.requires_grad_(True)
        return found

    def follower(self) -> dict[str, nn.Parameter]:
        """Nothing follows."""
        return {}

    def save(self, folder: Path) -> Path:
        """Write the new layers to USER_FILE, with the shape of the embeddings in its metadata."""
        from safetensors.torch import save_file

        tensors = {name: each.detach().cpu().contiguous() for name, each in new_layers(self.network).items()}
        save_file(tensors, folder / USER_FILE, metadata={HEADER: json.dumps(asdict(self.shape))})
        return folder / USER_FILE


def new_layers(network: Any) -> dict[str, nn.Parameter]:
    """The parameters of the attention to users, by their names in the network."""
    parts = [(name, each) for name, each in network.named_modules() if isinstance(each, UserAttention | UserReader)]
    return {f"{name}.{key}": weight for name, part in parts for key, weight in part.named_parameters()}


def shape_of(path: Path) -> Shape:
    """The shape of the embeddings that the layers in a file were trained with; ValueError if it holds none."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        about = (file.metadata() or {}).get(HEADER)
    if about is None:
        raise ValueError(f"{path} holds no attention to users: it is written by a run with model.train=user")
    return Shape(**json.loads(about))


@torch.no_grad()
def load(network: Any, path: Path) -> None:
    """Give a network the attention to users of a published file, for drawing; ValueError if it is of another one."""
    from safetensors.torch import load_file

    attach(network, shape_of(path))
    weights, saved = new_layers(network), load_file(path)
    differing = weights.keys() ^ saved.keys()
    differing |= {name for name in weights.keys() & saved.keys() if weights[name].shape != saved[name].shape}
    if differing:
        raise ValueError(f"{path} is of another network: they differ in {min(differing)}")
    for name, weight in weights.items():
        weight.copy_(saved[name])
        weight.requires_grad_(False)
