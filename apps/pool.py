"""Pictures or clips drawn ahead of being asked for: one queue, one thread, and a cache on disk by what made them."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from threading import Condition, Thread
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from visalign.data.clips import animated
from visalign.data.shards import replace_file
from visalign.diffusion.sampling import initial_noise
from visalign.diffusion.source import Source
from visalign.drawing import Drawer, Settings
from visalign.jobs import Progress

from .marks import Mark, Marks

PICTURES = "pictures"
AT_ONCE = 8  # pictures drawn together: few enough that the first are seen soon
LOG = logging.getLogger(__name__)


class Quiet:
    """A screen that shows nothing: the pages show how far the queue is."""

    @contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Progress]:
        """A stage that nobody watches."""

        def step(done: int | None = None, note: str = "", *, total: int | None = None) -> None:
            return None

        yield step

    def say(self, text: str) -> None:
        """A line for the log."""
        LOG.info(text)

    warn = say


@dataclass(frozen=True, order=True)
class Spot:
    """What every model draws alike: a prompt from a seed."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Cell:
    """One model's picture of one spot."""

    state: str  # "waiting", "ready", "failed"
    key: str = ""  # names the picture, once ready
    why: str = ""  # it failed


class Artist:
    """A model with a short name. It is loaded when it first draws."""

    def __init__(self, name: str, source: Source, settings: Settings) -> None:
        self.name, self.source, self.settings = name, source, settings
        self.drawer: Drawer | None = None

    def load(self) -> Drawer:
        """The model, in memory from now on."""
        if self.drawer is None:
            drawer = Drawer(self.source, self.settings)
            LOG.info("%s draws with the weights %s", self.name, drawer.weights_hash)  # hashed before others may ask
            self.drawer = drawer
        return self.drawer

    @property
    def weights(self) -> str:
        """The hash of the weights; "" before they are loaded."""
        return self.drawer.weights_hash if self.drawer else ""

    @property
    def id(self) -> str:
        """What records call the model: its name, and which weights."""
        return f"{self.name}@{self.weights[:8]}"

    def key(self, spot: Spot) -> str:
        """The name of the picture's file: a hash of all that makes it what it is."""
        return digest(self.load().proof(spot.prompt, spot.seed) | {"model": ""})[:32]

    def proof(self, spot: Spot) -> dict[str, Any]:
        """What the picture was drawn with, and a hash of the noise that it began as."""
        drawer = self.load()
        shape = drawer.encoders.latent_shape(drawer.size)
        noise = initial_noise([spot.seed], shape, torch.zeros((), dtype=drawer.dtype)).float().numpy()
        start = hashlib.sha256(f"{noise.shape}".encode() + noise.tobytes()).hexdigest()[:16]
        return drawer.proof(spot.prompt, spot.seed) | {"model": self.name, "noise": start}

    @property
    def clips(self) -> bool:
        """Whether what it draws moves."""
        return self.source.folder.family.clips

    def file(self, drawn: NDArray[np.uint8]) -> bytes:
        """A PNG of a picture (h, w, 3), a lossless WebP of a clip (frames, h, w, 3): pixels, their pace, no more."""
        return animated(drawn, rate=self.source.folder.family.rate) if self.clips else png(drawn)

    def draw(self, spots: Sequence[Spot]) -> NDArray[np.uint8]:
        """(n, h, w, 3) pictures, or (n, frames, h, w, 3) clips, of n spots."""
        return self.load().draw([spot.prompt for spot in spots], [spot.seed for spot in spots], Quiet())


