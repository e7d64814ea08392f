"""How well a user's taste is known after 1, 2, 4 and 8 votes, beside a scorer for everybody: docs/personal.md's table.

    make bench-personal            (about 2 minutes on two cores)

Population: simulated users 0 … 199, 40 votes each on the candidates of the first 220 shipped prompts. Unseen: users 200
… 399, who cast 8 votes on those prompts, and whose further votes on the other 100 prompts are to be foretold (ties left
out). Every scorer sees the same votes and features. Intervals are over users. Writes benchmarks/results/personal.json
and docs/images/personal_accuracy.png; exits with 1 unless 4 votes beat the scorer for everybody, lower bound above 0.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from visalign import playground
from visalign.data import sources
from visalign.evaluation import personal as measured
from visalign.playground import electorate, users
from visalign.playground.electorate import Candidates
from visalign.playground.users import User
from visalign.scorers.ideals import IdealPoint, Prototypes, UserVotes, fit, newcomers
from visalign.scorers.personal import features
from visalign.scorers.tastes import Gaps, Tastes, most_likely
from visalign.scoring import Sample

HERE = Path(__file__).resolve().parent
KNOWN, UNSEEN = 200, 200
SHOTS = (1, 2, 4, 8)
EACH, ASKED = 40, 60  # votes of each user of the population, and to be foretold of each unseen one
FIRST = 220  # prompts that are voted on before; the rest are foretold
Foretells = Callable[[Tensor, Tensor, Tensor], Tensor]  # (better, worse, user) -> leads


def part(candidates: Candidates, keep: Sequence[str]) -> Candidates:
    """The candidates of some prompts."""
    rows = np.flatnonzero(np.isin(candidates.prompts, keep))
    prompts, items = ([each[row] for row in rows] for each in (candidates.prompts, candidates.items))
    return Candidates(tuple(prompts), tuple(items), candidates.pictures[rows])


def cast(candidates: Candidates, rows: Mapping[str, Tensor], people: Sequence[User], each: int, seed: int) -> UserVotes:
    """The votes of some people as features of the items."""
    better, worse, who, sure = [], [], [], []
    for record in electorate.pairwise(candidates, people, each, seed=seed):
        first, second = (rows[item] for item in record.items)
        better.append(second if record.verdict == "second" else first)
        worse.append(first if record.verdict == "second" else second)
        who.append(int(str(record.user).removeprefix("user-")) - int(people[0].name.removeprefix("user-")))
        sure.append(0.5 if record.verdict == "tie" else 1.0)
    told = torch.stack(better)
    return UserVotes(
        told, torch.stack(worse), torch.tensor(who), torch.ones(len(told), 1).double(), torch.tensor(sure).double()
    )


def first_few(votes: UserVotes, shots: int) -> UserVotes:
    """The first votes of each user: everybody cast as many."""
    each = len(votes.user) // (int(votes.user.max()) + 1)
    kept = torch.arange(len(votes.user)) % each < shots
    return UserVotes(*(value[kept] for value in vars(votes).values()))


def gaps(votes: UserVotes, tastes: Tastes) -> Gaps:
    """The votes by user, in the population's coordinates."""
    apart = (votes.better - votes.worse) @ tastes.axes
    own = [votes.user == user for user in range(int(votes.user.max()) + 1)]
    return Gaps.padded([apart[each] for each in own], [votes.confidence[each] for each in own])


def scorers(known: UserVotes, few: UserVotes, name: str) -> dict[str, Any]:
    """Leads of any votes by everybody's scorer, and by each personal one after so many votes."""
    own = [known.of(user) for user in range(KNOWN)]
    tastes = Tastes.learned(
        [each.better for each in own], [each.worse for each in own], [each.confidence for each in own], features=name
    )
    found: dict[str, Any] = {"everybody": lambda asked: tastes.common(asked.better) - tastes.common(asked.worse)}
    for shots in (0, *SHOTS):
        z = most_likely(gaps(first_few(few, max(shots, 1)), tastes), tastes.mean, tastes.root)[0] * (shots > 0)
        found[f"tastes {shots}"] = by_taste(tastes, z)
    plain = turned(known, tastes)
    heads: dict[str, Any] = {
        "PAL-A": IdealPoint(tastes.width, KNOWN, prototypes=8).double(),
        "PAL-B": Prototypes(tastes.width, 1, KNOWN, prototypes=8).double(),
    }
    for title, head in heads.items():
        fit(head, plain, steps=200, lr=1e-2)
        for shots in SHOTS:
            mixture = newcomers(head, turned(first_few(few, shots), tastes), UNSEEN)
            found[f"{title} {shots}"] = by_head(head, mixture, tastes)
    return found


def by_taste(tastes: Tastes, z: Tensor) -> Callable[[UserVotes], Tensor]:
    """Leads by users' tastes."""
    return lambda asked: tastes.utilities(asked.better, z[asked.user]) - tastes.utilities(asked.worse, z[asked.user])


def by_head(head: Any, mixture: Tensor, tastes: Tastes) -> Callable[[UserVotes], Tensor]:
    """Leads by a head and users' mixtures."""

    def lead(asked: UserVotes) -> Tensor:
        told = turned(asked, tastes)
        found: Tensor = head.lead(told.better, told.worse, told.prompt, mixture[asked.user]).detach()
        return found

    return lead


