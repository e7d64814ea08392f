"""A subject that the playground has never drawn, and the scorer that says how well a picture meets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from visalign import registry
from visalign.images import Misuse
from visalign.models.folder import Folder
from visalign.playground import corpus
from visalign.playground.captions import parse
from visalign.playground.subject import BODY, CAPTION, EYE, NAME, OTHERS, portrait
from visalign.playground.world import COLOURS
from visalign.scoring import Sample


def saved(folder: Path, pictures: list[NDArray[np.uint8]]) -> Path:
    folder.mkdir()
    for row, each in enumerate(pictures):
        Image.fromarray(each).save(folder / f"{row}.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four pictures of the figure."""
    return saved(tmp_path_factory.mktemp("zorp") / "subject", [portrait(row) for row in range(4)])


def likeness(folder: Path, **settings: Any) -> Any:
    return registry.build("scorer", {"name": "likeness", "exemplars": str(folder), **settings})


# The figure ---------------------------------------------------------------------------------------------------------


def near(picture: NDArray[np.uint8], colour: str) -> NDArray[np.bool_]:
    """Which pixels (32, 32) are of that colour."""
    found: NDArray[np.bool_] = np.all(np.abs(picture.astype(int) - COLOURS[colour]) < 12, axis=-1)
    return found


def test_a_portrait_is_a_yellow_eye_on_a_purple_body_wherever_it_stands() -> None:
    for row in range(8):
        picture = portrait(row)
        assert picture.shape == (32, 32, 3)
        body, eye = near(picture, BODY.colour), near(picture, EYE.colour)
        assert body.sum() > 3 * eye.sum() > 0
        middles = [np.argwhere(each).mean(0) for each in (body, eye)]
        assert np.abs(middles[0] - middles[1]).max() < 1.5
        assert np.abs(middles[0] - 16).max() < 5


def test_a_portrait_is_a_function_of_its_row_and_seed() -> None:
    assert np.array_equal(portrait(2), portrait(2))
    drawn = {portrait(row, seed).tobytes() for row in range(4) for seed in range(2)}
    assert len(drawn) == 8


def test_the_figure_s_name_is_one_token_that_no_caption_of_the_world_has() -> None:
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(Path(Folder.open("playground").path) / "tokenizer")
    known = tokenizer.tokenize(CAPTION)
    assert known == ["a</w>", f"{NAME}</w>"]
    assert not any(NAME in corpus.example(0, index).caption for index in range(200))
    assert all(parse(each) for each in OTHERS if NAME not in each)


# Likeness -----------------------------------------------------------------------------------------------------------


def test_it_is_the_mean_cosine_to_the_pictures_mapped_to_0_1(subject: Path) -> None:
    scorer = likeness(subject)
    pictures = [portrait(9), corpus.example(0, 3).picture]
    found = scorer.score([Sample("any words", image=Image.fromarray(each)) for each in pictures])
    tower = registry.build("scorer", "playground_hps")
    shown = tower.embed([Image.fromarray(each) for each in pictures])
    there = tower.embed([subject / f"{row}.png" for row in range(4)])
    expected = (torch.nn.functional.cosine_similarity(shown[:, None], there[None], dim=-1).mean(1) + 1) / 2
    assert torch.allclose(found.values, expected.to(found.values), atol=1e-6)
    assert found.judged.all()


def test_a_picture_is_all_like_itself_whatever_is_asked_for(tmp_path: Path) -> None:
    scorer = likeness(saved(tmp_path / "one", [portrait(0)]))
    image = Image.fromarray(portrait(0))
    values = scorer.score([Sample("a zorp", image=image), Sample("a blue cross", image=image)]).values
    assert values.tolist() == pytest.approx([1.0, 1.0], abs=1e-5)


def test_other_portraits_are_more_like_the_subject_than_the_world_is(subject: Path) -> None:
    scorer = likeness(subject)
    own = scorer.score([Sample(CAPTION, image=Image.fromarray(portrait(row))) for row in range(20, 28)]).values
    shown = [corpus.example(0, index) for index in range(24)]
    others = scorer.score([Sample(each.caption, image=Image.fromarray(each.picture)) for each in shown]).values
    assert float(own.min()) > float(others.max())


def test_what_cannot_be_judged_is_invalid_and_says_why(subject: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    samples = [Sample("a", image=subject / "0.png"), Sample("b"), Sample("c", image=tmp_path / "broken.png")]
    found = likeness(subject).score(samples)
    assert found.judged.tolist() == [True, False, False]
    assert set(found.reasons) == {1, 2}


def test_a_folder_without_pictures_and_a_scorer_that_does_not_embed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="holds no pictures to be like"):
        likeness(tmp_path).score([Sample("a", image=Image.new("RGB", (32, 32)))])
    with pytest.raises(registry.BadSetting, match="rules embeds no pictures; take a CLIP scorer"):
        likeness(tmp_path, embedder="rules")


def test_an_exemplar_that_cannot_be_read_is_named_and_spoils_no_score_in_silence(tmp_path: Path) -> None:
    folder = saved(tmp_path / "subject", [portrait(0)])
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(Misuse, match=r"broken\.png cannot be read"):
        likeness(folder).score([Sample("", image=Image.fromarray(portrait(1)))])
