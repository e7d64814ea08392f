"""A rater's own taste: read from their votes, checked on votes that it was not shown, and pictures ranked by it.

What reads tastes and what scores by them are named in the registry ("reader": tastes, "scorer": personal).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from visalign import images, registry
from visalign.diffusion import personal
from visalign.diffusion.personal import Vote
from visalign.evaluation.statistics import wilson
from visalign.records import Preference
from visalign.scoring import Sample, Scorer

from .safety import Refused

LEAST = 8  # decided votes to read a taste from
KEPT_BACK = 4  # every fourth vote is kept back to check the taste on
SHOWN = 8  # pictures at the head of the ranking


@dataclass(frozen=True)
class Taste:
    """How tastes are read: what pictures are told by, and the population, where one was learned before."""

    features: str = ""  # of the reader "tastes": "checker", or a scorer that offers embeddings; "": no taste is read
    population: Path | None = None  # a file that `visalign users` wrote; None: this comparison's raters

    def ranked(
        self, rater: str, records: Sequence[Preference], root: Path, pictures: Sequence[dict[str, Any]], folder: Path
    ) -> dict[str, Any]:
        """Models and pictures by the rater's taste, best first; `pictures` have path, prompt and model.

        Raises Refused where there is nothing to read, or what reads cannot.
        """
        if not self.features:
            raise Refused("no taste can be read here: start the app with --taste FEATURES")
        try:
            return self._ranked(rater, records, root, pictures, folder)
        except ValueError as error:  # of the registry, of pictures, of records, of the reader
            raise Refused(str(error)) from None

    def _ranked(
        self, rater: str, records: Sequence[Preference], root: Path, pictures: Sequence[dict[str, Any]], folder: Path
    ) -> dict[str, Any]:
        decided = [each for each in records if each.aspect == "overall" and each.verdict in ("first", "second")]
        voters = self.read(personal.votes(decided, root)) if decided else {}
        mine = voters.get(rater, [])
        if len(mine) < LEAST:
            raise Refused(f"a taste is read from {LEAST} decided votes or more; {rater} has {len(mine)}")
        back = mine[::KEPT_BACK]
        shown = [vote for place, vote in enumerate(mine) if place % KEPT_BACK]
        checked = agreement(self.scorer(rater, voters | {rater: shown}, folder), rater, back)
        values = valued(self.scorer(rater, voters, folder), rater, pictures)
        best = sorted((each for each in values if each["value"] is not None), key=lambda each: -each["value"])
        return {"votes": len(mine), "checked": checked, "models": means(best), "pictures": best[:SHOWN]}

    def reader(self) -> Any:
        """What reads tastes, as the registry makes it."""
        given = {"tastes": str(self.population)} if self.population else {"features": self.features}
        return registry.build("reader", {"name": "tastes", **given})

    def read(self, cast: Mapping[str, Sequence[tuple[Preference, Vote]]]) -> dict[str, list[Vote]]:
        """Each user's votes, without those on pictures that the features cannot tell anything of."""
        votes = {user: [vote for _, vote in each] for user, each in cast.items()}
        samples = list({id(side): side for each in votes.values() for vote in each for side in _sides(vote)}.values())
        _, reasons = self.reader().features.of(samples)
        dark = {id(samples[place]) for place in reasons}
        return {user: [vote for vote in each if not {id(side) for side in _sides(vote)} & dark]
                for user, each in votes.items()}  # fmt: skip

    def scorer(self, rater: str, voters: dict[str, list[Vote]], folder: Path) -> Scorer:
        """What scores by the rater's taste; its files are written to `folder`."""
        reader = self.reader()
        if not reader.learned:
            reader.learn([votes for votes in voters.values() if votes])
        folder.mkdir(parents=True, exist_ok=True)
        tastes, users = reader.save(folder / "tastes.safetensors"), folder / "users.safetensors"
        save_file({rater: reader.read([voters[rater]])[0].contiguous()}, users)
        made: Scorer = registry.build("scorer", {"name": "personal", "tastes": str(tastes), "users": str(users)})
        return made


def _sides(vote: Vote) -> tuple[Sample, Sample]:
    return vote.better, vote.worse


def agreement(scorer: Scorer, rater: str, votes: Sequence[Vote]) -> dict[str, Any]:
    """How often the scorer prefers what the rater preferred, with Wilson's interval; equal scores are half of one."""
    sides = [[Sample(each.prompt, image=each.image, user=rater) for each in _sides(vote)] for vote in votes]
    better, worse = (scorer.score([pair[side] for pair in sides]).values for side in (0, 1))
    share = float(((better > worse).double() + 0.5 * (better == worse).double()).mean())
    low, high = wilson(share, len(votes))
    return {"value": share, "low": low, "high": high, "count": len(votes)}


def valued(scorer: Scorer, rater: str, pictures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pictures with their values, without their paths; None where the scorer could not judge."""
    samples = [Sample(each["prompt"], image=images.load(each["path"]), user=rater) for each in pictures]
    found = scorer.score(samples)
    rows = zip(pictures, found.values.tolist(), found.judged.tolist(), strict=True)
    return [
        {name: value for name, value in each.items() if name != "path"} | {"value": value if judged else None}
        for each, value, judged in rows
    ]


def means(pictures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each model's mean value, the best first."""
    values: dict[str, list[float]] = {}
    for each in pictures:
        values.setdefault(each["model"], []).append(each["value"])
    rows = [{"model": model, "mean": sum(each) / len(each), "count": len(each)} for model, each in values.items()]
    return sorted(rows, key=lambda row: -float(row["mean"]))
