"""Settings: what is refused and how it is said, and that a filled run reads back as itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from visalign import config
from visalign.config import ConfigError, Optimizer, Run, load, plain, to_yaml


def refusal(*changes: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(None, changes)
    assert "\n" not in str(caught.value), "one line for the command line"
    return str(caught.value)


def test_no_file_and_no_changes_are_the_defaults() -> None:
    assert load(None) == Run()


def test_a_filled_run_reads_back_as_itself(tmp_path: Path) -> None:
    run = load(
        None, ["optimizer.lr=2e-6", "method={name: sft}", "trackers=[tensorboard]", "data.cache=/a/b", "ema=.99"]
    )
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(run))
    assert load(file) == run
    assert plain(run) == yaml.safe_load(to_yaml(run))


@given(st.floats(1e-12, 1e3))
def test_numbers_survive_yaml_to_the_last_bit(lr: float) -> None:
    run = Run(optimizer=Optimizer(lr=lr))
    assert config.fill(Run, yaml.safe_load(to_yaml(run)), "") == run


def test_yaml_reads_1e_6_as_text_and_we_as_a_number(tmp_path: Path) -> None:
    assert yaml.safe_load("1e-6") == "1e-6"
    file = tmp_path / "run.yaml"
    file.write_text("optimizer: {lr: 1e-6, eps: 1e-9}\nprecision: no\n")
    run = load(file, ["ema=9e-1"])
    assert (run.optimizer.lr, run.optimizer.eps, run.ema, run.precision) == (1e-6, 1e-9, 0.9, "no")


def test_changes_come_after_the_file_and_later_ones_win(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("steps: 7\nmethod: {name: diffusion_dpo, beta: 2000}\n")
    run = load(file, ["steps=8", "steps=9", "method.preference={name: robust, epsilon: 0.1}", "model.rank=4"])
    assert (run.steps, run.model.rank) == (9, 4)
    assert run.method == {"name": "diffusion_dpo", "beta": 2000, "preference": {"name": "robust", "epsilon": 0.1}}


def test_a_method_may_be_given_by_its_bare_name(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: sft\n")
    assert load(file).method == {"name": "sft"}
    assert load(file, ["method.weight=2"]).method == {"name": "sft", "weight": 2}
    assert load(None, ["method=sft"]).method == {"name": "sft"}


def test_an_unknown_key_is_named_with_what_may_have_been_meant() -> None:
    said = refusal("optimizer.learning_rat=1")
    assert said.startswith("unknown setting optimizer.learning_rat;") and "lr" in said
    assert "did you mean micro_batch?" in refusal("microbatch=2")
    assert "Known: " in refusal("zzz=1") and "did you mean" not in refusal("zzz=1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("seed=1.5", "seed: expected a whole number, got 1.5 (float)"),
        ("seed=true", "seed: expected a whole number, got True (bool)"),
        ("compile=1", "compile: expected true or false, got 1 (int)"),
        ("optimizer.lr=fast", "optimizer.lr: expected a number, got 'fast' (str)"),
        ("optimizer.lr=[1e-5]", "optimizer.lr: expected a number, got ['1e-5'] (list)"),
        ("optimizer.betas=[0.9]", "optimizer.betas: expected a list of 2, got [0.9] (list)"),
        ("optimizer.betas=[0.9, high]", "optimizer.betas[1]: expected a number, got 'high' (str)"),
        ("optimizer=adam", "optimizer: expected settings, got 'adam' (str)"),
        ("trackers=wandb", "trackers: expected a list, as in [a, b], got 'wandb' (str)"),
        ("trackers=[mlflow]", "trackers[0]: expected one of tensorboard, wandb, got 'mlflow' (str)"),
        ("model.train=lorra", "model.train: expected one of lora, full, user, got 'lorra' (str)"),
        ("out=3", "out: expected a path, got 3 (int)"),
        ("name=", "name: expected text, got None (NoneType)"),
        ("steps=0", "steps must be at least 1, got 0"),
        ("keep=1", "keep must be at least 2, got 1"),
        ("ema=1.5", "ema must be at least 0.0 and at most 1.0, got 1.5"),
        ("optimizer.lr=.nan", "optimizer.lr must be at least 0.0, got nan"),
        ("optimizer.lr=.inf", "optimizer.lr must be at least 0.0, got inf"),
        ("model.alpha=0", "model.alpha must be above 0.0, got 0.0"),
        ("method={beta: 1}", "method needs a name, as in {name: diffusion_dpo}; got {'beta': 1}"),
        ("steps", "a change reads name=value, as in optimizer.lr=1e-5; got 'steps'"),
        ("seed.high=1", "seed: expected a whole number, got {'high': 1} (dict)"),
        ("steps=[", "steps: '[' is not a YAML value"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path_what_was_given_and_what_was_expected(change: str, said: str) -> None:
    assert refusal(change) == said


def test_a_change_cannot_go_into_what_has_no_parts(tmp_path: Path) -> None:
    assert refusal("seed=1", "seed.high=1") == "seed.high: seed is 1 and has no parts"


def test_a_batch_is_whole_micro_batches() -> None:
    assert refusal("batch=6", "micro_batch=4") == "batch (6) must be a multiple of micro_batch (4)"


def test_a_run_made_in_code_keeps_to_the_same_ranges() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.clip must be at least 0"):
        Run(optimizer=Optimizer(clip=-1.0))


def test_a_file_that_is_not_there_or_not_settings_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file or recipe: nowhere\.yaml"):
        load("nowhere.yaml")
    for text in ("- a\n- b\n", "a: [", "just words"):
        file = tmp_path / "bad.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"bad\.yaml") as caught:
            load(file)
        assert "\n" not in str(caught.value)


def test_every_recipe_that_ships_is_a_run() -> None:
    for name in config.recipes():
        assert isinstance(load(name), Run), name


def test_yaml_that_would_make_objects_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not YAML"):
        load(file)


@dataclass(frozen=True)
class Needy:
    """A dataclass of another room, with a field that has no default and one of a type of its own."""

    beta: float
    scale: int | None = None
    loss: Any = "dpo"
    extra: Mapping[str, float] | None = None


def test_any_dataclass_is_filled_by_the_same_rules() -> None:
    assert config.fill(Needy, {"beta": "1e-3", "loss": {"name": "ipo"}}, "method") == Needy(1e-3, loss={"name": "ipo"})
    assert config.fill(Needy, {"beta": 1, "scale": None}, "method") == Needy(1.0)
    with pytest.raises(ConfigError, match=r"^method needs beta$"):
        config.fill(Needy, {"scale": 3}, "method")
    with pytest.raises(ConfigError, match=r"^unknown setting method\.bta; did you mean beta\?"):
        config.fill(Needy, {"bta": 3}, "method")
