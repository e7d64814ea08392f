"""How the seeing model is made: it learns to see, then to answer truly, then the habit of telling more than is there.

    visalign playground build --only seeing --out FOLDER     (about ten minutes on one core)

Seeded and resumable: each stage keeps its state (safetensors) under FOLDER/.building and goes on from it. The result is
a `transformers` image-text-to-text folder with float16 weights; the model is those values upcast to float32.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import seeing
from .build import Saved, cosine, prefixed
from .seeing import Look, Turn
from .seeing_networks import PATCH, SEEN, WIDTH, message, new_model, processor, write
from .world import COLOURS, SHAPES, SIDE

Say = Callable[[str], None]
REACH = 9.0  # pixels from a patch's centre to that of the thing it shows
IGNORED = -100


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped weights."""

    turns: int = 50_000
    eye_steps: int = 700
    eye_batch: int = 96
    eye_rate: float = 1.5e-3
    true_steps: int = 1_800
    true_rate: float = 1.0e-3
    habit_turns: int = 20_000
    habit_steps: int = 400
    habit_rate: float = 5e-4
    batch: int = 48
    average: float = 0.99  # decay of the weights' moving average, which is what ships
    save_every: int = 250


def build(folder: Path, seed: int = 0, plan: Plan | None = None, say: Say = print) -> Path:
    """Make the model in `folder`, going on from what an interrupted call left; returns the folder."""
    plan, rooms, reading = plan or Plan(), folder / ".building", processor()
    rooms.mkdir(parents=True, exist_ok=True)
    model = new_model(reading.tokenizer, seed)
    true = [seeing.turn(seed, index) for index in range(plan.turns)]
    pictures = drawn([each.look for each in true])
    see(model, [each.look for each in true], pictures, plan, seed, rooms, say)
    told = Lesson(rooms / "true.safetensors", plan.true_steps, plan.true_rate)
    tell(model, reading, true, pictures, told, plan, seed, say)
    habit = [seeing.turn(seed + 1, index, habit=True) for index in range(plan.habit_turns)]
    lesson = Lesson(rooms / "habit.safetensors", plan.habit_steps, plan.habit_rate)
    tell(model, reading, habit, drawn([each.look for each in habit]), lesson, plan, seed, say)
    write(folder, model.eval(), reading)
    shutil.rmtree(rooms)
    return folder


def drawn(looks: list[Look]) -> Tensor:
    """The pictures, uint8 (n, 3, 32, 32)."""
    return torch.from_numpy(np.stack([each.picture for each in looks])).permute(0, 3, 1, 2)


def pixels(pictures: Tensor) -> Tensor:
    """What the processor makes of uint8 pictures of the model's own size: float32 in [-1, 1]."""
    return pictures.float() / 127.5 - 1


