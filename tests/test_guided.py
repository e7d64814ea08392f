"""Takes from a real picture: where they start, that a perfect model gives the picture back, what they share; and
`visalign guided`, which draws them of files."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import filmed
import methods
import numpy as np
import pytest
import tiny
import torch
from paired import pairs, picture
from PIL import Image
from torch import Tensor

from visalign import cli
from visalign.batches import Condition
from visalign.config import ConfigError
from visalign.data import clips, media, store
from visalign.diffusion.guided import Takes, guided_takes, noise_share, time_at
from visalign.diffusion.sampling import generate, to_uint8
from visalign.diffusion.source import Source
from visalign.drawing import Drawer, Settings
from visalign.draws import Draws
from visalign.jobs import takes
from visalign.models.folder import Folder
from visalign.process import Ddpm, Flow, Process

SHAPES = [(2, 8, 8), (2, 5, 4, 4)]  # a picture's latent, and a clip's
PATHS = ["flow", "shifted", "epsilon", "v_prediction"]


def path(name: str) -> Process:
    """One that ends at the picture itself."""
    if name in ("flow", "shifted"):
        return Flow(shift=5.66 if name == "shifted" else 1.0)
    return Ddpm.from_config({**methods.STABLE, "prediction_type": name, "set_alpha_to_one": True})


@dataclass
class Oracle:
    """Knows the pictures, and so what they were noised with; writes down when it is asked."""

    x0: Tensor
    process: Process
    asked: list[Tensor] = field(default_factory=list)

    def policy(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.asked.append(t)
        a, s = self.process.coefficients(t, x_t)
        return self.process.noised(self.x0, (x_t - a * self.x0) / s, t).target

    def reference(self, x_t: Tensor, t: Tensor, condition: Condition) -> Tensor:
        raise AssertionError("takes are the policy's")


def pictures(n: int = 4, shape: tuple[int, ...] = methods.SHAPE) -> Tensor:
    made, like = methods.fixed(n, torch.float64)
    return made.normal("x0", shape, like)


def taken(model: Any, x: Tensor, **settings: Any) -> Takes:
    n = len(x)
    told, untold = methods.condition(n, torch.float64), methods.empty(n, torch.float64)
    return guided_takes(model, x, told, untold, methods.draws(n), **{"steps": 40, **settings})


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PATHS)
def test_a_perfect_model_gives_every_picture_back(name: str, shape: tuple[int, ...]) -> None:
    """Whoever steps up where the path goes down (as the paper's algorithm prints it) ends far away."""
    x = pictures(4, shape)
    found = taken(Oracle(x, path(name)), x, count=3)
    assert found.x.shape == (4, 3, *shape)
    assert torch.allclose(found.x, x[:, None].expand_as(found.x), atol=1e-9)


@pytest.mark.parametrize("name", PATHS)
def test_the_first_time_is_the_level_and_not_a_share_of_the_steps(name: str) -> None:
    """Three quarters of the way down a schedule that is shifted by 5.66 there is a share of 0.944 noise left."""
    x, process = pictures(), path(name)
    model = Oracle(x, process)
    level = taken(model, x, levels=(0.75, 0.75)).level
    first = model.asked[0]
    assert torch.allclose(level, torch.full((4,), 0.75, dtype=torch.float64), atol=1e-3 if "_" in name else 2e-3)
    assert torch.equal(noise_share(process, first), level)
    a, s = process.coefficients(first, x)
    assert torch.allclose((s / a).flatten(), level / (1 - level))
    if isinstance(process, Flow):
        assert torch.equal(first, level)
        assert level.tolist() == [0.75] * 4
    below = process.grid(40).flip(0)
    below = below[(below < first[0]) & (below > 0)]
    assert len(model.asked) == 2 * (1 + len(below))
    assert torch.equal(torch.stack(model.asked[1 : 1 + len(below)])[:, 0], below)


def test_levels_are_the_papers_and_one_for_the_takes_of_a_record() -> None:
    x = pictures(64)
    model = Oracle(x, Flow())
    level = taken(model, x).level
    assert 0.65 <= float(level.min()) < 0.67
    assert 0.78 < float(level.max()) <= 0.80
    starts = [t for t in model.asked if torch.equal(t, level)]
    assert len(starts) == 2


@pytest.mark.parametrize("guidance", [1.0, 3.0])
@pytest.mark.parametrize("name", ["flow", "shifted", "epsilon"])
def test_a_take_from_the_very_top_is_a_drawing_from_its_noise(name: str, guidance: float) -> None:
    """Same sampler, same guidance, same grid."""
    model, x, draw = methods.denoiser("flow" if name == "shifted" else name), pictures(), methods.draws(4)
    model.process = path(name)
    top = model.process.grid(6)[-1:]
    level = float(noise_share(model.process, top))
    found = taken(model, x, steps=6, guidance=guidance, levels=(level, level)).x[:, 1]
    noise = draw.normal("take/1", methods.SHAPE, x)
    start = model.process.noised(x, noise, top.expand(4)).x
    told, untold = methods.condition(4, torch.float64), methods.empty(4, torch.float64)
    assert torch.equal(found, generate(model, told, untold, start, steps=6, guidance=guidance))


@pytest.mark.parametrize("prediction", ["flow", "epsilon"])
def test_a_batch_is_its_records_whatever_their_levels(prediction: str) -> None:
    model, x, draw = methods.denoiser(prediction), pictures(), methods.draws(4)
    told, untold = methods.condition(4, torch.float64), methods.empty(4, torch.float64)
    together = guided_takes(model, x, told, untold, draw, steps=8, levels=(0.2, 0.8))
    for row in range(4):
        one = replace(draw, keys=draw.keys[row : row + 1], visits=(0,))
        mine, nothing = (methods.rows_of(each, [row]) for each in (told, untold))
        alone = guided_takes(model, x[row : row + 1], mine, nothing, one, steps=8, levels=(0.2, 0.8))
        assert torch.allclose(alone.x[0], together.x[row], atol=1e-10)
        assert torch.equal(alone.level[0], together.level[row])


def test_takes_differ_and_more_of_them_begin_alike() -> None:
    model, x = methods.denoiser("flow"), pictures()
    two, three = (taken(model, x, steps=4, count=count).x for count in (2, 3))
    assert torch.equal(two, three[:, :2])
    assert not torch.isclose(three[:, 0], three[:, 1]).all()
    assert not torch.isclose(three[:, 1], three[:, 2]).all()


def test_clips_are_drawn_by_a_network() -> None:
    model, x = methods.model_of("dense_dpo", "flow"), pictures(4, methods.CLIP)
    found = taken(model, x, steps=4, guidance=2.0)
    assert found.x.shape == (4, 2, *methods.CLIP)
    assert found.x.dtype == torch.float64
    assert not found.x.requires_grad


@pytest.mark.parametrize("name", ["epsilon", "flow"])
def test_times_and_shares_undo_one_another(name: str) -> None:
    process = path(name)
    times = torch.tensor([3, 250, 700, 999]) if name == "epsilon" else torch.tensor([0.0, 0.3, 1.0]).double()
    assert torch.equal(time_at(process, noise_share(process, times)), times)


@pytest.mark.parametrize(("name", "level"), [("epsilon", 0.99), ("epsilon", 0.0), ("flow", 1.2), ("shifted", -0.1)])
def test_a_level_that_the_path_does_not_reach_is_refused(name: str, level: float) -> None:
    with pytest.raises(ConfigError, match=r"levels are shares of noise, on this path in .* got"):
        taken(Oracle(pictures(), path(name)), pictures(), levels=(level, level))


# visalign guided ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    """Three pictures with their prompts beside them."""
    for i in range(3):
        picture(tmp_path / f"shots/{i}.png", i)
        (tmp_path / f"shots/{i}.txt").write_text(f"a red circle {i}")
    return tmp_path / "shots"


def drawn(model: Path, path: Path, out: Path, *more: str) -> int:
    asked = ["--steps", "4", "--guidance", "2", "--batch", "2", *more]
    return cli.main(["guided", str(model), str(path), "--out", str(out), *asked])


def content(out: Path) -> dict[str, bytes]:
    return {each.relative_to(out).as_posix(): each.read_bytes() for each in out.rglob("*") if each.is_file()}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "takes.jsonl").read_text().splitlines()]


