"""Does PPD please users whom it never saw, by 4 votes of theirs, more than Diffusion-DPO on everybody's votes?

    make bench-ppd                 (about 10 minutes on two cores)

96 simulated users vote on the shipped candidates, and PPD (the recipe playground_ppd) trains on their votes, on top of
Diffusion-DPO (playground_dpo: the shipped votes, of voters who agree). 60 other users cast 4 votes each, from which
their embeddings are read. Each has 6 held-out prompts drawn by PPD, by PPD told of nobody, by DPO and by the base, from
the same seeds. A win is the higher utility for the user; intervals are over users. Writes
benchmarks/results/ppd.json and docs/images/ppd_users.png: a few prompts, drawn for users who differ.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from visalign import config, playground
from visalign.cli import main as visalign
from visalign.cli.screen import Screen
from visalign.data import sources
from visalign.diffusion import personal
from visalign.diffusion.sampling import pictures
from visalign.diffusion.source import Source
from visalign.drawing import Drawer, Settings
from visalign.evaluation import report
from visalign.evaluation.statistics import mean, win_rate
from visalign.jobs import denoising
from visalign.playground import checker, corpus, users
from visalign.playground.users import User, looks

HERE = Path(__file__).resolve().parent
FIRST, UNSEEN, EACH, SHOTS = 96, 60, 6, 4
HOW = Settings(steps=playground.STEPS, guidance=playground.GUIDANCE)
SIZE = (32, 32)
FURTHER = 3.0  # user guidance of the sheet, where differences should be seen


def prepared(out: Path) -> None:
    """Votes, embeddings and both runs."""
    visalign(["playground", "users", "--out", str(out / "votes")])
    visalign(["users", str(out / "votes" / "records.parquet"), "--shots", "12", "--out", str(out / "read")])
    read = [
        f"data.{name}={out / 'read' / file}"
        for name, file in (("path", "records.parquet"), ("users", "users.safetensors"))
    ]
    base = f"model.folder={out / 'dpo' / 'weights'}"
    for name, changes in {"dpo": [], "ppd": [*read, base]}.items():
        settings = [*changes, f"data.cache={out / 'cache'}", f"out={out / name}"]
        denoising.train(config.load(f"playground_{name}", settings), Screen())


def strangers(out: Path) -> dict[str, Tensor]:
    """The embeddings of the unseen users, each from SHOTS votes on two candidates."""
    few = out / "few"
    if (few / "read" / "users.safetensors").is_file():
        return sources.users(few / "read" / "users.safetensors")
    votes = ["--first", str(FIRST), "--count", str(UNSEEN), "--votes", str(SHOTS), "--pairs", "--seed", "1"]
    visalign(["playground", "users", *votes, "--out", str(few)])
    tastes = ["--tastes", str(out / "read" / "tastes.safetensors"), "--shots", str(SHOTS)]
    visalign(["users", str(few / "records.parquet"), *tastes, "--out", str(few / "read")])
    return sources.users(few / "read" / "users.safetensors")


def drawn(
    out: Path, name: str, model: Path | str, asked: list[tuple[str, int]], embeddings: list[Tensor] | None = None
) -> NDArray[np.uint8]:
    """Prompts from seeds by a run, EACH at a time for each user's embedding, or for nobody; drawn once, then kept."""
    kept = out / f"drawn-{name}.npy"
    if kept.is_file():
        found: NDArray[np.uint8] = np.load(kept, allow_pickle=False)
        return found
    drawer = Drawer(Source.find(str(model)), HOW)
    made: list[NDArray[np.uint8]] = []
    step = 10 * EACH if embeddings is None else EACH
    for place in range(0, len(asked), step):
        prompts, seeds = zip(*asked[place : place + step], strict=True)
        painter: Any = drawer.painter
        if embeddings is not None:
            painter = personal.Addressed(drawer.encoders, embeddings[place // EACH])
        made += pictures(painter, drawer.model, prompts, seeds, size=SIZE, steps=HOW.steps, guidance=HOW.guidance)
    np.save(kept, np.concatenate(made))
    return np.concatenate(made)


def liked(people: list[User], drawn: NDArray[np.uint8], prompts: list[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """(users x EACH,) each user's utility of their pictures, and of these the taste alone."""
    seen, overall = looks(drawn), checker.scores(drawn, prompts)["overall"]
    whole, taste = np.zeros(len(prompts)), np.zeros(len(prompts))
    for place, user in enumerate(people):
        own = slice(place * EACH, (place + 1) * EACH)
        of = {name: values[own] for name, values in seen.items()}
        whole[own], taste[own] = user.likes(of, overall[own]), user.likes(of, 0 * overall[own])
    return whole, taste


def compared(out: Path) -> dict[str, Any]:
    """Everything, of every model."""
    people = users.users(FIRST + UNSEEN)[FIRST:]
    embeddings = strangers(out)
    prompts = corpus.prompts("heldout", UNSEEN * EACH)
    asked = list(zip(prompts, range(len(prompts)), strict=True))
    made = {
        "ppd": drawn(out, "ppd", out / "ppd", asked, [embeddings[user.name] for user in people]),
        "nobody": drawn(out, "nobody", out / "ppd", asked),
        "dpo": drawn(out, "dpo", out / "dpo", asked),
        "base": drawn(out, "base", "playground", asked),
    }
    who = [user.name for user in people for _ in range(EACH)]
    felt = {name: liked(people, each, prompts) for name, each in made.items()}
    right = {name: float((checker.scores(each, prompts)["overall"] > 0.5).mean()) for name, each in made.items()}
    wins = {
        other: {
            "win_rate": win_rate((np.sign(felt["ppd"][0] - felt[other][0]) + 1) / 2, who).json(),
            "utility": mean(felt["ppd"][0] - felt[other][0], who).json(),
            "taste": mean(felt["ppd"][1] - felt[other][1], who).json(),
            "taste_win_rate": win_rate((np.sign(felt["ppd"][1] - felt[other][1]) + 1) / 2, who).json(),
        }
        for other in list(felt)[1:]
    }
    return {"clean_and_right": right, "ppd_against": wins}


def sheet(out: Path, embeddings: Mapping[str, Tensor]) -> NDArray[np.uint8]:
    """Nobody, and six users: four prompts, each from one seed, by a guidance that shows the differences."""
    strong = {user.describe(1): user for user in users.users(FIRST)}  # one of each liking
    people = list(strong.values())[:6]
    prompts = corpus.prompts("heldout", 4)
    drawer = Drawer(Source.find(str(out / "ppd")), HOW)
    told = {"nobody": torch.zeros_like(next(iter(embeddings.values())))}
    told |= {user.describe(1).removeprefix("likes "): embeddings[user.name] for user in people}
    cards = []
    for seed, prompt in enumerate(prompts):
        shots = []
        for name, each in told.items():
            painter = personal.Addressed(drawer.encoders, each)
            (picture,) = pictures(
                painter, drawer.model, [prompt], [seed], size=SIZE, steps=HOW.steps, guidance=HOW.guidance,
                predict=personal.towards_user(drawer.model.policy, FURTHER),
            )  # fmt: skip
            shots.append(report.Shot(name, picture[0]))
        cards.append(report.Card(prompt, shots))
    return report.contact_sheet(cards, across=1)


def main() -> None:
    """Train, unless it is done already; measure, print, write."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--out", type=Path, default=Path("runs/ppd_bench"))
    given = asked.parse_args()
    if not all((given.out / name / "weights").is_dir() for name in ("ppd", "dpo")):
        prepared(given.out)
    found = compared(given.out)
    told = {"machine": platform.platform(), "users": UNSEEN, "prompts_each": EACH, "shots": SHOTS, **found}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "ppd.json").write_text(json.dumps(told, indent=1) + "\n")
    picture = sheet(given.out, sources.users(given.out / "read" / "users.safetensors"))
    Image.fromarray(picture).save(HERE.parent / "docs" / "images" / "ppd_users.png", optimize=True)
    print({name: round(value, 3) for name, value in found["clean_and_right"].items()})
    for other, row in found["ppd_against"].items():
        for name, each in row.items():
            print(f"ppd against {other}: {name} {each['value']:+.3f} [{each['low']:+.3f}, {each['high']:+.3f}]")


if __name__ == "__main__":
    main()
