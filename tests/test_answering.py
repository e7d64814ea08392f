"""Questions about pictures, answered: by batches, after a kill, from whatever holds the questions."""

from __future__ import annotations

import json
from pathlib import Path

import language
import pytest
import torch

from visalign import cli
from visalign.answering import Answerer, Sampler, Settings, about_of, answer_all
from visalign.config import ConfigError
from visalign.data import answers, store
from visalign.data.questions import Question, questions
from visalign.playground import seeing_folder
from visalign.records import DataError


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("answering")
    store.write(language.records(made / "data"), made / "data" / "records.parquet")
    language.folder(made)
    return made


def answerer(root: Path, family: str = "llava", **settings: float) -> Answerer:
    folder = language.folder(root, family)
    return Answerer(folder.model(train="none").network, folder.reader(), Settings(**{"max_new_tokens": 8, **settings}))  # type: ignore[arg-type]


def asked(root: Path) -> list[Question]:
    return questions(str(root / "data" / "records.parquet"))


def told(root: Path, out: Path, who: Answerer, count: int = 8, batch: int = 4) -> int:
    return answer_all(who, asked(root)[:count], out, model="tiny", fingerprint="a", batch=batch)[0]


def given(out: Path) -> dict[str, str]:
    found = answers.read(out)
    return dict(zip(found.ids or (), found.texts, strict=True))


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("family", ["llava", "qwen2_vl"])
def test_an_answer_depends_neither_on_its_batch_nor_on_an_interruption(
    root: Path, tmp_path: Path, family: str, temperature: float
) -> None:
    """Questions of different lengths, padded on the left."""
    who = answerer(root, family, temperature=temperature, seed=3)
    assert told(root, tmp_path / "whole.jsonl", who, batch=8) == 8
    assert told(root, tmp_path / "single.jsonl", who, batch=1) == 8
    assert told(root, tmp_path / "parts.jsonl", who, count=3) == 3
    with (tmp_path / "parts.jsonl").open("a") as file:
        file.write('{"question_id": "record 3", "answ')  # killed while it wrote
    assert told(root, tmp_path / "parts.jsonl", who) == 5
    assert given(tmp_path / "parts.jsonl") == given(tmp_path / "whole.jsonl") == given(tmp_path / "single.jsonl")
    assert set(given(tmp_path / "whole.jsonl")) == {f"record {row}" for row in range(8)}


def test_another_seed_or_temperature_gives_others(root: Path, tmp_path: Path) -> None:
    found = []
    for seed, temperature in ((0, 1.0), (1, 1.0), (0, 0.0)):
        out = tmp_path / f"{seed}-{temperature}.jsonl"
        told(root, out, answerer(root, seed=seed, temperature=temperature), count=4)
        found.append(tuple(given(out).values()))
    assert len(set(found)) == 3


def test_what_is_sampled_has_the_chances_that_the_model_gives() -> None:
    """4,000 rows of one distribution, cut to the likeliest 0.8: 0.5 and 0.3 become 5/8 and 3/8."""
    scores = torch.tensor([0.15, 0.5, 0.05, 0.3]).log().expand(4000, 4)
    keys = tuple(f"question {row}" for row in range(4000))
    drawn = Sampler(Settings(temperature=1.0, top_p=0.75), keys, 3)(torch.zeros(4000, 5, dtype=torch.long), scores)
    counts = torch.bincount(drawn.argmax(1), minlength=4) / 4000
    assert counts.tolist() == pytest.approx([0.0, 5 / 8, 0.0, 3 / 8], abs=0.025)
    assert (drawn > -torch.inf).sum(1).eq(1).all()
    whole = Sampler(Settings(temperature=2.0), keys, 3)(torch.zeros(4000, 5, dtype=torch.long), scores)
    flat = torch.tensor([0.15, 0.5, 0.05, 0.3]).sqrt()
    counts = torch.bincount(whole.argmax(1), minlength=4) / 4000
    assert counts.tolist() == pytest.approx((flat / flat.sum()).tolist(), abs=0.03)


