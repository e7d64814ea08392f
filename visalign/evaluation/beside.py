"""Answers of models to the same questions, measured side by side: a table with paired differences, and a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from .curves import COLORS, INK
from .report import Cell, Figure, Table
from .shares import Share
from .statistics import Interval

WIDE = 3  # models that fit side by side
MARKS = "osDv^"  # where colours begin again
PAIRED = "Brackets are 95 % intervals over pictures; differences are paired, the same pictures drawn for both."


class Measure(NamedTuple):
    """A row of a table of numbers; a share can be compared with another model's."""

    label: str
    value: Share | str
    better: Literal["lower", "higher", ""] = ""


@dataclass(frozen=True)
class Beside:
    """The measures of two models or more, the base of comparison first: each has the same rows."""

    measures: Mapping[str, Sequence[Measure]]

    def __post_init__(self) -> None:
        for (one, rows), (other, others) in pairwise(self.measures.items()):
            if [each.label for each in rows] != [each.label for each in others]:
                raise ValueError(f"{one} and {other} were not asked the same: their measures differ")

    @property
    def names(self) -> list[str]:
        """The models."""
        return list(self.measures)

    def row(self, number: int) -> dict[str, Measure]:
        """One measure of every model."""
        return {name: rows[number] for name, rows in self.measures.items()}

    def differences(self) -> dict[str, dict[str, Interval]]:
        """Model -> measure -> its share minus the base's, for all but the base and what can be paired."""
        base, *others = self.names
        return {
            name: {
                each.label: found
                for each, first in zip(self.measures[name], self.measures[base], strict=True)
                if (found := _difference(each, first)) is not None
            }
            for name in others
        }

    def table(self, title: str, note: str) -> Table:
        """A row a measure, a column a model, and one for each difference; of many models a row for each."""
        base, *others = self.names
        gaps = self.differences()
        if len(self.names) > WIDE:
            header = ["measure", "model", "value", f"less {base}'s"]
            return Table(title, header, self._long(gaps), f"{PAIRED} {note}".strip())
        rows = [
            [each.label, *(str(self.row(number)[name].value) for name in self.names)]
            + [_cell(each, gaps[name].get(each.label)) for name in others]
            for number, each in enumerate(self.measures[base])
        ]
        header = ["measure", *self.names, *(f"{name} - {base}" for name in others)]
        return Table(title, header, rows, f"{PAIRED} {note}".strip())

    def _long(self, gaps: Mapping[str, Mapping[str, Interval]]) -> list[list[str | Cell]]:
        """A row a measure and model, the measure named once."""
        return [
            [
                each.label if name == self.names[0] else "",
                name,
                str(each.value),
                Cell("") if name == self.names[0] else _cell(each, gaps[name].get(each.label)),
            ]
            for number in range(len(self.measures[self.names[0]]))
            for name, each in self.row(number).items()
        ]

    def title(self) -> str:
        """Who is measured against whom."""
        base, *others = self.names
        return (
            f"{', '.join(others)} against {base}" if len(self.names) <= WIDE else f"{len(others)} models against {base}"
        )

    def lead(self) -> str:
        """The first measure in a sentence for each model; of many models in one."""
        base, *others = self.names
        first = self.measures[base][0]
        if len(self.names) > WIDE and isinstance(first.value, Share):
            return f"{first.label}: {', '.join(f'{name} {100 * self._first(name):.1f} %' for name in self.names)}."
        said = [
            f"{first.label}: {base} {100 * first.value.value:.1f} %, {name} {100 * self._first(name):.1f} %, "
            f"{100 * gap.value:+.1f} points [{100 * gap.low:+.1f}, {100 * gap.high:+.1f}]."
            for name in others
            if isinstance(first.value, Share) and (gap := self.differences()[name].get(first.label))
        ]
        return " ".join(said) or f"{base} beside {', '.join(others)}."

    def _first(self, name: str) -> float:
        value = self.measures[name][0].value
        return value.value if isinstance(value, Share) else float("nan")

    def figures(self) -> list[Figure]:
        """Every share with its interval, a colour a model; nothing where no measure is a share."""
        shares = [number for number, each in enumerate(self.measures[self.names[0]]) if _drawn(self.row(number))]
        if not shares:
            return []
        return [Figure("measures", "Every share with its 95 % interval.", self._png(shares))]

    def _png(self, numbers: Sequence[int]) -> bytes:
        from matplotlib.figure import Figure as Drawing

        height = max(0.3, 0.1 * len(self.names))  # of a measure
        drawing = Drawing(figsize=(7.6, 0.7 + height * len(numbers)), layout="constrained")
        axes = drawing.subplots()
        for place, name in enumerate(self.names):
            _line(
                axes,
                [self.row(number)[name] for number in numbers],
                0.6 * ((place + 0.5) / len(self.names) - 0.5),
                name,
                place,
            )
        axes.set_yticks(range(len(numbers)), [self.measures[self.names[0]][number].label for number in numbers])
        _plain(axes)
        file = io.BytesIO()
        drawing.savefig(file, format="png", dpi=110, transparent=True)
        return file.getvalue()


def _difference(one: Measure, base: Measure) -> Interval | None:
    if not isinstance(one.value, Share) or not isinstance(base.value, Share):
        return None
    return one.value.against(base.value)


def _cell(measure: Measure, gap: Interval | None) -> Cell:
    """A difference; coloured where its interval excludes 0 and one side is the better."""
    if gap is None:
        return Cell("—")
    text = f"{gap.value:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
    if not measure.better or gap.low <= 0 <= gap.high:
        return Cell(text)
    return Cell(text, "good" if (gap.value < 0) == (measure.better == "lower") else "bad")


def _drawn(row: Mapping[str, Measure]) -> bool:
    return all(isinstance(each.value, Share) and each.value.interval for each in row.values())


def _line(axes: Any, measures: Sequence[Measure], shift: float, name: str, number: int) -> None:
    found = [each.value.interval for each in measures if isinstance(each.value, Share) and each.value.interval]
    values = [each.value for each in found]
    # Wilson's ends of 0 and 1 are so only to rounding, and matplotlib wants no negative length.
    ends = [[max(0.0, each.value - each.low) for each in found], [max(0.0, each.high - each.value) for each in found]]
    again, colour = divmod(number, len(COLORS))
    axes.errorbar(
        values, [place + shift for place in range(len(found))], xerr=ends, fmt=MARKS[again % len(MARKS)], ms=5, lw=1.6,
        color=COLORS[colour], label=name,
    )  # fmt: skip


def _plain(axes: Any) -> None:
    """The look of every figure of ours: no background, ink that reads on white and on black."""
    axes.invert_yaxis()
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color=INK, alpha=0.2)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    axes.spines[:].set_visible(False)
    axes.legend(fontsize=9, framealpha=0, labelcolor=INK, loc="upper left", bbox_to_anchor=(1.0, 1.0))
