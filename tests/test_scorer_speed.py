"""The benchmark of scorers runs as it stands, and decoding is hidden behind the network."""

from __future__ import annotations

import json
import sys
import time
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from visalign.scorers.reading import READERS
from visalign.scoring import Sample

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "scorer_speed.py"
WAIT = 0.02  # seconds of a picture


@pytest.fixture(scope="module")
def speed() -> ModuleType:
    """The script as a module."""
    spec = util.spec_from_file_location("scorer_speed", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = util.module_from_spec(spec)
    sys.modules[spec.name] = made
    spec.loader.exec_module(made)
    return made


@pytest.mark.parametrize("words", [["--clock"], []])
def test_the_script_measures_the_tiny_shape(words: list[str], speed: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "speed.json"
    speed.main([*words, "--images", "8", "--rounds", "2", "--batch", "2", "--sides", "64", "--out", str(out)])
    (cell,) = json.loads(out.read_text())["cells"]
    if words:
        assert set(cell["images_per_second"]) == {"decoding", "network", "together"}
        assert min(cell["images_per_second"].values()) > 0 and cell["decoding_adds"] > -1
        assert cell["overlap_range"][0] <= cell["overlap"] <= cell["overlap_range"][1]
    else:
        assert cell["ratio"] > 0 and cell["prompts_encoded"] == 8


def test_prompts_are_encoded_once_each(speed: ModuleType) -> None:
    made = speed.scorer("tiny", "cpu", torch.float32, 4)
    rows = speed.rows_of(made)
    made.score([Sample(f"a street {row % 3}", image=each.image) for row, each in enumerate(speed.samples(64, 9))])
    assert sum(rows) == 3


class Slow:
    """A geometry that takes its time, and a network that does, without need of a processor."""

    def __init__(self, geometry: Any) -> None:
        self.geometry, self.size = geometry, geometry.size

    def image(self, image: Any, out: Tensor | None = None) -> Tensor:
        time.sleep(WAIT)
        made: Tensor = self.geometry.image(image, out)
        return made


def test_decoding_is_hidden_behind_the_network(speed: ModuleType) -> None:
    """Half of the shorter of the two at least; that it is not all is the first batch, and what others do meanwhile."""
    made, count = speed.scorer("tiny", "cpu", torch.float32, 4), 48
    made.score(given := speed.samples(64, count))
    made.geometry = Slow(made.geometry)
    values = made.towers.images

    def images(pixels: Tensor) -> Tensor:
        time.sleep(len(pixels) * WAIT / READERS)
        found: Tensor = values(pixels)
        return found

    made.towers.images = images
    assert max(speed.hidden_share(**speed.timed(made, given)) for _ in range(3)) > 0.5
