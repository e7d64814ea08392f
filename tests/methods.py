"""Batches of every type that methods are fed, small denoisers, and methods set small enough for a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import tiny
import torch
from torch import Tensor, nn

from visalign import registry
from visalign.batches import (
    Anchored,
    AnswerPairs,
    Answers,
    Comparisons,
    Condition,
    Critiques,
    Labelled,
    Pairs,
    Prompts,
    Rewarded,
    Segments,
    Singles,
)
from visalign.contract import Denoiser, Method
from visalign.draws import Draws
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.users import Shape, Users
from visalign.models.weights import Full, Lora
from visalign.needs import FlowOnly
from visalign.process import Ddpm, Flow, Process

WIDTH = 16  # of the text states
SHAPE = (4, 8, 8)
CLIP = (4, 3, 8, 8)  # of three latent frames
LABELS = [[1.0, -1.0, 0.0], [-1.0, -1.0, 1.0], [0.0, 0.0, 0.5], [1.0, 0.0, -1.0]]
PREDICTIONS = ("epsilon", "v_prediction", "flow")
STABLE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "set_alpha_to_one": False,
    "steps_offset": 1,
}  # fmt: skip


class Bright:
    """A latent scorer: the brighter the better, whatever the prompt."""

    asks = 0

    def __call__(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 20 * x_t.flatten(1).mean(1)


@dataclass
class Recorded:
    """A denoiser with written-down answers, for numbers that were computed by hand."""

    policy_answer: Tensor
    reference_answer: Tensor
    process: Process

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.policy_answer

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.reference_answer


@dataclass
class Linear:
    """answer = w x, and the reference w = 0.9: small enough to differentiate by hand."""

    w: Tensor
    process: Any  # its own attributes are looked at, too

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.w * x_t

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return 0.9 * x_t


# Settings that keep a long method short; a method that is not here is tested with its defaults.
SMALL: dict[str, dict[str, Any]] = {
    "grpo": {"group": 3, "steps": 4, "scorer": Bright(), "guidance": 2.0},
    "inversion_dpo": {"steps": 4, "points": 2},
    "spo": {"steps": 4, "divert": 1, "candidates": 2, "threshold": 0.0, "scorer": Bright()},
}
# What is trained, where a method cannot train LoRA.
TRAIN: dict[str, str] = {"ppd": "user"}
USER = Shape(tokens=2, width=5)  # of users' embeddings

# The methods that train a denoiser. The laws of the others are in test_reward_model.py and test_language_methods.py.
OTHERS = (Comparisons, AnswerPairs, Answers, Critiques)
DENOISING = [name for name in registry.TABLE["method"] if registry.load("method", name).batch_type not in OTHERS]

# Other settings of a method under which the same laws must hold, by what a test calls them.
VARIANTS: dict[str, dict[str, Any]] = {
    "dense_dpo by clip": {"name": "dense_dpo", "reduction": "clip"},
    "dense_dpo with two noises": {"name": "dense_dpo", "share_noise": False},
    "flow_dpo anchored": {"name": "flow_dpo", "schedule": "(1-t)^2", "anchor": 1.0},
    "dragon by kto": {"name": "dragon", "surrogate": "kto"},
    "dragon unpaired": {"name": "dragon", "surrogate": "kto", "paired": False},
    "diffusion_npo by guidance": {"name": "diffusion_npo", "by": "guidance"},
    "grpo with a reference": {"name": "grpo", "kl": 0.1, "variant": "release", "same_start": True, "trained": 0.6},
    "grpo in a window": {"name": "grpo", "window": 2, "kl": 0.1, "guidance": 1.0, "noise": "cps", "spread": "none"},
    "self_npo guided": {"name": "self_npo", "negative_scale": -5.0},
    "spo of the negative branch": {"name": "spo", "trains": "negative"},
}


def method(name: str, **settings: Any) -> Method:
    """The registered method, or variant of one, of that name, set small."""
    chosen = VARIANTS.get(name, {"name": name})
    made: Method = registry.build("method", {**SMALL.get(chosen["name"], {}), **chosen, **settings})
    return made


def given(name: str, visit: int = 0) -> Any:
    """A batch as the method of that name, or variant of one, is fed it: one that says whose taste, if it is told."""
    made = batch(method(name).batch_type, visit=visit)
    return personal(made) if TRAIN.get(name) == "user" else made


def predictions(name: str) -> tuple[str, ...]:
    """What models predict that the method of that name can train."""
    return ("flow",) if isinstance(method(name), FlowOnly) else PREDICTIONS


def model_of(name: str, prediction: str | None = None, **settings: Any) -> NetworkDenoiser:
    """A denoiser that trains what the method of that name can train: of clips, where these are what it is fed."""
    frames = method(name).batch_type is Segments
    return denoiser(prediction or predictions(name)[0], TRAIN.get(name, "lora"), frames=frames, **settings)


class Framewise(NetworkDenoiser):
    """Draws clips (n, c, F, h, w) with a network for pictures, each frame by itself."""

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return joined_frames(super().policy(*each_frame(x_t, t, condition)), x_t)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return joined_frames(super().reference(*each_frame(x_t, t, condition)), x_t)


def each_frame(x_t: Tensor, t: Tensor, told: Condition) -> tuple[Tensor, Tensor, Condition]:
    """The n F frames of n clips as pictures, with the time and the condition of their clip."""
    frames, rows = x_t.shape[2], [row for row in range(len(x_t)) for _ in range(x_t.shape[2])]
    return x_t.movedim(2, 1).flatten(0, 1), t.repeat_interleave(frames), rows_of(told, rows)


def joined_frames(answer: Tensor, like: Tensor) -> Tensor:
    """Those pictures as clips again."""
    return answer.reshape(len(like), like.shape[2], *answer.shape[1:]).movedim(1, 2)


def process(prediction: str = "epsilon") -> Process:
    """Stable Diffusion's path with this prediction type, or "flow"."""
    return Flow() if prediction == "flow" else Ddpm.from_config({**STABLE, "prediction_type": prediction})


