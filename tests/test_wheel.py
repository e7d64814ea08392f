"""What is tracked is what is installed: the wheel holds the five folders, as one package, and nothing else."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import visalign

ROOT = Path(__file__).resolve().parents[1]
HUB = "visalign"
SIDES = ("scorers", "trainers", "apps", "configs")
FACES = (HUB, *(f"{HUB}.{side}" for side in SIDES))


def run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Standard output of a command that has to succeed."""
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked() -> list[str]:
    """Every file that git tracks and that is still there."""
    return [path for path in run("git", "ls-files", "-z").split("\0") if path and (ROOT / path).exists()]


def installed_path(path: str) -> str:
    """Where a tracked file lands: side folders move into the hub."""
    return path if path.startswith(f"{HUB}/") else f"{HUB}/{path}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty site folder with the wheel of the tracked files installed in it; pip asks no index for anything."""
    work = tmp_path_factory.mktemp("wheel")
    checkout, wheels, target = (work / name for name in ("checkout", "wheels", "site"))
    for path in tracked():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, checkout / path)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    offline = ("--no-deps", "--no-index", "--no-build-isolation")
    run(*pip, "wheel", *offline, "--wheel-dir", wheels, checkout)
    (wheel,) = wheels.glob("*.whl")
    run(*pip, "install", "--no-deps", "--no-index", "--no-compile", "--target", target, wheel)
    return target


def test_the_only_top_level_name_is_visalign(site: Path) -> None:
    names = {path.name for path in site.iterdir() if path.suffix != ".dist-info"} - {"bin"}
    assert names == {HUB}


def test_the_installed_files_are_the_tracked_ones_without_signposts(site: Path) -> None:
    folders = (HUB, *SIDES)
    expected = {installed_path(path) for path in tracked() if path.split("/")[0] in folders} - {
        f"{HUB}/{side}.pyi" for side in SIDES
    }
    found = {path.relative_to(site).as_posix() for path in (site / HUB).rglob("*") if path.is_file()}
    assert found == expected


def test_the_installed_faces_are_imported_from_the_wheel(site: Path, tmp_path: Path) -> None:
    """A checkout elsewhere on the path must not leak in: every face comes from the site folder."""
    code = f"""
import importlib, json, sys
sys.path.insert(0, {str(site)!r})
print(json.dumps([importlib.import_module(name).__file__ for name in {FACES!r}]))
"""
    files = json.loads(run(sys.executable, "-I", "-c", code, cwd=tmp_path))
    assert [Path(file).is_relative_to(site) for file in files] == [True] * len(FACES)


def test_the_command_is_installed(site: Path) -> None:
    (entry_points,) = site.glob("*.dist-info/entry_points.txt")
    assert f"{HUB} = {HUB}.cli:main" in entry_points.read_text()


def test_the_license_travels_along(site: Path) -> None:
    (text,) = site.glob("*.dist-info/licenses/LICENSE")
    assert text.read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_one_version_is_told_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert visalign.__version__ == citation["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_every_direct_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [Requirement(line) for line in (*project["dependencies"], *(line for extra in extras for line in extra))]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): str(next(iter(pin.specifier)).version) for pin in pins}
    assert not [str(one) for one in wanted if pinned.get(canonicalize_name(one.name), "") not in one.specifier]
