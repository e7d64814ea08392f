"""The picture on top of README.md: what the demo's three models draw for the same held-out prompts and seeds.

    make demo && make bench-before_after          # docs/images/before_after.png

The prompts are the first of those that the demo judges by, in their order, none chosen. A bar below a picture is green
where the rule checker calls it clean and right.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from visalign import demo
from visalign.cli.screen import Screen
from visalign.drawing import draw
from visalign.playground import corpus
from visalign.playground.checker import CLEAN_AND_RIGHT, check

TARGET = Path(__file__).resolve().parent.parent / "docs" / "images" / "before_after.png"
SHOWN = 9
MODELS = {"base": "", "SFT": "sft", "DPO": "dpo"}  # as the rows are called: folder of the demo
FACTOR, GAP, LABEL, HEAD, BAR = 5, 14, 96, 112, 8  # pixels; each of a picture becomes FACTOR x FACTOR
RIGHT, WRONG, INK = "#2e8b57", "#d9d9d9", "#222222"


def drawn(folder: Path, prompts: Sequence[str], screen: Screen) -> dict[str, NDArray[np.uint8]]:
    """What each model draws, (n, h, w, 3), with the demo's settings and seeds."""
    seeds = list(range(len(prompts)))
    models = {name: str(folder / run) if run else "playground" for name, run in MODELS.items()}
    return {
        name: draw(model, prompts, seeds, demo.HOW, screen, title=f"draw: {name}") for name, model in models.items()
    }


def sheet(prompts: Sequence[str], pictures: Mapping[str, NDArray[np.uint8]]) -> Image.Image:
    """A column a prompt, a row a model."""
    side = FACTOR * next(iter(pictures.values())).shape[1]
    high = side + BAR + GAP
    page = Image.new("RGB", (LABEL + len(prompts) * (side + GAP), HEAD + len(pictures) * high), "white")
    pen, font, large = ImageDraw.Draw(page), ImageFont.load_default(19), ImageFont.load_default(26)
    for column, prompt in enumerate(prompts):
        pen.text((LABEL + column * (side + GAP), 4), "\n".join(wrap(prompt, 17)), fill=INK, font=font)
    for row, (name, of_model) in enumerate(pictures.items()):
        top = HEAD + row * high
        pen.text((8, top + side // 2), name, fill=INK, font=large, anchor="lm")
        for column, (prompt, picture) in enumerate(zip(prompts, of_model, strict=True)):
            left = LABEL + column * (side + GAP)
            page.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (left, top))
            tone = RIGHT if check(picture, prompt).overall > CLEAN_AND_RIGHT else WRONG
            pen.rectangle((left, top + side, left + side - 1, top + side + BAR - 1), fill=tone)
    return page


def main() -> None:
    """Draw, put together, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"), help="the demo's folder")
    folder: Path = parser.parse_args().demo
    absent = [run for run in MODELS.values() if not (folder / run).is_dir()]
    if absent:
        parser.error(f"no {' and no '.join(absent)} in {folder}: run `make demo` first, or say where with --demo")
    prompts = corpus.prompts("heldout", SHOWN)
    sheet(prompts, drawn(folder, prompts, Screen())).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
