"""What the tests of `visalign compare` share: two small models, a setup, an app that runs, a browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from visalign import playground, registry
from visalign.apps import compare, desk
from visalign.diffusion.source import Source
from visalign.drawing import Settings
from visalign.scoring import Sample, Scores

EVIL = '<img src=//evil.test/x onerror="window.__xss=(window.__xss||0)+1"><script>window.__xss=9</script>'
PROMPTS = ("a red circle left of a blue square", "two green rings", "a pink cross", "a large blue circle", EVIL)
QUICK = Settings(steps=2, guidance=1.0, batch=8)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]


class Broken:
    """A scorer that cannot, and says so in the worst of words."""

    name = "broken"

    def score(self, samples: Sequence[Sample]) -> Scores:
        """Always an error."""
        raise ValueError(EVIL)


def other_model(folder: Path) -> Path:
    """The playground's model with its UNet shaken a little."""
    if folder.exists():
        return folder
    shutil.copytree(playground.folder(), folder)
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    random = torch.Generator().manual_seed(0)
    weights = load_file(file)
    for name, weight in weights.items():
        if weight.ndim > 1:
            noise = torch.randn(weight.shape, generator=random)
            weights[name] = (weight.float() + 0.15 * weight.float().std() * noise).to(weight.dtype)
    save_file(weights, file)
    return folder


def models(copy: Path) -> dict[str, Source]:
    """Base and its shaken copy, which is made at `copy`."""
    return {"base": Source.find("playground"), "shaken": Source.find(str(other_model(copy)))}


def setup(folder: Path, **changes: Any) -> desk.Setup:
    """Base and a shaken copy, scored by the checker."""
    given: dict[str, Any] = {
        "models": changes.get("models") or models(folder.parent / f"{folder.name}-model"),
        "prompts": PROMPTS[:4],
        "settings": QUICK,
        "scorers": [registry.build("scorer", "rules")],
        "folder": folder,
    }
    return desk.Setup(**(given | changes))


def drawn(at: desk.Desk) -> desk.Desk:
    """The desk, once every picture is there."""
    until(lambda: not at.pool.progress()["waiting"])
    return at


def until(holds: Callable[[], bool], seconds: float = 300.0) -> None:
    """Wait for something; fails if it takes too long."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


@contextmanager
def app(given: desk.Setup, **door: Any) -> Iterator[compare.Served]:
    """The app, running, its pictures drawn."""
    served = compare.serve(given, compare.Door(**door))
    try:
        drawn(served.desk)
        yield served
    finally:
        served.close()


@contextmanager
def chromium() -> Iterator[Any]:
    """A headless browser; the test is skipped, loudly, where there is none."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("NO BROWSER: the app is not tested in one; apt-get install chromium")
    sync = pytest.importorskip("playwright.sync_api", reason="NO PLAYWRIGHT: pip install playwright")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()
