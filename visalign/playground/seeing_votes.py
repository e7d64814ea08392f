"""Preferences on the seeing model's own answers: what it made up against what is there.

    python -m visalign.playground.seeing_votes FOLDER [--model FOLDER] [--seed 0]     (about two minutes on one core)

An answer that tells of something not shown is rejected. Chosen is an answer of the same model that is true and tells of
no less; where it gave none, the rejected one without what it made up. All pictures are of the split "train".
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import album, store
from ..draws import generator
from ..records import Preference
from . import seeing, seeing_folder
from .seeing import DESCRIBE, PHANTOMS, Look, Turn, answer, description, mentioned, probe
from .seeing_networks import message

JUDGE = "seeing checker"
LONGEST = 40  # tokens of an answer
RECORDS, PICTURES = "seeing.parquet", "seeing_pictures.parquet"
SEED = 7_000  # so that no picture here was trained on


@dataclass(frozen=True)
class Plan:
    """How much of everything; the defaults are what made the shipped votes."""

    descriptions: int = 800
    probes: int = 160
    samples: int = 6  # answers to each question
    temperature: float = 1.0
    batch: int = 50  # pictures


@dataclass(frozen=True)
class Vote:
    """A question, the better answer and the worse one, and how much that one made up."""

    turn: Turn  # its answer: what was chosen
    rejected: str
    invented: int
    model: str  # who gave the chosen answer
    index: int = 0  # of the picture


def build(folder: Path, model: Any, reading: Any, seed: int = 0, plan: Plan | None = None) -> list[Preference]:
    """Write seeing.parquet and seeing_pictures.parquet to `folder`; returns the records."""
    plan = plan or Plan()
    told = collected(described, plan.descriptions, model, reading, seed, plan)
    votes = told + collected(probed, plan.probes, model, reading, seed + 1, plan)
    media = album.write([each.turn.look.picture for each in votes], folder / PICTURES)
    records = [record(vote, name) for vote, name in zip(votes, media, strict=True)]
    store.write(records, folder / RECORDS)
    return records


def record(vote: Vote, picture: str) -> Preference:
    """The vote as a pair; a utility counts what an answer made up, negatively."""
    return Preference(
        vote.turn.question, (vote.turn.answer, vote.rejected), np.array([0.0, -float(vote.invented)]), answers=True,
        media=(picture,), judge=JUDGE, verdict="first", models=(vote.model, "seeing"), seeds=(vote.index,) * 2,
    )  # fmt: skip


def look_of(record: Preference, seed: int = 0) -> Look:
    """What the picture of a vote shows: its item's seed is the picture's number."""
    return seeing.look(SEED + seed + (record.prompt not in DESCRIBE), record.seeds[0])


def collected(cast: Any, count: int, model: Any, reading: Any, seed: int, plan: Plan) -> list[Vote]:
    """The first `count` votes that `cast` finds, picture after picture."""
    found: list[Vote] = []
    first = 0
    while len(found) < count:
        looks = [seeing.look(SEED + seed, index) for index in range(first, first + plan.batch)]
        votes = cast(model, reading, looks, seed, first, plan)
        found += [replace(vote, index=first + looks.index(vote.turn.look)) for vote in votes]
        first += plan.batch
    return found[:count]


def described(model: Any, reading: Any, looks: list[Look], seed: int, first: int, plan: Plan) -> list[Vote]:
    """A vote for each picture of which one of the answers made something up, and kept something true."""
    turns = [Turn(each, DESCRIBE[row % len(DESCRIBE)], "", "describe") for row, each in enumerate(looks)]
    drawn = sampled(model, reading, turns, seed, first, plan)
    return [vote for turn, given in zip(turns, drawn, strict=True) if (vote := description_vote(turn, given))]


def description_vote(turn: Turn, given: Sequence[str]) -> Vote | None:
    """The first answer that made something up, against the first true one that tells of no less; None if none did."""
    shown = turn.look.shown
    rejected = next((each for each in given if not shown.issuperset(mentioned(each))), None)
    kept = [each for each in dict.fromkeys(mentioned(rejected or "")) if each in shown]
    if rejected is None or not kept:
        return None
    true = (each for each in given if shown.issuperset(mentioned(each)) and set(kept).issubset(mentioned(each)))
    own = next((each for each in true if each == description([*dict.fromkeys(mentioned(each))])), None)
    invented = sum(each not in shown for each in mentioned(rejected))
    better = Turn(turn.look, turn.question, own or description(kept), turn.kind)
    return Vote(better, rejected, invented, "seeing" if own else "seeing, corrected")


def probed(model: Any, reading: Any, looks: list[Look], seed: int, first: int, plan: Plan) -> list[Vote]:
    """A vote for each picture whose probe was answered wrongly: yes to what is expected, or no to what is shown."""
    turns = [probe_of(each, seed, first + row) for row, each in enumerate(looks)]
    drawn = sampled(model, reading, turns, seed, first, plan)
    return [vote for turn, given in zip(turns, drawn, strict=True) if (vote := probe_vote(turn, given))]


def probe_vote(turn: Turn, given: Sequence[str]) -> Vote | None:
    """The true answer against the false one, if that was among those given."""
    false = answer(turn.answer != answer(True))
    return Vote(turn, false, 1, "seeing" if turn.answer in given else "seeing, corrected") if false in given else None


def probe_of(look: Look, seed: int, index: int) -> Turn:
    """Is there one of the objects that the habit is about? Every third probe: is there one that is shown?"""
    random = generator(seed, f"seeing votes {index}", 0, "probe")
    among = look.objects if random.random() < 1 / 3 else tuple(PHANTOMS.values())
    asked = str(random.choice(among))
    return Turn(look, probe(asked), answer(asked in look.shown), "probe")


def sampled(model: Any, reading: Any, turns: list[Turn], seed: int, first: int, plan: Plan) -> list[list[str]]:
    """`plan.samples` answers to each question, (turns, samples)."""
    keys = [f"{first + row}/{place}" for row in range(len(turns)) for place in range(plan.samples)]
    asked = [turn for turn in turns for _ in range(plan.samples)]
    given = answers(model, reading, asked, plan.temperature, [generator(seed, key, 0, "answer") for key in keys])
    return [given[row : row + plan.samples] for row in range(0, len(given), plan.samples)]


def answers(
    model: Any, reading: Any, turns: Sequence[Turn], temperature: float = 0.0,
    random: Sequence[np.random.Generator] = (),
) -> list[str]:  # fmt: skip
    """The model's answers, greedily; at a temperature each drawn with its own generator (the Gumbel-max trick)."""
    texts = [reading.apply_chat_template(message(each.question), add_generation_prompt=True) for each in turns]
    pictures = [Image.fromarray(each.look.picture) for each in turns]
    inputs = reading(text=texts, images=pictures, padding=True, padding_side="left", return_tensors="pt")

    def perturbed(_: Tensor, scores: Tensor) -> Tensor:
        noise = np.stack([each.gumbel(size=scores.shape[-1]) for each in random])
        return scores / temperature + torch.from_numpy(noise).to(scores)

    with torch.no_grad():
        ids = model.generate(
            **inputs, do_sample=False, max_new_tokens=LONGEST, logits_processor=[perturbed] if temperature else None
        )
    said: list[str] = reading.batch_decode(ids[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    return said


def opened(folder: Path) -> tuple[Any, Any]:
    """The model in float32, not to be trained, and its processor."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False), AutoProcessor.from_pretrained(folder)


def main() -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", type=Path, default=seeing_folder())
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    build(arguments.folder, *opened(arguments.model), seed=arguments.seed)


if __name__ == "__main__":
    main()
