"""Models of clips: what ours draw is what diffusers' own pipelines draw, and they are trained as pictures are."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler
from diffusers.models.attention_dispatch import AttentionBackendName
from diffusers.models.attention_processor import AttnProcessor2_0
from drawn import checkpointing_changes_no_bit, nudge
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from visalign.batches import Condition, Pairs, Segments
from visalign.cli import main
from visalign.data import clips, store
from visalign.diffusion import noise_pairs, sampling
from visalign.diffusion.sampling import generate, initial_noise
from visalign.diffusion.source import Source
from visalign.drawing import Drawer, Settings
from visalign.draws import Draws
from visalign.models import architectures, attention, cost
from visalign.models.denoiser import NetworkDenoiser
from visalign.models.folder import Folder, FolderError
from visalign.models.publish import absent_parts, publish
from visalign.models.users import Shape
from visalign.models.wan import WAN
from visalign.process import Flow
from visalign.records import DataError
from visalign.trainers import DenseDPO, DiffusionDPO

FAMILIES = ["animatediff", "wan"]
PROMPTS = ["a red circle left of a blue square", "a green square"]
SIZES = {"animatediff": (4, 16, 16), "wan": (5, 32, 32)}


@pytest.fixture(scope="module")
def still(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Of AnimateDiff, whose autoencoder knows stills alone."""
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / "animatediff", "animatediff"))


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / "wan", "wan"))


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, still: Folder, wan: Folder) -> Folder:
    return wan if request.param == "wan" else still


def size_of(folder: Folder) -> tuple[int, ...]:
    return SIZES[folder.family.name]


def pairs(folder: Folder) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    encoders = folder.encoders()
    win, lose = (torch.randn(2, *encoders.latent_shape(size_of(folder)), generator=generator) for _ in range(2))
    condition = encoders.conditions(PROMPTS * 2, size_of(folder))
    draw = Draws(0, ("clip 0", "clip 1"), (0, 0))
    return Pairs(win, lose, condition, draw, torch.ones(2), torch.ones(2))


def pipeline(folder: Folder) -> Any:
    pipe = folder.pipeline(**absent_parts(folder))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe: Any, noise: torch.Tensor, size: tuple[int, ...], kind: str = "latent") -> torch.Tensor:
    """What diffusers' own pipeline draws of PROMPTS from this noise."""
    frames, height, width = size
    found: torch.Tensor = pipe(
        PROMPTS, latents=noise, num_frames=frames, height=height, width=width, num_inference_steps=5,
        guidance_scale=3.0, output_type=kind,
    ).frames  # fmt: skip
    return found