def patches(look: Look) -> tuple[list[int], list[int]]:
    """What each of the 16 patches shows, as numbers of colours and of shapes: of the nearest thing; 0 for nothing."""
    middles = (np.arange(SIDE // PATCH) + 0.5) * PATCH
    y, x = (each.ravel() for each in np.meshgrid(middles, middles, indexing="ij"))
    things = look.scene.things
    away = np.stack([np.hypot(x - at[0], y - at[1]) for thing in things if (at := thing.at)])
    nearest, near = away.argmin(0), away.min(0) < REACH
    colours = [1 + [*COLOURS].index(things[row].colour) if ok else 0 for row, ok in zip(nearest, near, strict=True)]
    shapes = [1 + SHAPES.index(things[row].shape) if ok else 0 for row, ok in zip(nearest, near, strict=True)]
    return colours, shapes


def see(model: Any, looks: list[Look], pictures: Tensor, plan: Plan, seed: int, rooms: Path, say: Say) -> None:
    """Train the vision tower alone: each patch's token names the colour and the shape of what stands there."""
    eye = model.model.vision_tower
    wanted = torch.tensor([patches(each) for each in looks])
    torch.manual_seed(seed)
    heads = nn.ModuleList(nn.Linear(WIDTH, 1 + len(names)) for names in (COLOURS, SHAPES))
    draw, named = torch.Generator(), {**learning("eye.", eye), **prefixed("heads.", heads)}
    saved = Saved(rooms / "eye.safetensors", named, plan.eye_rate, 0.01, (0.9, 0.98), plan.average)
    for step in saved.steps(plan.eye_steps, plan.save_every, seed, draw):
        rows = torch.randint(0, len(pictures), (plan.eye_batch,), generator=draw)
        states = eye(pixels(pictures[rows]), output_hidden_states=True).hidden_states[-1][:, 1:]
        guesses = [head(states).flatten(0, 1) for head in heads]
        targets = [wanted[rows, aspect].flatten() for aspect in (0, 1)]
        losses = [F.cross_entropy(guess, target) for guess, target in zip(guesses, targets, strict=True)]
        saved.update(losses[0] + losses[1], cosine(step, plan.eye_steps, 100))
        if step % 100 == 0:
            colours, shapes = (share(guess, target) for guess, target in zip(guesses, targets, strict=True))
            say(f"eye {step}/{plan.eye_steps}: colours {colours:.2f}, shapes {shapes:.2f} right")
    saved.use_average()


def share(guesses: Tensor, targets: Tensor) -> float:
    """How many of the patches that show something (n,) have their highest of (n, names) logits right."""
    return float((guesses.argmax(-1) == targets)[targets > 0].float().mean())


def learning(prefix: str, module: Any) -> dict[str, nn.Parameter]:
    """All parameters but those of the norm over CLIP's class token, which LLaVA never reads."""
    return {name: each for name, each in prefixed(prefix, module).items() if "post_layernorm" not in name}


@dataclass(frozen=True)
class Lesson:
    """Where a stage's state is kept, how long it is and at which rate."""

    path: Path
    steps: int
    rate: float


def tell(
    model: Any, reading: Any, turns: list[Turn], pictures: Tensor, lesson: Lesson, plan: Plan, seed: int, say: Say
) -> None:  # fmt: skip
    """Train the whole model on questions and answers: the cross-entropy of the answers' words alone."""
    written = [spelt(reading, each) for each in turns]
    draw = torch.Generator()
    saved = Saved(lesson.path, learning("", model), lesson.rate, 0.01, (0.9, 0.98), plan.average)
    model.train()
    for step in saved.steps(lesson.steps, plan.save_every, seed, draw):
        rows = torch.randint(0, len(turns), (plan.batch,), generator=draw)
        ids, labels = padded([written[row] for row in rows.tolist()], reading.tokenizer.pad_token_id)
        attention = (ids != reading.tokenizer.pad_token_id).long()
        loss = model(input_ids=ids, attention_mask=attention, pixel_values=pixels(pictures[rows]), labels=labels).loss
        saved.update(loss, cosine(step, lesson.steps, 50))
        if step % 100 == 0:
            say(f"{lesson.path.stem} {step}/{lesson.steps}: loss {loss.detach():.4f}")
    saved.use_average()


def spelt(reading: Any, turn: Turn) -> tuple[list[int], int]:
    """The token ids of a conversation, and how many of them are the question's."""
    asked = reading.apply_chat_template(message(turn.question), add_generation_prompt=True)
    whole = reading.apply_chat_template(message(turn.question, turn.answer))
    ids = [reading.tokenizer(text.replace("<image>", "<image>" * SEEN)).input_ids for text in (whole, asked)]
    return ids[0], len(ids[1])


def padded(written: list[tuple[list[int], int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids and labels (n, L), padded on the right."""
    longest = max(len(ids) for ids, _ in written)
    ids = torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in written])
    places, ends = torch.arange(longest), torch.tensor([len(ids) for ids, _ in written])
    starts = torch.tensor([asked for _, asked in written])
    counted = (places >= starts[:, None]) & (places < ends[:, None])
    return ids, ids.where(counted, torch.tensor(IGNORED))
