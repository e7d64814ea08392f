"""Foreign weights: unwrapped, loaded strictly, made safetensors without running what a pickle names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny_scorers
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from visalign import cli, scorers
from visalign.models import states
from visalign.models.states import WeightsError
from visalign.registry import BadSetting
from visalign.scoring import paired

# Saves a module of classes that nobody else can import, in a process of its own; its __reduce__ would write a file.
FOREIGN = """
import sys, torch
from torch import nn
from pathlib import Path
module = type(sys)("trainer.models.foreign"); sys.modules["trainer"] = sys.modules["trainer.models"] = module
sys.modules["trainer.models.foreign"] = module
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(3, 2), nn.Dropout(0.1)
        self.register_buffer("kept", torch.arange(4.0))
        self.register_buffer("passing", torch.zeros(9), persistent=False)
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers, self.scale = nn.ModuleList([Block(), Block()]), nn.Parameter(torch.tensor(4.6))
class Trap:
    def __reduce__(self):
        return (exec, ("open(%r, 'w').write('ran')" % sys.argv[2],))
for each in (Block, Model):
    each.__module__ = "trainer.models.foreign"; each.__qualname__ = each.__name__; setattr(module, each.__name__, each)
torch.manual_seed(0)
model = Model().half()
model.trap = Trap()
torch.save(model, sys.argv[1])
torch.save(model.state_dict(), sys.argv[1] + ".state")
"""


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    path = folder / "whole_module.pth"
    subprocess.run([sys.executable, "-c", FOREIGN, str(path), str(folder / "ran")], check=True)
    return path


def test_a_pickled_module_gives_its_tensors_and_runs_nothing(foreign: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    assert cli.main(["scorers", "convert", str(foreign), str(out)]) == 0
    found, wanted = load_file(out), torch.load(f"{foreign}.state", weights_only=True)
    assert found.keys() == wanted.keys() == {
        "scale", *(f"layers.{layer}.{name}" for layer in (0, 1) for name in ("kept", "linear.weight", "linear.bias")),
    }  # fmt: skip
    assert all(torch.equal(found[name], wanted[name]) and found[name].dtype == torch.float16 for name in wanted)
    assert not (foreign.parent / "ran").exists()


def test_a_pickled_module_is_no_state_dict_and_the_mend_is_named(foreign: Path) -> None:
    with pytest.raises(WeightsError, match=r"visalign scorers convert .*whole_module\.pth"):
        states.read(foreign)


@pytest.mark.parametrize("nest", ["bare", "state_dict", "model", "module inside state_dict"])
def test_what_training_scripts_put_around_tensors_is_taken_off(nest: str, tmp_path: Path) -> None:
    state = {"a.weight": torch.ones(2), "step": torch.tensor(3)}
    wrapped = {
        "bare": state,
        "state_dict": {"epoch": 7, "state_dict": state},
        "model": {"model": state},
        "module inside state_dict": {"state_dict": {f"module.{name}": each for name, each in state.items()}},
    }[nest]
    torch.save(wrapped, tmp_path / "w.pt")
    assert states.read(tmp_path / "w.pt").keys() == state.keys()


def test_files_that_are_none_are_told_apart(tmp_path: Path) -> None:
    for name, content, why in (
        ("a.pt", b"not a checkpoint", "cannot be read as plain tensors"),
        ("a.safetensors", b"\x08", "not a whole safetensors file"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=why):
            states.read(tmp_path / name)
    torch.save({"epoch": 3}, tmp_path / "b.pt")
    with pytest.raises(WeightsError, match="holds no tensors but epoch"):
        states.read(tmp_path / "b.pt")
    torch.save([1, 2], tmp_path / "c.pt")
    with pytest.raises(WeightsError, match="holds a list and no state dict"):
        states.read(tmp_path / "c.pt")


def test_loading_is_strict_and_says_what_does_not_fit() -> None:
    layer = nn.Linear(3, 2)
    whole = {"weight": torch.zeros(2, 3), "bias": torch.ones(2)}
    states.load_into(layer, whole, "it")
    assert torch.equal(layer.bias, torch.ones(2))
    with pytest.raises(WeightsError, match=r"lacks 1 tensors \(bias\), and has 1 tensors \(extra\) too many"):
        states.load_into(layer, {"weight": whole["weight"], "extra": torch.zeros(1)}, "it")
    with pytest.raises(WeightsError, match=r"weight should be \(2, 3\) and is \(3, 2\)"):
        states.load_into(layer, whole | {"weight": torch.zeros(3, 2)}, "it")


def test_weights_are_loaded_in_the_precision_that_was_asked_for(tmp_path: Path) -> None:
    state = {name: each.half() for name, each in tiny_scorers.open_clip_model().state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "half.pt")
    made = scorers.load("hpsv2.1", weights=tmp_path / "half.pt", config=tiny_scorers.OPEN_CLIP)
    assert {each.dtype for each in made.towers.network.parameters()} == {torch.float32}  # type: ignore[attr-defined]


def test_a_converted_file_scores_as_the_official_one(tmp_path: Path) -> None:
    official = tiny_scorers.hps_file(tmp_path)
    out = tmp_path / "hps.safetensors"
    assert cli.main(["scorers", "convert", str(official), str(out)]) == 0
    samples = paired(tiny_scorers.pictures(3), "a red circle")
    one, other = (
        scorers.load("hpsv2.1", weights=each, config=tiny_scorers.OPEN_CLIP).score(samples).values
        for each in (official, out)
    )
    assert torch.equal(one, other)


def test_converting_to_another_ending_or_from_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["scorers", "convert", str(tmp_path / "none.pt"), str(tmp_path / "o.safetensors")]) == 2
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    assert cli.main(["scorers", "convert", str(tmp_path / "a.safetensors"), str(tmp_path / "o.bin")]) == 2
    told = capsys.readouterr().err
    assert "no such file" in told
    assert "should end in .safetensors" in told


def test_without_weights_and_without_leave_to_download_the_file_is_named() -> None:
    with pytest.raises(
        BadSetting, match=r"HPS_v2\.1_compressed\.pt of xswu/HPSv2 is not on this machine: give weights=PATH"
    ):
        scorers.load("hpsv2.1")
    with pytest.raises(BadSetting, match=r"no weights at /nowhere: give the official file"):
        scorers.load("pickscore", weights="/nowhere")
    with pytest.raises(BadSetting, match="needs weights"):
        scorers.load("mps")


def test_a_model_folder_brings_its_own_configuration(tmp_path: Path) -> None:
    """What `save_pretrained` wrote and what the hub's repositories hold."""
    network = tiny_scorers.hf_clip_model()
    network.save_pretrained(tmp_path / "clip")
    made = scorers.load("pickscore", weights=tmp_path / "clip")
    samples = paired(tiny_scorers.pictures(2), "a red circle")
    file = tiny_scorers.clip_file(tmp_path)
    direct = scorers.load("pickscore", weights=file, config=tiny_scorers.HF_CLIP)
    assert torch.equal(made.score(samples).values, direct.score(samples).values)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadSetting, match=r"holds none of model\.safetensors"):
        scorers.load("pickscore", weights=tmp_path / "empty", config=tiny_scorers.HF_CLIP)


def test_a_head_of_another_shape_is_refused(tmp_path: Path) -> None:
    v1 = tiny_scorers.aesthetic_file(tmp_path, "1")
    clip = tiny_scorers.clip_file(tmp_path)
    with pytest.raises(BadSetting, match=r"it should hold layers\.0\.bias, .* and holds bias, weight"):
        scorers.load("aesthetic_v2", weights=v1, clip=clip, config=tiny_scorers.HF_CLIP)
