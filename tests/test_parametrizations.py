"""The benchmark of parametrizations runs as it stands, in small; and its page says what its cells say."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from visalign.models.folder import Folder
from visalign.process import Ddpm, Flow

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, beside those that it imports."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("parametrizations")


def few(folder: Path) -> Path:
    """A handful of the shipped votes."""
    data = importlib.import_module("claims_data")
    path: Path = data.written(data.shipped()[:6], folder)
    return path


def test_the_script_runs_in_small(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever is finished is not run again: the second call changes no file."""
    monkeypatch.setitem(importlib.import_module("claims_data").MAKERS, "votes", few)
    monkeypatch.setattr(importlib.import_module("claims"), "JUDGES", ("voters",))
    cells = tmp_path / "cells"
    words = ["--out", str(tmp_path / "runs"), "--cells", str(cells), "--share", "0.002", "--seeds", "0"]
    asked = [*words, "--rows", "flow_base", "flow_rwr"]
    bench.main(asked)
    trained = json.loads((cells / "flow_rwr.0.json").read_text())
    assert trained["training"]["method"]["name"] == "flow_rwr"
    assert len(trained["scores"]["voters"]) == len(
        json.loads((cells / "flow_base.0.json").read_text())["right"]["voters"]
    )
    before = {file: file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.*")) if file.is_file()}
    bench.main(asked)
    assert {file: file.stat().st_mtime_ns for file in sorted(tmp_path.rglob("*.*")) if file.is_file()} == before


def test_siblings_are_the_base_on_another_path(bench: ModuleType, tmp_path: Path) -> None:
    renamed = importlib.import_module("parametrizations_bases").renamed
    paths = {name: Folder.open(str(renamed(name, tmp_path / name))).process for name in ("epsilon", "flow")}
    assert isinstance(paths["epsilon"], Ddpm) and paths["epsilon"].prediction == "epsilon"
    assert isinstance(paths["flow"], Flow) and paths["flow"].shift == 1.0
    own = Folder.open("playground").process
    assert isinstance(own, Ddpm) and own.prediction == "v_prediction"


def test_every_row_starts_from_its_own_base(bench: ModuleType) -> None:
    rows = importlib.import_module("parametrizations_rows")
    for name, row in rows.table(Path("bases")).items():
        folder = f"bases/{rows.base_of(name)}/weights"
        assert row.draws == folder if row.recipe is None else f"model.folder={folder}" in row.changes


def test_the_page_is_what_the_cells_say(bench: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = importlib.import_module("parametrizations_page")
    written = (page.DOCS / "parametrizations.md").read_text(encoding="utf-8")
    monkeypatch.setattr(page, "DOCS", tmp_path)
    page.write(tmp_path)
    assert (tmp_path / "parametrizations.md").read_text(encoding="utf-8") == written
    assert (tmp_path / "parametrizations.png").stat().st_size > 10_000
