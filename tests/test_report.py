"""The report: one self-contained page, its pictures and its numbers."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visalign.evaluation import curves, report

RNG = np.random.default_rng(0)
VOID = {"meta", "img", "br", "link"}


def picture(side: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)


def rows(count: int = 60) -> list[dict[str, float | str | None]]:
    """What metrics.jsonl holds, a null and a hex string included."""
    return [
        {
            "step": step,
            "loss_hex": "0x1p-1",
            "loss": 0.693 - 0.002 * step,
            "margin_p05": -0.01 * step,
            "margin_p50": 0.01 * step,
            "margin_p95": 0.03 * step,
            "implicit_accuracy": None if step == 3 else 0.5 + 0.003 * step,
            "win_error": 0.2,
            "win_reference_error": 0.2,
            "lose_error": 0.3,
            "lose_reference_error": 0.25,
            "grad_norm": 1.0,
        }
        for step in range(1, count + 1)
    ]


@pytest.fixture
def made() -> report.Report:
    shots = [report.Shot("base", picture(), "0.10", "bad"), report.Shot("dpo", picture(), "0.95", "good")]
    return report.Report(
        title="A <b>title</b> & more",
        lead="dpo wins 0.80 of the pairs.",
        numbers={"win_rate": 0.8, "win_rate_ci": [0.7, 0.9]},
        tables=[
            report.Table("Scores", ["model", "right"], [["base", report.Cell("0.30", "bad")], ["dpo", "0.55"]], "n")
        ],
        cards=[report.Card(f"a red circle left of a blue square, number {number}", shots) for number in range(4)],
        figures=[report.Figure("curves", "Training curves.", curves.figure({"dpo": rows()}))],
        settings={"run.yaml": "steps: 10\nname: <x>"},
    )


class Checked(HTMLParser):
    """Reads a page and notes what it would fetch and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_whole_and_fetches_nothing(made: report.Report, tmp_path: Path) -> None:
    page = Checked()
    page.feed(made.write(tmp_path).read_text())
    assert not page.open
    assert len(page.links) == 4 * 2 + 1
    for link in page.links:
        head, _, content = link.partition(",")
        assert head == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(content))).load()
    assert "http" not in "".join(page.links)


def test_text_is_escaped_and_complete(made: report.Report) -> None:
    html = made.html()
    assert "A &lt;b&gt;title&lt;/b&gt; &amp; more" in html
    assert "name: &lt;x&gt;" in html
    assert "dpo wins 0.80 of the pairs." in html
    assert re.search(r'<td class="bad">0\.30</td>', html)
    assert "prefers-color-scheme: dark" in html


def test_numbers_and_pictures_lie_beside_the_page(made: report.Report, tmp_path: Path) -> None:
    made.write(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text()) == {"win_rate": 0.8, "win_rate_ci": [0.7, 0.9]}
    assert {file.name for file in tmp_path.iterdir()} == {
        "report.html",
        "report.json",
        "curves.png",
        "before_after.png",
    }
    with Image.open(tmp_path / "before_after.png") as sheet:
        assert sheet.width > 3 * 2 * report.SMALLEST


def test_writing_again_replaces(made: report.Report, tmp_path: Path) -> None:
    assert made.write(tmp_path).read_bytes() == made.write(tmp_path).read_bytes()


def test_small_pictures_are_enlarged_without_smoothing() -> None:
    small = picture(32)
    large = report.enlarged(small)
    assert large.shape == (128, 128, 3)
    assert np.array_equal(large[::4, ::4], small)
    assert report.enlarged(picture(512)).shape == (512, 512, 3)


def test_a_clip_moves_on_the_page_and_stands_as_a_strip_on_the_sheet() -> None:
    clip = np.stack([picture() for _ in range(6)])
    shot = report.Shot("dpo", clip)
    with Image.open(io.BytesIO(base64.b64decode(shot.uri.partition(",")[2]))) as moving:
        assert moving.n_frames == 6  # type: ignore[attr-defined]
        for place in range(6):
            moving.seek(place)
            assert np.array_equal(np.asarray(moving.convert("RGB")), report.enlarged(clip)[place])
    assert np.array_equal(report.strip(clip), np.concatenate([clip[k] for k in (0, 2, 3, 5)], axis=1))
    sheet = report.contact_sheet([report.Card("a red circle moving left", [shot])])
    assert sheet.shape[1] > report.STRIP * report.SMALLEST


def test_a_running_mean_skips_what_is_missing() -> None:
    found = curves.smooth(np.array([1.0, np.nan, 3.0, 5.0]), window=2)
    assert found.tolist() == [1.0, 1.0, 3.0, 4.0]


def test_the_error_panel_compares_sums_over_the_window() -> None:
    """A steady 10 % above the reference reads 10 at every step, however much the errors jump."""
    reference = RNG.uniform(0.1, 2.0, 50)
    assert curves.above(1.1 * reference, reference) == pytest.approx(np.full(50, 10.0))


def test_curves_draw_what_each_run_measured_and_refuse_nothing_at_all() -> None:
    supervised = [{"step": step, "loss": 0.3, "win_error": 0.3} for step in range(1, 9)]
    with Image.open(io.BytesIO(curves.figure({"dpo": rows(), "sft": supervised}))) as drawn:
        assert drawn.mode == "RGBA"
        assert drawn.getchannel("A").getpixel((0, 0)) == 0  # no background: the page's own shows through
    with pytest.raises(ValueError, match="no metrics to draw"):
        curves.figure({"dpo": [{"step": 1}]})
