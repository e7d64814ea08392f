"""How the playground's text-to-image model is made: an autoencoder, then a UNet and a text encoder together.

    visalign playground build --out FOLDER [--seed 0]     (about an hour on two cores)

Seeded and resumable: both stages keep their state (safetensors) under FOLDER/.building and go on from it. The result is
a `StableDiffusionPipeline` folder with float16 weights; the model is defined as those values upcast to float32.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from . import corpus
from .networks import SCHEDULE, new_text, new_unet, new_vae, tokenized, tokenizer, write

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped weights."""

    pictures: int = 60_000
    vae_steps: int = 3_600
    vae_batch: int = 20
    vae_rate: float = 1.2e-3
    base_steps: int = 2_000
    base_batch: int = 64
    base_rate: float = 1.0e-3
    dropout: float = 0.1  # share of captions left empty, for classifier-free guidance
    average: float = 0.999  # decay of the weights' moving average, which is what ships
    save_every: int = 250


def build(folder: Path, seed: int = 0, plan: Plan | None = None, say: Say = print) -> Path:
    """Make the model in `folder`, going on from what an interrupted call left; returns the folder."""
    plan, rooms = plan or Plan(), folder / ".building"
    rooms.mkdir(parents=True, exist_ok=True)
    pictures, texts = examples(plan.pictures, seed, rooms, say)
    vae = train_vae(pictures, plan, seed, rooms, say)
    reader = tokenizer(folder / "tokenizer")
    unet, text = train_base(vae, pictures, reader, texts, plan, seed, rooms, say)
    write(folder, vae, reader, unet, text)
    shutil.rmtree(rooms)
    return folder


def examples(count: int, seed: int, rooms: Path, say: Say) -> tuple[Tensor, list[str]]:
    """The corpus: uint8 pictures (n, 3, 32, 32) and their captions, drawn once."""
    kept = rooms / "corpus.npz"
    if not kept.exists():
        say(f"drawing {count} pictures")
        drawn = [corpus.example(seed, index) for index in range(count)]
        draft = rooms / "corpus.tmp.npz"
        np.savez(draft, pictures=np.stack([e.picture for e in drawn]), captions=np.array([e.caption for e in drawn]))
        os.replace(draft, kept)
    with np.load(kept, allow_pickle=False) as found:
        return torch.from_numpy(found["pictures"]).permute(0, 3, 1, 2), [str(each) for each in found["captions"]]


def train_vae(pictures: Tensor, plan: Plan, seed: int, rooms: Path, say: Say) -> Any:
    """An autoencoder of factor 4: absolute plus squared error, and a whisper of KL so that the latents stay bounded."""
    vae = new_vae(seed)
    draw = torch.Generator()
    saved = Saved(rooms / "vae.safetensors", dict(vae.named_parameters()), plan.vae_rate, 1e-4, (0.9, 0.999))
    for step in saved.steps(plan.vae_steps, plan.save_every, seed, draw):
        rows = torch.randint(0, len(pictures), (plan.vae_batch,), generator=draw)
        x = (pictures[rows].float() / 127.5 - 1).to(memory_format=torch.channels_last)
        posterior = vae.encode(x).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=draw)
        gap = vae.decode(posterior.mean + posterior.std * noise).sample - x
        loss = gap.abs().mean() + 2 * gap.square().mean() + 2e-6 * posterior.kl().mean()
        saved.update(loss, cosine(step, plan.vae_steps, 100))
        if step % 100 == 0:
            say(f"autoencoder {step}/{plan.vae_steps}: squared error {gap.detach().square().mean():.4f}")
    return vae.eval().requires_grad_(False)


