"""The app's difference of two pictures or clips, in a real browser: every frame counts, and it says which it shows."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import chromium
from PIL import Image

from visalign.data.clips import animated

APPS = Path(__file__).resolve().parents[1] / "apps"
ONE = np.random.default_rng(0).integers(0, 256, (5, 12, 16, 3), dtype=np.uint8)
OTHER = ONE.copy()
OTHER[2] = 255 - ONE[2]
OTHER[4, :, :8] ^= 1
GAP = abs(ONE.astype(int) - OTHER)


def png() -> bytes:
    file = BytesIO()
    Image.fromarray(ONE[0]).save(file, "PNG")
    return file.getvalue()


FILES = {
    "one.webp": animated(list(ONE)),
    "other.webp": animated(list(OTHER)),
    "short.webp": animated(list(ONE[:3])),
    "still.png": png(),
}


def answered(route: Any) -> None:
    """The app's scripts, the files, and for anything else an empty page."""
    name = route.request.url.rsplit("/", 1)[1]
    if name.endswith(".js"):
        route.fulfill(path=APPS / name, content_type="text/javascript")
    else:
        route.fulfill(body=FILES.get(name, b"<!doctype html>"), content_type="" if name in FILES else "text/html")


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    with chromium() as browser:
        made = browser.new_page()
        made.route("**/*", answered)
        made.goto("http://stage.test/page")
        yield made
        made.close()


def said(page: Any, one: str, other: str) -> str:
    """What the stage says of the difference of two files."""
    page.evaluate(
        """async (files) => {
          const { stage } = await import('/stage.js');
          const made = stage();
          document.body.replaceChildren(made.element);
          made.mode = 'difference';
          made.show(files.map((src) => ({ src, name: src, alt: '' })));
        }""",
        [one, other],
    )
    page.wait_for_function("!document.querySelector('.said').textContent.startsWith('Comparing')", timeout=120_000)
    return str(page.inner_text(".said"))


def test_all_frames_of_clips_are_compared_and_each_can_be(page: Any) -> None:
    found = [said(page, "one.webp", "other.webp")]
    for frame in range(1, 6):
        page.fill("input[aria-label^='Which frame']", str(frame))
        found.append(str(page.inner_text(".said")))
    assert found[0] == f"Mean over 5 frames. Mean difference {GAP.mean():.1f} of 255; 20 % of pixels differ visibly."
    assert found[1] == "Frame 1 of 5. The two are the same, pixel for pixel."
    assert found[3] == f"Frame 3 of 5. Mean difference {GAP[2].mean():.1f} of 255; 100 % of pixels differ visibly."
    assert found[5] == "Frame 5 of 5. Mean difference 0.5 of 255; 0 % of pixels differ visibly."


def test_what_is_painted_is_the_mean_over_frames_times_the_strength(page: Any) -> None:
    said(page, "one.webp", "other.webp")
    painted = page.evaluate(
        "() => [...document.querySelector('canvas').getContext('2d').getImageData(0, 0, 16, 12).data]"
    )
    found = np.array(painted).reshape(12, 16, 4)[..., :3]
    assert abs(found - np.minimum(255, 3 * GAP.mean(0))).max() <= 0.5


def test_pictures_are_one_frame_and_what_differs_in_length_is_not_compared(page: Any) -> None:
    assert said(page, "still.png", "still.png") == "The two are the same, pixel for pixel."
    assert page.query_selector("input[aria-label^='Which frame']") is None
    assert said(page, "one.webp", "short.webp") == "The two differ in length: 5 and 3 frames."