def turned(votes: UserVotes, tastes: Tastes) -> UserVotes:
    """The votes in the population's coordinates, as heads read them."""
    better, worse = ((each - tastes.centre) @ tastes.axes for each in (votes.better, votes.worse))
    return replace(votes, better=better, worse=worse)


def compared(name: str, candidates: Candidates) -> dict[str, Any]:
    """Everything on one kind of features."""
    samples = [
        Sample(prompt, image=Image.fromarray(picture))
        for prompt, picture in zip(candidates.prompts, candidates.pictures, strict=True)
    ]
    rows = dict(zip(candidates.items, features(name).of(samples)[0], strict=True))
    prompts = list(candidates.places)
    before, after = part(candidates, prompts[:FIRST]), part(candidates, prompts[FIRST:])
    people = users.users(KNOWN + UNSEEN)
    known = cast(before, rows, people[:KNOWN], EACH, seed=0)
    few = cast(before, rows, people[KNOWN:], max(SHOTS), seed=1)
    asked = cast(after, rows, people[KNOWN:], ASKED, seed=2)
    asked = UserVotes(*(value[asked.confidence == 1] for value in vars(asked).values()))
    leads = {title: lead(asked).numpy() for title, lead in scorers(known, few, name).items()}
    who = asked.user.tolist()
    base = leads["everybody"]
    return {
        title: {
            "agrees": measured.agreement(each, who).json(),
            "gain": measured.gain(each, base, who).json(),
        }
        for title, each in leads.items()
    }


def best_possible(candidates: Candidates) -> dict[str, Any]:
    """How often a user's own utility agrees with their own votes, which are noisy."""
    after = part(candidates, list(candidates.places)[FIRST:])
    right, who = [], []
    for user in users.users(KNOWN + UNSEEN)[KNOWN:]:
        utility = dict(zip(after.items, after.utility(user), strict=True))
        for record in electorate.pairwise(after, [user], ASKED, seed=2):
            if record.verdict != "tie":
                first, second = (utility[item] for item in record.items)
                right.append((first - second) * (1 if record.verdict == "first" else -1))
                who.append(user.name)
    return measured.agreement(np.array(right), who).json()


def figure(found: Mapping[str, Mapping[str, Any]], ceiling: float) -> Figure:
    """Agreement against the number of votes, a panel for each kind of features."""
    drawn = Figure(figsize=(9, 3.4), dpi=120, layout="constrained")
    for place, (name, rows) in enumerate(found.items(), start=1):
        axes = drawn.add_subplot(1, len(found), place)
        for title, colour in (("tastes", "tab:blue"), ("PAL-A", "tab:orange"), ("PAL-B", "tab:green")):
            cells = [rows[f"{title} {shots}"]["agrees"] for shots in SHOTS]
            middle = [each["value"] for each in cells]
            error = [[each["value"] - each["low"] for each in cells], [each["high"] - each["value"] for each in cells]]
            axes.errorbar(range(len(SHOTS)), middle, error, label=title, color=colour, marker="o", capsize=3)
        axes.axhline(rows["everybody"]["agrees"]["value"], color="grey", linestyle="--", label="everybody's scorer")
        axes.axhline(ceiling, color="black", linestyle=":", label="the users' own utility")
        axes.set(title=f"features: {name}", xlabel="votes of the user", ylim=(0.54, 0.95))
        axes.set_xticks(range(len(SHOTS)), map(str, SHOTS))
        axes.spines[["top", "right"]].set_visible(False)
        if place == 1:
            axes.set_ylabel("foretold votes")
            axes.legend(fontsize=8, frameon=False, loc="lower right")
    return drawn


def main() -> None:
    """Measure, print, write, draw."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--features", nargs="+", default=["checker", "playground_hps"])
    given = asked.parse_args()
    path = playground.shipped_votes()
    candidates = Candidates.of(sources.open_source(path), sources.root(path))
    found = {name: compared(name, candidates) for name in given.features}
    ceiling = best_possible(candidates)
    share = candidates.taste_share(users.users(KNOWN))
    told = {"machine": platform.platform(), "taste_share": share, "ceiling": ceiling, "features": found}
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "personal.json").write_text(json.dumps(told, indent=1) + "\n")
    figure(found, ceiling["value"]).savefig(HERE.parent / "docs" / "images" / "personal_accuracy.png")
    print(f"tastes are {share:.1%} of what users see; their own utility foretells {ceiling['value']:.3f}")
    for name, rows in found.items():
        for title, row in rows.items():
            agrees, gained = row["agrees"], row["gain"]
            print(
                f"{name:15} {title:10} {agrees['value']:.3f} [{agrees['low']:.3f}, {agrees['high']:.3f}]  "
                f"gain {gained['value']:+.3f} [{gained['low']:+.3f}, {gained['high']:+.3f}]"
            )
    raise SystemExit(0 if all(rows["tastes 4"]["gain"]["low"] > 0 for rows in found.values()) else 1)


if __name__ == "__main__":
    main()
