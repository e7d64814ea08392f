"""Several models on the same prompts and seeds: who is preferred, what is right, and whether pictures drifted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..scoring import Sample, Scorer, Scores, bradley_terry
from . import pictures as looks
from .pictures import Drift, Pictures
from .report import Card, Cell, Report, Shot, Table
from .statistics import Interval, mean, win_rate

Floats = NDArray[np.float64]


class CannotJudge(ValueError):
    """A judge cannot say anything of these pictures, or there is nothing to compare."""


@dataclass(frozen=True)
class Standing:
    """What one judge says of one model, with intervals over prompts; the first model is the base of comparison."""

    model: str
    value: Interval  # mean score
    right: Interval | None  # share that counts as right, where the judge draws a line
    gain: Interval | None  # right minus the base's, paired on prompt and seed; None for the base
    win: Interval | None  # win rate against the base, ties as 1/2; None for the base
    aspects: Mapping[str, Interval]


@dataclass(frozen=True)
class Verdict:
    """Everything that one judge says."""

    judge: str
    standings: Mapping[str, Standing]
    scores: Mapping[str, Scores]
    judged: int  # pairs of prompt and seed that could be judged for every model
    asked: int


def judge(scorer: Scorer, prompts: Sequence[str], drawn: Mapping[str, Pictures], *, resamples: int = 10_000) -> Verdict:
    """Score what every model drew: picture i of each is of prompt i and one seed. Needs two models, the base first.

    Prompts that the scorer cannot judge for some model are left out for all; CannotJudge if none is left.
    """
    if len(drawn) < 2 or any(len(each) != len(prompts) for each in drawn.values()):
        sizes = {name: len(each) for name, each in drawn.items()}
        raise CannotJudge(f"a comparison needs two models and a picture a prompt: {len(prompts)} prompts, {sizes}")
    scores = {name: scorer.score(samples(prompts, each)) for name, each in drawn.items()}
    kept = torch.stack([each.judged for each in scores.values()]).all(0)
    if not kept.any():
        raise CannotJudge(
            f"{scorer.name} could judge none of {len(prompts)} pictures: is it made for this kind of model?"
        )
    groups = [prompt for prompt, keep in zip(prompts, kept.tolist(), strict=True) if keep]
    base = next(iter(scores))
    standings = {
        name: _standing(name, each, None if name == base else scores[base], kept, groups, resamples)
        for name, each in scores.items()
    }
    return Verdict(scorer.name, standings, scores, int(kept.sum()), len(prompts))


@dataclass(frozen=True)
class Comparison:
    """Models on the same prompts and seeds: what every judge says, and how the pictures drifted from the base's."""

    prompts: Sequence[str]
    drawn: Mapping[str, Pictures]  # the base first
    verdicts: Sequence[Verdict]
    drifts: Mapping[str, Sequence[Drift]]

    @classmethod
    def of(cls, prompts: Sequence[str], drawn: Mapping[str, Pictures], judges: Sequence[Scorer]) -> Comparison:
        """Ask every judge; the first is the one that cards and the lead sentence quote."""
        verdicts = [judge(each, prompts, drawn) for each in judges]
        return cls(prompts, drawn, verdicts, drifts(prompts, drawn))

    @property
    def first(self) -> Verdict:
        """The first judge's verdict."""
        return self.verdicts[0]

    def tables(self) -> list[Table]:
        """A table a judge, and one on what the pictures look like."""
        return [*map(standings_table, self.verdicts), drift_table(self.drifts)]

    def lead(self) -> str:
        """The finding in a sentence for each model."""
        base = next(iter(self.drawn))
        return " ".join(
            f"{one.model} is preferred to {base} in {one.win.value:.1%} of the pairs "
            f"({one.win.low:.1%} … {one.win.high:.1%})"
            + (
                f", and the share of its pictures that are right moves by {100 * one.gain.value:+.1f} points."
                if one.gain
                else "."
            )
            for one in self.first.standings.values()
            if one.win is not None
        )

    def numbers(self) -> dict[str, Any]:
        """Everything as plain numbers: by judge, and the drifts."""
        moved = {
            model: {each.name: {"ratio": each.ratio, "holds": each.holds} for each in rows}
            for model, rows in self.drifts.items()
        }
        return {"judges": {each.judge: numbers(each) for each in self.verdicts}, "pictures": moved}

    def report(self, title: str, *, settings: Mapping[str, str], shown: int = 24, **more: Any) -> Report:
        """The report, with the first prompts before and after; `more` goes to `Report` (figures, numbers …)."""
        filled = {"numbers": self.numbers(), "tables": self.tables(), "lead": self.lead()} | more
        return Report(title, cards=cards(self.prompts, self.drawn, self.first, shown), settings=settings, **filled)


