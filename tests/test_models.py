"""Model folders of each shape: what our adapters draw is what diffusers' own pipelines draw."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from drawn import batched_as_alone, checkpointing_changes_no_bit, nudge, pairs, part

from visalign.contract import Denoiser, Reference
from visalign.diffusion import errors, noise_pairs, sampling
from visalign.diffusion.sampling import generate, initial_noise, pictures
from visalign.models import attention
from visalign.models.folder import Folder, FolderError
from visalign.models.publish import attach_lora, publish
from visalign.models.weights import Full
from visalign.trainers import DiffusionDPO

FAMILIES = ["sd15", "sd21", "sdxl"]
PROMPTS = ["a red circle left of a blue square", "a green square", ""]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / request.param, request.param))


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("model") / "sd15", "sd15"))


def test_sampling_equals_diffusers_own_pipeline(folder: Folder) -> None:
    encoders, model = folder.encoders(), folder.denoiser(train="lora", rank=2)
    size = (16, 16)
    noise = initial_noise([3, 4], encoders.latent_shape(size), torch.zeros(()))
    told, untold = (encoders.conditions(words, size) for words in (PROMPTS[:2], ["", ""]))
    ours = generate(model, told, untold, noise, steps=7, guidance=3.0)
    pipe = folder.pipeline()
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        PROMPTS[:2], latents=noise, num_inference_steps=7, guidance_scale=3.0, height=16, width=16, output_type="latent"
    ).images
    assert torch.allclose(ours, theirs, atol=2e-4 * float(theirs.abs().max()))


def test_a_picture_is_a_pure_function_of_its_prompt_and_seed(sd15: Folder) -> None:
    encoders, model = sd15.encoders(), sd15.denoiser(train="lora", rank=2)
    settings: dict[str, Any] = {"size": (16, 16), "steps": 3, "guidance": 2.0}
    together = next(iter(pictures(encoders, model, PROMPTS, [5, 6, 7], batch=3, **settings)))
    alone = next(iter(pictures(encoders, model, PROMPTS[1:2], [6], **settings)))
    assert together.shape == (3, 16, 16, 3)
    assert abs(together[1].astype(int) - alone[0]).max() <= 1


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ((4, 8, 8), 32),  # the playground's
        ((4, 64, 64), 32),  # Stable Diffusion, 512 x 512
        ((4, 128, 128), 8),  # XL, 1024 x 1024
        ((16, 128, 128), 2),  # SD3 and FLUX
        ((4, 16, 64, 64), 2),  # AnimateDiff
        ((16, 21, 60, 104), 1),  # Wan 2.1, 81 frames of 480 x 832
    ],
)
def test_as_many_are_drawn_together_as_their_latents_are_small(shape: tuple[int, ...], count: int) -> None:
    assert sampling.at_once(shape) == count


@pytest.mark.parametrize("train", ["lora", "full"])
def test_policy_and_reference_are_equal_bit_for_bit_before_training(folder: Folder, train: str) -> None:
    model = folder.denoiser(train=train, rank=4)
    assert isinstance(model, Denoiser)
    batch = pairs(folder)
    found = errors(model, noise_pairs(model.process, batch), batch.condition)
    assert torch.equal(found.policy, found.reference)


@pytest.mark.parametrize("train", ["lora", "full"])
def test_they_are_equal_under_bf16_autocast_and_so_the_loss_is_log_2_bit_for_bit(folder: Folder, train: str) -> None:
    model, batch = folder.denoiser(train=train, rank=4), pairs(folder)
    with torch.autocast("cpu", torch.bfloat16):
        loss = DiffusionDPO(beta=5000).loss(batch, model)
    assert torch.equal(loss.each, -torch.nn.functional.logsigmoid(torch.zeros(2)))
    loss.each.sum().backward()
    norm = sum(float(each.grad.square().sum()) for each in model.trainable().values() if each.grad is not None)
    assert norm > 0


def test_a_batch_of_three_is_three_batches_of_one(folder: Folder) -> None:
    batched_as_alone(folder, pairs(folder, 3), 5e-7)


def test_in_float64_the_loss_of_a_batch_is_its_parts_to_ten_digits(sd15: Folder) -> None:
    model, batch = sd15.denoiser(train="full").double(), pairs(sd15, 3)
    nudge(model, 1e-3)
    batch = replace(batch, win=batch.win.double(), lose=batch.lose.double())
    together = DiffusionDPO(beta=100).loss(batch, model).each
    for i in range(3):
        assert float(DiffusionDPO(beta=100).loss(part(batch, i), model).each.detach()) == pytest.approx(
            float(together[i]), abs=1e-10
        )


@pytest.mark.parametrize("train", ["lora", "full"])
def test_the_reference_stays_and_the_policy_learns_after_it_was_asked(sd15: Folder, train: str) -> None:
    model, batch = sd15.denoiser(train=train, rank=4), pairs(sd15)
    at = noise_pairs(model.process, batch)
    before = errors(model, at, batch.condition)
    nudge(model)
    after = errors(model, at, batch.condition)
    assert torch.equal(before.reference, after.reference)
    assert not torch.equal(before.policy, after.policy)
    after.policy.sum().backward()
    assert all(each.grad is not None and float(each.grad.norm()) > 0 for each in model.trainable().values())


def test_lora_holds_one_copy_of_the_weights(sd15: Folder) -> None:
    plain = sum(each.numel() for each in sd15.network().parameters())
    model = sd15.denoiser(train="lora", rank=2)
    adapters = sum(each.numel() for each in model.trainable().values())
    assert sum(each.numel() for each in model.parameters()) == plain + adapters
    assert adapters < plain / 10


def test_a_method_without_reference_loads_none(sd15: Folder) -> None:
    model = sd15.denoiser(train="full", reference=Reference.NONE)
    assert sum(each.numel() for each in model.parameters()) == sum(each.numel() for each in sd15.network().parameters())
    with pytest.raises(ValueError, match=r"Reference\.NONE"):
        errors(model, noise_pairs(model.process, pairs(sd15)), pairs(sd15).condition)


def test_gradient_checkpointing_changes_no_bit_of_the_gradient(folder: Folder) -> None:
    checkpointing_changes_no_bit(folder, pairs(folder))


def test_a_lora_loads_in_plain_diffusers_and_draws_the_same(folder: Folder, tmp_path: Path) -> None:
    model = folder.denoiser(train="lora", rank=3, alpha=6.0)
    nudge(model, 0.1)
    publish(model, folder, tmp_path / "weights", {"name": "tiny", "beta": 5000})
    batch = pairs(folder)
    at = noise_pairs(model.process, batch)
    expected = model.policy(at.x, at.t, batch.condition)
    pipe = folder.pipeline()
    pipe.load_lora_weights(tmp_path / "weights")
    added = None
    if folder.family.name == "sdxl":
        added = {"text_embeds": batch.condition.pooled, "time_ids": batch.condition.time_ids}
    theirs = pipe.unet(at.x, at.t, batch.condition.text, added_cond_kwargs=added).sample
    assert torch.allclose(theirs, expected, atol=1e-5)
    bare = folder.network()
    attach_lora(bare, tmp_path / "weights")
    assert torch.allclose(bare(at.x, at.t, batch.condition.text, added_cond_kwargs=added).sample, expected, atol=1e-5)
    assert not torch.allclose(model.reference(at.x, at.t, batch.condition), expected, atol=1e-4)
    assert "load_lora_weights" in (tmp_path / "weights" / "README.md").read_text()


def test_full_weights_load_as_a_plain_pipeline(folder: Folder, tmp_path: Path) -> None:
    model = folder.denoiser(train="full")
    nudge(model)
    publish(model, folder, tmp_path / "weights", {"name": "tiny"})
    kind = StableDiffusionXLPipeline if folder.family.name == "sdxl" else StableDiffusionPipeline
    loaded = kind.from_pretrained(tmp_path / "weights").unet
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.network.parameters(), strict=True))
    assert not [file for file in (tmp_path / "weights").rglob("*") if file.suffix in {".bin", ".pt", ".ckpt", ".pkl"}]


def test_the_empty_prompt_is_what_the_pipeline_draws_its_unconditional_branch_with(folder: Folder) -> None:
    text, pooled = folder.encoders().encode_prompts(["", "a red circle"])
    pipe = folder.pipeline()
    if folder.family.name == "sdxl":
        _, negative, _, negative_pooled = pipe.encode_prompt(["a red circle"], do_classifier_free_guidance=True)
        assert pooled is not None
        assert torch.equal(pooled[:1], negative_pooled)
    else:
        _, negative = pipe.encode_prompt(["a red circle"], "cpu", 1, True)
    assert torch.allclose(text[:1], negative, atol=1e-6)


def test_fingerprints_tell_encoders_apart(tmp_path: Path) -> None:
    first, second = (Folder.open(tiny.folder(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert first.encoders().fingerprint == Folder.open(first.path).encoders().fingerprint
    assert first.encoders().fingerprint != second.encoders().fingerprint
    assert first.encoders().fingerprint != first.encoders(dtype=torch.bfloat16).fingerprint


def test_a_folder_that_is_not_there_is_named_with_the_mend(tmp_path: Path) -> None:
    with pytest.raises(FolderError, match=r"no model_index\.json"):
        Folder.open(tmp_path)
    with pytest.raises(FolderError, match="allow_download: true"):
        Folder.open("nobody/nothing")
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(FolderError, match="KandinskyPipeline; known here are StableDiffusionPipeline"):
        Folder.open(tmp_path)


CPU = attention.Setting(torch.device("cpu"), torch.float32, (8,))


def test_attention_auto_is_sdpa_and_says_why_the_others_were_refused() -> None:
    found = attention.resolve("auto", CPU)
    assert found.resolved == "sdpa"
    assert set(found.refused) == {"xformers", "flash"}


def test_attention_that_cannot_run_is_said_once_or_refused_if_strict(caplog: pytest.LogCaptureFixture) -> None:
    found = attention.resolve("xformers", CPU)
    assert (found.resolved, found.requested) == ("sdpa", "xformers")
    assert "no attention kernel for cpu" in found.reason or "not installed" in found.reason
    assert len(caplog.records) == 1
    with pytest.raises(attention.AttentionError, match="cannot run here"):
        attention.resolve("flash", CPU, strict=True)
    with pytest.raises(attention.AttentionError, match="not one of auto, sdpa, xformers, flash"):
        attention.resolve("fastest", CPU)


def test_a_kernel_that_disagrees_with_sdpa_is_refused_with_the_gap() -> None:
    def unscaled(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.softmax(query @ key.mT, -1) @ value

    def right(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value

    assert "differ from sdpa" in (attention.disagreement(unscaled, CPU) or "")
    assert attention.disagreement(right, CPU) is None


def test_installed_processors_are_the_ones_that_were_resolved(sd15: Folder) -> None:
    network = sd15.network()
    attention.install(network, attention.Resolution("flash", "flash", "", {}))
    assert {type(each) for each in network.attn_processors.values()} == {attention.FlashProcessor}
    assert attention.head_widths(network) == (2, 4)  # widths 16 and 32 in 8 heads


@pytest.mark.slow
@pytest.mark.parametrize("train", ["lora", "full"])
def test_a_compiled_run_still_starts_at_log_2_and_answers_as_before(sd15: Folder, train: str) -> None:
    plain, compiled = (sd15.denoiser(train=train, rank=2) for _ in range(2))
    compiled.compile_networks()
    batch = pairs(sd15)
    found = errors(compiled, noise_pairs(compiled.process, batch), batch.condition)
    assert torch.allclose(found.policy, found.reference, atol=5e-7)
    before = errors(plain, noise_pairs(plain.process, batch), batch.condition)
    assert torch.allclose(found.policy, before.policy, atol=1e-5)


def test_a_frozen_reference_stays_in_evaluation_mode(sd15: Folder) -> None:
    model = sd15.denoiser(train="full").train()
    assert model.network.training
    assert isinstance(model.weights, Full) and model.weights.frozen is not None
    assert not model.weights.frozen.training


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["xformers", "flash"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [40, 64, 80, 128, 160])
def test_kernels_agree_with_sdpa_forward_and_backward_on_a_gpu(kernel: str, dtype: torch.dtype, width: int) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("these kernels are not for GPUs before sm80")
    if kernel == "xformers":
        pytest.importorskip("xformers")
        if why := attention.unloaded():
            pytest.skip(why)
    setting = attention.Setting(torch.device("cuda"), dtype, (width,))
    assert attention.PROBES[kernel](setting) is None