def test_takes_of_a_folder_are_candidates_that_can_be_labelled(model: Path, shots: Path, tmp_path: Path) -> None:
    out = tmp_path / "takes"
    assert drawn(model, shots, out) == 0
    records = store.read(out / "records.jsonl")
    assert [each.prompt for each in records] == [f"a red circle {i}" for i in range(3)]
    assert {each.models for each in records} == {(str(model), str(model))}
    for record in records:
        first, second = (np.asarray(Image.open(out / item)) for item in record.items)
        assert first.shape == second.shape == (16, 16, 3)
        assert not np.array_equal(first, second)
    told = rows(out)
    assert [each["key"] for each in told] == [each.key for each in records]
    assert [each["original"] for each in told] == [str(shots / f"{i}.png") for i in range(3)]
    assert all(0.649 < each["level"] < 0.801 for each in told)
    assert cli.main(["label", str(out / "records.jsonl"), "--scorer", "looks", "--out", str(out / "said.jsonl")]) == 0
    assert len(store.read(out / "said.jsonl")) == 3


def test_the_files_are_the_takes_of_the_encoded_picture(model: Path, shots: Path, tmp_path: Path) -> None:
    """By hand: encode, draw, decode."""
    out = tmp_path / "takes"
    assert drawn(model, shots, out, "--seed", "5", "--low", "0.7", "--high", "0.7", "--takes", "3") == 0
    record = store.read(out / "records.jsonl")[2]
    folder = Folder.open(model)
    encoders, name = folder.encoders(), Path(record.items[0]).stem.removesuffix("-0")
    pixels = media.framed(Image.open(shots / "2.png"), 16).pixels[None]
    told, untold = (encoders.conditions([each], (16, 16)) for each in (record.prompt, ""))
    found = guided_takes(
        folder.denoiser(), encoders.encode_images(pixels)[0], told, untold, Draws(5, (name,), (0,)), steps=4,
        guidance=2.0, count=3, levels=(0.7, 0.7),
    )  # fmt: skip
    expected = to_uint8(encoders.decode(found.x[0])).astype(int)
    assert len(record.items) == 3
    for item, take in zip(record.items, expected, strict=True):
        assert abs(np.asarray(Image.open(out / item)).astype(int) - take).max() <= 1
    assert rows(out)[2]["level"] == pytest.approx(float(found.level))


