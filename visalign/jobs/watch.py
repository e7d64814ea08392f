"""Watching a run: how each step goes, pictures drawn on the way, and which weights draw the best ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import config, registry
from ..batches import Condition, moved
from ..config import ConfigError, Run, Validation
from ..data.encode import Encoded
from ..data.rows import Rows
from ..diffusion import personal
from ..diffusion.sampling import Painter, pictures
from ..draws import Draws
from ..evaluation import report
from ..evaluation.comparison import CannotJudge, samples
from ..models.encoders import Encoders
from ..models.folder import DTYPES
from ..models.users import Users
from ..scoring import Scorer
from ..training.distributed import Ranks
from ..training.engine import Moment
from ..training.selection import Selection

if TYPE_CHECKING:
    from . import Progress
    from .denoising import Parts

AT_ONCE = 32  # pictures, or frames of clips, that are drawn together


class Noted:
    """After each step: how it goes; and once the engine has accepted a run for its folder, its settings in run.yaml."""

    def __init__(self, run: Run, stage: Progress) -> None:
        self.run, self.stage, self.written = run, stage, False

    def __call__(self, moment: Moment) -> None:
        """Note the step."""
        self.stage(moment.step, note(moment.row))
        if moment.main and not self.written:
            (self.run.out / "run.yaml").write_text(config.to_yaml(self.run), encoding="utf-8")
            self.written = True


@dataclass(frozen=True)
class Prompted:
    """A painter of prompts that were encoded before training: no text encoder stands beside the denoiser in memory."""

    encoded: Encoded
    encoders: Encoders  # asked to decode, and for nothing else
    device: torch.device

    def conditions(self, prompts: Sequence[str], size: tuple[int, ...]) -> Condition:
        """Of n prompts, for the size that is trained on."""
        told, _ = Rows(self.encoded, 0.0, None).told(prompts, Draws(0, tuple(prompts), (0,) * len(prompts)))
        return moved(told, self.device)

    def latent_shape(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Of what is trained on."""
        return self.encoded.latent_shape

    def decode(self, latents: Tensor) -> Tensor:
        """The encoders'."""
        return self.encoders.decode(latents)


class Watch:
    """After each step: how it goes, and every now and then pictures of the same prompts from the same seeds."""

    def __init__(self, run: Run, parts: Parts, stage: Progress, ranks: Ranks) -> None:
        self.run, self.parts, self.ranks = run, parts, ranks
        self.noted = Noted(run, stage)
        self.selection, self.scorer = Selection(run.out / "validation"), judge(run.validation)

    def __call__(self, moment: Moment) -> str:
        """Note the step; draw when it is time. Why to stop, the same on every process; "" to go on."""
        self.noted(moment)
        every = self.run.validation.every
        if not (self.run.validation.prompts and every and moment.step % every == 0):
            return ""
        if moment.main:
            with moment.averaged():
                self.look(moment.step)
        return self.ranks.told(self.selection.stale(self.run.validation.patience)) if self.scorer else ""

    def look(self, step: int) -> None:
        """Draw the validation prompts, keep the sheet, and let the scorer judge, if there is one."""
        drawn = self.draw()
        self.sheet(step, drawn)
        if self.scorer is None:
            return
        found = self.scorer.score(samples(self.run.validation.prompts, drawn))
        if not found.judged.any():
            raise CannotJudge(f"{self.scorer.name} could judge none of the validation pictures")
        self.selection.sees(step, float(found.values[found.judged].double().mean()), self.parts.model.trainable())

    def put_best(self) -> int | None:
        """Give the model the weights of the best validation, if a scorer judged them; their step."""
        return self.selection.put(self.parts.model.trainable()) if self.scorer else None

    def draw(self) -> NDArray[np.uint8]:
        """A picture, or clip, of each validation prompt, always from the same noise."""
        asked, model = self.run.validation, self.parts.model
        device = next(model.parameters()).device
        coder = self.parts.folder.encoders(DTYPES[self.run.model.dtype], device)
        painter: Painter = Prompted(self.parts.encoded, coder, device)
        if isinstance(model.weights, Users):  # nobody's taste, which becomes everybody's
            shape = model.weights.shape
            painter = personal.Addressed(painter, torch.zeros(shape.tokens, shape.width))
        seeds = [asked.seed + place for place in range(len(asked.prompts))]
        model.eval()
        drawn = pictures(
            painter, model, asked.prompts, seeds, size=self.run.data.size, steps=asked.steps, guidance=asked.guidance,
            batch=max(1, AT_ONCE // (self.run.data.frames or 1)), device=device,
        )  # fmt: skip
        made = np.concatenate(list(drawn))
        model.train()
        return made

    def sheet(self, step: int, drawn: NDArray[np.uint8]) -> Path:
        """One sheet with every validation prompt, in validation/ of the run's folder."""
        prompts = self.run.validation.prompts
        cards = [report.Card(text, [report.Shot("", picture)]) for text, picture in zip(prompts, drawn, strict=True)]
        path = self.run.out / "validation" / f"step-{step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(report.png(report.contact_sheet(cards, across=4)))
        return path


def judge(asked: Validation) -> Scorer | None:
    """The scorer of the validation's pictures; ConfigError if it would never be shown one."""
    if asked.scorer is None:
        return None
    if not (asked.prompts and asked.every):
        raise ConfigError("validation.scorer judges pictures: give validation.prompts and validation.every too")
    scorer: Scorer = registry.build("scorer", asked.scorer)
    return scorer


def note(row: dict[str, float]) -> str:
    """A step in a few words."""
    shown = {"loss": "loss {:.3f}", "implicit_accuracy": "accuracy {:.2f}", "grad_norm": "gradient {:.2g}"}
    return "  ".join(words.format(row[name]) for name, words in shown.items() if name in row)
