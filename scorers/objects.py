"""GenEval: whether the things that a prompt names are there, as many, in their colours and places (arXiv 2310.11513).

The rules and constants are those of github.com/djghosh13/geneval, evaluation/evaluate_images.py. Any detector can
stand before them; the published numbers are by Mask2Former (Swin-S, COCO) and CLIP ViT-L/14 for colours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from visalign import config, registry
from visalign.images import ImageError
from visalign.scoring import Prefers, Sample, Scores, Spec, opened

from . import demands
from .colours import ClipColours
from .demands import Clause, Demand
from .detection import Box, Detection, Detector, Limits, Seen

ASPECTS = ("rules met", "objects", "colours", "relations")
Colours = Callable[[str, Sequence[Detection]], list[str]]  # label and its things -> the colour of each
MARGIN = 0.1  # of the sum of both sizes: centres that are nearer stand in no relation
SIDEWAYS = 0.5  # share of the way between the centres that a relation needs along its axis
TOUCHING = 1e-3  # pixels


@dataclass(frozen=True)
class Met:
    """One rule, and what speaks against it; None: it is met."""

    kind: str  # one of ASPECTS from the second on
    fault: str | None = None


class GenEval(Prefers):
    """1 where all that a prompt asks is seen, else 0; aspects are the shares of the rules that are met, by kind.

    A picture is invalid where it cannot be searched, where nobody knows what its prompt asks, and where the detector
    does not know what is asked for.

    Args:
        detector: a `Detector`, or its name and settings.
        metadata: GenEval's file of JSON lines, or "playground": prompts are captions of the playground.
        colours: a CLIP scorer that names colours, by its name and settings; None: the detector does.
        limits: which detections count, as a mapping of `Limits`' fields.
    """

    name = "geneval"
    spec = Spec(name, "1: every rule is met, else 0", (0.0, 1.0), license="MIT (rules)")

    def __init__(
        self,
        detector: Detector | Mapping[str, Any] | str = "playground",
        *,
        metadata: str = "playground",
        colours: Mapping[str, Any] | str | None = None,
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self.detector = _detector(detector)
        self.known = None if metadata == "playground" else demands.read(Path(metadata).expanduser())
        self.colours = None if colours is None else ClipColours(colours)
        self.limits = Limits(**limits or {})

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Values (n,), shares of the rules of each kind, NaN where there are none of it, and what could not be told."""
        found = self.judged(samples)
        rows = [[math.nan] * len(ASPECTS) if isinstance(each, str) else _shares(each) for each in found]
        shares = torch.tensor(rows, dtype=torch.float64).reshape(len(samples), len(ASPECTS))
        values = torch.where(shares[:, 0].isnan(), torch.nan, (shares[:, 0] == 1).double())
        reasons = {row: each for row, each in enumerate(found) if isinstance(each, str)}
        aspects = {name: shares[:, place] for place, name in enumerate(ASPECTS)}
        return Scores(values, aspects, valid=~values.isnan(), right=values == 1, reasons=reasons)

    def judged(self, samples: Sequence[Sample]) -> list[list[Met] | str]:
        """For each sample its rules, with what speaks against those that are not met; or why it cannot be told."""
        pictures = list(opened(samples))
        shown = [each for each in pictures if isinstance(each, Image.Image)]
        seen = iter(self.detector.detect(shown) if shown else [])
        return [
            str(image) if isinstance(image, ImageError) else self._one(each.prompt, image, next(seen))
            for each, image in zip(samples, pictures, strict=True)
        ]

    def _one(self, prompt: str, image: Image.Image, seen: Seen) -> list[Met] | str:
        if isinstance(seen, ImageError):
            return str(seen)
        demand = self._demand(prompt)
        if isinstance(demand, str):
            return demand
        found = self.limits.found(seen, counting=demand.counting)
        return rules(demand, found, lambda label, things: self._named(image, label, things))

    def _demand(self, prompt: str) -> Demand | str:
        """What a prompt asks, or why nobody can tell."""
        try:
            demand = demands.of_caption(prompt) if self.known is None else self.known[prompt]
        except KeyError:
            return f"the metadata does not say what {prompt!r} asks"
        except ValueError as error:
            return str(error)
        unknown = [each for each in demand.labels if each not in self.detector.labels]
        known = self.detector.labels
        return f"the detector knows no {unknown[0]!r}{config.suggestion(unknown[0], known)}" if unknown else demand

    def _named(self, image: Image.Image, label: str, things: Sequence[Detection]) -> list[str]:
        """The colour of each thing."""
        if self.colours is not None:
            return self.colours.of(image, label, things)
        named = [each.colour for each in things if each.colour is not None]
        if len(named) < len(things):
            raise registry.BadSetting(
                "the detector names no colours: give a CLIP scorer that does, such as colours=clipscore"
            )
        return named


