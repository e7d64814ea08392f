"""Every picture and prompt is encoded once, the cache gives what the encoders gave, and bad records are set aside."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from paired import Counting, pairs, picture
from PIL import Image
from spoiled import REFUSED, bomb

from visalign import images
from visalign.data import media, quarantine
from visalign.data.encode import Encoded, encode
from visalign.models.encoders import Encoders
from visalign.models.folder import Folder
from visalign.records import DataError, Preference

SIDE = 16


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("sd15"))).encoders()


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return Folder.open(tiny.folder(tmp_path_factory.mktemp("sdxl"), "sdxl")).encoders()


def run(records: list[Preference], counting: Any, folder: Path, **changes: Any) -> Encoded:
    settings: dict[str, Any] = {"root": folder, "cache": folder / "cache", "resolution": SIDE} | changes
    return encode(records, counting, **settings)


def same(one: Encoded, two: Encoded, records: list[Preference]) -> bool:
    """Equal latents and texts, bit for bit."""
    items = [item for record in records for item in record.items]
    latents = [(one.latent(item), two.latent(item)) for item in items]
    texts = [(one.text(prompt)[0], two.text(prompt)[0]) for prompt in ("", *(record.prompt for record in records))]
    pairs_of = [(getattr(a, name), getattr(b, name)) for a, b in latents for name in ("mean", "deviation", "frame")]
    return all(torch.equal(a, b) for a, b in pairs_of + texts)


# What comes out -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["encoders", "sdxl"])
def test_the_cache_gives_what_the_encoders_give_bit_for_bit(
    tmp_path: Path, family: str, request: pytest.FixtureRequest
) -> None:
    encoders = request.getfixturevalue(family)
    records = pairs(tmp_path, 3)
    for encoded in (run(records, encoders, tmp_path), run(records, encoders, tmp_path)):  # made, then read back
        for record in records:
            for item in record.items:
                framed = media.framed(images.load(tmp_path / item), SIDE)
                mean, deviation = encoders.encode_images(framed.pixels[None])
                assert torch.equal(encoded.latent(item).mean, mean[0])
                assert torch.equal(encoded.latent(item).deviation, deviation[0])
                assert encoded.latent(item).frame.tolist() == [16, 20, 0, 2]
            for prompt in (record.prompt, ""):
                text, pooled = encoders.encode_prompts([prompt])
                found, found_pooled = encoded.text(prompt)
                assert torch.equal(found, text[0])
                assert (pooled is None) == (found_pooled is None)
                if pooled is not None and found_pooled is not None:
                    assert torch.equal(found_pooled, pooled[0])


def test_nothing_is_encoded_twice(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 4)
    shutil.copy(tmp_path / "0/win.png", tmp_path / "copy.png")
    records.append(Preference("a red circle 0", ("copy.png", "1/win.png"), key="again"))
    first = Counting(encoders)
    run(records, first, tmp_path)
    assert (len(first.pictures), len(first.prompts)) == (8, 3)  # 9 files of 8 contents; two prompts and the empty one
    second = Counting(encoders)
    run(records, second, tmp_path)
    assert (second.pictures, second.prompts) == ([], [])


def test_more_records_cost_only_what_is_new(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 4)
    run(records[:3], encoders, tmp_path)
    counting = Counting(encoders)
    grown = run(records, counting, tmp_path)
    assert (len(counting.pictures), counting.prompts) == (2, [])
    assert same(grown, run(records, encoders, tmp_path, cache=tmp_path / "fresh"), records)


def test_captions_of_items_are_encoded_too(tmp_path: Path, encoders: Encoders) -> None:
    record = replace(pairs(tmp_path, 1)[0], captions=("small red circle", "blue square"))
    encoded = run([record], encoders, tmp_path)
    for caption in record.captions:
        assert torch.equal(encoded.text(caption)[0], encoders.encode_prompts([caption])[0][0])


def test_progress_counts_to_the_end(tmp_path: Path, encoders: Encoders) -> None:
    told: list[tuple[str, int, int]] = []
    run(pairs(tmp_path, 2), encoders, tmp_path, progress=lambda *step: told.append(step))
    assert told == [("pictures", 1, 2), ("pictures", 2, 2), ("prompts", 1, 3), ("prompts", 2, 3), ("prompts", 3, 3)]


# When the cache may not be used --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "pictures", "prompts"),
    [
        ({"resolution": 8}, 4, 0),
        ({"dtype": torch.bfloat16}, 4, 0),
        ({"fingerprint": "other weights"}, 4, 3),
    ],
)
def test_what_changes_the_value_is_never_reused(
    tmp_path: Path, encoders: Encoders, change: dict[str, Any], pictures: int, prompts: int
) -> None:
    records = pairs(tmp_path, 2)
    run(records, encoders, tmp_path)
    counting = Counting(encoders)
    counting.fingerprint = change.pop("fingerprint", encoders.fingerprint)
    run(records, counting, tmp_path, **change)
    assert (len(counting.pictures), len(counting.prompts)) == (pictures, prompts)


def test_a_changed_file_is_encoded_anew(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 2)
    before = run(records, encoders, tmp_path).latent(records[0].items[0]).mean
    picture(tmp_path / records[0].items[0], 99)
    counting = Counting(encoders)
    after = run(records, counting, tmp_path).latent(records[0].items[0]).mean
    assert len(counting.pictures) == 1
    assert not torch.equal(before, after)


@pytest.mark.parametrize("harm", ["flip a bit", "truncate", "empty"])
@pytest.mark.parametrize("kind", ["latents", "texts"])
def test_a_poisoned_shard_is_set_aside_and_made_again(tmp_path: Path, encoders: Encoders, kind: str, harm: str) -> None:
    records = pairs(tmp_path, 2)
    whole = run(records, encoders, tmp_path, cache=tmp_path / "whole")
    run(records, encoders, tmp_path)
    (shard,) = (tmp_path / "cache" / kind).rglob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes({"flip a bit": bytes(data), "truncate": bytes(data[:-64]), "empty": b""}[harm])
    counting = Counting(encoders)
    again = run(records, counting, tmp_path)
    assert (len(counting.pictures), len(counting.prompts)) == ((4, 0) if kind == "latents" else (0, 3))
    assert again.rebuilt == (shard,)
    assert shard.with_suffix(".damaged").exists()
    assert same(again, whole, records)
    assert run(records, encoders, tmp_path).rebuilt == ()


# Quarantine ---------------------------------------------------------------------------------------------------------


def odd(kind: str) -> bytes:
    """Pictures that are unusual and good."""
    buffer, image = BytesIO(), Image.effect_noise((24, 18), 90)
    form = {"CMYK": "JPEG", "EXIF": "JPEG"}.get(kind, "PNG")
    if kind == "I;16":
        image = Image.effect_noise((24, 18), 60).convert("I").convert("I;16")
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "EXIF" else 1
    image = image if kind in ("I;16", "EXIF") else image.convert(kind)
    image.save(buffer, form, exif=exif)
    return buffer.getvalue()


def test_each_kind_of_bad_record_is_set_aside_with_its_reason(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 3)
    bad: dict[str, str] = {}
    for number, (kind, (make, reason)) in enumerate({**REFUSED, "bomb": (bomb, "too many pixels")}.items()):
        (tmp_path / f"bad-{number}.png").write_bytes(make())
        records.append(Preference("a", ("0/win.png", f"bad-{number}.png"), key=kind))
        bad[kind] = reason
    Image.new("RGB", (1, 1)).save(tmp_path / "speck.png")
    shutil.copy(tmp_path / "1/win.png", tmp_path / "twin.png")
    for key, items, reason in (
        ("speck", ("0/win.png", "speck.png"), "too small: 1 x 1"),
        ("missing", ("0/win.png", "gone.png"), "no such file"),
        ("escape", ("0/win.png", "../gone.png"), "leads out of"),
        ("same path", ("0/win.png", "0/win.png"), r"the same picture as 0/win\.png"),
        ("same bytes", ("1/win.png", "0/win.png", "twin.png"), r"the same picture as 1/win\.png"),
    ):
        records.append(Preference("a", items, key=key))
        bad[key] = reason
    encoded = run(records, encoders, tmp_path, max_bad=1.0)
    assert [each.key for each in encoded.quarantine] == list(bad)
    for each in encoded.quarantine:
        assert re.search(bad[each.key], each.reason), each
    assert [record.key for record in encoded.usable(records)] == ["pair-0", "pair-1", "pair-2"]
    assert quarantine.read(encoded.quarantine_file) == list(encoded.quarantine)


@pytest.mark.parametrize("kind", ["CMYK", "I;16", "L", "P", "1", "RGBA", "EXIF"])
def test_unusual_pictures_are_taken(tmp_path: Path, encoders: Encoders, kind: str) -> None:
    records = pairs(tmp_path, 1)
    (tmp_path / "0/win.png").write_bytes(odd(kind))
    encoded = run(records, encoders, tmp_path)
    assert encoded.quarantine == ()
    size = [24, 18, 2, 0] if kind == "EXIF" else [18, 24, 0, 2]  # upright: height and width exchanged
    assert encoded.latent("0/win.png").frame.tolist() == size


def test_of_a_repeated_key_the_first_stays(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 3)
    records[2] = replace(records[2], key="pair-0")
    encoded = run(records, encoders, tmp_path)
    assert [(each.key, each.reason) for each in encoded.quarantine] == [
        ("pair-0", "the key occurs twice: the first stays")
    ]
    assert list(encoded.usable(records)) == records[:2]


def test_too_many_bad_records_stop_before_training_and_say_what_to_do(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 40)
    for i in range(10):
        (tmp_path / f"{i}/lose.png").write_bytes(b"<html>")
    assert len(run(records, encoders, tmp_path).quarantine) == 10  # ten always may
    (tmp_path / "10/lose.png").unlink()
    with pytest.raises(DataError, match=r"11 of 40 records .* more than 10: pair-0 \(0/lose.png: not a PNG") as raised:
        run(records, encoders, tmp_path)
    assert "and 6 more" in str(raised.value)
    assert "raise data.max_bad (now 0.01)" in str(raised.value)
    assert len(quarantine.read(tmp_path / "cache" / "quarantine.jsonl")) == 11
    assert len(run(records, encoders, tmp_path, max_bad=0.5).quarantine) == 11


def test_what_was_encoded_before_a_stop_need_not_be_encoded_again(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 4)

    def interrupted(stage: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(records, encoders, tmp_path, progress=interrupted)
    counting = Counting(encoders)
    run(records, counting, tmp_path)
    assert len(counting.pictures) == 4


def test_pictures_may_be_wider_than_high(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 2)
    wide, square = run(records, encoders, tmp_path, width=2 * SIDE), run(records, encoders, tmp_path)
    assert wide.latent_shape == (4, SIDE // 2, SIDE)
    assert [list(each.latent(records[0].items[0]).mean.shape) for each in (wide, square)] == [
        [4, SIDE // 2, SIDE],
        [4, SIDE // 2, SIDE // 2],
    ]


def test_data_that_cannot_be_trained_on_are_one_clear_line(tmp_path: Path, encoders: Encoders) -> None:
    records = pairs(tmp_path, 2)
    with pytest.raises(DataError, match="no records to train on"):
        run([], encoders, tmp_path)
    with pytest.raises(DataError, match="resolution 15 is not a multiple of 2, the pixels of a latent"):
        run(records, encoders, tmp_path, resolution=15)
    with pytest.raises(DataError, match="resolution 31 is not a multiple of 2"):
        run(records, encoders, tmp_path, width=31)
    shutil.rmtree(tmp_path / "0")
    shutil.rmtree(tmp_path / "1")
    with pytest.raises(DataError, match=r"no record can be used: pair-0 \(0/win.png: no such file"):
        run(records, encoders, tmp_path)


def test_a_latent_that_is_not_finite_is_set_aside(tmp_path: Path, encoders: Encoders) -> None:
    """A VAE that overflows, as SDXL's does in half precision."""

    class Overflowing(Counting):
        def encode_images(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            mean, deviation = super().encode_images(pixels)
            return (mean * float("inf") if len(self.pictures) == 3 else mean), deviation

    encoded = run(pairs(tmp_path, 3), Overflowing(encoders), tmp_path)
    assert [(each.key, each.path) for each in encoded.quarantine] == [("pair-1", "1/win.png")]
    assert "not finite" in encoded.quarantine[0].reason
