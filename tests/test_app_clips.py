"""Models of clips side by side: what is drawn, shown, scored, voted on and trained from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from compared import drawn, setup

from visalign import config
from visalign.apps import desk
from visalign.data import clips, store
from visalign.diffusion.source import Source
from visalign.drawing import Settings
from visalign.scoring import Sample, Scores

FRAMES, SIDE = 5, 16
HOW = Settings(steps=2, guidance=1.0, batch=4, size=SIDE, frames=FRAMES)
PROMPTS = ("a red circle", "a blue square")


class Restless:
    """Judges clips by how much they change from the first frame to the last."""

    name = "restless"

    def score(self, samples: Sequence[Sample]) -> Scores:
        """One number a clip."""
        shown = []
        for each in samples:
            assert isinstance(each.video, tuple)
            shown.append(np.stack([np.asarray(frame) for frame in each.video]).astype(float))
        return Scores(torch.tensor([float(np.abs(each[-1] - each[0]).mean()) for each in shown]))


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[desk.Desk]:
    """A desk with two tiny models of clips, their clips drawn."""
    rooms = tmp_path_factory.mktemp("clips")
    models = {name: Source.find(str(tiny.folder(rooms / name, "animatediff", seed))) for seed, name in enumerate("ab")}
    made = desk.Desk(
        setup(rooms / "session", models=models, prompts=PROMPTS, settings=HOW, scorers=[Restless()], seeds=(0,))
    )
    made.start()
    yield drawn(made)
    made.close()


def test_what_is_shown_is_every_frame_that_was_drawn(at: desk.Desk) -> None:
    for artist in at.pool.artists:
        spot = next(spot for name, spot in at.pool.cells if name == artist.name)
        kept = clips.frames(at.pool.item(at.pool.cell(artist, spot).key), at.votes)
        assert np.array_equal(np.stack([np.asarray(each) for each in kept]), artist.draw([spot])[0])
        assert len(kept) == FRAMES


def test_pages_are_told_that_it_is_a_clip(at: desk.Desk) -> None:
    assert at.pool.media_type == "image/webp"
    assert all(at.pool.path(cell.key).suffix == ".webp" for cell in at.pool.cells.values())


def test_scorers_see_clips(at: desk.Desk) -> None:
    marks = [at.pool.marks_of(cell.key)["restless"] for cell in at.pool.cells.values()]
    assert len(marks) == len(PROMPTS) * 2
    assert all(mark.value is not None and mark.value > 0 for mark in marks)


def test_votes_become_records_and_a_recipe_of_so_many_frames(at: desk.Desk) -> None:
    trial = at.booth.next("ada")
    assert trial is not None
    at.booth.vote(trial.id, "ada", "left", {})
    (record,) = store.read(at.votes)
    assert all(item.endswith(".webp") for item in record.items)
    run = config.load(at.recipe()["path"])
    assert (run.data.frames, run.data.resolution, run.data.width) == (FRAMES, SIDE, SIDE)
    assert [each.key for each in store.read(Path(run.data.path))] == [record.key]


def test_clips_are_not_compared_with_pictures(at: desk.Desk, tmp_path: Path) -> None:
    models = {"moving": at.pool.artists[0].source, "still": Source.find("playground")}
    with pytest.raises(ValueError, match="clips are compared with clips: of 2 models moving alone draw them"):
        desk.Desk(setup(tmp_path, models=models))
