"""Every picture or clip through the VAE once, and every prompt through the text encoders once, kept on disk.

What is kept of one is the mean and the deviation of the VAE's posterior, not a sample of it, so that each visit draws
its own. Its key is a hash of everything that changes the value: the file's bytes, the encoders' fingerprint, the
resolution, the number of frames, the crop and the dtype. Pictures and prompts go through one at a time: an
entry is then a function of its input alone, bit for bit, whatever else was missing from the cache (on a CPU a batch is
no faster, and a VAE fills an accelerator with one picture of 512 pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..contract import Encoders
from ..records import DataError, Preference
from . import quarantine
from .pictures import Pictures
from .quarantine import Bad
from .shards import FORMAT, Shards, name_of

Progress = Callable[[str, int, int], None]  # ("pictures" or "prompts", done, total)


@dataclass(frozen=True)
class Latent:
    """The VAE's posterior of one picture or clip, as the denoiser sees it, and where that was cut out."""

    mean: Tensor  # (c, h, w), of a clip (c, f, h, w)
    deviation: Tensor  # (c, h, w), of a clip (c, f, h, w)
    frame: Tensor  # (4,) int64: original height and width, top and left of the crop in the resized picture


@dataclass(frozen=True)
class Encoded:
    """Everything that views need, looked up by item and by text."""

    sides: tuple[int, int]  # height and width, in pixels
    frames: int | None  # of a clip, in pixels' time; None: items are pictures
    stride: int  # of them in a latent frame after the first
    wants_time_ids: bool
    guidance: float | None  # what the denoiser is told of it; None: nothing
    latent_shape: tuple[int, ...]
    quarantine: tuple[Bad, ...]
    quarantine_file: Path
    rebuilt: tuple[Path, ...]  # damaged shards that were found and set aside
    _latents: Shards
    _texts: Shards
    _keys: Mapping[str, str]  # item -> key of its latent
    _text_keys: Mapping[str, str]

    def latent(self, item: str) -> Latent:
        """The posterior of an item."""
        row = self._latents[self._keys[item]]
        return Latent(row["mean"], row["deviation"], row["frame"])

    def length(self, item: str) -> int:
        """How many frames a clip has, of which the first are encoded."""
        return int(self._latents.column(self._keys[item], "length"))

    def text(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """Hidden states (tokens, width) and pooled text (width,) of a prompt; "" is always there."""
        row = self._texts[self._text_keys[prompt]]
        return row["text"], row.get("pooled")

    def usable(self, records: Iterable[Preference]) -> Iterator[Preference]:
        """The records that were not set aside, each key once: of a repeated key the first stays."""
        bad = {each.key for each in self.quarantine if each.path}
        seen: set[str] = set()
        for record in records:
            twice = record.key in seen
            seen.add(record.key)
            if not twice and record.key not in bad:
                yield record


def encode(
    records: Sequence[Preference],
    encoders: Encoders,
    *,
    root: Path,
    cache: Path,
    resolution: int,
    width: int | None = None,
    frames: int | None = None,
    max_bad: float = 0.01,
    texts_only: bool = False,
    prompts: Sequence[str] = (),
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> Encoded:
    """Fill the cache with whatever is missing, and set bad records aside.

    Args: `root` is the folder that items are relative to; `resolution` pixels are the sides of what is cut out of each,
    the upright ones where `width` is given; `frames` makes items clips, of which the first so many frames are encoded,
    and a clip that has fewer is a bad record; `max_bad` the share of records that may be bad (ten always may);
    `texts_only` leaves the pictures alone, for methods that train on what the model draws; `prompts` are further texts
    that views are asked for; `dtype` is what latents are kept in.
    Raises DataError when too many records are bad, or none is left.
    """
    if not records:
        raise DataError("there are no records to train on: give a file that holds some")
    sides = resolution, width or resolution
    latent_shape = encoders.latent_shape(_size(encoders, sides, frames))
    pictures = Pictures(encoders, root, cache, sides, frames, dtype=dtype)
    listed, told = cache / "quarantine.jsonl", progress or _silent
    bad = [] if texts_only else _all_pictures(records, pictures, max_bad, listed, told)
    texts, text_keys = _all_texts([*_texts_of(records), *prompts], encoders, cache, told)
    return Encoded(
        sides=sides,
        frames=frames,
        stride=1 if frames is None else encoders.stride,
        wants_time_ids=encoders.wants_time_ids,
        guidance=encoders.guidance,
        latent_shape=latent_shape,
        quarantine=tuple(bad),
        quarantine_file=listed,
        rebuilt=(*pictures.shards.damaged, *texts.damaged),
        _latents=pictures.shards,
        _texts=texts,
        _keys=pictures.keys,
        _text_keys=text_keys,
    )


def _size(encoders: Encoders, sides: tuple[int, int], frames: int | None) -> tuple[int, ...]:
    """(height, width), or (frames, height, width) of clips; DataError for what would not fill whole latents.

    A VAE that is causal in time makes its first latent of one frame and each other of `stride` (Wan's of 4); frames
    that do not fill the last one it leaves out without a word.
    """
    grain = encoders.factor
    if odd := [side for side in sides if side % grain]:
        raise DataError(f"resolution {odd[0]} is not a multiple of {grain}, the pixels of a latent or token")
    if frames is None:
        return sides
    if rest := (frames - 1) % encoders.stride:
        near = f"{frames - rest} and {frames - rest + encoders.stride}"
        raise DataError(f"frames: {frames} are not {encoders.stride} k + 1, as the VAE takes them; {near} are near")
    return frames, *sides


def _all_pictures(
    records: Sequence[Preference], pictures: Pictures, max_bad: float, listed: Path, progress: Progress
) -> list[Bad]:
    """Encode every record's items; the records that were set aside."""
    bad: list[Bad] = []
    seen: set[str] = set()
    try:
        with closing(pictures.taken(records)) as taken:
            for done, (record, wrong) in enumerate(taken, start=1):
                if record.key in seen:
                    wrong = Bad(record.key, "the key occurs twice: the first stays", "")
                if wrong:
                    bad.append(wrong)
                    quarantine.check(bad, len(records), max_bad, listed)
                seen.add(record.key)
                progress("pictures", done, len(records))
    finally:  # whatever stopped it, what was encoded need not be encoded again
        pictures.shards.flush()
    quarantine.write(bad, listed)
    if len(bad) == len(records):
        raise DataError(f"no record can be used: {quarantine.named(bad)}. Mend the files listed in {listed}")
    return bad


def _texts_of(records: Sequence[Preference]) -> Iterator[str]:
    """Every prompt and caption."""
    return (text for record in records for text in (record.prompt, *record.captions))


def _all_texts(
    texts: Iterable[str], encoders: Encoders, cache: Path, progress: Progress
) -> tuple[Shards, dict[str, str]]:
    """Encode each text once, and the empty one."""
    shards = Shards(cache / "texts" / name_of("texts", FORMAT, encoders.fingerprint)[:32])
    keys = {text: name_of(text) for text in dict.fromkeys(["", *texts])}
    for done, (text, key) in enumerate(keys.items(), start=1):
        if key not in shards:
            hidden, pooled = encoders.encode_prompts([text])
            shards.add(key, {"text": hidden[0]} | ({} if pooled is None else {"pooled": pooled[0]}))
        progress("prompts", done, len(keys))
    shards.flush()
    return shards, keys


def _silent(stage: str, done: int, total: int) -> None:
    pass