def test_a_file_of_another_model_s_answers_is_not_gone_on_with(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    told(root, out, answerer(root), count=2)
    before = out.read_text()
    with pytest.raises(DataError, match=r"'tiny' made otherwise \(max_new_tokens: 8 -> 9\)"):
        told(root, out, answerer(root, max_new_tokens=9))
    about_of(out).unlink()
    with pytest.raises(DataError, match="whose they are is gone"):
        told(root, out, answerer(root))
    assert out.read_text() == before


def test_questions_that_cannot_be_asked_are_named_and_the_others_answered(root: Path, tmp_path: Path) -> None:
    marked = Question("marked", "is <image> this", asked(root)[0].pictures)
    count, bad = answer_all(
        answerer(root), [marked, *asked(root)[:2]], tmp_path / "a.jsonl", model="tiny", fingerprint="a"
    )
    assert count == 2 and [each.key for each in bad] == ["marked"] and "<image>" in bad[0].reason


@pytest.mark.parametrize("settings", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}])
def test_settings_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="got"):
        Settings(**settings)  # type: ignore[arg-type]


# Questions ----------------------------------------------------------------------------------------------------------


def test_rows_of_benchmarks_are_questions_under_their_ids(root: Path, tmp_path: Path) -> None:
    pope = [{"question_id": 7, "image": "0.png", "text": "Is there a dog?", "label": "no"}]
    (tmp_path / "pope.json").write_text("\n".join(map(json.dumps, pope)))
    amber = [{"id": 1, "image": "1.png", "query": "Describe this image."}]
    (tmp_path / "amber.json").write_text(json.dumps(amber))
    (tmp_path / "pope.json").rename(tmp_path / "pope.jsonl")
    for name, key, text in (("pope.jsonl", "7", "Is there a dog?"), ("amber.json", "1", "Describe this image.")):
        (one,) = questions(str(tmp_path / name), pictures=root / "data")
        assert (one.id, one.text, one.pictures()[0].size) == (key, text, (32, 32))


def test_questions_of_one_id_or_without_a_picture_are_refused(root: Path, tmp_path: Path) -> None:
    rows = [{"question_id": 1, "image": "0.png", "text": "a"}, {"question_id": 1, "image": "0.png", "text": "b"}]
    (tmp_path / "twice.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="two questions of the id '1'"):
        questions(str(tmp_path / "twice.jsonl"))
    (tmp_path / "blind.jsonl").write_text(json.dumps({"question": "a"}))
    with pytest.raises(DataError, match="line 1 needs a question"):
        questions(str(tmp_path / "blind.jsonl"))
    with pytest.raises(DataError, match="no questions at"):
        questions(str(tmp_path / "gone.jsonl"))


def test_the_playground_asks() -> None:
    told, probes = questions("playground:heldout:3"), questions("playground:adversarial:2")
    assert [each.id for each in told] == ["heldout/0", "heldout/1", "heldout/2"]
    assert told[0].pictures()[0].size == (32, 32)
    assert all(each.text.startswith("is there") for each in probes)
    assert probes[0].pictures()[0].tobytes() == told[0].pictures()[0].tobytes()
    with pytest.raises(DataError, match="kinds are heldout, random"):
        questions("playground:train:3")


def test_the_command_answers_goes_on_and_refuses_in_one_line(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "answers.jsonl"
    words = ["answer", str(root / "llava"), "--questions", str(root / "data" / "records.parquet"), "--out", str(out)]
    assert cli.main([*words, "--max-new-tokens", "4"]) == 0
    assert cli.main([*words, "--max-new-tokens", "4"]) == 0
    assert "0 answers in" in capsys.readouterr().out
    assert len(given(out)) == 8
    assert cli.main([*words, "--max-new-tokens", "5"]) == 2
    assert "max_new_tokens: 4 -> 5" in capsys.readouterr().err
    assert cli.main(["answer", str(tmp_path), "--questions", "playground:heldout:1", "--out", str(out)]) == 2
    assert "no config.json" in capsys.readouterr().err


def test_several_models_answer_into_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["answer", "playground", str(seeing_folder()), "--questions", "playground:all:1", "--out"]
    assert cli.main([*words, str(tmp_path / "answers")]) == 0
    files = {each.name: given(each) for each in (tmp_path / "answers").glob("*.jsonl")}
    assert set(files) == {"playground.jsonl", "seeing.jsonl"}
    assert files["playground.jsonl"] == files["seeing.jsonl"]
    assert {key.split("/")[0] for key in files["seeing.jsonl"]} == {"heldout", "random", "popular", "adversarial"}
    assert cli.main([*words, str(tmp_path / "answers.jsonl")]) == 2
    assert f"--out {tmp_path / 'answers'}" in capsys.readouterr().err
    assert cli.main(["answer", "playground", "playground", *words[3:], str(tmp_path / "twice")]) == 2
    assert "given twice" in capsys.readouterr().err
