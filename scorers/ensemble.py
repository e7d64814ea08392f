"""Several scorers as one, each on its own scale first: mean, worst case, or by uncertainty (arXiv 2310.02743)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from visalign import config, transforms
from visalign.scoring import ByScore, Prefers, Sample, Scorer, Scores, Spec, Specified
from visalign.transforms import COMBINATIONS, TRANSFORMS, Transform

MEMBER = ("scorer", "transform", "weight", "temperature")


@dataclass(frozen=True)
class Member:
    """One scorer of an ensemble."""

    scorer: Scorer
    transform: Transform | None = None
    weight: float = 1.0  # its values are multiplied by it, once transformed
    temperature: float | None = None  # of its gaps, where votes were fitted; None: what its spec says

    @classmethod
    def of(cls, spec: Any) -> Member:
        """From a scorer, its name, or {scorer: name or settings, transform: {name: zscore, mean: …}, weight: …}."""
        from visalign import registry

        if isinstance(spec, Member):
            return spec
        given = dict(spec) if isinstance(spec, Mapping) and "scorer" in spec else {"scorer": spec}
        if unknown := given.keys() - set(MEMBER):
            raise ValueError(f"unknown setting {min(unknown)} of a member{config.suggestion(min(unknown), MEMBER)}")
        scorer = given["scorer"]
        scorer = registry.build("scorer", scorer) if isinstance(scorer, str | Mapping) else scorer
        weight, temperature = float(given.get("weight", 1.0)), given.get("temperature")
        return cls(scorer, transform_of(given.get("transform")), weight, temperature)

    @property
    def unit(self) -> float:
        """The gap in its raw score that is worth one in log-odds; 1 where nobody knows."""
        known = self.scorer.spec.temperature if isinstance(self.scorer, Specified) else None
        return self.temperature or known or 1.0

    def values(self, found: Scores) -> Tensor:
        """(n,) float64 on the ensemble's scale, NaN where it could not judge."""
        values = found.values.double()
        values = self.weight * (values if self.transform is None else self.transform(values))
        return torch.where(found.judged, values, torch.nan)

    def calibrated(self, samples: Sequence[Sample]) -> Member:
        """The same member with the z-score of these samples as its transform."""
        found = self.scorer.score(samples)
        return replace(self, transform=transforms.ZScore.fitted(torch.where(found.judged, found.values, torch.nan)))


def transform_of(spec: Any) -> Transform | None:
    """A transform from {name: zscore, mean: 22, std: 1.2}, from a bare name, or one that is made already."""
    if spec is None or (callable(spec) and not isinstance(spec, type)):
        return spec
    given = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = str(given.pop("name", ""))
    if name not in TRANSFORMS:
        raise ValueError(f"no transform is named {name!r}{config.suggestion(name, TRANSFORMS)}")
    made: Transform = config.fill(TRANSFORMS[name], given, name)
    return made


