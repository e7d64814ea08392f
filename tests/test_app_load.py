"""Raters who vote at once, each once a second, through the app as its command starts it: the benchmark, shorter."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compared import other_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_vote_of_a_crowd_is_on_the_disk_and_told_with_how_long_it_took(tmp_path: Path) -> None:
    """Times are promised on an idle machine, so they are written here and not compared."""
    if shutil.which("chromium") is None:
        pytest.skip("NO BROWSER: the benchmark opens views in one; apt-get install chromium")
    models = ["playground", str(other_model(tmp_path / "shaken"))]
    words = ["--models", *models, "--raters", "8", "--seconds", "5", "--out", str(tmp_path / "app.json")]
    command = [sys.executable, str(ROOT / "benchmarks" / "app.py"), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads((tmp_path / "app.json").read_text())
    assert done.returncode == (0 if all(found["holds"].values()) else 1), done.stderr
    assert found["holds"]["every vote on the disk"]
    assert found["crowd"]["sent"] == found["crowd"]["on_disk"] > 8
    assert set(found["first_component"]) == {"grid", "vote", "leaderboard"}