def ours(folder: Folder, model: NetworkDenoiser, size: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise, and the latents that we draw of PROMPTS from it."""
    encoders = folder.encoders()
    noise = initial_noise([3, 4], encoders.latent_shape(size), torch.zeros(()))
    told, untold = (encoders.conditions(words, size) for words in (PROMPTS, ["", ""]))
    return noise, generate(model, told, untold, noise, steps=5, guidance=3.0)


def test_sampling_equals_diffusers_own_pipeline(folder: Folder) -> None:
    size = size_of(folder)
    noise, found = ours(folder, folder.denoiser(train="lora", rank=2), size)
    pipe = pipeline(folder)
    expected = drawn(pipe, noise, size)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    pixels = drawn(pipe, noise, size, "pt").transpose(1, 2)
    assert pixels.shape == (2, 3, *size)
    assert torch.allclose(folder.encoders().decode(found), pixels, atol=1e-4)


def test_where_nothing_is_said_clips_are_drawn_by_the_size_of_their_latents_and_are_the_same(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames, *sides = size_of(folder)
    drawer = Drawer(Source.find(str(folder.path)), Settings(2, 2.0, tuple(sides), frames=frames))  # type: ignore[arg-type]
    assert drawer.batch == 32
    elements = math.prod(drawer.encoders.latent_shape(drawer.size))
    monkeypatch.setattr(sampling, "LATENTS", 2 * elements)
    by_itself = list(drawer.batches(PROMPTS[:1] * 3, [0, 1, 2]))
    drawer.settings = replace(drawer.settings, batch=3)
    (said,) = drawer.batches(PROMPTS[:1] * 3, [0, 1, 2])
    assert [len(each) for each in by_itself] == [2, 1]
    assert abs(np.concatenate(by_itself).astype(int) - said).max() <= 1


def test_a_wan_that_is_told_the_time_of_each_token_draws_as_its_pipeline_does(tmp_path: Path) -> None:
    """Wan 2.2 5B's folders (`expand_timesteps`): without a first frame that is given, all tokens have one time."""
    folder, size = Folder.open(tiny.folder(tmp_path, "wan22")), (5, 64, 32)
    noise, found = ours(folder, folder.denoiser(train="lora", rank=2), size)
    assert found.shape == (2, 48, 2, 4, 2)
    pipe = pipeline(folder)
    expected = drawn(pipe, noise, size)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(folder.encoders().decode(found), drawn(pipe, noise, size, "pt").transpose(1, 2), atol=1e-4)


def test_dense_dpo_begins_at_log_2_bit_for_bit_and_labels_are_of_latent_frames(folder: Folder) -> None:
    model, batch = folder.denoiser(train="lora", rank=4), pairs(folder)
    labels = torch.ones(2, batch.win.shape[2])
    labels[0, 0], labels[1, -1] = 0.0, -1.0
    given = {each.name: getattr(batch, each.name) for each in fields(batch)}
    loss = DenseDPO(beta=500).loss(Segments(**given, labels=labels), model)
    assert torch.equal(loss.each.detach(), -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    assert all(bool(each.grad.isfinite().all()) for each in model.trainable().values() if each.grad is not None)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_loss_begins_at_log_2_bit_for_bit_and_has_a_gradient(folder: Folder, dtype: str) -> None:
    model, batch = folder.denoiser(train="lora", rank=4, dtype=dtype), pairs(folder)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
        loss = DiffusionDPO(beta=5000).loss(batch, model)
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    assert all(each.grad is not None for each in model.trainable().values())
    assert sum(float(each.grad.square().sum()) for each in model.trainable().values() if each.grad is not None) > 0


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(folder: Folder) -> None:
    checkpointing_changes_no_bit(folder, pairs(folder))


def test_a_batch_of_two_is_two_batches_of_one(folder: Folder) -> None:
    """And so is the text told to every frame of its own clip."""
    model, batch = folder.denoiser(train="lora", rank=2), pairs(folder)
    at = noise_pairs(model.process, batch)
    with torch.no_grad():
        together = model.policy(at.x, at.t, batch.condition)
        for row in range(4):
            told = Condition(batch.condition.text[row : row + 1])
            alone = model.policy(at.x[row : row + 1], at.t[row : row + 1], told)
            assert torch.allclose(alone, together[row : row + 1], atol=1e-5)


def test_a_lora_loads_in_plain_diffusers_and_draws_the_same_clip(folder: Folder, tmp_path: Path) -> None:
    model, size = folder.denoiser(train="lora", rank=3, alpha=6.0), size_of(folder)
    before = ours(folder, model, size)[1]
    nudge(model, 0.1)
    publish(model, folder, tmp_path / "weights", {"name": "tiny", "beta": 5000})
    noise, found = ours(folder, model, size)
    pipe = pipeline(folder)
    pipe.load_lora_weights(tmp_path / "weights")
    theirs = drawn(pipe, noise, size)
    assert torch.allclose(found, theirs, atol=1e-4 * float(theirs.abs().max()))
    assert not torch.allclose(before, found, atol=1e-2)


def test_full_weights_load_as_a_plain_pipeline(folder: Folder, tmp_path: Path) -> None:
    import diffusers

    model = folder.denoiser(train="full")
    nudge(model)
    publish(model, folder, tmp_path / "weights", {"name": "tiny"})
    loaded = getattr(diffusers, folder.pipeline_class).from_pretrained(tmp_path / "weights")
    network = getattr(loaded, folder.family.part)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), model.network.parameters(), strict=True))