@dataclass(frozen=True)
class Ensemble(Prefers):
    """A scorer made of scorers. A sample that one of them cannot judge is invalid, whatever the others say.

    Args:
        members: names of scorers, or {scorer: …, transform: …, weight: …}; scorers on different scales need transforms.
        combine: one of `visalign.transforms.COMBINATIONS`.
        settings: of the combination, as {strength: 0.5} or {balance: 0.3}.
        name: what records call it.
    """

    members: Sequence[Any]
    combine: str = "mean"
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = "ensemble"

    def __post_init__(self) -> None:
        if not self.members or isinstance(self.members, str):
            raise ValueError(f"an ensemble needs a list of members, [clipscore, pickscore] say; got {self.members!r}")
        if self.combine not in COMBINATIONS:
            raise ValueError(f"no combination is named {self.combine!r}{config.suggestion(self.combine, COMBINATIONS)}")
        members = tuple(Member.of(each) for each in self.members)
        named = [member.scorer.name for member in members]
        if again := [each for each in named if named.count(each) > 1]:
            raise ValueError(f"two members are named {again[0]!r}: give each a name of its own")
        object.__setattr__(self, "members", members)
        self._tried()

    def _tried(self) -> None:
        """Combine once, so that settings that cannot be are told now and not after the members' work."""
        one = torch.ones(len(self.members), 1, dtype=torch.float64)
        try:
            COMBINATIONS[self.combine](one, one, **self.settings)
        except TypeError as error:
            raise ValueError(f"the combination {self.combine} does not take {dict(self.settings)}: {error}") from None

    @property
    def spec(self) -> Spec:
        """What its members read and are made of, together."""
        known = [each.scorer.spec for each in self.members if isinstance(each.scorer, Specified)]
        plain = [("prompt", "image")] if len(known) < len(self.members) else []
        return Spec(
            self.name,
            scale=f"{self.combine} of {', '.join(each.scorer.name for each in self.members)}",
            range=(-math.inf, math.inf),
            files=tuple(dict.fromkeys(file for each in known for file in each.files)),
            license="; ".join(dict.fromkeys(each.license for each in known if each.license)),
            reads=tuple(dict.fromkeys(part for reads in [*plain, *(each.reads for each in known)] for part in reads)),
        )

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Combined values, each member's transformed values as aspects, and their deviation as sigma."""
        found = {member.scorer.name: (member, member.scorer.score(samples)) for member in self.members}
        table = torch.stack([member.values(said) for member, said in found.values()])
        sigma = torch.stack([_sigma(member, said) for member, said in found.values()])
        values, reasons = self._combined(table, sigma)
        reasons |= {row: f"{name}: {why}" for name, (_, said) in found.items() for row, why in said.reasons.items()}
        aspects = dict(zip(found, table, strict=True))
        cut = [said.truncated for _, said in found.values() if said.truncated is not None]
        return Scores(
            values,
            aspects,
            sigma=table.std(0, correction=0),
            valid=~values.isnan(),
            truncated=torch.stack(cut).any(0) if cut else None,
            reasons=reasons,
        )

    def _combined(self, table: Tensor, sigma: Tensor) -> tuple[Tensor, dict[int, str]]:
        """(n,) values, NaN where a member could not judge; where what they say does not combine, with a reason."""
        values = torch.full((table.shape[1],), torch.nan, dtype=torch.float64)
        reasons: dict[int, str] = {}
        combination: Callable[..., Tensor] = COMBINATIONS[self.combine]
        for row in torch.nonzero(~table.isnan().any(0)).flatten().tolist():
            try:
                values[row] = combination(table[:, row, None], sigma[:, row, None], **self.settings)[0]
            except ValueError as error:
                reasons[row] = str(error)
        return values, reasons

    def calibrated(self, samples: Sequence[Sample]) -> Ensemble:
        """The same ensemble, each member z-scored by what it says of these samples."""
        return replace(self, members=tuple(member.calibrated(samples) for member in self.members))


def _sigma(member: Member, said: Scores) -> Tensor:
    """(n,) each value's own deviation on the ensemble's scale; NaN where the scorer knows none."""
    if said.sigma is None:
        return torch.full((len(said),), torch.nan, dtype=torch.float64)
    if isinstance(member.transform, transforms.ZScore):
        return abs(member.weight) * said.sigma.double() / member.transform.std
    if isinstance(member.transform, transforms.Affine):
        return abs(member.weight * member.transform.scale) * said.sigma.double()
    return abs(member.weight) * said.sigma.double() if member.transform is None else said.sigma.double() * torch.nan


@dataclass(frozen=True)
class Panel:
    """The judge that scorers make together: the mean of their probabilities, each at its own temperature."""

    members: Sequence[Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "members", tuple(Member.of(each) for each in self.members))

    def prefer(self, first: Sequence[Sample], second: Sequence[Sample]) -> Tensor:
        """P(first is better), (n,); NaN where one member could not say."""
        said = [ByScore(member.scorer, member.unit).prefer(first, second).double() for member in self.members]
        return torch.stack(said).mean(0)