def rules(demand: Demand, found: Mapping[str, Sequence[Detection]], colours: Colours) -> list[Met]:
    """Every rule of a prompt on the things that were found, surest first.

    Only the `count` surest things of a label are looked at, so a label that stands in two clauses is the same things
    twice. A rule about a clause that failed before it is not met either.
    """
    groups: list[Sequence[Detection] | None] = []
    made: list[Met] = []
    for clause in demand.include:
        things = found.get(clause.label, [])[: clause.count]
        mine = _clause(clause, things, groups, colours)
        groups.append(None if any(each.fault for each in mine) else things)
        made += mine
    for clause in demand.exclude:
        many = len(found.get(clause.label, []))
        fault = f"expected {clause.label} < {clause.count}, found {many}" if many >= clause.count else None
        made.append(Met("objects", fault))
    return made


def _clause(
    clause: Clause, things: Sequence[Detection], groups: Sequence[Sequence[Detection] | None], colours: Colours
) -> list[Met]:
    missing = len(things) < clause.count
    fault = f"expected {clause.label} >= {clause.count}, found {len(things)}" if missing else None
    made = [Met("objects", fault)]
    if clause.colour is not None:
        made.append(Met("colours", fault or _miscoloured(clause, colours(clause.label, things))))
    if clause.position is not None:
        before = next((each.fault for each in made if each.fault), None)
        made.append(Met("relations", before or _misplaced(clause.label, clause.position, things, groups)))
    return made


def _miscoloured(clause: Clause, named: Sequence[str]) -> str | None:
    right = list(named).count(str(clause.colour))
    if right >= clause.count:
        return None
    return f"expected {clause.colour} {clause.label} >= {clause.count}, found {right}, and {', '.join(named)}"


def _misplaced(
    label: str,
    position: tuple[str, int],
    things: Sequence[Detection],
    groups: Sequence[Sequence[Detection] | None],
) -> str | None:
    """Against the first two that do not stand as they should: every thing must, to every one of the other clause."""
    relation, target = position
    others = groups[target]
    if others is None:
        return f"nothing that {label} could be {relation}"
    stands = [relations(each.box, other.box) for each in things for other in others]
    wrong = next((each for each in stands if relation not in each), None)
    return None if wrong is None else f"expected {label} {relation} it, found {' and '.join(wrong) or 'neither side'}"


def relations(one: Box, other: Box) -> list[str]:
    """How the first box stands to the second: none, one, or two of them, along both axes.

    The way between the centres, shortened along each axis by MARGIN of both sizes, is more than SIDEWAYS of the whole.
    """
    way = [(one[axis] + one[axis + 2] - other[axis] - other[axis + 2]) / 2 for axis in (0, 1)]
    sizes = [abs(one[axis + 2] - one[axis]) + abs(other[axis + 2] - other[axis]) for axis in (0, 1)]
    short = [math.copysign(max(abs(way[axis]) - MARGIN * sizes[axis], 0.0), way[axis]) for axis in (0, 1)]
    if max(map(abs, short)) < TOUCHING:
        return []
    across, down = (each / math.hypot(*way) for each in short)
    holds = {"left of": -across, "right of": across, "above": -down, "below": down}
    return [name for name, share in holds.items() if share > SIDEWAYS]


def overall(tags: Sequence[str], values: Sequence[float]) -> dict[str, float]:
    """The mean of each task by its tag, and "overall": the mean of the tasks, whatever their numbers of pictures."""
    by_tag: dict[str, list[float]] = {}
    for tag, value in zip(tags, values, strict=True):
        by_tag.setdefault(tag, []).append(value)
    means = {tag: sum(each) / len(each) for tag, each in by_tag.items()}
    return means | {"overall": sum(means.values()) / len(means)}


def _shares(made: Sequence[Met]) -> list[float]:
    """Of all rules, and of each kind."""
    parts = [made, *([each for each in made if each.kind == kind] for kind in ASPECTS[1:])]
    return [sum(each.fault is None for each in part) / len(part) if part else math.nan for part in parts]


def _detector(given: Detector | Mapping[str, Any] | str) -> Detector:
    if isinstance(given, Mapping | str):
        made: Detector = registry.build("detector", given)
        return made
    return given
