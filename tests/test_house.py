"""The house keeps its plan: who may import whom, what loads nothing, and which words are never written."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType

import pytest

import visalign.scorers
import visalign.trainers
from visalign import registry

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("scorers", "trainers", "apps")

# Every heavy package once, with its rooms (a folder ends in "/"; a room also covers files that it begins).
HEAVY = {
    "accelerate": ("visalign/training/",),
    "av": ("visalign/data/films.py",),
    "datasets": ("visalign/data/",),
    "diffusers": ("visalign/models/", "visalign/playground/"),
    "fastapi": ("apps/",),
    "gradio": ("apps/",),
    "jinja2": ("visalign/evaluation/", "visalign/models/"),
    "matplotlib": ("visalign/evaluation/",),
    "nltk": ("visalign/evaluation/",),
    "open_clip": ("scorers/", "visalign/playground/"),
    "pandas": ("visalign/data/", "visalign/evaluation/"),
    "peft": ("visalign/models/weights.py",),
    "playwright": (),
    "pyarrow": ("visalign/data/", "visalign/evaluation/"),
    "rich": ("visalign/cli", "visalign/evaluation/"),
    "scipy": ("visalign/evaluation/", "visalign/playground/", "scorers/"),
    "spacy": ("visalign/evaluation/",),
    "tenacity": ("scorers/",),
    "tensorboard": ("visalign/training/metrics.py",),
    "torch.utils.tensorboard": ("visalign/training/metrics.py",),
    "torchvision": ("visalign/data/", "visalign/evaluation/", "visalign/models/", "visalign/playground/", "scorers/"),
    "transformers": ("visalign/models/", "visalign/playground/", "scorers/"),
    "trl": (),
    "wandb": ("visalign/training/metrics.py",),
    "xformers": ("visalign/models/attention.py",),
}

# A part of the hub imports its own floor and those below. A part that is not listed is a door: nothing imports it.
FLOORS = {
    1: (
        "losses",
        "process",
        "shifts",
        "records",
        "draws",
        "images",
        "batches",
        "scoring",
        "rulings",
        "transforms",
        "writers",
        "strict",
        "config",
    ),
    2: ("contract",),
    3: (
        "diffusion",
        "text",
        "needs",
        "rating",
        "models",
        "data",
        "evaluation",
        "playground",
    ),
    4: ("training",),
    5: ("registry",),
}
FLOOR = {part: floor for floor, parts in FLOORS.items() for part in parts}
DOOR = 6
GROUND = {"torch", "numpy", "yaml", "PIL"}  # what floor 1 may import beyond the standard library
STDLIB = set(sys.stdlib_module_names)
LONGEST_FILE = 300


@dataclass(frozen=True)
class Source:
    """A file of the project: `path` relative to the root, `module` as it is imported once installed."""

    path: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text(encoding="utf-8")

    @property
    def room(self) -> str:
        """The top-level folder."""
        return self.path.split("/")[0]

    @property
    def module(self) -> str:
        name = self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        return name if self.room == "visalign" else f"visalign.{name}"

    @property
    def floor(self) -> int:
        """Where it stands; the package's own face opens doors, when it is asked."""
        return DOOR if self.module == "visalign" else floor_of(self.module)

    def imports(self) -> Iterator[tuple[int, str]]:
        """(line, absolute dotted name) of every import, at any depth; `from a import b` is both a and a.b."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                base = self._base(node)
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)

    def _base(self, node: ast.ImportFrom) -> str:
        """The package an import starts from, with the dots of a relative one resolved."""
        if not node.level:
            return node.module or ""
        inside = self.module.split(".")
        depth = len(inside) - node.level + self.path.endswith("__init__.py")
        return ".".join([*inside[:depth], *([node.module] if node.module else [])])

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        """Every call, with the callee as it is written."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call):
                yield node, ast.unparse(node.func)


def sources(*rooms: str) -> list[Source]:
    """The Python files of these top-level folders."""
    found = (file for room in rooms for file in sorted((ROOT / room).rglob("*.py")))
    return [Source(file.relative_to(ROOT).as_posix()) for file in found]


