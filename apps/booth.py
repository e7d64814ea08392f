"""Blind votes: which pair to show whom, on which side, and what becomes of the answer.

A trial says nothing of who drew what: its pictures have names that were made up for it. It counts once, however often
it is answered, and a rater who votes on the same pair again replaces the earlier vote.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from random import Random, SystemRandom
from threading import RLock
from typing import Any

import numpy as np

from visalign.data import store
from visalign.data.journal import Journal
from visalign.data.journal import found as journals
from visalign.evaluation import arena
from visalign.records import Preference

from .pool import Artist, Pool, Spot
from .safety import Refused, chosen
from .tally import About, Tally

JUDGE = "a person, in visalign compare"
SAID = {"left": (1.0, 0.0), "right": (0.0, 1.0), "tie": (0.5, 0.5), "both_bad": (0.0, 0.0)}
OPEN = 600.0  # seconds that a pair waits for an answer before it may be shown to the same rater again
TRIALS = 20_000  # kept in memory; older ones cannot be answered any more
OVERLAP = 0.2  # share of trials on pairs that somebody else has voted on, so that agreement can be measured


@dataclass
class Trial:
    """One pair shown to one rater."""

    id: str
    rater: str
    spot: Spot
    pair: tuple[Artist, Artist]  # in the order of the models; items[0] is drawn by the first
    keys: tuple[str, str]
    swapped: bool  # the second is on the left
    blind: tuple[str, str] = field(default_factory=lambda: (secrets.token_urlsafe(18), secrets.token_urlsafe(18)))
    shown: float = field(default_factory=time.monotonic)
    said: str | None = None  # what was answered, by side
    votes: tuple[str, ...] = ()  # keys of the records that it became

    @property
    def sides(self) -> tuple[int, int]:
        """Which of the pair is on the left, which on the right."""
        return (1, 0) if self.swapped else (0, 1)

    @property
    def about(self) -> About:
        """What it asks."""
        return self.spot, self.pair[0].id, self.pair[1].id

    @property
    def is_open(self) -> bool:
        """Whether an answer is waited for."""
        return self.said is None and time.monotonic() - self.shown < OPEN


class Booth:
    """Trials and votes of every rater. Threads may share it."""

    def __init__(
        self,
        folder: Path,
        pool: Pool,
        aspects: Sequence[str] = (),
        *,
        random: Random | None = None,
        overlap: float = OVERLAP,
    ) -> None:
        self.pool, self.aspects, self.overlap = pool, tuple(aspects), overlap
        self.random = random or SystemRandom()
        kept = any(folder.glob("*.parquet")) or journals(folder)
        self.tally = Tally(store.read(folder) if kept else [])
        self.journal = Journal(folder)
        self._lock = RLock()
        self._trials: OrderedDict[str, Trial] = OrderedDict()
        self._open: dict[str, Trial] = {}  # those of them that wait for an answer
        self._pictures: OrderedDict[str, str] = OrderedDict()  # made-up name -> key
        self._answered: dict[str, list[Trial]] = {}
        self._passed: dict[str, set[About]] = {}  # skipped, by rater

    def votes(self) -> list[Preference]:
        """Every vote that counts."""
        with self._lock:
            return list(self.tally.records.values())

    def next(self, rater: str, again: str = "") -> Trial | None:
        """The pair that tells most, in random order of sides; None if the rater has seen all that is drawn.

        `again` is a trial that was shown already: if it still waits for this rater's answer, it comes back.
        """
        with self._lock:
            waiting = self._trials.get(again)
            if waiting is not None and waiting.rater == rater and waiting.is_open:
                return waiting
            found = self._choose(rater)
            if found is None:
                return None
            spot, pair, keys = found
            trial = Trial(secrets.token_urlsafe(12), rater, spot, pair, keys, self.random.random() < 0.5)
            self._show(trial)
            return trial

    def _show(self, trial: Trial) -> None:
        self._trials[trial.id] = self._open[trial.id] = trial
        self._open = {name: each for name, each in self._open.items() if each.is_open}
        self._pictures.update({name: trial.keys[side] for name, side in zip(trial.blind, trial.sides, strict=True)})
        while len(self._trials) > TRIALS:
            self._trials.popitem(last=False)
        while len(self._pictures) > 2 * TRIALS:
            self._pictures.popitem(last=False)

    def _choose(self, rater: str) -> tuple[Spot, tuple[Artist, Artist], tuple[str, str]] | None:
        """Models by what a vote on them would tell; then the prompt and seed that fewest have voted on."""
        done, seen = self._seen(rater), self.tally.by_pair
        again = self.random.random() < self.overlap
        for pair in self._by_worth():
            ready = self._ready(pair)
            names = (pair[0].id, pair[1].id)
            left = [(spot, keys) for spot, keys in ready if (spot, *names) not in done]
            if left:
                counts = [seen[spot, *names] for spot, _ in left]
                others = [count for count in counts if count] if again else []
                wanted = min(others or counts)
                spot, keys = self.random.choice([each for each, n in zip(left, counts, strict=True) if n == wanted])
                return spot, pair, keys
        return None

    def _by_worth(self) -> list[tuple[Artist, Artist]]:
        """Pairs of models, those first that a vote on would tell most of; pairs that are out count as half told."""
        artists = [each for each in self.pool.artists if each.weights]
        names = [each.id for each in artists]
        if len(names) < 2:
            return []
        wins = self.tally.wins(names)
        for trial in self._open.values():
            if {each.id for each in trial.pair} <= set(names):
                first, second = (names.index(each.id) for each in trial.pair)
                wins[first, second] += 0.25
                wins[second, first] += 0.25
        worth = arena.worth(wins)
        pairs = list(combinations(range(len(names)), 2))
        self.random.shuffle(pairs)
        pairs.sort(key=lambda pair: -round(float(worth[pair]), 9))
        return [(artists[i], artists[j]) for i, j in pairs]

    def _ready(self, pair: tuple[Artist, Artist]) -> list[tuple[Spot, tuple[str, str]]]:
        """Spots that both have drawn, differently."""
        spots = dict.fromkeys(spot for _, spot in list(self.pool.cells))
        cells = [(spot, self.pool.cell(pair[0], spot), self.pool.cell(pair[1], spot)) for spot in spots]
        return [
            (spot, (one.key, two.key))
            for spot, one, two in cells
            if one.state == two.state == "ready" and one.key != two.key
        ]

    def _seen(self, rater: str) -> set[About]:
        """What the rater has voted on, skipped, or has open in another window."""
        shown = {each.about for each in self._open.values() if each.rater == rater}
        return self.tally.by_rater.get(rater, set()) | shown | self._passed.get(rater, set())

    def picture(self, name: str) -> Path:
        """The file behind a made-up name; raises Refused for one that was never given out."""
        key = self._pictures.get(name)
        if key is None:
            raise Refused("no such picture")
        return self.pool.path(key)

    def vote(
        self, trial_id: str, rater: str, said: str, aspects: Mapping[str, str] | None = None, **notes: Any
    ) -> Trial:
        """Count an answer, by side; on return it is on the disk. A second answer to the same trial changes nothing."""
        chosen(said, "the vote", SAID)
        for name, value in (aspects or {}).items():
            chosen(name, "an aspect", self.aspects)
            chosen(value, f"the vote on {name}", SAID)
        with self._lock:
            trial = self._of(trial_id, rater)
            if trial.said is None:
                trial.said = said
                self._open.pop(trial.id, None)
                about = {"overall": said, **(aspects or {})}
                made = [self._record(trial, aspect, word) for aspect, word in about.items()]
                self.journal.append(*made, trial=trial.id, **notes)
                for each in made:
                    self.tally.add(each)
                trial.votes = tuple(each.key for each in made)
                self._answered.setdefault(rater, []).append(trial)
        return trial

    def _of(self, trial_id: str, rater: str) -> Trial:
        trial = self._trials.get(trial_id)
        if trial is None or trial.rater != rater:
            raise Refused("this pair is not known any more: ask for the next one")
        return trial

    def _record(self, trial: Trial, aspect: str, said: str) -> Preference:
        """The vote as a record: items in the order of the models, whichever side they stood on."""
        shares = np.array(SAID[said])[list(trial.sides)]  # sides is its own inverse
        side = {"left": trial.sides[0], "right": trial.sides[1]}.get(said)
        verdict = said if side is None else ("first", "second")[side]
        return Preference(
            prompt=trial.spot.prompt,
            items=tuple(self.pool.item(key) for key in trial.keys),
            scores=shares,
            scale="votes",
            judge=JUDGE,
            verdict=verdict,
            shown_first=trial.sides[0],
            user=trial.rater,
            aspect=aspect,
            seeds=(trial.spot.seed, trial.spot.seed),
            models=tuple(artist.id for artist in trial.pair),
        )

    def skip(self, trial_id: str, rater: str) -> None:
        """Pass a pair over: it is not shown to this rater again until the app is started anew."""
        with self._lock:
            trial = self._of(trial_id, rater)
            if trial.said is None:
                self._passed.setdefault(rater, set()).add(trial.about)
                self._open.pop(trial_id, None)
                del self._trials[trial_id]

    def undo(self, rater: str) -> Trial:
        """Take the rater's last vote back and show its pair again, sides as they were; raises Refused without one."""
        with self._lock:
            answered = self._answered.get(rater)
            if not answered:
                raise Refused("there is no vote of yours to take back since you opened the app")
            trial = answered.pop()
            self.journal.undo(*trial.votes)
            for key in trial.votes:
                self.tally.remove(key)
            trial.said, trial.votes, trial.shown = None, (), time.monotonic()
            self._show(trial)
            return trial

    def progress(self, rater: str) -> dict[str, int]:
        """How many pairs the rater has voted on, of how many that can be made of what is asked for."""
        with self._lock:
            mine = len(self.tally.by_rater.get(rater, ()))
            models = len(self.pool.artists)
            spots = len({spot for _, spot in list(self.pool.cells)})
        return {"mine": mine, "all": self.tally.overall, "pairs": spots * models * (models - 1) // 2}
