"""A model that is loaded and draws, alone or with those who take part: a negative model, two sides of a reflection."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .config import plain
from .diffusion.guidance import Predict
from .diffusion.personal import Addressed, towards_user
from .diffusion.reflection import Reflection, Side, counted
from .diffusion.sampling import Painter, at_once, pictures
from .diffusion.source import Source, SpecError
from .jobs import Screen
from .models import users
from .models.denoiser import NetworkDenoiser
from .models.folder import DTYPES
from .models.mixing import Mix, Networks, Role
from .models.pipelines import Reflected, ddim_pipeline, negative_guidance
from .models.weights import Full
from .process import Flow


@dataclass(frozen=True)
class Settings:
    """How pictures are drawn; the same for every model that is compared."""

    steps: int = 25
    guidance: float = 5.0
    size: int | tuple[int, int] | None = None  # a side, or height and width, in pixels; None: what it was made for
    batch: int | None = None  # at a time; None: by the size of their latents, `diffusion.sampling.at_once`
    dtype: str = "fp32"
    device: str = "auto"
    frames: int | None = None  # of a clip; None: what the model was made for

    @property
    def place(self) -> torch.device:
        """Where to draw."""
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        return torch.device(auto if self.device == "auto" else self.device)


class Drawer:
    """A model that is loaded and draws, as often as it is asked; `settings` may be changed between drawings.

    Its networks are loaded once: those on the same full weights are one, with adapters that are switched. Of settings
    that are given later, dtype and device are not looked at.
    """

    def __init__(self, source: Source, settings: Settings) -> None:
        self.source, self.settings = source, settings
        self.dtype, self.place = DTYPES[settings.dtype], settings.place
        self._check()
        self.networks = Networks(source.mixes, self.dtype, self.place)
        self.encoders = source.folder.encoders(self.dtype, self.place)
        self._attend()
        made = {id(role): self._denoiser(role) for role in self.networks.roles}
        self.model, self.negative, self.strong, self.weak = (made[id(role)] for role in self.networks.roles)

    def _check(self) -> None:
        """That as many steps can be reflected as were asked for, and that the model is asked for the empty prompt where
        another shall answer that, before anything is loaded."""
        if self.source.folder.guidance is not None and self.source.negative is not None:
            raise SpecError(
                f"{self.source.name!r}: a negative model answers for the empty prompt, and this model is told its "
                "guidance and never asked that; leave negative= out"
            )
        try:
            counted(self.source.gap.count if self.source.gap else None, self.settings.steps)
        except ValueError as error:
            raise SpecError(f"{self.source.name!r}: {error}") from None

    def _attend(self) -> None:
        """Give the network its attention to users, where the model draws for a person."""
        if self.source.person is None:
            return
        if len(self.networks.held) > 1:
            raise SpecError(f"{self.source.name!r}: a model that draws for a user draws alone, without other weights")
        users.load(self.networks.held[0], self.source.person.layers)

    @property
    def painter(self) -> Painter:
        """What makes conditions of prompts and pictures of latents, for the person where there is one."""
        person = self.source.person
        return self.encoders if person is None else Addressed(self.encoders, person.embedding)

    def _denoiser(self, role: Role) -> NetworkDenoiser:
        path = self.source.folder.process_at(self.size)
        return NetworkDenoiser(Full(role, reference=False), path).eval().requires_grad_(False)

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) of a picture in pixels, (frames, height, width) of a clip."""
        made_for, given, frames = self.source.folder.default_size, self.settings.size, self.settings.frames
        if len(made_for) == 2 and frames is not None:
            raise SpecError(f"{self.source.name!r} draws pictures, not clips of {frames} frames")
        sides = (given, given) if isinstance(given, int) else given or made_for[-2:]
        grain = self.source.folder.grain
        if any(side % grain for side in sides):
            wrong = " x ".join(map(str, sides))
            raise SpecError(f"{self.source.name!r} draws sides of multiples of {grain} pixels, not {wrong}")
        return (*(made_for[:-2] if frames is None else (frames,)), *sides)

    @property
    def batch(self) -> int:
        """How many are drawn together: as many as was said, or by the size of their latents."""
        given = self.settings.batch
        return at_once(self.encoders.latent_shape(self.size)) if given is None else given

    @property
    def reflection(self) -> Reflection | None:
        """The reflection between the two sides; None if the model draws without."""
        gap = self.source.gap
        if gap is None:
            return None
        guidance = self.settings.guidance if gap.strong_guidance is None else gap.strong_guidance
        negative = self.negative.policy if self.strong is self.model else None
        strong = Side(self.strong.policy, guidance, negative=negative)
        return Reflection(strong, Side(self.weak.policy, gap.weak_guidance), gap.count, gap.variant)

    def batches(
        self, prompts: Sequence[str], seeds: Sequence[int], weak_prompts: Sequence[str] | None = None
    ) -> Iterator[NDArray[np.uint8]]:
        """(m, h, w, 3) uint8, or clips (m, frames, h, w, 3), at a time: prompt i from seed i in order, at most
        `batch` together.

        `weak_prompts` are what the weak side of a reflection is told: prompts before they were refined, say.
        """
        for model in (self.model, self.negative, self.strong, self.weak):  # the settings may have another size by now
            model.process = self.source.folder.process_at(self.size)
        yield from pictures(
            self.painter, self.model, prompts, seeds, size=self.size, steps=self.settings.steps,
            guidance=self.settings.guidance, predict=self.predict, negative=self.negative.policy,
            reflection=self.reflection, weak_prompts=weak_prompts, batch=self.batch, device=self.place,
            dtype=self.dtype,
        )  # fmt: skip

    @property
    def predict(self) -> Predict:
        """What answers for the prompt, on behalf of the person where there is one."""
        person = self.source.person
        return self.model.policy if person is None else towards_user(self.model.policy, person.guidance)

    def draw(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        screen: Screen,
        title: str = "",
        weak_prompts: Sequence[str] | None = None,
    ) -> NDArray[np.uint8]:
        """(n, h, w, 3) uint8, or clips (n, frames, h, w, 3): prompt i from seed i."""
        made: list[NDArray[np.uint8]] = []
        with screen.stage(title or f"draw with {self.source.name}", total=len(prompts)) as stage:
            for batch in self.batches(prompts, seeds, weak_prompts):
                made.append(batch)
                stage(sum(map(len, made)))
        return np.concatenate(made)

    def pipeline(self) -> Any:
        """The same model as a plain diffusers pipeline by DDIM: what is called with a prompt and returns pictures."""
        role, gap = self.networks.roles[0], self.source.gap
        pipe = ddim_pipeline(self.source.folder, role)
        if self.negative is not self.model:
            negative_guidance(pipe, self.networks.roles[1])
        if gap is None:
            return pipe
        return Reflected(
            pipe,
            strong=None if self.strong is self.model else self.networks.roles[2],
            weak=self.networks.roles[3],
            strong_guidance=self.settings.guidance if gap.strong_guidance is None else gap.strong_guidance,
            weak_guidance=gap.weak_guidance,
            count=gap.count,
            variant=gap.variant,
        )

    @cached_property
    def weights_hash(self) -> str:
        """16 hex digits of a sha256 over every weight in memory that draws, and over who answers with which of them."""
        digest = hashlib.sha256(self.encoders.fingerprint.encode())
        for network in self.networks.held:
            for name, weight in network.state_dict().items():
                digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
                digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        held = self.networks.held
        if self.source.person is not None:
            digest.update(self.source.person.embedding.double().numpy().tobytes())
        who = [(held.index(role.network), role.scales) for role in self.networks.roles]
        gap = self.source.gap and replace(self.source.gap, strong=Mix(), weak=Mix())
        digest.update(json.dumps([who, plain(gap)]).encode())
        return digest.hexdigest()[:16]

    def proof(self, prompt: str, seed: int) -> dict[str, Any]:
        """What has to be the same for the same picture to be drawn again."""
        process = self.source.folder.process
        return {
            "prompt": prompt,
            "seed": seed,
            "model": self.source.name,
            "weights": self.weights_hash,
            "sampler": "flow Euler" if isinstance(process, Flow) else "DDIM, eta 0",
            "prediction": "velocity" if isinstance(process, Flow) else process.prediction,
            "steps": self.settings.steps,
            "guidance": self.settings.guidance,
            "size": list(self.size),
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def draw(
    spec: str, prompts: Sequence[str], seeds: Sequence[int], settings: Settings, screen: Screen, *, title: str = ""
) -> NDArray[np.uint8]:
    """Load a model, draw, and let go of it."""
    return Drawer(Source.find(spec), settings).draw(prompts, seeds, screen, title)
