"""The page of losses is what the table says."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from visalign import losses
from visalign.losses import document, picture

DOCS = Path(__file__).resolve().parents[1] / "docs"
MEND = "run: python -m visalign.losses.document docs/losses.md"
NUMBER = re.compile(r"-?\d+\.\d+")


def test_the_page_is_written_from_the_table() -> None:
    assert (DOCS / "losses.md").read_text(encoding="utf-8") == document.text(), MEND


def test_the_picture_is_drawn_from_the_losses() -> None:
    """Word for word, and to a tenth of a pixel: another processor may round a curve's last digit otherwise."""
    kept, drawn = (DOCS / "images" / "losses.svg").read_text(encoding="utf-8"), picture.svg()
    assert NUMBER.sub("#", kept) == NUMBER.sub("#", drawn), MEND
    places = [torch.tensor([float(number) for number in NUMBER.findall(svg)]) for svg in (kept, drawn)]
    torch.testing.assert_close(*places, rtol=0, atol=0.11, msg=MEND)


def test_every_loss_of_the_gap_is_in_the_picture_and_every_loss_on_the_page() -> None:
    titles = {name for names, _ in picture.panels() for name in names}
    assert titles == {entry.name for entry in picture.drawn()}
    page = document.text()
    assert all(f"| `{name}` |" in page for name in losses.names())


def test_the_command_writes_both_files(tmp_path: Path) -> None:
    document.main(str(tmp_path / "losses.md"))
    assert (tmp_path / "losses.md").read_text(encoding="utf-8") == document.text()
    assert (tmp_path / "images" / "losses.svg").read_text(encoding="utf-8") == picture.svg()