def test_frames_are_encoded_each_by_itself_and_come_back(still: Folder) -> None:
    encoders = still.encoders()
    pixels = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, deviation = encoders.encode_images(pixels)
    assert mean.shape == deviation.shape == (2, *encoders.latent_shape((5, 16, 16))) == (2, 4, 5, 8, 8)
    alone = encoders.encode_images(pixels[1:, :, 3:4])
    assert torch.allclose(alone[0][:, :, 0], mean[1:, :, 3], atol=1e-6)
    assert encoders.decode(mean).shape == (2, 3, 5, 16, 16)
    with pytest.raises(DataError, match="clips of 1 to 8 frames, not of 9"):
        encoders.latent_shape((9, 16, 16))


def test_wans_latents_are_whitened_by_channel_and_its_later_frames_are_of_four(wan: Folder) -> None:
    """The published means and deviations; frames that fill no latent, which the autoencoder drops, are refused."""
    encoders = wan.encoders()
    pixels = torch.rand(1, 3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, deviation = encoders.encode_images(pixels)
    vae = AutoencoderKLWan.from_pretrained(wan.path, subfolder="vae")
    raw = vae.encode(pixels).latent_dist
    for channel, (middle, spread) in enumerate(zip(vae.config.latents_mean, vae.config.latents_std, strict=True)):
        assert torch.allclose(mean[:, channel] * spread + middle, raw.mean[:, channel], atol=1e-5)
        assert torch.allclose(deviation[:, channel] * spread, raw.std[:, channel], atol=1e-5)
    assert mean.shape == (1, *encoders.latent_shape((9, 32, 32))) == (1, 16, 3, 4, 4)
    assert torch.allclose(encoders.encode_images(pixels[:, :, :5])[0], mean[:, :, :2], atol=1e-5)  # causal
    assert encoders.decode(mean).shape == pixels.shape
    with pytest.raises(DataError, match=r"4 k \+ 1 frames, not 8; 5 and 9 are near"):
        encoders.encode_images(pixels[:, :, :8])
    with pytest.raises(DataError, match="multiples of 16 pixels, got 24 x 32"):
        encoders.latent_shape((5, 24, 32))


def test_wans_prompts_are_cleaned_and_padded_with_zeros_as_its_pipeline_does(wan: Folder) -> None:
    prompts = ["a red  circle &amp;amp; left\nof a blue square", "a green square", ""]
    text, pooled = wan.encoders().encode_prompts(prompts)
    expected, empty = pipeline(wan).encode_prompt(prompts[:2], max_sequence_length=512)
    assert pooled is None
    assert text.shape == (3, 512, 16)
    assert torch.allclose(text, torch.cat([expected, empty[:1]]), atol=1e-5)
    assert not text[1, 5:].any()
    cleaned = wan.encoders().encode_prompts(["a red circle & left of a blue square"])[0]
    assert torch.equal(cleaned, text[:1])


def test_every_attention_layer_has_the_kernel_that_was_resolved(folder: Folder) -> None:
    network = folder.denoiser(train="lora", rank=2).network
    layers = [each for each in network.modules() if hasattr(each, "to_q") and hasattr(each, "processor")]
    assert len(layers) >= 4
    assert attention.head_widths(network) == {"animatediff": (8, 16), "wan": (12,)}[folder.family.name]
    for each in layers:
        kind = getattr(each.processor, "_attention_backend", type(each.processor))
        assert kind in (AttentionBackendName.NATIVE, AttnProcessor2_0)


def test_a_users_taste_is_told_to_every_frame_of_a_clip(still: Folder) -> None:
    shape = Shape(tokens=2, width=5)
    model = still.denoiser(train="user", users=shape)
    batch = pairs(still)
    at = noise_pairs(model.process, batch)
    nudge(model, 0.1)
    user = torch.randn(4, 2, 5, generator=torch.Generator().manual_seed(2))
    told = replace(batch.condition, user=user)
    moved = (model.policy(at.x, at.t, told) - model.reference(at.x, at.t, told)).detach().square().mean((0, 1, 3, 4))
    assert (moved > 1e-8).all()


def test_folders_that_are_not_one_known_network_are_refused(tmp_path: Path, still: Folder, wan: Folder) -> None:
    def changed(folder: Folder, **entries: Any) -> Path:
        index = json.loads((folder.path / "model_index.json").read_text())
        where = tmp_path / folder.family.name
        where.mkdir(exist_ok=True)
        (where / "model_index.json").write_text(json.dumps(index | entries))
        return where

    experts = {"transformer_2": ["diffusers", "WanTransformer3DModel"], "boundary_ratio": 0.875}
    with pytest.raises(FolderError, match=r"two experts .* boundary_ratio 0\.875"):
        Folder.open(changed(wan, **experts))
    with pytest.raises(FolderError, match="its unet is a UNet2DConditionModel, not a UNetMotionModel"):
        Folder.open(changed(still, unet=["diffusers", "UNet2DConditionModel"]))


def test_wans_own_multistep_scheduler_is_a_flow_of_its_shift(tmp_path: Path, wan: Folder) -> None:
    shutil.copytree(wan.path, tmp_path / "wan")
    UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    ).save_pretrained(tmp_path / "wan" / "scheduler")  # fmt: skip
    assert Folder.open(tmp_path / "wan").process == Flow(shift=5.0, ends="spread")