def denoiser(
    prediction: str = "epsilon",
    train: str = "lora",
    dtype: torch.dtype = torch.float64,
    *,
    follows: bool = False,
    frames: bool = False,
) -> NetworkDenoiser:
    """A small random UNet of diffusers, the same weights whenever it is made; its adapters are off their start, so
    that policy and reference differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = tiny.unet(WIDTH, block_out_channels=(8, 16))
        weights = trained(network, train, follows)
        kind = Framewise if frames else NetworkDenoiser
        model = kind(weights, process(prediction)).to(dtype)
        with torch.no_grad():
            for each in model.trainable().values():
                each.data = each.data.to(dtype)
                each.add_(0.02 * torch.randn_like(each))
    return model


def trained(network: Any, train: str, follows: bool) -> Lora | Full | Users:
    """The network with what is trained, and a reference that stays, or one that follows."""
    if train == "user":
        return Users(network, USER)
    if train == "lora":
        return Lora(network, rank=2, follows=follows)
    return Full(network, reference=not follows, follows=follows)


class Counted(nn.Module):
    """A denoiser that counts the pictures that go through its networks, with gradient and without."""

    def __init__(self, model: Denoiser) -> None:
        super().__init__()
        self.model, self.process = model, model.process
        self.with_gradient, self.free = 0, 0

    def _count(self, n: int) -> None:
        if torch.is_grad_enabled():
            self.with_gradient += n
        else:
            self.free += n

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self._count(len(x_t))
        return self.model.policy(x_t, t, condition)

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.free += len(x_t)
        return self.model.reference(x_t, t, condition)


def fixed(n: int, dtype: torch.dtype) -> tuple[Draws, Tensor]:
    """Draws that make the data, and a tensor of that dtype."""
    return Draws(7, tuple(f"record {i}" for i in range(n)), (0,) * n), torch.zeros((), dtype=dtype)


def draws(n: int, visit: int = 0) -> Draws:
    """Draws of a step."""
    return Draws(3, tuple(f"record {i}" for i in range(n)), (visit,) * n)


def condition(n: int, dtype: torch.dtype, stream: str = "text", times: int = 1) -> Condition:
    """n random text states, `times` over."""
    made, like = fixed(n, dtype)
    return Condition(made.normal(stream, (3, WIDTH), like).repeat(times, 1, 1))


def empty(n: int, dtype: torch.dtype) -> Condition:
    """The state of an empty prompt, n times."""
    _, like = fixed(1, dtype)
    return Condition(Draws(7, ("empty",), (0,)).normal("text", (3, WIDTH), like).repeat(n, 1, 1))


def pairs(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Pairs:
    """n pairs with scores."""
    made, like = fixed(n, dtype)
    win, lose = (made.normal(side, SHAPE, like) for side in ("win", "lose"))
    ones, scores = torch.ones(n, dtype=dtype), torch.tensor([[0.8, 0.3], [0.6, 0.5], [0.9, 0.1], [0.4, 0.2]])
    told, untold = condition(n, dtype, times=2), empty(2 * n, dtype)
    return Pairs(win, lose, told, draws(n, visit), ones, ones, scores.double()[torch.arange(n) % 4], untold)


def personal(whole: Any) -> Any:
    """The batch with a user of each record, both items of a pair alike; nobody in the conditions without prompts."""
    made, like = fixed(len(whole), whole.condition.text.dtype)
    user = made.normal("user", (USER.tokens, USER.width), like).repeat(len(whole.condition) // len(whole), 1, 1)
    empty = replace(whole.empty, user=torch.zeros_like(user))
    return replace(whole, condition=replace(whole.condition, user=user), empty=empty)


def singles(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Singles:
    """n single items."""
    made, like = fixed(n, dtype)
    ones = torch.ones(n, dtype=dtype)
    return Singles(made.normal("x", SHAPE, like), condition(n, dtype), draws(n, visit), ones, empty(n, dtype))


def labelled(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Labelled:
    """n items, liked and disliked in turn."""
    one = singles(n, dtype, visit)
    label = 1.0 - 2.0 * (torch.arange(n) % 2)
    return Labelled(one.x, one.condition, one.draw, label, one.weight, one.empty)


def prompts(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Prompts:
    """n prompts."""
    texts, ones = tuple(f"prompt {i}" for i in range(n)), torch.ones(n, dtype=dtype)
    return Prompts(texts, SHAPE, condition(n, dtype), empty(n, dtype), draws(n, visit), ones)


def anchored(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Anchored:
    """n pairs in the order of their records; some second items have the higher score."""
    one = pairs(n, dtype, visit)
    flipped = (
        None if one.scores is None else torch.where(torch.arange(n)[:, None] % 2 == 0, one.scores, one.scores.flip(1))
    )
    return Anchored(**{**vars(one), "scores": flipped})


def segments(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Segments:
    """n pairs of clips, of which both have better frames, one is better throughout, or hardly anything is known."""
    made, like = fixed(n, dtype)
    first, second = (made.normal(side, CLIP, like) for side in ("first", "second"))
    labels = torch.tensor(LABELS, dtype=dtype)[torch.arange(n) % 4]
    whole = {**vars(pairs(n, dtype, visit)), "win": first, "lose": second, "weight": (labels != 0).sum(1).to(dtype)}
    return Segments(**whole, labels=labels)


def rewarded(n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Rewarded:
    """n items, of which a scorer thinks this and that."""
    reward = torch.tensor([1.2, -0.4, 0.6, -1.4], dtype=dtype)[torch.arange(n) % 4]
    return Rewarded(**vars(singles(n, dtype, visit)), reward=reward)


MAKERS: Mapping[type, Any] = {
    Pairs: pairs, Anchored: anchored, Segments: segments, Singles: singles, Rewarded: rewarded, Labelled: labelled,
    Prompts: prompts,
}  # fmt: skip


def batch(kind: type, n: int = 4, dtype: torch.dtype = torch.float64, visit: int = 0) -> Any:
    """A batch of this type."""
    return MAKERS[kind](n, dtype, visit)


def rows_of(told: Condition, rows: list[int]) -> Condition:
    """The conditions of these pictures."""

    def taken(each: Tensor | None) -> Tensor | None:
        return None if each is None else each[rows]

    return Condition(told.text[rows], taken(told.pooled), taken(told.time_ids), taken(told.user))


def part(whole: Any, rows: list[int]) -> Any:
    """The batch of these records alone: every tensor of it cut alike, those of two items a record in both halves."""
    n = len(whole)

    def cut(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value[rows]
        if isinstance(value, Draws):
            return Draws(value.seed, tuple(value.keys[i] for i in rows), tuple(value.visits[i] for i in rows))
        if isinstance(value, Condition):
            return rows_of(value, rows if len(value) == n else [*rows, *(n + row for row in rows)])
        return value

    changed = {name: cut(value) for name, value in vars(whole).items() if name != "texts"}
    if isinstance(whole, Prompts):
        changed |= {"shape": whole.shape, "texts": tuple(whole.texts[row] for row in rows)}
    return type(whole)(**changed)


@dataclass(frozen=True)
class Records:
    """Eight records as a view, whatever the type of batch."""

    kind: type
    dtype: torch.dtype = torch.float32
    users: bool = False

    def __len__(self) -> int:
        return 8

    def key(self, index: int) -> str:
        return f"record {index}"

    def weight(self, index: int) -> float:
        return 1.0

    def batch(self, indices: Sequence[int], visits: Sequence[int], seed: int) -> Any:
        whole = batch(self.kind, 8, self.dtype)
        made = part(personal(whole) if self.users else whole, list(indices))
        return replace(made, draw=Draws(seed, made.draw.keys, tuple(visits)))