def floor_of(module: str) -> int:
    """1 to 5 as planned, 0 for the bare package, 6 for doors."""
    parts = module.split(".")
    return 0 if len(parts) == 1 or parts[1].startswith("__version") else FLOOR.get(parts[1], DOOR)


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is this package or lies in it."""
    return f"{name}.".startswith(f"{package}.")


HUB = sources("visalign")
SIDE = sources(*SIDES)
EVERYTHING = HUB + SIDE


def broken(found: Iterator[str]) -> str:
    """Everything that breaks a rule, one a line."""
    return "\n" + "\n".join(sorted(set(found)))


def test_the_hub_never_imports_what_stands_around_it() -> None:
    faces = {f"visalign.{side}" for side in SIDES}
    wrong = [
        f"{file.path}:{line} imports {name}; name it as a string in visalign/registry.py"
        for file in HUB
        for line, name in file.imports()
        if any(inside(name, face) for face in faces)
    ]
    assert not wrong, broken(iter(wrong))


def test_nobody_imports_a_side_folder_by_its_bare_name() -> None:
    wrong = [
        f"{file.path}:{line} imports {name}; from outside its folder say visalign.{name.split('.')[0]}"
        for file in EVERYTHING + sources("tests", "benchmarks")
        for line, name in file.imports()
        if name.split(".")[0] in SIDES
    ]
    assert not wrong, broken(iter(wrong))


def test_side_folders_never_import_one_another() -> None:
    wrong = [
        f"{file.path}:{line} imports {name}"
        for file in SIDE
        for line, name in file.imports()
        for other in SIDES
        if other != file.room and inside(name, f"visalign.{other}")
    ]
    assert not wrong, broken(iter(wrong))


def test_inside_a_side_folder_imports_are_relative_and_towards_the_hub_absolute() -> None:
    wrong = [
        f"{file.path}:{node.lineno} {ast.unparse(node)}"
        for file in SIDE
        for node in ast.walk(file.tree)
        if isinstance(node, ast.ImportFrom)
        and (node.level > 1 if node.level else inside(node.module or "", f"visalign.{file.room}"))
    ]
    assert not wrong, broken(iter(wrong))


def test_a_part_imports_only_its_own_floor_and_those_below() -> None:
    wrong = [
        f"{file.path}:{line} (floor {file.floor}) imports {name} (floor {floor_of(name)})"
        for file in HUB
        for line, name in file.imports()
        if inside(name, "visalign") and floor_of(name) > file.floor
    ]
    assert not wrong, broken(iter(wrong))


def test_floor_one_stands_on_torch_numpy_yaml_and_pillow_alone() -> None:
    wrong = [
        f"{file.path}:{line} imports {name}"
        for file in HUB
        if file.floor == 1
        for line, name in file.imports()
        if name.split(".")[0] not in STDLIB | GROUND | {"visalign"}
    ]
    assert not wrong, broken(iter(wrong))


def test_trainers_know_torch_and_visalign_alone() -> None:
    wrong = [
        f"{file.path}:{line} imports {name}"
        for file in sources("trainers")
        for line, name in file.imports()
        if name.split(".")[0] not in STDLIB | {"torch", "visalign"}
    ]
    assert not wrong, broken(iter(wrong))


@pytest.mark.parametrize("package", HEAVY)
def test_a_heavy_package_stays_in_its_rooms(package: str) -> None:
    wrong = [
        f"{file.path}:{line} imports {name}; only {', '.join(HEAVY[package]) or 'tests'} may"
        for file in EVERYTHING
        for line, name in file.imports()
        if inside(name, package) and not file.path.startswith(HEAVY[package])
    ]
    assert not wrong, broken(iter(wrong))


def test_the_registry_alone_imports_by_name() -> None:
    wrong = [
        f"{file.path}:{call.lineno} {callee}"
        for file in EVERYTHING
        if file.path != "visalign/registry.py"
        for call, callee in file.calls()
        if callee.split(".")[-1] in {"import_module", "__import__"}
    ]
    assert not wrong, broken(iter(wrong))


def test_no_pickle_is_read_or_written() -> None:
    picklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve"}
    imported = [
        f"{file.path}:{line} imports {name}"
        for file in EVERYTHING
        for line, name in file.imports()
        if name.split(".")[0] in picklers
    ]
    loaded = [
        f"{file.path}:{call.lineno} {callee} without weights_only=True"
        for file in EVERYTHING
        for call, callee in file.calls()
        if callee == "torch.load" and "weights_only=True" not in map(ast.unparse, call.keywords)
    ]
    assert not imported + loaded, broken(iter(imported + loaded))


def test_nothing_mends_what_should_fail_and_no_foreign_code_runs() -> None:
    forbidden = ("nan_to_num", "trust_remote_code=True")
    wrong = [f"{file.path} says {word}" for file in EVERYTHING for word in forbidden if word in file.text]
    assert not wrong, broken(iter(wrong))


def test_a_reader_can_hold_every_file() -> None:
    long = [f"{file.path} has {lines} lines" for file in EVERYTHING if (lines := file.text.count("\n")) > LONGEST_FILE]
    assert not long, broken(iter(long))


def test_side_folders_are_flat() -> None:
    nested = [file.path for file in SIDE if file.path.count("/") > 1]
    assert not nested, broken(iter(nested))


@pytest.mark.parametrize("name", ["visalign", *(f"visalign.{side}" for side in SIDES), "visalign.configs"])
def test_a_face_loads_no_library(name: str) -> None:
    """`-X importtime` lists every module that was imported, one a line, on stderr."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {name}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert "visalign" in loaded
    assert sorted(loaded & {"torch", "numpy", *HEAVY}) == []


@pytest.mark.parametrize(("side", "kind"), [(visalign.scorers, "scorer"), (visalign.trainers, "method")])
def test_a_face_offers_what_is_registered(side: ModuleType, kind: str) -> None:
    offered = registry.attributes(kind, side.__name__)
    assert offered
    assert [name for name in offered if getattr(side, name).__name__ != name] == []
    with pytest.raises(AttributeError, match="it offers"):
        getattr(side, "Nothing")  # noqa: B009


@pytest.mark.parametrize(("room", "kind"), [("scorers", "scorer"), ("trainers", "method")])
def test_type_checkers_see_what_is_registered(room: str, kind: str) -> None:
    """The face's imports under TYPE_CHECKING name every registered class; a registry line alone leaves them out."""
    tree = Source(f"{room}/__init__.py").tree
    shown = {alias.asname for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert sorted(shown - {None}, key=str) == registry.attributes(kind, f"visalign.{room}")


def test_shipped_files_name_no_folder_of_a_machine() -> None:
    for file in (ROOT / "visalign" / "playground" / "weights").rglob("*.json"):
        text = file.read_text(encoding="utf-8")
        assert not re.search(r'"(/|~|[A-Z]:\\)', text), f"{file} names a folder of the machine that made it"
