"""Names and what stands behind them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import yaml

from visalign import contract, registry

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in registry.kinds() for name in registry.names(kind)])
def test_every_name_has_its_object(kind: str, name: str) -> None:
    assert registry.load(kind, name).__doc__


def test_every_method_file_is_registered() -> None:
    files = {file.stem for file in (ROOT / "trainers").glob("*.py") if file.stem != "__init__"}
    assert files == set(registry.TABLE["method"])


def test_every_recipe_names_a_registered_method() -> None:
    recipes = [yaml.safe_load(file.read_text()) for file in (ROOT / "configs").glob("*.yaml")]
    assert {recipe["method"]["name"] for recipe in recipes} <= set(registry.names("method"))


def test_a_misspelt_name_is_answered_with_the_right_one() -> None:
    with pytest.raises(registry.UnknownName, match=r"named 'difusion_dpo'; did you mean diffusion_dpo\?"):
        registry.load("method", "difusion_dpo")
    with pytest.raises(registry.UnknownName, match=r"Known: .*diffusion_dpo, .*sft"):
        registry.load("method", "zzz")
    with pytest.raises(registry.UnknownName, match="did you mean method"):
        registry.names("methods")


def test_a_method_is_built_from_its_fields() -> None:
    made = registry.build("method", {"name": "diffusion_dpo", "beta": "2e3", "preference": "ipo"})
    assert (made.beta, made.preference, made.reference) == (2000.0, "ipo", contract.Reference.FROZEN)
    assert registry.build("method", "sft") == registry.build("method", {"name": "sft"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"name": "diffusion_dpo", "betta": 1}, r"unknown setting method.betta; did you mean beta\?"),
        ({"name": "diffusion_dpo", "beta": "high"}, r"method\.beta: expected a number, got 'high'"),
        ({"name": "diffusion_dpo", "beta": True}, r"method\.beta: expected a number, got True"),
        ({"name": "diffusion_dpo", "beta": -1}, "beta must be positive"),
        ({"name": "diffusion_dpo", "preference": "dpoo"}, "unknown loss 'dpoo'; did you mean"),
        ({"name": "sft", "beta": 1}, r"unknown setting method\.beta"),
        ({"beta": 1}, "a method needs a name"),
    ],
)
def test_settings_are_strict_and_say_what_they_want(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        registry.build("method", settings)


class Foreign:
    """A method of another distribution, and no dataclass."""

    def __init__(self, strength: int) -> None:
        if strength < 0:
            raise ValueError(f"strength must not be negative, got {strength}")
        self.strength = strength


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    point = EntryPoint("foreign", f"{__name__}:Foreign", "visalign.methods")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Foreign.__module__])
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "visalign.methods" else [])
    registry._brought.cache_clear()
    yield
    registry._brought.cache_clear()


@pytest.mark.usefixtures("announced")
def test_another_distribution_can_add_a_name() -> None:
    assert registry.build("method", {"name": "foreign", "strength": 3}).strength == 3
    with pytest.raises(registry.BadSetting, match=r"unknown setting method\.strenth; did you mean strength"):
        registry.build("method", {"name": "foreign", "strenth": 3})
    with pytest.raises(registry.BadSetting, match="method needs strength"):
        registry.build("method", "foreign")
    with pytest.raises(registry.BadSetting, match="must not be negative, got -1"):
        registry.build("method", {"name": "foreign", "strength": -1})


def test_a_taken_name_cannot_be_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("sft", "elsewhere:SFT", "visalign.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    registry._brought.cache_clear()
    with pytest.raises(registry.BadSetting, match=r"two methods are named 'sft': elsewhere:SFT and visalign\.trainers"):
        registry.names("method")
    registry._brought.cache_clear()
