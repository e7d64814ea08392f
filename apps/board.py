"""The leaderboard as numbers: strengths, win rates, who meets whom, the side's worth, and who agrees with whom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from visalign.evaluation import agreement, arena
from visalign.evaluation.statistics import Interval
from visalign.records import Preference

RESAMPLES = 1000


def board(
    records: Sequence[Preference],
    models: Sequence[str],
    scores: Mapping[str, Mapping[str, float]],
    *,
    aspect: str = "overall",
    rater: str = "",
) -> dict[str, Any]:
    """Everything that the page shows of the votes on one aspect, by one rater or by all ("")."""
    asked = [each for each in records if each.aspect == aspect and rater in ("", each.user)]
    known = [each for each in asked if set(each.models) <= set(models)]
    bouts = arena.Bouts.of(known, models)
    return {
        "aspect": aspect,
        "rater": rater,
        "aspects": list(dict.fromkeys(each.aspect for each in records)) or ["overall"],
        "raters": _raters(records),
        "votes": len(known),
        "others": len(asked) - len(known),  # on models that are not here any more
        "verdicts": {name: sum(each.verdict == name for each in known) for name in ("tie", "both_bad")},
        "models": _standings(known, bouts),
        "wins": bouts.wins().tolist(),
        "left": _plain(arena.left_wins(known)),
        "raters_agree": _agreement(known),
        "scorers_agree": _scorers(known, scores),
    }


def _standings(records: Sequence[Preference], bouts: arena.Bouts) -> list[dict[str, Any]]:
    """A row a model, the strongest first; without votes, in the order given."""
    rated = arena.ratings(bouts, resamples=RESAMPLES) if len(bouts) else {}
    rates = arena.win_rates(bouts)
    rows = [
        {
            "id": name,
            "rating": _plain(rated.get(name)),
            "win_rate": _plain(rates.get(name)),
            "votes": sum(name in each.models for each in records),
            "both_bad": sum(name in each.models and each.verdict == "both_bad" for each in records),
        }
        for name in bouts.models
    ]
    return sorted(rows, key=lambda row: -rated[row["id"]].value) if rated else rows


def _raters(records: Sequence[Preference]) -> list[dict[str, Any]]:
    """Who voted how often, the busiest first."""
    users = [each.user for each in records if each.user and each.aspect == "overall"]
    counted = {user: users.count(user) for user in dict.fromkeys(users)}
    return [{"name": user, "votes": n} for user, n in sorted(counted.items(), key=lambda each: -each[1])]


def _agreement(records: Sequence[Preference]) -> dict[str, Any] | None:
    found = agreement.between_raters(records)
    if found is None:
        return None
    alpha = None if math.isnan(found.alpha) else found.alpha
    return {"share": found.share, "alpha": alpha, "units": found.units, "raters": found.raters}


def _scorers(records: Sequence[Preference], scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """How often each scorer prefers what people preferred."""
    found = {name: agreement.with_scores(records, values) for name, values in scores.items()}
    return [
        {"scorer": name, "share": _plain(each[0] if each else None), "silent": each[1] if each else len(records)}
        for name, each in found.items()
    ]


def _plain(interval: Interval | None) -> dict[str, Any] | None:
    return None if interval is None else interval.json()