@pytest.mark.parametrize(
    ("config", "published"), [(architectures.WAN_1B, 1_418_996_800), (architectures.WAN_14B, 14_288_491_584)]
)
def test_wans_published_shapes_have_their_sizes(config: dict[str, Any], published: int) -> None:
    network = cost.skeleton(cost.Shape(WAN, config, size=(1, 8, 8)))
    assert sum(each.numel() for each in network.parameters()) == published


def test_the_cost_of_a_clip_is_that_of_a_real_run(folder: Folder) -> None:
    encoders, network = folder.encoders(), folder.network()
    latent = encoders.latent_shape(size_of(folder))
    told = encoders.conditions(PROMPTS[:1], size_of(folder))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        folder.family.ask(network, torch.randn(1, *latent), torch.tensor([5]), told)
    tokens = told.text.shape[1]
    shape = cost.Shape(folder.family, folder.network_config(), size=latent[1:], tokens=tokens, train="full")
    assert cost.estimate(shape).forward_flop == counter.get_total_flops()


def test_clips_are_drawn_judged_on_and_trained_from_the_command_line(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two clips, a run on them that starts at log 2 and draws clips on the way, and a clip by what it made."""
    frames, side, _ = size_of(folder)
    small = ["--steps", "2", "--size", str(side), "--frames", str(frames)]
    words = ["generate", str(folder.path), "--prompts", PROMPTS[1], "--out", str(tmp_path), "--seeds", "2", *small]
    assert main(words) == 0
    (record,) = store.read(tmp_path / "records.jsonl")
    found = [clips.frames(item, tmp_path) for item in record.items]
    assert [(len(each), each[0].size) for each in found] == [(frames, (side, side))] * 2
    assert (tmp_path / "frames.png").stat().st_size > 500
    store.write([record.judged([1.0, 0.0], scale="utility", judge="test")], tmp_path / "judged.jsonl")
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "run"
    recipe.write_text(
        f"steps: 2\nbatch: 1\nmodel: {{folder: {folder.path}, rank: 2}}\noptimizer: {{lr: 1e-3}}\nout: {run}\n"
        f"data: {{path: {tmp_path}/judged.jsonl, resolution: {side}, width: {2 * side}, frames: {frames}}}\n"
        f"validation: {{prompts: [{PROMPTS[0]}], every: 2, steps: 2}}\nmethod: {{name: diffusion_dpo, beta: 100}}\n"
    )
    assert main(["train", str(recipe)]) == 0
    losses = [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert losses[0] == float(-torch.nn.functional.logsigmoid(torch.zeros(())))
    assert losses[1] != losses[0]
    assert (run / "validation" / "step-000002.png").is_file()
    assert main(["generate", str(run), "--prompts", PROMPTS[0], "--out", str(tmp_path / "after"), *small]) == 0
    assert main(["train", str(recipe), "--dry-run"]) == 0
    assert "forward of one clip" in capsys.readouterr().out
    assert main(["train", str(recipe), "data.frames=null"]) == 2
    assert "set data.frames" in capsys.readouterr().err
    assert main(["compare", str(folder.path), "playground"]) == 2
    assert "clips are compared with clips" in capsys.readouterr().err
