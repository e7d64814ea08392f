"""The moving playground's model and votes: how networks begin, how they are built, what ships."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from visalign import playground
from visalign.data import clips, segments, store
from visalign.models.folder import Folder
from visalign.playground import build, moving, moving_build, moving_checker, moving_networks, moving_votes, networks
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


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("moment", [2, 5])
def test_an_interrupted_build_goes_on_to_the_same_weights(
    moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = moving_build.Plan(clips=4, still_steps=2, still_batch=2, steps=4, batch=2, save_every=2)
    moving_build.build(tmp_path / "whole", seed=1, plan=plan, say=lambda line: None)
    update, calls = build.Saved.update, itertools.count(1)

    def interrupted(self: build.Saved, loss: torch.Tensor, share: float) -> None:
        if next(calls) == moment:
            raise Interrupted
        update(self, loss, share)

    monkeypatch.setattr(build.Saved, "update", interrupted)
    with pytest.raises(Interrupted):
        moving_build.build(tmp_path / "twice", seed=1, plan=plan, say=lambda line: None)
    moving_build.build(tmp_path / "twice", seed=1, plan=plan, say=lambda line: None)
    for part in ("vae", "unet", "text_encoder"):
        files = [next((tmp_path / each / part).glob("*.safetensors")) for each in ("whole", "twice")]
        assert files[0].read_bytes() == files[1].read_bytes(), part
    assert Folder.open(tmp_path / "twice").default_size == (FRAMES, 32, 32)


def test_the_rate_rises_stays_and_falls_to_nothing() -> None:
    plan = moving_build.Plan()
    _, clips_stage = moving_build.stages(plan)
    shares = [clips_stage.share(step) for step in range(plan.steps)]
    assert shares[0] == 1 / moving_build.WARMUP and shares[moving_build.WARMUP] == 1.0
    assert shares[int(plan.steps * (1 - plan.falling))] == pytest.approx(1.0) and 0 < shares[-1] < 0.01
