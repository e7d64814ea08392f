"""Training curves from metrics.jsonl rows: the panels that tell a healthy run from one that unlearns."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Rows = Sequence[Mapping[str, Any]]
Floats = NDArray[np.float64]

INK = "#808890"  # reads on white and on near-black: figures have no background of their own
COLORS = ("#3b82c4", "#d97a2b", "#4c9f70", "#a66bbe")
WINDOW = 20  # steps of the running mean, as in metrics.Collapse


@dataclass(frozen=True)
class Panel:
    """One set of axes: a title, the metrics it needs, and what it draws from them."""

    title: str
    needs: tuple[str, ...]
    lines: Callable[[Mapping[str, Floats]], Mapping[str, Floats]]
    guides: tuple[float, ...] = ()  # horizontal lines to compare with


def smooth(values: Floats, window: int = WINDOW) -> Floats:
    """Running mean over the last `window` values (fewer at the start), skipping what is not finite."""
    fine = np.isfinite(values)
    sums, counts = np.cumsum(np.where(fine, values, 0.0)), np.cumsum(fine.astype(np.float64))
    sums[window:], counts[window:] = sums[window:] - sums[:-window], counts[window:] - counts[:-window]
    means: Floats = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return means


def above(policy: Floats, reference: Floats) -> Floats:
    """Percent by which the policy's error, over the window, lies above the reference's at the same noise."""
    percent: Floats = 100 * (smooth(policy) / smooth(reference) - 1)
    return percent


PANELS = (
    Panel("loss", ("loss",), lambda m: {"": smooth(m["loss"])}),
    Panel(
        "margin: 5, 50 and 95 % of the pairs",
        ("margin_p05", "margin_p50", "margin_p95"),
        lambda m: {name[-3:]: smooth(m[name]) for name in ("margin_p05", "margin_p50", "margin_p95")},
        guides=(0.0,),
    ),
    Panel("implicit accuracy", ("implicit_accuracy",), lambda m: {"": smooth(m["implicit_accuracy"])}, guides=(0.5,)),
    Panel(
        "error above the reference's, %",
        ("win_error", "win_reference_error", "lose_error", "lose_reference_error"),
        lambda m: {side: above(m[f"{side}_error"], m[f"{side}_reference_error"]) for side in ("win", "lose")},
        guides=(0.0, 20.0),
    ),
    Panel("error on the winners", ("win_error",), lambda m: {"": smooth(m["win_error"])}),
    Panel("gradient norm", ("grad_norm",), lambda m: {"": smooth(m["grad_norm"])}),
)


def figure(runs: Mapping[str, Rows], *, columns: int = 3) -> bytes:
    """A PNG with a panel for each thing that the runs measured; one color a run, dashes for the lines of one run."""
    from matplotlib.figure import Figure

    measured = {name: series(rows) for name, rows in runs.items()}
    shown = [panel for panel in PANELS if any(_has(metrics, panel) for metrics in measured.values())]
    if not shown:
        raise ValueError(f"no metrics to draw; the runs hold {sorted({k for m in measured.values() for k in m})}")
    height = math.ceil(len(shown) / columns)
    drawing = Figure(figsize=(4.2 * min(columns, len(shown)), 2.7 * height), layout="constrained")
    for place, panel in enumerate(shown, start=1):
        _draw(drawing.add_subplot(height, min(columns, len(shown)), place), panel, measured)
    png = io.BytesIO()
    drawing.savefig(png, format="png", dpi=110, transparent=True)
    return png.getvalue()


def on_white(png: bytes, width: int) -> NDArray[np.uint8]:
    """A figure's PNG as an opaque picture (h, width, 3): for files that will not be shown on a page of ours."""
    with Image.open(io.BytesIO(png)) as drawn:
        figure = drawn.convert("RGBA")
    ground = Image.new("RGBA", figure.size, "white")
    flat = Image.alpha_composite(ground, figure).convert("RGB")
    return np.asarray(flat.resize((width, round(flat.height * width / flat.width)), Image.Resampling.LANCZOS))


def series(rows: Rows) -> dict[str, Floats]:
    """Each metric as an array over the steps; what a step did not measure is NaN."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if not isinstance(value, str))
    return {name: np.array([_number(row.get(name)) for row in rows]) for name in names}


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _has(metrics: Mapping[str, Floats], panel: Panel) -> bool:
    return all(name in metrics for name in panel.needs)


def _draw(axes: Any, panel: Panel, measured: Mapping[str, Mapping[str, Floats]]) -> None:
    """One panel with every run that has its metrics."""
    for color, (run, metrics) in zip(COLORS, measured.items(), strict=False):
        lines = panel.lines(metrics) if _has(metrics, panel) else {}
        for style, (label, values) in zip(("-", "--", ":"), lines.items(), strict=False):
            axes.plot(metrics["step"], values, style, color=color, lw=1.6, label=f"{run} {label}".strip())
    low, high = axes.get_ylim()
    for guide in panel.guides:
        if 2 * low - high <= guide <= 2 * high - low:  # a guide far from the data would flatten them
            axes.axhline(guide, color=INK, lw=0.7, alpha=0.6)
    axes.set_title(panel.title, color=INK, fontsize=10)
    axes.set_xlabel("optimizer step", color=INK, fontsize=8)
    axes.tick_params(colors=INK, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(INK)
        spine.set_alpha(0.5)
    axes.legend(fontsize=7, framealpha=0, labelcolor=INK)