def test_the_same_command_goes_on_where_it_stopped(model: Path, shots: Path, tmp_path: Path) -> None:
    """A take that is lost is drawn again, alike; one more original changes nothing of the others."""
    out = tmp_path / "takes"
    assert drawn(model, shots, out) == 0
    before = content(out)
    lost, kept = (out / item for item in store.read(out / "records.jsonl")[1].items)
    times = {each: each.stat().st_mtime_ns for each in out.rglob("*.png")}
    lost.unlink()
    assert drawn(model, shots, out) == 0
    assert content(out) == before
    assert [each for each in times if each.stat().st_mtime_ns != times[each]] in ([lost, kept], [kept, lost])
    picture(shots / "0a.png", 7)
    (shots / "0a.txt").write_text("a blue square")
    assert drawn(model, shots, out) == 0
    assert [each.prompt for each in store.read(out / "records.jsonl")][1] == "a blue square"
    assert {name: data for name, data in content(out).items() if name in before and name.endswith("png")} == {
        name: data for name, data in before.items() if name.endswith("png")
    }


def test_other_settings_go_to_another_folder(
    model: Path, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn(model, shots, tmp_path / "takes") == 0
    assert drawn(model, shots, tmp_path / "takes", "--seed", "1") == 2
    assert "were drawn with seed 0, not 1: name another --out" in capsys.readouterr().err


def test_items_of_records_are_originals_too_each_once(model: Path, tmp_path: Path) -> None:
    made = pairs(tmp_path, 2)
    again = replace(made[0], key="again", judge="another")
    store.write([*made, again], tmp_path / "records.jsonl")
    assert drawn(model, tmp_path / "records.jsonl", tmp_path / "takes") == 0
    assert [each["original"] for each in rows(tmp_path / "takes")] == [
        str(tmp_path / item) for record in made for item in record.items
    ]


def test_what_cannot_be_read_is_told_and_left_out(
    model: Path, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shots / "1.png").write_bytes(b"no picture")
    assert drawn(model, shots, tmp_path / "takes") == 0
    assert "1 of 3 could not be read and have no takes" in capsys.readouterr().out
    assert len(store.read(tmp_path / "takes/records.jsonl")) == 2
    for name in ("0", "2"):
        (shots / f"{name}.png").write_bytes(b"no picture")
    assert drawn(model, shots, tmp_path / "none") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--low", "0.9"], r"0 < low <= high <= 1"),
        (["--takes", "0"], "--takes must be at least 1, got 0"),
        (["--high", "0.999"], "levels are shares of noise, on this path in"),
        (["--frames", "4"], "draws pictures, not clips of 4 frames"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    more: list[str], said: str, model: Path, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert drawn(model, shots, tmp_path / "takes", *more) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "takes/records.jsonl").exists()


def test_a_picture_without_a_prompt_is_named(
    model: Path, shots: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (shots / "1.txt").unlink()
    assert drawn(model, shots, tmp_path / "takes") == 2
    assert f"1.png has no prompt: write it to {shots / '1.txt'}" in capsys.readouterr().err


def test_takes_may_be_wider_than_high(model: Path, shots: Path, tmp_path: Path) -> None:
    assert drawn(model, shots, tmp_path / "takes", "--size", "16x32") == 0
    for file in (tmp_path / "takes/pictures").iterdir():
        with Image.open(file) as take:
            assert take.size == (32, 16)


@pytest.mark.parametrize(("family", "frames"), [("animatediff", 6), ("wan", 5)])
def test_clips_are_taken_by_a_model_of_clips(family: str, frames: int, tmp_path: Path) -> None:
    """A file, and a folder of frames; what is longer is cut. What is written is a lossless clip."""
    shots, out = tmp_path / "shots", tmp_path / "takes"
    shots.mkdir()
    clips.write(shots / "one.webp", filmed.noise(1, frames=frames + 2))
    (shots / "one.txt").write_text("a red circle")
    for i, frame in enumerate(filmed.noise(2, frames=frames)):
        picture(shots / f"two/{i}.png", 0)
        Image.fromarray(frame).save(shots / f"two/{i}.png")
    (shots / "two.txt").write_text("a blue square")
    folder = tiny.folder(tmp_path / "model", family)
    assert drawn(folder, shots, out, "--frames", str(frames), "--size", "16") == 0
    records = store.read(out / "records.jsonl")
    assert [each.prompt for each in records] == ["a red circle", "a blue square"]
    for record in records:
        first, second = (np.stack([np.asarray(each) for each in clips.frames(item, out)]) for item in record.items)
        assert first.shape == second.shape == (frames, 16, 16, 3)
        assert not np.array_equal(first, second)


def test_where_nothing_is_said_the_size_of_all_takes_decides_how_many_originals_are_drawn_together(
    model: Path, tmp_path: Path
) -> None:
    drawer = Drawer(Source.find(str(model)), Settings(steps=2, guidance=1.0, size=16))
    counts = [takes.Job(drawer, tmp_path, tmp_path, takes.Plan(count)).at_once for count in (1, 2, 3, 64)]
    assert counts == [32, 16, 10, 1]
    drawer.settings = replace(drawer.settings, batch=5)
    assert takes.Job(drawer, tmp_path, tmp_path, takes.Plan(2)).at_once == 5
