"""The report: one HTML file that needs nothing else, the same pictures as PNG files, and report.json."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

if TYPE_CHECKING:
    from .exchanges import Exchange

Picture = NDArray[np.uint8]  # (h, w, 3), or a clip (frames, h, w, 3)
TEMPLATE = "report.html.j2"
SMALLEST = 128  # pixels: smaller pictures are enlarged by a whole factor, without smoothing
FRAME = 125  # milliseconds that a page shows each frame of a clip
STRIP = 4  # frames of a clip that stand side by side on a sheet


@dataclass(frozen=True)
class Cell:
    """A cell of a table, with what to think of it."""

    text: str
    tone: Literal["", "good", "bad"] = ""


@dataclass(frozen=True)
class Table:
    """A table: a title, a header, rows of text or cells, and a sentence on how to read it."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    note: str = ""

    def cells(self) -> list[list[Cell]]:
        """Every row as cells."""
        return [[each if isinstance(each, Cell) else Cell(each) for each in row] for row in self.rows]


@dataclass(frozen=True)
class Figure:
    """A picture of the report: file name without ending, caption, PNG bytes."""

    name: str
    caption: str
    png: bytes

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        return data_uri(self.png)


@dataclass(frozen=True)
class Shot:
    """What one model drew for a prompt, and what the judge said of it."""

    model: str
    picture: Picture
    note: str = ""
    tone: Literal["", "good", "bad"] = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI, enlarged if small; a clip moves."""
        return data_uri(png(enlarged(self.picture)))


@dataclass(frozen=True)
class Card:
    """One prompt and one seed, drawn by every model: before and after, side by side."""

    prompt: str
    shots: Sequence[Shot]


@dataclass(frozen=True)
class Report:
    """Everything that is told about an evaluation or a run, in the order in which it is read."""

    title: str
    lead: str  # the finding, in a sentence or two
    numbers: Mapping[str, Any]  # what report.json holds
    tables: Sequence[Table] = ()
    cards: Sequence[Card] = ()
    figures: Sequence[Figure] = ()
    settings: Mapping[str, str] = field(default_factory=dict)  # title -> YAML text
    exchanges: Sequence[Exchange] = ()  # questions about pictures, with answers
    exchanges_note: str = ""

    def html(self) -> str:
        """The page, with every picture inside it."""
        from jinja2 import Environment

        text = resources.files("visalign.evaluation").joinpath(TEMPLATE).read_text(encoding="utf-8")
        page: str = (
            Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text).render(report=self)
        )
        return page

    def write(self, folder: Path) -> Path:
        """Write report.html, report.json and the PNG files to `folder`, and return the path of the page."""
        folder.mkdir(parents=True, exist_ok=True)
        for each in self.figures:
            _replace(folder / f"{each.name}.png", each.png)
        if self.cards:
            _replace(folder / "before_after.png", png(contact_sheet(self.cards)))
        _replace(folder / "report.json", (json.dumps(self.numbers, indent=2) + "\n").encode())
        _replace(folder / "report.html", self.html().encode())
        return folder / "report.html"


def data_uri(content: bytes) -> str:
    """PNG bytes as text that a page can hold."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def png(picture: Picture) -> bytes:
    """A picture (h, w, 3) uint8 as PNG bytes; a clip (frames, h, w, 3) as an animated one, over and over."""
    file = io.BytesIO()
    first, *rest = [Image.fromarray(each) for each in picture.reshape(-1, *picture.shape[-3:])]
    moving = {"save_all": True, "append_images": rest, "duration": FRAME, "loop": 0} if rest else {}
    first.save(file, "PNG", optimize=True, **moving)
    return file.getvalue()


def enlarged(picture: Picture, smallest: int = SMALLEST) -> Picture:
    """The picture, its pixels repeated until its shorter side has at least `smallest`."""
    factor = max(1, -(-smallest // min(picture.shape[-3:-1])))
    return picture.repeat(factor, axis=-3).repeat(factor, axis=-2)


def strip(picture: Picture, count: int = STRIP) -> Picture:
    """A picture as it is; of a clip at most `count` frames in a row, evenly apart from the first to the last."""
    if picture.ndim == 3:
        return picture
    chosen = np.linspace(0, len(picture) - 1, min(count, len(picture))).round().astype(int)
    return np.concatenate(list(picture[chosen]), axis=1)


def contact_sheet(cards: Sequence[Card], *, across: int = 3) -> Picture:
    """All cards on one white sheet: prompt above, the models' pictures side by side below, `across` cards a row."""
    drawn = [_card(card) for card in cards]
    height, width = max(each.shape[0] for each in drawn), max(each.shape[1] for each in drawn)
    rows = -(-len(drawn) // across)
    sheet = np.full((rows * height, min(across, len(drawn)) * width, 3), 255, np.uint8)
    for place, each in enumerate(drawn):
        top, left = place // across * height, place % across * width
        sheet[top : top + each.shape[0], left : left + each.shape[1]] = each
    return sheet


def _card(card: Card, margin: int = 8, line: int = 16) -> Picture:
    """One card: the prompt in up to two lines, the model's name above each picture."""
    shots = [strip(enlarged(shot.picture)) for shot in card.shots]
    side, tall = max(each.shape[1] for each in shots), max(each.shape[0] for each in shots)
    wide = len(shots) * (side + margin) + margin
    canvas = Image.new("RGB", (wide, tall + 3 * line + 3 * margin), "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(12)
    for number, words in enumerate(_wrapped(card.prompt, font, wide - 2 * margin)[:2]):
        pen.text((margin, margin + number * line), words, fill="black", font=font)
    for number, (shot, picture) in enumerate(zip(card.shots, shots, strict=True)):
        left = margin + number * (side + margin)
        pen.text((left, margin + 2 * line), f"{shot.model} {shot.note}".strip(), fill="#555555", font=font)
        canvas.paste(Image.fromarray(picture), (left, 2 * margin + 3 * line))
    return np.asarray(canvas)


def _wrapped(text: str, font: Any, width: int) -> list[str]:
    """Words in lines of at most `width` pixels."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines


def _replace(path: Path, content: bytes) -> None:
    """Write whole or not at all: a report that is being read is never half a report."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)
