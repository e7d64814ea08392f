"""Items (pictures or clips) to keys of cached latents: read and framed on threads, encoded in order by who asks."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL.Image import Image

from ..contract import Encoders
from ..images import ImageError
from ..records import Preference
from . import clips, media
from .media import Framed
from .quarantine import Bad
from .shards import FORMAT, Shards, name_of

READERS = 4  # threads
AHEAD = 16  # records that are read before their turn; of clips so many that they hold no more frames


@dataclass(frozen=True)
class _Read:
    """An item that was read: the hash of its bytes, and what of it must be encoded."""

    digest: str
    framed: Framed | None = None  # its pixels, where the cache has none
    length: int = 0  # frames of the whole clip, where it was decoded


class Pictures:
    """The latents of pictures, or of clips' first `frames` frames, in one cache, under one setting.

    What is missing is encoded on the way.
    """

    def __init__(
        self,
        encoders: Encoders,
        root: Path,
        cache: Path,
        sides: tuple[int, int],
        frames: int | None = None,
        *,
        dtype: torch.dtype,
    ) -> None:
        self.encoders, self.root, self.sides, self.frames = encoders, root, sides, frames
        self.dtype = dtype
        self.ahead = max(1, AHEAD // (frames or 1))
        side = str(sides[0]) if sides[0] == sides[1] else f"{sides[0]} by {sides[1]}"
        size = side if frames is None else f"{frames} x {side}"
        settings = ("latents", FORMAT, encoders.fingerprint, size, "lanczos center", str(dtype))
        self.shards = Shards(cache / "latents" / name_of(*settings)[:32])
        self.keys: dict[str, str] = {}  # item -> key in the shards: the hash of its bytes

    def taken(self, records: Sequence[Preference]) -> Generator[tuple[Preference, Bad | None]]:
        """Each record in turn once its items are encoded, with what is wrong with it, if anything is."""
        pool = ThreadPoolExecutor(READERS)
        waiting: deque[tuple[Preference, list[Future[_Read]]]] = deque()
        try:
            for record in records:
                waiting.append((record, [pool.submit(self._read, item) for item in record.items]))
                if len(waiting) > self.ahead:
                    yield self._take(*waiting.popleft())
            while waiting:
                yield self._take(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            media.forget()

    def _take(self, record: Preference, reads: Sequence[Future[_Read]]) -> tuple[Preference, Bad | None]:
        owners: dict[str, str] = {}
        for item, read in zip(record.items, reads, strict=True):
            try:
                digest = self._encoded(item, read.result())
            except ImageError as error:
                return record, Bad(record.key, str(error), item)
            if digest in owners:
                same = "picture" if self.frames is None else "clip"
                return record, Bad(record.key, f"the same {same} as {owners[digest]}", item)
            owners[digest] = item
        return record, None

    def _read(self, item: str) -> _Read:
        """On a thread: the bytes, their hash, and the pixels of what the cache has not."""
        if item in self.keys:
            return _Read(self.keys[item])
        found = clips.opened(item, self.root, self.frames)
        digest = found.digest
        if digest in self.shards:
            return _Read(digest)
        frames, length = found.decoded(self.frames)
        return _Read(digest, self._framed(frames), length)

    def _framed(self, frames: Sequence[Image]) -> Framed:
        cut = [media.framed(each, *self.sides) for each in frames]
        return cut[0] if self.frames is None else media.in_a_row(cut)

    def _encoded(self, item: str, read: _Read) -> str:
        """The hash of an item's bytes, once it is in the cache."""
        if read.framed is not None and read.digest not in self.shards:  # another item of its bytes may have come first
            self._encode(read.digest, read.framed, read.length)
        self.keys[item] = read.digest
        return read.digest

    def _encode(self, key: str, framed: Framed, length: int) -> None:
        mean, deviation = self.encoders.encode_images(framed.pixels[None])
        row = {"mean": mean[0].to(self.dtype), "deviation": deviation[0].to(self.dtype)}
        if not all(bool(value.isfinite().all()) for value in row.values()):
            raise ImageError(f"its latent is not finite in {self.dtype}")
        row["frame"] = torch.tensor([*framed.original, *framed.corner], dtype=torch.int64)
        self.shards.add(key, row if self.frames is None else row | {"length": torch.tensor(length)})