@torch.no_grad()
def latents(vae: Any, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every picture's posterior, (n, 4, 8, 8) each."""
    found = [vae.encode(part.float() / 127.5 - 1).latent_dist for part in pictures.split(500)]
    return torch.cat([each.mean for each in found]), torch.cat([each.std for each in found])


def train_base(
    vae: Any, pictures: Tensor, reader: Any, texts: list[str], plan: Plan, seed: int, rooms: Path, say: Say
) -> tuple[Any, Any]:
    """The UNet and the text encoder, trained together on v-prediction; their averaged weights are returned."""
    from diffusers import DDIMScheduler

    mean, std = latents(vae, pictures)
    scale = 1.0 / float(mean.std())
    vae.register_to_config(scaling_factor=scale)
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    tokens, empty = tokenized(reader, texts), tokenized(reader, [""])
    unet, text = new_unet(seed), new_text(reader, seed)
    named = {**prefixed("unet.", unet), **prefixed("text.", text)}
    draw = torch.Generator()
    saved = Saved(rooms / "base.safetensors", named, plan.base_rate, 0.01, (0.9, 0.99), plan.average)
    for step in saved.steps(plan.base_steps, plan.save_every, seed, draw):
        rows = torch.randint(0, len(mean), (plan.base_batch,), generator=draw)
        x0 = (mean[rows] + std[rows] * torch.randn(mean[rows].shape, generator=draw)) * scale
        noise, t = torch.randn(x0.shape, generator=draw), torch.randint(0, 1000, (len(x0),), generator=draw)
        a, s = (each[t].sqrt()[:, None, None, None] for each in (alphas, 1 - alphas))
        dropped = torch.rand(len(x0), generator=draw) < plan.dropout
        told = text(torch.where(dropped[:, None], empty, tokens[rows])).last_hidden_state
        answer = unet((a * x0 + s * noise).to(memory_format=torch.channels_last), t, told).sample
        loss = (answer - (a * noise - s * x0)).square().mean()
        saved.update(loss, cosine(step, plan.base_steps, 200))
        if step % 100 == 0:
            say(f"base {step}/{plan.base_steps}: loss {loss.detach():.4f}")
    saved.use_average()
    return unet.eval(), text.eval()


class Saved:
    """Parameters under AdamW with a moving average, kept on disk so that an interrupted build goes on."""

    def __init__(
        self, path: Path, named: Mapping[str, nn.Parameter], rate: float, decay: float,
        betas: tuple[float, float], average: float = 0.0,
    ) -> None:  # fmt: skip
        self.path, self.named, self.rate, self.average = path, dict(named), rate, average
        parameters = list(self.named.values())
        self.optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay, betas=betas, fused=True)
        self.averaged = {name: each.detach().clone() for name, each in self.named.items()}
        self.done = 0

    def steps(self, count: int, every: int, seed: int, draw: torch.Generator) -> Iterator[int]:
        """Step numbers from where the file left off; `draw` is seeded anew for each, so a resumed step is the same."""
        self._load()
        for step in range(self.done, count):
            draw.manual_seed(seed * 1_000_003 + step)
            yield step
            self.done = step + 1
            if self.done % every == 0 or self.done == count:
                self._save()

    def update(self, loss: Tensor, share: float) -> None:
        """One optimizer step at `share` of the full rate, then the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * share
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(list(self.named.values()), 1.0)
        self.optimizer.step()
        decay = min(self.average, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for name, each in self.named.items():
                self.averaged[name].lerp_(each, 1 - decay)

    def use_average(self) -> None:
        """Put the averaged weights in place of the last ones."""
        with torch.no_grad():
            for name, each in self.named.items():
                each.copy_(self.averaged[name])

    def _save(self) -> None:
        tensors = {f"weight/{name}": each.detach().contiguous() for name, each in self.named.items()}
        tensors |= {f"average/{name}": each.contiguous() for name, each in self.averaged.items()}
        for name, each in self.named.items():
            tensors |= {f"{key}/{name}": value.contiguous() for key, value in self.optimizer.state[each].items()}
        draft = self.path.with_suffix(".tmp")
        save_file(tensors, draft, metadata={"done": str(self.done)})
        os.replace(draft, self.path)

    @torch.no_grad()
    def _load(self) -> None:
        if not self.path.exists():
            return
        tensors = load_file(self.path)
        for name, each in self.named.items():
            each.copy_(tensors[f"weight/{name}"])
            self.averaged[name].copy_(tensors[f"average/{name}"])
            # The fused optimizer walks flat memory: moments must lie as their parameters do (channels last).
            moments = {key: torch.empty_like(each).copy_(tensors[f"{key}/{name}"]) for key in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[each] = {"step": tensors[f"step/{name}"].clone(), **moments}
        self.done = int(next(iter(tensors[key] for key in tensors if key.startswith("step/"))))


def cosine(step: int, count: int, warmup: int) -> float:
    """Linear rise, then a cosine to a hundredth of the full rate."""
    return min(1.0, (step + 1) / warmup) * (0.5 * (1 + math.cos(math.pi * step / count)) + 0.01)


def prefixed(prefix: str, module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters with a prefix to their names."""
    return {prefix + name: each for name, each in module.named_parameters()}