def digest(values: Mapping[str, Any]) -> str:
    """sha256 of a mapping, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def png(picture: NDArray[np.uint8]) -> bytes:
    """A PNG of (h, w, 3) uint8 that says nothing but its pixels."""
    file = BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return file.getvalue()


class Pool:
    """Every picture that is there or asked for, by artist and spot. Threads may share it.

    `clips` says whether the artists draw clips; ValueError if some do and some do not.
    """

    def __init__(self, folder: Path, artists: Sequence[Artist], marks: Marks) -> None:
        self.folder, self.artists, self.marks = folder, list(artists), marks
        self.clips = any(each.clips for each in artists)
        if self.clips and not all(each.clips for each in artists):
            moving = ", ".join(each.name for each in artists if each.clips)
            raise ValueError(f"clips are compared with clips: of {len(artists)} models {moving} alone draw them")
        self.media_type = "image/webp" if self.clips else "image/png"
        (folder / PICTURES).mkdir(parents=True, exist_ok=True)
        self.cells: dict[tuple[str, Spot], Cell] = {}
        self.stage = ""
        self._changed, self._stopping = Condition(), False
        self._waiting: list[tuple[Artist, Spot]] = []
        self._thread = Thread(target=self._work, name="draw", daemon=True)

    def start(self) -> None:
        """Begin to draw."""
        self._thread.start()

    def stop(self) -> None:
        """Draw no more; returns when the pictures under way are done."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def want(self, spots: Sequence[Spot], artists: Sequence[Artist] = (), *, first: bool = False) -> None:
        """Ask for pictures of spots from every artist; `first` before all that waits."""
        asked = [(artist, spot) for spot in spots for artist in artists or self.artists]
        with self._changed:
            new = [each for each in asked if self.cell(*each).state == "failed" or each not in self]
            self.cells.update({(artist.name, spot): Cell("waiting") for artist, spot in new})
            self._waiting = [*new, *self._waiting] if first else [*self._waiting, *new]
            self._changed.notify_all()

    def __contains__(self, asked: tuple[Artist, Spot]) -> bool:
        return (asked[0].name, asked[1]) in self.cells

    def cell(self, artist: Artist, spot: Spot) -> Cell:
        """How a picture is doing."""
        return self.cells.get((artist.name, spot), Cell("waiting"))

    def path(self, key: str) -> Path:
        """The file of a picture."""
        return self.folder / self.item(key)

    def item(self, key: str) -> str:
        """How records name a picture."""
        return f"{PICTURES}/{key}.{'webp' if self.clips else 'png'}"

    def marks_of(self, key: str) -> Mapping[str, Mark]:
        """What each scorer says of a picture."""
        return self.marks.of(key)

    def progress(self) -> dict[str, Any]:
        """How far the queue is."""
        with self._changed:
            states = [cell.state for cell in self.cells.values()]
        done = {state: states.count(state) for state in ("ready", "waiting", "failed")}
        return {**done, "total": len(states), "stage": self.stage}

    def _work(self) -> None:
        while (taken := self._next()) is not None:
            artist, spots = taken
            try:
                self._draw(artist, spots)
            except Exception as error:  # the queue outlives whatever a model does; the page says what it was
                LOG.exception("drawing with %s", artist.name)
                why = f"{type(error).__name__}: {error}"[:500]
                self.cells.update({(artist.name, spot): Cell("failed", why=why) for spot in spots})
            self.stage = ""

    def _next(self) -> tuple[Artist, list[Spot]] | None:
        """The next spots of the artist whose turn it is; waits for some, None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or bool(self._waiting))
            if self._stopping:
                return None
            artist = self._waiting[0][0]
            taken = [each for each in self._waiting if each[0] is artist][:AT_ONCE]
            self._waiting = [each for each in self._waiting if each not in taken]
        return artist, [spot for _, spot in taken]

    def _draw(self, artist: Artist, spots: Sequence[Spot]) -> None:
        """Draw what the disk has not, let the scorers look, and say that it is there."""
        self.stage = f"loading {artist.name}" if artist.drawer is None else f"drawing with {artist.name}"
        keys = {spot: artist.key(spot) for spot in spots}
        missing = [spot for spot in spots if not self.path(keys[spot]).is_file()]
        if missing:
            for spot, picture in zip(missing, artist.draw(missing), strict=True):
                replace_file(self.path(keys[spot]), artist.file(picture))
        self.marks.judge([(keys[spot], spot.prompt, self.path(keys[spot])) for spot in spots])
        self.cells.update({(artist.name, spot): Cell("ready", keys[spot]) for spot in spots})
