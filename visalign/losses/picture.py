"""The picture of docs/losses.md: loss and gradient against z for every loss of the gap, drawn as SVG."""

from __future__ import annotations

import torch
from torch import Tensor

from .bound import Part
from .registry import Entry, by_name, names

COLUMNS, WIDTH, HEIGHT, GUTTER, TITLE = 4, 210, 150, 22, 40
LEFT, RIGHT, LOW, HIGH = -4.0, 4.0, -2.0, 5.0
POINTS = 161
LOSS, SLOPE = "#1f5fa8", "#c8561b"

EXAMPLE = {
    "confidence": 0.8,
    "score_win": 2.0,
    "score_lose": 0.5,
    "length_win": 120.0,
    "length_lose": 40.0,
    "reward_win": 1.0,
    "reward_lose": 0.0,
    "previous_win": 0.5,
    "previous_lose": 0.0,
}
"""What the picture assumes of a pair besides z; whatever is not here is zero, but for the winner's log-ratio, z."""
SETTINGS = {"modpo": {"weights": (0.5, 0.5)}}
CONFIDENCE = {"dpo_soft": 0.8}


def drawn() -> list[Entry]:
    """The losses of the gap that look at one pair at a time."""
    found = [by_name(name) for name in names("h")]
    return [entry for entry in found if isinstance(entry, Entry) and "batch" not in entry.kinds]


def curve(entry: Entry) -> tuple[Tensor, Tensor, Tensor]:
    """z, loss and dL/dz at beta 1, (POINTS,) each, in float64."""
    z = torch.linspace(LEFT, RIGHT, POINTS, dtype=torch.float64, requires_grad=True)
    columns = {name: torch.full_like(z, EXAMPLE.get(name, 0.0)) for name in entry.fields}
    columns = {name: value[:, None] if name.startswith("reward") else value for name, value in columns.items()}
    columns[entry.fields[0]] = z
    loss = Part(entry, SETTINGS.get(entry.name, {}))(columns, 1.0, CONFIDENCE.get(entry.name))
    (slope,) = torch.autograd.grad(loss.sum(), z)
    return z.detach(), loss.detach(), slope


def panels() -> list[tuple[list[str], tuple[Tensor, Tensor, Tensor]]]:
    """Each curve once, with the names of all losses that have it: the plain dpo first."""
    found: list[tuple[list[str], tuple[Tensor, Tensor, Tensor]]] = []
    for entry in sorted(drawn(), key=lambda entry: (entry.of != "", entry.name)):
        own = curve(entry)
        same = [titles for titles, known in found if torch.allclose(known[1], own[1])]
        if same:
            same[0].append(entry.name)
        else:
            found.append(([entry.name], own))
    return sorted(found, key=lambda panel: (panel[0][0] != "dpo", panel[0][0]))


def across(z: float) -> float:
    """Pixels from the left edge of a panel."""
    return (z - LEFT) / (RIGHT - LEFT) * WIDTH


def down(value: float) -> float:
    """Pixels from its upper edge; far beyond the frame is as good as beyond it."""
    return (HIGH - max(min(value, 99.0), -99.0)) / (HIGH - LOW) * HEIGHT


def line(z: Tensor, values: Tensor, color: str, dashes: str = "") -> str:
    """A curve."""
    points = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in zip(z.tolist(), values.tolist(), strict=True))
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.6"{style}/>'


def wrapped(words: list[str], longest: int = 44) -> list[str]:
    """The names of a panel in lines of a length that fits."""
    lines = [""]
    for word in words:
        if lines[-1] and len(lines[-1]) + len(word) > longest:
            lines.append("")
        lines[-1] += f"{', ' if lines[-1] else ''}{word}"
    return lines


def panel(titles: list[str], curves: tuple[Tensor, Tensor, Tensor], spot: int) -> str:
    """One small graph with its frame, axes and names."""
    x = GUTTER + spot % COLUMNS * (WIDTH + GUTTER)
    y = TITLE + GUTTER + spot // COLUMNS * (HEIGHT + TITLE + GUTTER)
    z, loss, slope = curves
    first, *rest = titles
    under = wrapped(["also " + rest[0], *rest[1:]]) if rest else []
    names = [f'<text y="{-6 - 11 * len(under)}" class="name">{first}</text>']
    names += [f'<text y="{-6 - 11 * i}" class="also">{text}</text>' for i, text in enumerate(reversed(under))]
    marks = [
        f'<line x1="0" x2="{WIDTH}" y1="{down(0):.1f}" y2="{down(0):.1f}" class="axis"/>',
        f'<line x1="{across(0):.1f}" x2="{across(0):.1f}" y1="0" y2="{HEIGHT}" class="axis"/>',
        *(
            f'<text x="{across(t):.1f}" y="{HEIGHT + 11}" class="tick">{t:g}</text>'
            for t in (-4.0, -2.0, 0.0, 2.0, 4.0)
        ),
        *(f'<text x="-4" y="{down(t) + 3:.1f}" class="tick side">{t:g}</text>' for t in (-2.0, 0.0, 2.0, 4.0)),
    ]
    curves_drawn = f'<g clip-path="url(#frame)">{line(z, loss, LOSS)}{line(z, slope, SLOPE, "4 2")}</g>'
    frame = f'<rect width="{WIDTH}" height="{HEIGHT}" class="frame"/>'
    return f'<g transform="translate({x},{y})">{frame}{"".join(marks)}{curves_drawn}{"".join(names)}</g>'


def svg() -> str:
    """The whole picture."""
    found = panels()
    rows = -(-len(found) // COLUMNS)
    width = GUTTER + COLUMNS * (WIDTH + GUTTER)
    height = TITLE + rows * (HEIGHT + TITLE + GUTTER)
    style = (
        "text{font-family:sans-serif;fill:#222}.name{font-size:13px;font-weight:bold}.also{font-size:9px;fill:#666}"
        ".tick{font-size:9px;fill:#777;text-anchor:middle}.side{text-anchor:end}.legend{font-size:12px}"
        ".axis{stroke:#ddd}.frame{fill:none;stroke:#bbb}"
    )
    legend = (
        f'<line x1="{GUTTER}" x2="{GUTTER + 30}" y1="16" y2="16" stroke="{LOSS}" stroke-width="2"/>'
        f'<text x="{GUTTER + 36}" y="20" class="legend">loss</text>'
        f'<line x1="{GUTTER + 80}" x2="{GUTTER + 110}" y1="16" y2="16" stroke="{SLOPE}" stroke-width="2"'
        f' stroke-dasharray="4 2"/><text x="{GUTTER + 116}" y="20" class="legend">dL/dz, against z at beta = 1</text>'
    )
    body = "\n".join(panel(*one, spot) for spot, one in enumerate(found))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">\n'
        f"<style>{style}</style>\n"
        f'<clipPath id="frame"><rect width="{WIDTH}" height="{HEIGHT}"/></clipPath>\n'
        f'<rect width="100%" height="100%" fill="white"/>\n{legend}\n{body}\n</svg>\n'
    )