def samples(prompts: Sequence[str], drawn: Pictures) -> list[Sample]:
    """Prompts and uint8 pictures, or clips, as samples."""
    if drawn.ndim == 5:
        clips = [tuple(Image.fromarray(frame) for frame in clip) for clip in drawn]
        return [Sample(prompt, video=each) for prompt, each in zip(prompts, clips, strict=True)]
    return [Sample(prompt, image=Image.fromarray(each)) for prompt, each in zip(prompts, drawn, strict=True)]


def _standing(
    name: str, scores: Scores, base: Scores | None, kept: Tensor, groups: Sequence[str], resamples: int
) -> Standing:
    def average(values: Tensor) -> Interval:
        return mean(values[kept].double().numpy(), groups, resamples=resamples)

    right = None if scores.right is None else average(scores.right)
    gain = win = None
    if base is not None:
        chance = bradley_terry(scores.values, base.values, temperature=0)
        win = win_rate(chance[kept].double().numpy(), groups, resamples=resamples)
        if scores.right is not None and base.right is not None:
            gain = average(scores.right.double() - base.right.double())
    aspects = {aspect: average(each) for aspect, each in scores.aspects.items()}
    return Standing(name, average(scores.values), right, gain, win, aspects)


def drifts(prompts: Sequence[str], drawn: Mapping[str, Pictures]) -> dict[str, list[Drift]]:
    """Each model's image statistics beside the base's (the first)."""
    found = {name: looks.statistics(each, prompts) for name, each in drawn.items()}
    base = next(iter(found.values()))
    return {name: looks.drift(base, each) for name, each in list(found.items())[1:]}


def numbers(verdict: Verdict) -> dict[str, Any]:
    """A verdict as plain numbers for report.json."""
    return {name: _numbers(each) for name, each in verdict.standings.items()}


def _numbers(standing: Standing) -> dict[str, Any]:
    named = {"score": standing.value, "right": standing.right, "gain": standing.gain, "win_rate": standing.win}
    found: dict[str, Any] = {name: each.json() for name, each in named.items() if each is not None}
    return found | {"aspects": {name: each.json() for name, each in standing.aspects.items()}}


def standings_table(verdict: Verdict, title: str = "") -> Table:
    """The verdict as a table: a row a model."""
    each = list(verdict.standings.values())
    lined = each[0].right is not None
    aspects = list(each[0].aspects)
    header = ["model", *(["clean and right"] if lined else []), "score", *aspects, "win rate against the base"]
    rows = [
        [one.model, *([str(one.right)] if lined else []), f"{one.value.value:.3f}"]
        + [f"{one.aspects[aspect].value:.3f}" for aspect in aspects]
        + [_win(one.win)]
        for one in each
    ]
    left = f" {verdict.asked - verdict.judged} could not be judged." if verdict.judged < verdict.asked else ""
    first = each[0].value
    note = (
        f"{first.count} drawings of {first.groups} prompts, every model from the same seeds.{left} Brackets are "
        f"{first.level:.0%} intervals over prompts (bootstrap). A win is the higher score, a tie half of one."
    )
    return Table(title or f"Judged by {verdict.judge}", header, rows, note)


def _win(interval: Interval | None) -> Cell:
    if interval is None:
        return Cell("—")
    return Cell(str(interval), "good" if interval.low > 0.5 else "bad" if interval.high < 0.5 else "")


def drift_table(found: Mapping[str, Sequence[Drift]]) -> Table:
    """Image statistics as ratios to the base's, with the bands that were stated beforehand."""
    names = [each.name for each in next(iter(found.values()))]
    columns = {model: {each.name: each for each in rows} for model, rows in found.items()}
    rows: list[list[str | Cell]] = []
    for name in names:
        first = next(iter(columns.values()))[name]
        ratios = [Cell(f"{column[name].ratio:.2f}", "" if column[name].holds else "bad") for column in columns.values()]
        rows.append([name, f"{first.base:.3f}", *ratios, str(first.band)])
    note = (
        "Ratios to the base. Above the band on saturation or edges, a judge is being pleased by a trick; below it on "
        "diversity, one picture serves for every prompt; below it on motion, clips stand still."
    )
    return Table("What the pictures look like", ["statistic", "base", *columns, "band"], rows, note)


def cards(prompts: Sequence[str], drawn: Mapping[str, Pictures], verdict: Verdict, count: int) -> list[Card]:
    """The first `count` prompts, before and after, each picture with its score."""
    return [
        Card(prompts[place], [_shot(name, each[place], verdict.scores[name], place) for name, each in drawn.items()])
        for place in range(min(count, len(prompts)))
    ]


def _shot(model: str, picture: NDArray[np.uint8], scores: Scores, place: int) -> Shot:
    value = float(scores.values[place])
    if scores.right is None or not bool(scores.judged[place]):
        return Shot(model, picture, "" if np.isnan(value) else f"{value:.2f}")
    return Shot(model, picture, f"{value:.2f}", "good" if bool(scores.right[place]) else "bad")
