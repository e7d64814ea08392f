"""The moving playground's model and votes: how networks begin, how they are built, what ships."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from stopped import goes_on_to_the_same_weights

from visalign import playground
from visalign.data import clips, segments, store
from visalign.models.folder import Folder
from visalign.playground import moving, moving_build, moving_checker, moving_networks, moving_votes, networks
from visalign.playground.moving import FRAMES
from visalign.playground.voters import Voters

VOTES = Path(playground.__file__).parent / "votes"


# Networks at their beginning ------------------------------------------------------------------------------------------


def test_thinning_keeps_three_channels_of_four_and_the_size_of_sums() -> None:
    wide = torch.arange(64.0).reshape(8, 8)
    kept = [0, 1, 2, 4, 5, 6]
    assert torch.allclose(moving_networks.thinned(wide, torch.empty(6, 6)), wide[kept][:, kept] * 4 / 3)
    assert torch.equal(moving_networks.thinned(wide, torch.empty(6, 8)), wide[kept])
    assert moving_networks.thinned(torch.ones(2, 8), torch.empty(2, 6)).sum(1).tolist() == [8.0, 8.0]
    with pytest.raises(ValueError, match=r"\(8, 8\) cannot be thinned to \(5, 8\)"):
        moving_networks.thinned(wide, torch.empty(5, 8))


def test_frames_are_drawn_each_for_itself_before_motion_is_learned() -> None:
    network = moving_networks.new_unet(0).eval()
    x, told, time = torch.randn(2, 4, FRAMES, 8, 8), torch.randn(2, 24, 128), torch.tensor([100, 700])
    with torch.no_grad():
        whole = network(x, time, told.repeat_interleave(FRAMES, 0)).sample
        alone = torch.cat([network(x[:, :, [frame]], time, told).sample for frame in range(FRAMES)], dim=2)
    assert torch.allclose(whole, alone, atol=1e-5)


def test_captions_without_motion_are_read_as_by_the_still_text_encoder(tmp_path: Path) -> None:
    from transformers import CLIPTextModel, CLIPTokenizer

    reader, shipped = moving_networks.tokenizer(tmp_path), playground.folder()
    still = CLIPTextModel.from_pretrained(shipped / "text_encoder", dtype=torch.float32).eval()
    old, texts = CLIPTokenizer.from_pretrained(shipped / "tokenizer"), ["a red circle left of a blue square", ""]
    own = moving_networks.text_encoder(reader, 0).eval()
    with torch.no_grad():
        said = own(networks.tokenized(reader, texts)).last_hidden_state
        assert torch.allclose(said, still(networks.tokenized(old, texts)).last_hidden_state, atol=1e-5)


def test_every_word_is_one_token_and_every_caption_fits(tmp_path: Path) -> None:
    reader = moving_networks.tokenizer(tmp_path)
    assert all(len(reader.tokenize(word)) == 1 for word in moving.VOCABULARY)
    longest = max(moving.prompts("train", 400), key=lambda text: len(text.split()))
    assert len(reader(longest).input_ids) <= networks.TOKENS


# Building -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [2, 8])
def test_an_interrupted_build_goes_on_to_the_same_weights(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = moving_build.Plan(
        clips=12, still_steps=2, still_batch=2, clip_steps=1, noisy_steps=1, late_steps=1, numbered_steps=1,
        fast_steps=1, every_steps=1, whole_steps=2, steps=3, batch=2, save_every=2,
    )  # fmt: skip

    def made(folder: Path) -> Path:
        return moving_build.build(folder, seed=1, plan=plan, say=lambda line: None)

    goes_on_to_the_same_weights(made, moment, tmp_path, monkeypatch)
    assert Folder.open(tmp_path / "twice").default_size == (FRAMES, 32, 32)


def test_every_stage_begins_gently_and_the_last_ends_at_nothing() -> None:
    for stage in moving_build.stages(moving_build.Plan()):
        assert 0 < stage.share(0) < 0.02 and 0 < max(map(stage.share, range(stage.steps))) <= 1
    assert 0 < stage.share(stage.steps - 1) < 0.002


@pytest.mark.parametrize("name", moving_build.TIMES)
def test_times_are_of_the_process_and_as_late_as_their_name(name: str) -> None:
    times = moving_build.TIMES[name](4_000, torch.Generator().manual_seed(0))
    assert times.dtype == torch.int64 and times.min() >= 0 and times.max() <= 999
    expected = {"even": 499.5, "growing": 1000 * 2 / 3 - 0.5, "late": 0.25 * 500 + 0.75 * 925 - 0.5, "last": 999.0}
    assert times.double().mean().item() == pytest.approx(expected[name], abs=15)


# What ships -----------------------------------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_and_half_precision() -> None:
    files = [*playground.moving_folder().rglob("*.safetensors")]
    assert {each.parent.name for each in files} == {"unet", "vae", "text_encoder"}
    assert sum(each.stat().st_size for each in files) < 9.2e6
    assert {tensor.dtype for each in files for tensor in load_file(each).values()} == {torch.float16}


@cache
def drawn() -> tuple[list[str], NDArray[np.uint8]]:
    """Clips of held-out prompts, as plain diffusers draws them."""
    from diffusers import AnimateDiffPipeline

    pipeline: Any = AnimateDiffPipeline.from_pretrained(playground.moving_folder(), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompts = moving.prompts("heldout", 16)
    noise = [torch.randn(4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(row)) for row in range(len(prompts))]
    found = pipeline(
        prompts, num_frames=FRAMES, height=32, width=32, num_inference_steps=playground.STEPS,
        guidance_scale=playground.MOVING_GUIDANCE, latents=torch.stack(noise), output_type="np",
    ).frames  # fmt: skip
    return prompts, (np.asarray(found) * 255).round().clip(0, 255).astype(np.uint8)


def test_the_base_draws_what_is_asked_but_often_not_in_every_frame() -> None:
    prompts, found = drawn()
    seen = [moving_checker.check(clip, prompt) for clip, prompt in zip(found, prompts, strict=True)]
    assert found.shape == (16, FRAMES, 32, 32, 3)
    assert 0.3 < np.mean([(each.frames > 0.5).mean() for each in seen]) < 0.9
    assert 0 < np.mean([each.right for each in seen]) < 0.9
    assert np.mean([each.dynamic for each in seen]) > 1.0


# Votes ----------------------------------------------------------------------------------------------------------------


def test_shipped_votes_are_on_segments_of_clips_that_can_be_read() -> None:
    records = store.read(VOTES / moving_votes.RECORDS)
    assert len(records) == moving_votes.Plan().pairs
    assert {(record.scores.shape, record.segment) for record in records} == {((2, 4), 2)}
    for record in records[::60]:
        first, second = record.items
        shown = np.stack([np.stack([np.asarray(f) for f in clips.frames(each, VOTES)]) for each in record.items])
        assert shown.shape == (2, FRAMES, 32, 32, 3)
        again = moving_votes.ballot(record.prompt, shown, (first, second), 0, Voters())
        assert again == record
    assert sum(each.stat().st_size for each in VOTES.glob("moving*")) < 2.5e6


def test_segments_of_one_pair_are_often_voted_on_differently() -> None:
    chances = np.stack([segments.chances(record).numpy() for record in store.read(VOTES / moving_votes.RECORDS)])
    mixed = ((chances == 1).any(1) & (chances == 0).any(1)).mean()
    assert mixed > 0.2 and (chances != 0.5).any(1).mean() > 0.6


def test_a_clip_is_what_most_of_its_segments_are() -> None:
    for record in store.read(VOTES / moving_votes.RECORDS)[:50]:
        signs = np.sign(record.scores[0] - 0.5).sum()
        assert moving_votes.whole(record).scores.tolist() == [[(np.sign(signs) + 1) / 2], [(1 - np.sign(signs)) / 2]]


def test_pairs_are_alike_in_motion_and_made_anew_from_the_shipped_model() -> None:
    plan = moving_votes.Plan()
    records = store.read(VOTES / moving_votes.RECORDS)[:2]
    few = moving_votes.drawn(playground.moving_folder(), [each.prompt for each in records], 0, plan, lambda line: None)
    kept = [np.stack([np.asarray(f) for f in clips.frames(item, VOTES)]) for each in records for item in each.items]
    assert np.abs(few.reshape(4, FRAMES, 32, 32, 3).astype(int) - np.stack(kept)).max() <= 16
