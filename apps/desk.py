"""One comparison, whole: models, prompts, pictures, scorers, votes. What the pages and the API ask."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visalign import config
from visalign.data import export, journal, store
from visalign.data.shards import replace_file
from visalign.diffusion.source import Source
from visalign.drawing import Settings
from visalign.records import Preference
from visalign.scoring import Scorer

from .answers import Answers
from .board import board
from .booth import Booth, Trial
from .marks import Marks
from .pool import Artist, Pool, Spot
from .runs import Runs
from .safety import Refused, chosen, said
from .taste import Taste

VOTES = "votes"  # journals, votes.parquet and pictures: what `visalign train data.path=` reads
MODELS = 6  # side by side on a screen
PROMPT, RATER = 2000, 64  # characters
SEEDS = 16  # of one prompt
OWN = 500  # prompts that users may ask for
RECIPES = {  # by family
    "sd": "sd15_dpo",
    "sdxl": "sdxl_dpo",
    "sd3": "sd35_dpo",
    "flux": "flux_dpo",
    "wan": "wan21_1b_dense_dpo",
}
SHIPPED = {"playground": "playground_dpo", "playground_moving": "playground_dense_dpo"}


@dataclass(frozen=True)
class Setup:
    """What is compared, and how."""

    models: Mapping[str, Source]  # by short name, the base of comparison first
    prompts: Sequence[str]
    seeds: Sequence[int] = (0, 1)
    settings: Settings = field(default_factory=Settings)
    scorers: Sequence[Scorer] = ()
    folder: Path = Path("runs/compare")
    aspects: Sequence[str] = ()  # what may be voted on besides the whole
    answers: Path | None = None
    runs: Mapping[str, Path] = field(default_factory=dict)
    taste: Taste = field(default_factory=Taste)
    goal: int = 0  # votes a rater is asked for; 0: all pairs


class Desk:
    """Everything of one comparison."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.folder = setup, setup.folder
        self.votes = self.folder / VOTES
        self.votes.mkdir(parents=True, exist_ok=True)
        self.marks = Marks(self.folder, setup.scorers)
        artists = [Artist(name, source, setup.settings) for name, source in setup.models.items()]
        self.pool = Pool(self.votes, artists, self.marks)
        self.booth = Booth(self.votes, self.pool, setup.aspects)
        self.own = self.folder / "prompts.jsonl"  # prompts that users asked for, with their seeds
        self.prompts = list(dict.fromkeys(setup.prompts))
        self.answers = Answers(setup.answers) if setup.answers else None
        self.runs = Runs(setup.runs)
        self.pool.want([Spot(prompt, seed) for prompt in self.prompts for seed in setup.seeds])
        for line in self.own.read_text(encoding="utf-8").splitlines() if self.own.is_file() else []:
            self._take(**json.loads(line))

    def start(self) -> None:
        """Begin to draw."""
        self.pool.start()

    def close(self) -> None:
        """Finish the pictures under way and put the votes into one file."""
        self.pool.stop()
        self.booth.journal.close()
        if journal.found(self.votes):
            store.compact(self.votes)

    def about(self) -> dict[str, Any]:
        """What is compared, for the heads of the grid."""
        return {
            "models": [
                {"name": each.name, "spec": each.source.name, "weights": each.weights, "id": each.id}
                for each in self.pool.artists
            ],
            "prompts": len(self.prompts),
            "seeds": list(self.setup.seeds),
            "scorers": self.marks.names,
            "progress": self.pool.progress(),
            "trained": self.trained(),
        }

    def grid(self, start: int = 0, count: int = 8, find: str = "") -> dict[str, Any]:
        """`count` prompts from `start` on of those that contain `find`, with every model's cells."""
        found = [each for each in self.prompts if find.lower() in each.lower()]
        rows = [self.row(prompt) for prompt in found[max(0, start) : max(0, start) + min(max(1, count), 50)]]
        return {"rows": rows, "of": len(found), "start": start}

    def row(self, prompt: str) -> dict[str, Any]:
        """One prompt: every seed, every model."""
        seeds = sorted({spot.seed for _, spot in list(self.pool.cells) if spot.prompt == prompt})
        return {"prompt": prompt, "seeds": [self.spot(Spot(prompt, seed)) for seed in seeds]}

    def spot(self, spot: Spot) -> dict[str, Any]:
        """One prompt and seed: every model's cell."""
        return {"seed": spot.seed, "cells": [self._cell(artist, spot) for artist in self.pool.artists]}

    def _cell(self, artist: Artist, spot: Spot) -> dict[str, Any]:
        cell = self.pool.cell(artist, spot)
        marks = {name: mark.json() for name, mark in self.marks.of(cell.key).items()}
        return {"model": artist.name, "state": cell.state, "key": cell.key, "why": cell.why, "scores": marks}

    def proofs(self, prompt: str, seed: int) -> list[dict[str, Any]]:
        """What each model's picture was drawn with; only of models that are loaded."""
        return [each.proof(Spot(prompt, seed)) for each in self.pool.artists if each.drawer is not None]

    def ask(self, prompt: Any, seeds: int = 1) -> str:
        """Draw a prompt of the user's own, before all else; returns it as it was taken."""
        text = said(prompt, "a prompt", PROMPT)
        if not text:
            raise Refused("write a prompt first")
        if not 1 <= seeds <= SEEDS:
            raise Refused(f"a prompt has 1 to {SEEDS} seeds, asked for {seeds}")
        if text not in self.prompts and len(self.prompts) >= len(self.setup.prompts) + OWN:
            raise Refused(f"{OWN} prompts were asked for already: start another comparison")
        if text not in self.prompts:
            with self.own.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"prompt": text, "seeds": seeds}) + "\n")
        self._take(text, seeds)
        return text

    def _take(self, prompt: str, seeds: int) -> None:
        if prompt not in self.prompts:
            self.prompts.insert(0, prompt)
        self.pool.want([Spot(prompt, seed) for seed in range(seeds)], first=True)

    def rater(self, name: Any) -> str:
        """A rater's name as records hold it."""
        text = said(name, "a rater's name", RATER)
        if not text:
            raise Refused("a vote needs a rater's name")
        return text

    def shown(self, trial: Trial | None, rater: str) -> dict[str, Any]:
        """A trial as the page sees it before the vote: nothing in it tells who drew what."""
        progress = self.booth.progress(rater) | {"goal": self.setup.goal}
        if trial is None:
            return {"trial": None, "progress": progress, "drawing": self.pool.progress()["waiting"]}
        about = {"id": trial.id, "prompt": trial.spot.prompt, "pictures": list(trial.blind)}
        return {"trial": about, "progress": progress, "aspects": list(self.setup.aspects)}

    def revealed(self, trial: Trial) -> dict[str, Any]:
        """What the page may know after the vote: names, seed, and the scores of both sides."""
        sides = [
            {
                "model": trial.pair[side].name,
                "scores": {name: mark.json() for name, mark in self.marks.of(trial.keys[side]).items()},
            }
            for side in trial.sides
        ]
        progress = self.booth.progress(trial.rater) | {"goal": self.setup.goal}
        return {"said": trial.said, "seed": trial.spot.seed, "sides": sides, "progress": progress}

    def board(self, aspect: str = "overall", rater: str = "") -> dict[str, Any]:
        """The leaderboard of the votes so far."""
        artists = [each for each in self.pool.artists if each.weights]
        scores = {
            name: {self.pool.item(key): value for key, value in self.marks.values(name).items()}
            for name in self.marks.names
        }
        found = board(self.booth.votes(), [each.id for each in artists], scores, aspect=aspect, rater=rater)
        names = {each.id: each.name for each in artists}
        return found | {"names": names, "base": artists[0].id if artists else ""}

    def taste(self, rater: str) -> dict[str, Any]:
        """Models and pictures by a rater's own taste."""
        cells = [(artist, spot, self.pool.cell(artist, spot)) for artist in self.pool.artists for spot in self._spots()]
        pictures = [
            {
                "path": self.pool.path(cell.key),
                "key": cell.key,
                "prompt": spot.prompt,
                "seed": spot.seed,
                "model": artist.name,
            }
            for artist, spot, cell in cells
            if cell.state == "ready"
        ]
        return self.setup.taste.ranked(rater, self.booth.votes(), self.votes, pictures, self.folder / "taste")

    def _spots(self) -> list[Spot]:
        return list(dict.fromkeys(spot for _, spot in list(self.pool.cells)))

    def exported(self, kind: str) -> Path:
        """The votes as a file to take away; `kind` is one of export.KINDS."""
        name, write = export.KINDS[chosen(kind, "an export", export.KINDS)]
        return write(self._cast(), self.votes, self.folder / "exports" / name)

    def _cast(self) -> list[Preference]:
        votes = self.booth.votes()
        if not votes:
            raise Refused("there are no votes yet")
        return votes

    def recipe(self) -> dict[str, str]:
        """Write the votes as one parquet file and a recipe that trains on them; the recipe and its command."""
        overall = [each for each in self._cast() if each.aspect == "overall"]
        data = self.votes / "training" / "records.parquet"
        store.write([self._absolute(each) for each in overall], data)
        path, out = self.folder / "train.yaml", self.folder / "trained"
        base = self.pool.artists[0].source
        name = SHIPPED.get(base.name) or RECIPES.get(base.folder.family.name, "sd15_dpo")
        folder = base.name if base.name in SHIPPED else str(base.folder.path)
        changes = [f"model.folder={json.dumps(folder)}", f"data.path={json.dumps(str(data))}", "data.format=null"]
        changes += [f"out={json.dumps(str(out))}", f"data.cache={json.dumps(str(self.folder / 'cache'))}"]
        if base.folder.family.clips:
            frames, height, width = self.pool.artists[0].load().size
            changes += [f"data.frames={frames}", f"data.resolution={height}", f"data.width={width}"]
        command = f"visalign train {path}"
        text = f"# {command}\n#\n# {name}, on the {len(overall)} votes of this comparison.\n"
        text += config.to_yaml(config.load(name, changes))
        replace_file(path, text.encode())
        return {"command": command, "path": str(path), "recipe": text}

    def _absolute(self, record: Preference) -> Preference:
        """The same record with items that are found from anywhere."""
        values = record.to_json() | {"items": [str((self.votes / item).resolve()) for item in record.items]}
        return Preference.from_json(values)

    def trained(self) -> str:
        """Whether the recipe's run is done and not yet among the models: "", or how it will be called."""
        there = (self.folder / "trained" / "weights").is_dir()
        known = any(each.name == "trained" for each in self.pool.artists)
        return "trained" if there and not known and len(self.pool.artists) < MODELS else ""

    def admit(self) -> None:
        """Add the model that was trained from these votes: its run's folder is the one that the recipe names."""
        if not self.trained():
            raise Refused("no model trained from these votes is waiting; run the recipe's command first")
        artist = Artist("trained", Source.find(str(self.folder / "trained")), self.setup.settings)
        self.pool.artists.append(artist)
        self.pool.want(self._spots(), [artist])
