"""How the step judge's weights are made: latents of good and flawed pictures, noised, and the voters' utilities.

    python -m visalign.playground.step_judge_build FILE [--seed 0]     (about eight minutes on one core)

Pictures and prompts are of the split "scorers", so that what the judge steers was not what it learnt from: flawed
renderings, and pictures drawn by the shipped model, each also with a caption that is a little wrong.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..contract import Reference
from ..diffusion.sampling import pictures
from ..models.folder import Folder
from ..process import Process
from . import STEPS, corpus
from .build import cosine
from .captions import caption, parse
from .checker import ASPECTS, scores
from .step_judge import Tower, utility
from .world import INVERSE

FLAWS = {"clutter": 0.3, "colour": 0.2, "shape": 0.2, "blur": 0.05}
NOISIEST = 950


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped weights."""

    rendered: int = 6_000
    drawn: int = 500
    guidance: float = 1.5  # of the drawn ones
    steps: int = 2_200
    batch: int = 96
    rate: float = 1e-3


@dataclass(frozen=True)
class Examples:
    """Latents with what the voters think of them."""

    latents: Tensor  # (n, 4, 8, 8)
    texts: Tensor  # (m, tokens, 128), a row a different caption
    caption: Tensor  # (n,) row of `texts`
    marks: Tensor  # (n, 5) the checker's: overall, and each aspect

    def __len__(self) -> int:
        return len(self.marks)

    def split(self, share: float) -> tuple[Examples, Examples]:
        """The first part and the last `share` of them."""
        cut = round(len(self) * (1 - share))
        halves = [(self.latents[part], self.caption[part], self.marks[part]) for part in (slice(cut), slice(cut, None))]
        first, last = (Examples(latents, self.texts, rows, marks) for latents, rows, marks in halves)
        return first, last


def build(file: Path, seed: int = 0, plan: Plan | None = None, say: Callable[[str], None] = print) -> Path:
    """Make the weights in `file`, float16; returns the file."""
    from safetensors.torch import save_file

    plan, folder = plan or Plan(), Folder.open("playground")
    learn, check = examples(folder, plan, seed).split(0.05)
    tower = train(learn, folder.process, plan, seed, say)
    for t in (0, 200, 400, 600, 800):
        say(f"correlation with the utility at time {t}: {agreement(tower, check, folder.process, t):.2f}")
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: each.half().contiguous() for name, each in tower.state_dict().items()}, file)
    return file


def examples(folder: Folder, plan: Plan, seed: int) -> Examples:
    """Each picture with its own caption and with one that is a little wrong, in a fixed random order."""
    encoders = folder.encoders()
    shown, told = flawed(plan.rendered, seed)
    prompts = corpus.prompts("scorers", plan.drawn, seed)
    model = folder.denoiser(train="full", reference=Reference.NONE).eval()
    drawn = pictures(
        encoders, model, prompts, range(plan.drawn), size=(32, 32), steps=STEPS, guidance=plan.guidance, batch=100
    )
    stack = np.concatenate([shown, *drawn])
    told = [*told, *prompts]
    pixels = torch.from_numpy(stack).permute(0, 3, 1, 2)
    latents = torch.cat([encoders.encode_images(part.float() / 127.5 - 1)[0] for part in pixels.split(200)])
    random = np.random.Generator(np.random.Philox(key=[seed, 77]))
    wrong = [altered(each, random) for each in told]
    found = scores(np.concatenate([stack, stack]), [*told, *wrong])
    marks = torch.stack([torch.from_numpy(found[name]).float() for name in ("overall", *ASPECTS)], dim=1)
    unique = list(dict.fromkeys([*told, *wrong]))
    row = {each: place for place, each in enumerate(unique)}
    texts = torch.cat([encoders.encode_prompts(unique[i : i + 200])[0] for i in range(0, len(unique), 200)])
    order = torch.from_numpy(random.permutation(len(told)))
    both = torch.stack([order, order + len(told)], dim=1).flatten()  # a picture's two captions side by side
    captions = torch.tensor([row[each] for each in (*told, *wrong)])
    return Examples(latents[both % len(told)], texts, captions[both], marks[both])


def flawed(count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Renderings (n, 32, 32, 3) of the split's scenes, some spoilt, and their captions."""
    found = [corpus.example(seed, index, FLAWS, split="scorers") for index in range(count)]
    return np.stack([each.picture for each in found]), [each.caption for each in found]


def altered(text: str, random: np.random.Generator) -> str:
    """A caption that says another colour, another shape, or the opposite relation."""
    scene = parse(text)
    change = random.choice(["colour", "shape", "relation"])
    if change == "relation" and scene.relation:
        return caption(replace(scene, relation=INVERSE[scene.relation]))
    return caption(corpus.wrong_colour(scene, random) if change == "colour" else corpus.wrong_shape(scene, random))


def train(learn: Examples, process: Process, plan: Plan, seed: int, say: Callable[[str], None]) -> Tower:
    """Squared error of the marks on latents noised to random times, cleaner ones more often."""
    torch.manual_seed(seed)
    tower, draw = Tower(), torch.Generator().manual_seed(seed)
    tower.out.bias.data.copy_(learn.marks.mean(0))
    optimizer = torch.optim.AdamW(tower.parameters(), lr=plan.rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    for step in range(plan.steps):
        rows = torch.randint(0, len(learn), (plan.batch,), generator=draw)
        t = (NOISIEST * torch.rand(plan.batch, generator=draw) ** 1.5).long()
        gap = tower(*noised(learn, process, rows, t, draw)) - learn.marks[rows]
        optimizer.param_groups[0]["lr"] = plan.rate * cosine(step, plan.steps, 100)
        optimizer.zero_grad()
        gap.square().mean().backward()
        nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            say(f"step judge {step}/{plan.steps}: squared error {gap.detach().square().mean():.4f}")
    return tower.eval()


def noised(
    of: Examples, process: Process, rows: Tensor | Sequence[int], t: Tensor, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """These examples at times t: x_t, t and text, as the tower takes them."""
    x0 = of.latents[rows]
    noise = torch.randn(x0.shape, generator=draw)
    return process.noised(x0, noise, t).x, t.float(), of.texts[of.caption[rows]]


@torch.no_grad()
def agreement(tower: Tower, check: Examples, process: Process, t: int) -> float:
    """Correlation of answers and utilities at one time."""
    rows = torch.arange(len(check))
    draw = torch.Generator().manual_seed(t)
    answer = tower(*noised(check, process, rows, torch.full((len(rows),), t), draw))
    return float(torch.corrcoef(torch.stack([utility(answer), utility(check.marks)]))[0, 1])


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    build(arguments.file, arguments.seed)


if __name__ == "__main__":
    main()
