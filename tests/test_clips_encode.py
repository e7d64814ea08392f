"""Clips are encoded, kept, set aside and made into batches as pictures are."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filmed import Filming, film, noise, pairs
from PIL import Image

from visalign import config
from visalign.batches import Labelled, Pairs, Prompts, Singles
from visalign.data import clips, media
from visalign.data.encode import Encoded, encode
from visalign.data.views import Settings, view
from visalign.jobs.denoising_plan import check_frames
from visalign.records import DataError, Preference

SIDE, FRAMES = 16, 9


@pytest.fixture(scope="module", params=[False, True], ids=["per frame", "causal"])
def encoders(request: pytest.FixtureRequest) -> Filming:
    return Filming(causal=request.param)


def run(records: list[Preference], encoders: Any, folder: Path, **changes: Any) -> Encoded:
    given: dict[str, Any] = {"root": folder, "cache": folder / "cache", "resolution": SIDE, "frames": FRAMES} | changes
    encoders.clips.clear()
    return encode(records, encoders, **given)


def test_the_cache_gives_what_the_encoders_give_bit_for_bit(tmp_path: Path, encoders: Filming) -> None:
    records = pairs(tmp_path, 2, FRAMES + 2, size=(18, 23))
    for encoded in (run(records, encoders, tmp_path), run(records, encoders, tmp_path)):  # made, then read back
        for item in (item for record in records for item in record.items):
            cut = [media.framed(each, SIDE).pixels for each in clips.frames(item, tmp_path)[:FRAMES]]
            mean, deviation = encoders.encode_images(torch.stack(cut, dim=1)[None])
            assert torch.equal(encoded.latent(item).mean, mean[0])
            assert torch.equal(encoded.latent(item).deviation, deviation[0])
            assert (
                encoded.latent(item).mean.shape == encoded.latent_shape == encoders.latent_shape((FRAMES, SIDE, SIDE))
            )
            assert encoded.latent(item).frame.tolist() == [18, 23, 0, 2]
            assert encoded.length(item) == FRAMES + 2


def test_a_folder_a_film_and_an_animation_of_the_same_frames_have_the_same_latent(
    tmp_path: Path, encoders: Filming
) -> None:
    film(tmp_path / "a.mp4", noise(0, FRAMES))
    frames = clips.frames("a.mp4", tmp_path)
    clips.write(tmp_path / "a.webp", frames)
    (tmp_path / "a").mkdir()
    for number, each in enumerate(frames):
        each.save(tmp_path / "a" / f"{number}.png")
    records = [Preference("a", (name,), key=name) for name in ("a.mp4", "a.webp", "a")]
    encoded = run(records, encoders, tmp_path)
    one, *others = (encoded.latent(record.items[0]).mean for record in records)
    assert encoded.quarantine == ()
    assert [torch.equal(one, other) for other in others] == [True, True]


def test_nothing_is_encoded_twice_and_what_changes_the_value_is_encoded_anew(tmp_path: Path, encoders: Filming) -> None:
    records = pairs(tmp_path, 2, 13)
    shutil.copy(tmp_path / "0-one.webp", tmp_path / "copy.webp")
    records.append(Preference("a", ("copy.webp", "1-one.webp"), key="again"))
    for changes, count in (({}, 4), ({}, 0), ({"frames": 13}, 4), ({"resolution": 8}, 4)):
        run(records, encoders, tmp_path, **changes)
        assert len(encoders.clips) == count, changes
    clips.write(tmp_path / "0-one.webp", noise(99, 13))
    run(records, encoders, tmp_path)
    assert len(encoders.clips) == 1


def test_a_changed_frame_of_a_folder_is_noticed(tmp_path: Path, encoders: Filming) -> None:
    (tmp_path / "a").mkdir()
    for number, each in enumerate(noise(0, FRAMES + 1)):
        Image.fromarray(each).save(tmp_path / "a" / f"{number}.png")
    records = [Preference("a", ("a",), key="a")]
    before = run(records, encoders, tmp_path).latent("a").mean
    Image.fromarray(noise(5, 1)[0]).save(tmp_path / "a" / "8.png")
    assert not torch.equal(run(records, encoders, tmp_path).latent("a").mean, before)
    (tmp_path / "a" / "9.png").unlink()
    assert run(records, encoders, tmp_path).length("a") == FRAMES


def test_what_was_encoded_before_a_stop_need_not_be_encoded_again(tmp_path: Path, encoders: Filming) -> None:
    records = pairs(tmp_path, 4)

    def interrupted(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(records, encoders, tmp_path, progress=interrupted)
    stopped = len(encoders.clips)
    resumed = run(records, encoders, tmp_path)
    assert (stopped, len(encoders.clips)) == (4, 4)
    whole = run(records, encoders, tmp_path, cache=tmp_path / "whole")
    items = [item for record in records for item in record.items]
    assert all(torch.equal(resumed.latent(item).mean, whole.latent(item).mean) for item in items)


def test_every_frame_is_cut_out_and_scaled(tmp_path: Path, encoders: Filming) -> None:
    run(pairs(tmp_path, 1, size=(18, 23)), encoders, tmp_path)
    assert encoders.clips[0].shape == (3, FRAMES, SIDE, SIDE)
    assert -1 <= encoders.clips[0].min() < encoders.clips[0].max() <= 1


def test_each_kind_of_bad_clip_is_set_aside_with_its_reason(tmp_path: Path, encoders: Filming) -> None:
    records = pairs(tmp_path, 2)
    clips.write(tmp_path / "short.webp", noise(7, FRAMES - 1))
    shutil.copy(tmp_path / "0-one.webp", tmp_path / "twin.webp")
    (tmp_path / "cut.webp").write_bytes((tmp_path / "0-one.webp").read_bytes()[:-50])
    (tmp_path / "odd").mkdir()
    for number in range(FRAMES):
        Image.fromarray(noise(1, 1, (16, 20 + number))[0]).save(tmp_path / "odd" / f"{number}.png")
    film(tmp_path / "film.mp4", noise(0, 3))
    bad = {
        "short.webp": "short.webp: has 8 frames, and 9 are needed",
        "twin.webp": "the same clip as 0-one.webp",
        "cut.webp": "cut.webp: damaged or truncated",
        "odd": "its frames differ in size: 20 x 16 and 21 x 16",
        "film.mp4": "film.mp4: has 3 frames, and 9 are needed",
        "gone.mp4": "no such file",
    }
    records += [Preference("a", ("0-one.webp", name), key=name) for name in bad]
    encoded = run(records, encoders, tmp_path)
    assert [each.key for each in encoded.quarantine] == list(bad)
    for each in encoded.quarantine:
        assert bad[each.key] in each.reason
    assert [record.key for record in encoded.usable(records)] == ["pair-0", "pair-1"]


def test_frames_that_would_be_dropped_without_a_word_are_an_error(tmp_path: Path) -> None:
    causal, each = Filming(causal=True), Filming(causal=False)
    records = pairs(tmp_path, 1)
    for frames, near in ((8, "5 and 9"), (7, "5 and 9"), (2, "1 and 5"), (12, "9 and 13")):
        with pytest.raises(DataError, match=rf"frames: {frames} are not 4 k \+ 1, as the VAE takes them; {near} are"):
            run(records, causal, tmp_path, frames=frames)
        assert causal.encode_images(torch.zeros(1, 3, frames, 16, 16))[0].shape[2] == 1 + (frames - 1) // 4
    assert run(records, each, tmp_path, frames=8).latent_shape[1] == 8


@pytest.mark.parametrize("kind", [Pairs, Singles, Labelled])
def test_a_batch_of_three_clips_is_three_batches_of_one_bit_for_bit(
    tmp_path: Path, encoders: Filming, kind: type
) -> None:
    records = pairs(tmp_path, 3)
    made = view(kind, records, run(records, encoders, tmp_path), Settings(prompt_dropout=0.5))
    name = "win" if kind is Pairs else "x"
    together = getattr(made.batch([2, 0, 1], [1, 0, 4], 3), name)
    apart = [getattr(made.batch([i], [visit], 3), name) for i, visit in ((2, 1), (0, 0), (1, 4))]
    assert together.shape == (3, *encoders.latent_shape((FRAMES, SIDE, SIDE)))
    assert torch.equal(together, torch.cat(apart))


def test_prompts_of_clips_know_the_shape_of_a_clip(tmp_path: Path, encoders: Filming) -> None:
    records = [Preference("a"), Preference("b")]
    batch = view(Prompts, records, run(records, encoders, tmp_path, texts_only=True)).batch([0, 1], [0, 0], 0)
    assert batch.shape == encoders.latent_shape((FRAMES, SIDE, SIDE))


def test_frames_are_set_for_models_of_clips_and_there_alone() -> None:
    clip, picture = config.load(None, ["data.frames=9"]), config.load(None, [])
    check_frames(clip, clips=True)
    check_frames(picture, clips=False)
    with pytest.raises(config.ConfigError, match=r"draws clips: set data\.frames"):
        check_frames(picture, clips=True)
    with pytest.raises(config.ConfigError, match=r"draws pictures: data\.frames is for models of clips, got 9"):
        check_frames(clip, clips=False)
    with pytest.raises(config.ConfigError, match=r"data\.frames must be at least 1, got 0"):
        config.load(None, ["data.frames=0"])


def test_many_frames_are_not_held_ahead_of_their_turn(tmp_path: Path, encoders: Filming) -> None:
    from visalign.data.pictures import Pictures

    held = [
        Pictures(encoders, tmp_path, tmp_path / "cache", (SIDE, SIDE), frames, dtype=torch.float32).ahead
        for frames in (None, 2, 81)
    ]
    assert held == [16, 8, 1]
    assert np.all(np.diff(held) < 0)
