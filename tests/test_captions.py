"""Two captions a pair: what each mode says, of whom, and that the playground's writers speak its language."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visalign import cli, registry
from visalign.data import store
from visalign.data.captions import MODES, Dual
from visalign.playground import captions, corpus, world
from visalign.playground.writers import Describer, Grammar, seen
from visalign.records import DataError, Preference
from visalign.scoring import Sample
from visalign.writers import Captioner, Rewriter

PLAIN = "a red circle left of a blue square"
SCENES = {"good": PLAIN, "bad": "a green triangle", "worst": "a black ring above a pink cross"}


def drawn(text: str, seed: int = 0) -> Image.Image:
    return Image.fromarray(world.draw(world.place(captions.parse(text), np.random.default_rng(seed))))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in SCENES.items():
        drawn(text).save(tmp_path / f"{name}.png")
    Image.new("RGB", (32, 32), (240, 240, 240)).save(tmp_path / "blank.png")
    return tmp_path


def record(*items: str, scores: tuple[float, ...] = (), prompt: str = PLAIN) -> Preference:
    return Preference(prompt, items, np.array(scores or range(len(items), 0, -1), dtype=float))


def dual(mode: str) -> Dual:
    return Dual(mode, Describer(), Grammar("weak"))


def meaning(text: str | None) -> tuple[list[tuple[str, str]], str | None]:
    """What a caption asks for, which side it is told from aside."""
    scene = captions.parse(text or "")
    things, relation = scene.things, scene.relation
    if relation in ("right of", "below"):
        things, relation = things[::-1], world.INVERSE[relation]
    return [(each.shape, each.colour) for each in things], relation


def test_each_mode_tells_the_two_apart_as_it_says(folder: Path) -> None:
    given = record("bad.png", "good.png", scores=(0.0, 1.0))
    told = {mode: dual(mode).of([given], folder).records[0].captions for mode in MODES}
    lost = {mode: meaning(texts[0]) for mode, texts in told.items()}
    assert lost == {"caption": meaning(SCENES["bad"]), "perturb": meaning(PLAIN), "hybrid": meaning(SCENES["bad"])}
    assert {meaning(texts[1]) == meaning(PLAIN) for texts in told.values()} == {True}
    assert told["perturb"][1] == PLAIN
    assert told["caption"][1] == told["hybrid"][1]


def test_of_more_than_two_the_best_and_the_worst_are_told_apart(folder: Path) -> None:
    made = dual("caption").of([record("worst.png", "good.png", "bad.png", scores=(0.0, 2.0, 1.0))], folder)
    assert [meaning(each) for each in made.records[0].captions] == [meaning(SCENES["worst"]), *[meaning(PLAIN)] * 2]
    assert made.records[0].captions[2] == PLAIN  # the prompt: nobody asked what it shows


def test_what_has_no_winner_or_no_words_is_left_out_and_counted(folder: Path) -> None:
    asked = [
        record("good.png", "bad.png", scores=(1.0, 1.0)),
        record("good.png", "blank.png"),
        Preference(PLAIN, ("good.png", "worst.png")),
        record("blank.png", "good.png", prompt="a blue ring"),
        record("good.png", "worst.png", prompt="a pink ring"),
    ]
    made = dual("caption").of(asked, folder)
    assert [each.prompt for each in made.records] == ["a pink ring"]
    assert made.left_out == {
        "tie": 1, "not judged": 1, "no words for the loser": 1, "no words for the winner": 1,
    }  # fmt: skip


def test_a_mode_without_its_writer_is_refused() -> None:
    with pytest.raises(DataError, match="'hybrid' need a rewriter"):
        Dual("hybrid", Describer())
    with pytest.raises(DataError, match="'caption' need a captioner"):
        Dual("caption", rewriter=Grammar())
    with pytest.raises(DataError, match="'both' is not one of caption, perturb, hybrid"):
        Dual("both")


def test_the_describer_reads_clean_pictures_right() -> None:
    scenes = corpus.scenes("train", 150)
    texts = [captions.caption(each) for each in scenes]
    told = Describer().caption([Sample(text, image=drawn(text, row)) for row, text in enumerate(texts)])
    right = [each is not None and agrees(each, text) for each, text in zip(told, texts, strict=True)]
    assert np.mean(right) > 0.95


def agrees(told: str, asked: str) -> bool:
    """The same things in the same relation; sizes are not told, nor a relation that was not asked for."""
    (things, relation), (wanted, wanted_relation) = meaning(told), meaning(asked)
    return sorted(things) == sorted(wanted) and (wanted_relation is None or relation == wanted_relation)


def test_what_is_not_the_playground_has_no_words() -> None:
    assert seen(np.full((32, 32, 3), 240, dtype=np.uint8)) is None
    assert Describer().caption([Sample("", image=Image.new("RGB", (40, 32))), Sample("", image=b"none")]) == [None] * 2
    assert Grammar().rewrite(["an old sailor"], ["k"]) == [None]


@pytest.mark.parametrize(("strength", "changes"), [("weak", 0), ("medium", 1), ("strong", 2)])
def test_a_rewriter_moves_the_meaning_as_far_as_it_says(strength: str, changes: int) -> None:
    texts = [captions.caption(each) for each in corpus.scenes("train", 60)]
    writer = registry.build("rewriter", {"name": "grammar", "strength": strength})
    again = writer.rewrite(texts, [str(row) for row in range(60)])
    for old, new in zip(texts, again, strict=True):
        (things, _), (others, _) = meaning(old), meaning(new)
        before, after = (sorted(x for thing in each for x in thing) for each in (things, others))
        assert sum(x not in after for x in set(before)) <= changes
        assert (sorted(things) == sorted(others)) == (changes == 0)


def test_rewriting_is_a_function_of_text_and_key() -> None:
    texts = [PLAIN] * 40
    keys = [str(row) for row in range(40)]
    once, alone = Grammar().rewrite(texts, keys), [Grammar().rewrite([PLAIN], [key])[0] for key in keys]
    assert once == alone
    assert len(set(once)) > 5


def test_they_are_what_the_protocols_ask_for() -> None:
    assert isinstance(Describer(), Captioner)
    assert isinstance(Grammar(), Rewriter)


def test_the_command_writes_records_that_train_reads(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store.write([record("good.png", "bad.png")], folder / "records.jsonl")
    out = folder / "elsewhere" / "captions.jsonl"
    rewriter = "{name: grammar, strength: weak}"
    assert cli.main(["caption", str(folder / "records.jsonl"), "--rewriter", rewriter, "--out", str(out)]) == 0
    (made,) = store.read(out)
    assert [meaning(each) for each in made.captions] == [meaning(PLAIN), meaning(SCENES["bad"])]
    assert Path(made.items[0]) == (folder / "good.png").resolve()
    assert cli.main(["caption", str(folder / "records.jsonl"), "--mode", "x", "--out", str(out)]) == 2
    assert "'x' is not one of caption, perturb, hybrid" in capsys.readouterr().err
    assert cli.main(["caption", str(folder / "records.jsonl"), "--captioner", "chekcer", "--out", str(out)]) == 2
    assert "did you mean checker" in capsys.readouterr().err
