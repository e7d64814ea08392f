"""Judges that talk: what is read in answers and what is not, both orders, ratings, rubrics, clips, records."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faulty
import judging
import numpy as np
import pytest
import tenacity
import torch
from PIL import Image

from visalign import registry, rulings
from visalign.cli import main
from visalign.data import clips, store
from visalign.images import ImageError, Misuse
from visalign.records import DataError, Preference
from visalign.rulings import Ruling
from visalign.scorers.answer_book import Book
from visalign.scorers.answers import Unreadable, choice, objects, rating
from visalign.scorers.chat import Answer, Sampling, Token
from visalign.scorers.endpoint import Endpoint
from visalign.scorers.local_vlm import LocalVLM
from visalign.scorers.rubrics import load, shipped
from visalign.scorers.segments import SegmentJudge
from visalign.scorers.vlm_judge import VLMJudge, together
from visalign.scoring import Judge, Sample, Scorer, prefer
from visalign.strict import ConfigError

ABC = ("A", "B", "C")
RED, BLUE = (Image.new("RGB", (32, 32), each) for each in ((210, 40, 40), (40, 40, 210)))


def token(text: str, **top: float) -> Token:
    return Token(text, {each: math.log(chance) for each, chance in top.items()})


# what is read in an answer


def test_spellings_of_a_label_count_together_and_the_rest_is_mass_that_is_missing() -> None:
    top = {"A": 0.3, " A": 0.2, "a": 0.1, "B": 0.2, "The": 0.15}
    found = choice(Answer("A", (Token("A", {k: math.log(v) for k, v in top.items()}),)), ABC, 0.5)
    assert found.mass == pytest.approx(0.8)
    assert found.chances == pytest.approx({"A": 0.75, "B": 0.25, "C": 0.0})
    assert found.mean({"A": 1.0, "B": 0.0, "C": 0.5}) == pytest.approx(0.75)
    assert found.deviation({"A": 1.0, "B": 0.0, "C": 0.5}) == pytest.approx(math.sqrt(0.75 * 0.25))


def test_letters_in_a_thought_are_no_answer() -> None:
    said = [
        ("<think>", {"<think>": 1.0}),
        ("A", {"A": 1.0}),
        ("</think>", {"</think>": 1.0}),
        ("B", {"B": 0.8, "A": 0.2}),
    ]
    tokens = tuple(Token(text, {each: math.log(chance) for each, chance in top.items()}) for text, top in said)
    assert choice(Answer("<think>A</think>B", tokens), ["A", "B"], 0.5).chances["B"] == pytest.approx(0.8)
    with pytest.raises(Unreadable, match="cut off"):
        choice(Answer("<think>A", tokens[:2], cut=True), ["A", "B"], 0.5)


def test_an_answer_with_little_mass_on_the_labels_is_none() -> None:
    answer = Answer("The", (token("The", The=0.8, A=0.15),))
    with pytest.raises(Unreadable, match=r"0\.15 of the probability is on A, B, C, less than 0\.5"):
        choice(answer, ABC, 0.5)


def test_white_space_and_markup_before_the_letter_are_passed_over() -> None:
    tokens = (token("\n", A=0.01), token("**", B=0.01), token("B", B=0.9, A=0.1))
    assert choice(Answer("\n**B", tokens), ABC, 0.5).chances["B"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("text", "label"),
    [("A", "A"), (" b.\n", "B"), ("**C**", "C"), ("Answer: B", "B"), ("so the answer is: **A**", "A"),
     ("<think>A? no, answer: A is wrong</think>B", "B")],
)  # fmt: skip
def test_letters_are_read_from_text_where_there_are_no_probabilities(text: str, label: str) -> None:
    found = choice(Answer(text), ABC, 0.5)
    assert (found.chances[label], found.mass) == (1.0, None)
    assert math.isnan(found.deviation(dict.fromkeys(ABC, 0.0)))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer("A picture is better in B"), "names none of"), (Answer("A or B"), "names none of"),
        (Answer("Answer: A. Answer: B"), "names 2 of"), (Answer(""), "empty"), (Answer("Sorry, I cannot."), "Sorry"),
        (Answer("<think>answer: A", cut=True), "cut off at the greatest number of tokens"),
        (Answer(failure="no answer within 2 s (tried 5 times)"), "tried 5 times"),
    ],
)  # fmt: skip
def test_what_is_no_answer_is_not_guessed_at(answer: Answer, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        choice(answer, ABC, 0.5)


def test_a_rating_of_ten_is_not_read_as_one() -> None:
    with pytest.raises(Unreadable):
        choice(Answer("Score: 10"), ("1", "2"), 0.5)
    with pytest.raises(Unreadable):
        choice(Answer("rating 1.5"), ("1", "2"), 0.5)
    assert choice(Answer("Rating: 2."), ("1", "2"), 0.5).chances["2"] == 1.0


@pytest.mark.parametrize("text", ['{"x": 1}', '```json\n{"x": 1}\n```', 'Sure! {"x": 1} Anything else?'])
def test_the_one_json_object_is_found(text: str) -> None:
    assert objects(Answer(text)) == {"x": 1}


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer('{"x": 1'), "no whole JSON"), (Answer('{"x": {"y": 1}, "z'), "no whole JSON"),
        (Answer('{"x": 1', cut=True), "cut off"), (Answer('{"x": 1} {"x": 2}'), "several"),
        (Answer('{"x": 1, "x": 2}'), "stands twice"), (Answer('{"x": NaN}'), "NaN"), (Answer("[1]"), "no whole JSON"),
        (Answer('{"a":' * 3000), "no whole JSON|too deeply"),
    ],
)  # fmt: skip
def test_json_that_is_not_one_whole_object_is_unreadable(answer: Answer, says: str) -> None:
    with pytest.raises(Unreadable, match=says):
        objects(answer)


@pytest.mark.parametrize(("value", "number"), [(4, 4.0), ("4", 4.0), (3.5, 3.5), (1, 1.0), (5, 5.0)])
def test_ratings_are_numbers_or_texts_of_numbers(value: Any, number: float) -> None:
    assert rating(value, 1, 5) == number


@pytest.mark.parametrize("value", [0, 6, True, None, "five", "nan", [4], 10**400, {}])
def test_ratings_out_of_range_are_not_brought_into_it(value: Any) -> None:
    with pytest.raises(Unreadable, match="no rating of 1 … 5"):
        rating(value, 1, 5)


# rubrics


def test_the_rubrics_that_ship() -> None:
    assert shipped() == ["overall", "video_detail", "visionprefer"]
    asked = [each.name for each in load("visionprefer").aspects]
    assert asked == ["prompt_following", "fidelity", "aesthetics", "harmlessness"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("aspects: []", "has no aspects"), ("aspects: [{name: a}]", "needs question"), ("- a", "should hold"),
        ("aspects: [{name: a, question: b, wait: 2}]", "did you mean weight"), ("a: [", "is no YAML"),
        ("aspects: [{name: a, question: b}, {name: a, question: c}]", "the aspect a twice"),
        ("aspects: [{name: a, question: b, weight: 0}]", "weight must be above 0"),
        ("aspects: [{name: A b, question: b}]", "has a name of a-z"),
        ("{lowest: 5, highest: 5, aspects: [{name: a, question: b}]}", "from lowest to highest, got 5 … 5"),
    ],
)  # fmt: skip
def test_a_rubric_that_cannot_be_used_says_why(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        load(file)


def test_a_rubric_that_is_not_there_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean visionprefer"):
        load("visonprefer")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "none.yaml")


# a network that has learned to judge


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judging.taught(tmp_path_factory.mktemp("vlm") / "warm")


@pytest.fixture(scope="module")
def backend(folder: Path) -> LocalVLM:
    return LocalVLM(folder)


def samples(*colours: Image.Image) -> list[Sample]:
    return [Sample(judging.PROMPT, image=each) for each in colours]


def test_a_taught_network_prefers_red_in_both_orders_and_knows_a_tie(backend: LocalVLM) -> None:
    judge = VLMJudge(backend, rubric=judging.RUBRIC)
    assert isinstance(judge, Judge) and isinstance(judge, Scorer) and isinstance(judge, rulings.PairJudge)
    found = prefer(judge, samples(RED, BLUE, RED, BLUE), samples(BLUE, RED, RED, BLUE))
    assert found.tolist() == pytest.approx([1.0, 0.0, 0.5, 0.5], abs=0.1)
    (ruled,) = judge.rulings(samples(RED), samples(BLUE))
    assert [(each.shown_first, each.aspect) for each in ruled] == [(0, "overall"), (1, "overall")]
    assert all(each.mass is not None and each.mass > 0.9 for each in ruled)


def test_a_chance_is_the_expectation_over_the_next_token(backend: LocalVLM) -> None:
    """Against one forward pass, its softmax restricted to the three letters."""
    judge = VLMJudge(backend, rubric=judging.RUBRIC, orders="one", least_mass=0.01)
    question = judging.pair(RED, BLUE)
    inputs = backend.processor(text=[backend.text(question)], images=[RED, BLUE], return_tensors="pt")
    chances = backend.network(**inputs).logits[0, -1].float().softmax(-1)
    ids = [backend.processor.tokenizer.convert_tokens_to_ids(each) for each in ABC]
    a, _, c = chances[ids].tolist()
    ((ruled,),) = judge.rulings(samples(RED), samples(BLUE))
    assert ruled.mass == pytest.approx(float(chances[ids].sum()), rel=1e-4)
    assert ruled.chance == pytest.approx((a + c / 2) / float(chances[ids].sum()), rel=1e-4)


def test_a_batch_is_judged_as_its_pairs_one_by_one(backend: LocalVLM) -> None:
    judge = VLMJudge(backend, rubric=judging.RUBRIC)
    rng = random.Random(3)
    first, second = ([judging.picture(rng.random() < 0.5, rng) for _ in range(3)] for _ in range(2))
    together = judge.prefer(samples(*first), samples(*second))
    apart = [judge.prefer(samples(a), samples(b)) for a, b in zip(first, second, strict=True)]
    assert torch.equal(together, torch.cat(apart))
    swapped = judge.prefer(samples(*second), samples(*first))
    assert torch.allclose(together + swapped, torch.ones(3, dtype=torch.float64), atol=1e-12)


def test_a_rating_is_an_expectation_with_its_deviation_or_invalid_where_mass_is_low(backend: LocalVLM) -> None:
    loose = VLMJudge(backend, rubric=judging.RUBRIC, least_mass=1e-12).score(samples(RED))
    if loose.judged.all():  # the network was never taught to rate
        assert 1.0 <= float(loose.values[0]) <= 5.0 and loose.sigma is not None and float(loose.sigma[0]) >= 0.0
    strict = VLMJudge(backend, rubric=judging.RUBRIC, reasks=0).score(samples(RED))
    assert not strict.judged.any() and strict.values.isnan().all()
    assert "of the probability is on 1, 2, 3, 4, 5" in strict.reasons[0]


def test_a_picture_that_cannot_be_opened_is_invalid_and_nobody_is_asked(backend: LocalVLM) -> None:
    judge = VLMJudge(backend, rubric="visionprefer", least_mass=1e-12)
    found = judge.score([Sample("p", image=b"junk")])
    assert not found.judged.any() and found.reasons[0].count("not a PNG") == 1
    assert "prompt_following, fidelity, aesthetics, harmlessness: " in found.reasons[0]
    assert judge.prefer([Sample("p", image=b"junk")], [Sample("p", image=RED)]).isnan().all()
    assert judge.poll.book.answers == {}
    with pytest.raises(Misuse):
        judge.score([Sample("p", image="no/such/file.png")])
    with pytest.raises(ValueError, match="one prompt"):
        judge.prefer([Sample("p", image=RED)], [Sample("q", image=RED)])


def test_local_answers_are_a_function_of_question_and_seed(backend: LocalVLM) -> None:
    question = judging.pair(RED, BLUE)
    drawn = [Sampling(tokens=6, temperature=2.0, seed=seed) for seed in (0, 0, 1, 2, 3)]
    before = torch.get_rng_state()
    said = [next(backend.chat([question], each))[1].text for each in drawn]
    assert said[0] == said[1] and len(set(said)) > 1
    assert torch.equal(before, torch.get_rng_state())


def test_a_prompt_with_a_mark_of_the_model_s_is_that_question_s_failure_alone(backend: LocalVLM) -> None:
    judge, prompts = VLMJudge(backend, rubric=judging.RUBRIC), ("an <image> of <|end|>", judging.PROMPT)
    marked, plain = judge.rulings(*([Sample(each, image=image) for each in prompts] for image in (RED, BLUE)))
    assert all(each.valid for each in plain)
    assert not any(each.valid for each in marked)
    assert "a mark of the model's own" in str(marked[0].reason)


def test_settings_that_cannot_be_are_told(backend: LocalVLM) -> None:
    ten = {"highest": 10, "aspects": [{"name": "a", "question": "b"}]}
    for settings, says in [
        ({"answer": "words"}, "answer is one of token, json"), ({"rubric": ten}, "more than one token"),
        ({"least_mass": 0.0}, "least_mass"), ({"repeats": 0}, "repeats at least 1"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=says):
            VLMJudge(backend, **settings)  # type: ignore[arg-type]
    with pytest.raises(registry.BadSetting, match="no vision-language model at nowhere"):
        registry.build("judge", {"name": "vlm", "backend": {"name": "local", "folder": "nowhere"}})


# both orders together


@pytest.mark.parametrize(
    ("chances", "mean", "tie", "drop"),
    [
        ([0.9, 0.7], 0.8, 0.8, 0.8), ([0.9, 0.3], 0.6, 0.5, math.nan), ([1.0, 0.5], 0.75, 0.5, math.nan),
        ([0.5, 0.5], 0.5, 0.5, 0.5), ([math.nan, 0.9], math.nan, math.nan, math.nan),
    ],
)  # fmt: skip
def test_orders_that_contradict_one_another(chances: list[float], mean: float, tie: float, drop: float) -> None:
    found = [together(chances, "mean"), together(chances, "tie"), together(chances, "drop")]
    assert found == pytest.approx([mean, tie, drop], nan_ok=True)


# through real servers


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with judging.transformers_serve(folder, tmp_path_factory.mktemp("serve") / "log") as url:
        yield url


def test_transformers_serve_gives_the_verdicts_of_the_same_network_at_home(
    served: str, folder: Path, backend: LocalVLM
) -> None:
    """It tells no probabilities, so letters are read from the text."""
    away = VLMJudge(Endpoint(served, str(folder), timeout=60.0, concurrency=2), rubric=judging.RUBRIC)
    home = VLMJudge(backend, rubric=judging.RUBRIC)
    first, second = samples(RED, BLUE, RED), samples(BLUE, RED, RED)
    assert away.prefer(first, second).tolist() == [1.0, 0.0, 0.5]
    assert home.prefer(first, second).tolist() == pytest.approx([1.0, 0.0, 0.5], abs=0.1)
    assert {each.mass for ruled in away.rulings(first, second) for each in ruled} == {None}


def test_json_that_lacks_an_aspect_spoils_that_aspect_alone() -> None:
    asked = load("visionprefer")
    said = {each.name: {"reason": "r", "answer": 4} for each in asked.aspects}
    said["fidelity"] = {"reason": "r", "answer": 9}
    with faulty.serving() as server:
        server.replies[asked.about] = {"content": f"```json\n{json.dumps(said)}\n```"}
        found = VLMJudge(Endpoint(server.url, "m"), rubric=asked, answer="json").score(samples(RED))
        assert server.asked[asked.about] == 2  # once more, and no oftener
        assert "nothing else" in server.bodies[1]["messages"][0]["content"][-1]["text"]
    assert not found.judged[0] and found.reasons[0] == "fidelity: '9' is no rating of 1 … 5"
    assert found.aspects["aesthetics"].tolist() == [4.0] and found.aspects["fidelity"].isnan().all()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ({"content": "Sorry, I cannot help with that."}, "no whole JSON object: 'Sorry"),
        ({"content": '{"overall": {"answer":', "cut": True}, "cut off"),
        ({"content": None, "refusal": "no people"}, "refused: no people"), ({"content": ""}, "empty"),
    ],
)  # fmt: skip
def test_failures_are_invalid_with_their_reason_and_never_zero_or_half(reply: dict[str, Any], says: str) -> None:
    about = load("overall").about
    with faulty.serving() as server:
        server.replies[about] = reply
        judge = VLMJudge(Endpoint(server.url, "m"), answer="json")
        (ruled,) = judge.rulings(samples(RED), samples(BLUE))
        assert judge.prefer(samples(RED), samples(BLUE)).isnan().all()
    assert all(not each.valid and each.reason and says in each.reason for each in ruled)


def test_one_order_that_failed_makes_the_pair_invalid() -> None:
    about = load("overall").about
    with faulty.serving({about: ["status 400"]}) as server:
        server.replies[about] = {"content": "A"}
        judge = VLMJudge(Endpoint(server.url, "m", concurrency=1))
        judge.poll.backend.backoff = tenacity.wait_none()
        (ruled,) = judge.rulings(samples(RED), samples(BLUE))
    assert [each.valid for each in ruled] == [False, True]
    assert math.isnan(judge.settled(ruled)["overall"])


# clips


class Warmth:
    """Prefers the redder first frame."""

    def prefer(self, first: Any, second: Any) -> torch.Tensor:
        red = [[each.video[0].getpixel((0, 0))[0] for each in side] for side in (first, second)]
        self.shown = [len(each.video) for each in first]
        return (torch.sign(torch.tensor(red[0]).double() - torch.tensor(red[1]).double()) + 1) / 2


def test_a_clip_has_a_label_for_each_second_and_the_majority_as_its_own() -> None:
    one = Sample("p", video=(RED,) * 16 + (BLUE,) * 9)
    other = Sample("p", video=(BLUE,) * 8 + (RED,) * 8 + (RED,) * 9)
    judge = SegmentJudge(Warmth(), rate=8.0, shown=4.0)
    (label,) = judge.labels([one], [other])
    assert label.tolist() == [1.0, 0.5, 0.0] and judge.judge.shown == [4, 4, 5]
    assert judge.prefer([one], [other]).tolist() == [0.5]
    record = judge.judged(Preference("p", ("a.mp4", "b.mp4")), label)
    assert record.scores.tolist() == [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]] and record.judge == "Warmth-segments"
    assert record.segment == 8.0
    with pytest.raises(ValueError, match="as many frames"):
        judge.labels([one], [Sample("p", video=(RED,))])


@pytest.mark.parametrize(
    ("judge", "why"),
    [
        ({"backend": {"name": "local", "folder": "nowhere"}, "rubrik": "x"}, "unknown setting judge.rubrik"),
        ({"rubric": "overall"}, "judge needs backend"),
        ("vlm", "judge needs backend"),
        ("vml", "no judge is named 'vml'; did you mean vlm"),
    ],
)
def test_a_judge_of_segments_that_cannot_be_is_told(judge: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        SegmentJudge(judge, rate=8.0)


# clips on the command line


def clip(path: Path, *colours: Image.Image) -> None:
    """Two frames of each colour in a folder, numbered without zeros before."""
    path.mkdir()
    for number, each in enumerate(each for each in colours for _ in range(2)):
        each.save(path / f"frame{number}.png")


def clip_judge(folder: Path, tmp_path: Path) -> str:
    rubric = tmp_path / "warm.yaml"
    rubric.write_text("about: Judge.\naspects: [{name: overall, question: 'Warmer?'}]\n")
    backend = f"{{name: local, folder: {folder}}}"
    return f"{{name: segments, rate: 2, shown: 1, judge: {{backend: {backend}, rubric: {rubric}}}}}"


def test_label_writes_a_score_for_each_segment_of_clips(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = tmp_path / "clips"
    shown.mkdir()
    clip(shown / "one", RED, BLUE, RED, BLUE, RED, RED)
    clip(shown / "other", BLUE, BLUE, RED, RED, BLUE, BLUE)
    for name in ("one", "other"):
        (shown / f"{name}.txt").write_text(judging.PROMPT)
    out = tmp_path / "out" / "judged.parquet"
    command = ["label", str(shown), "--judge", clip_judge(folder, tmp_path), "--out", str(out)]
    assert main(command) == 0
    (record,) = store.read(out)
    assert record.items == (str(shown / "one"), str(shown / "other")) and record.scale == "probability"
    assert record.scores[0] == pytest.approx([1.0, 0.5, 0.5, 0.0, 1.0, 1.0], abs=0.1)
    assert record.scores.sum(axis=0) == pytest.approx(np.ones(6))
    assert "6 segments: 3 to the first, 1 to the second, 2 ties, 0 not judged" in capsys.readouterr().out
    answered = (out.parent / ".judge-answers").read_bytes()
    assert main(command) == 0 and (out.parent / ".judge-answers").read_bytes() == answered


def test_a_judge_that_was_interrupted_goes_on_and_what_it_writes_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C at the fourth answer: three are in the book, and only the others are asked for again."""
    (tmp_path / "clips").mkdir()
    clip(tmp_path / "clips" / "one", RED, BLUE, RED)
    clip(tmp_path / "clips" / "other", BLUE, BLUE, RED)
    clip(tmp_path / "clips" / "third", BLUE, RED, BLUE)
    names = ("one", "other", "third")
    store.write([Preference(judging.PROMPT, names)], tmp_path / "clips" / "records.jsonl")
    outs = [tmp_path / name / "judged.jsonl" for name in ("whole", "twice")]
    whole, twice = (
        ["label", str(tmp_path / "clips/records.jsonl"), "--judge", clip_judge(folder, tmp_path), "--out", str(out)]
        for out in outs
    )
    assert main(whole) == 0
    add = Book.add
    kept: list[str] = []

    def interrupted(self: Book, key: str, answer: Answer) -> None:
        if len(kept) == 3:
            kept.append("")
            raise KeyboardInterrupt
        kept.append(key)
        add(self, key, answer)

    monkeypatch.setattr(Book, "add", interrupted)
    assert main(twice) == 130 and not outs[1].exists()
    book = outs[1].parent / ".judge-answers"
    assert book.read_bytes().count(b"\n") == 3
    assert main(twice) == 0
    assert outs[1].read_bytes() == outs[0].read_bytes()
    assert book.read_bytes() == (outs[0].parent / ".judge-answers").read_bytes()
    assert len(set(kept)) == len(kept), "no answer was asked for twice"


def test_clips_that_cannot_be_compared_have_empty_scores(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(tmp_path / "one", RED, BLUE)
    clip(tmp_path / "long", RED, BLUE, RED)
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    records = [Preference(judging.PROMPT, ("one", each)) for each in ("long", "film.mp4")]
    store.write(records, tmp_path / "records.jsonl")
    out = tmp_path / "judged.jsonl"
    command = ["label", str(tmp_path / "records.jsonl"), "--judge", clip_judge(folder, tmp_path), "--out", str(out)]
    assert main(command) == 1, "nothing could be judged"
    assert all(np.isnan(each.scores).all() for each in store.read(out))
    assert "2 of 2 pairs could not be compared" in capsys.readouterr().out


def test_frames_come_in_the_order_of_their_numbers_from_folders_and_animated_files(tmp_path: Path) -> None:
    greys = [Image.new("RGB", (8, 8), (each, each, each)) for each in range(0, 240, 20)]
    (tmp_path / "clip").mkdir()
    for number, each in enumerate(greys):
        each.save(tmp_path / "clip" / f"frame{number}.png")
    greys[0].save(tmp_path / "clip.webp", save_all=True, append_images=greys[1:], lossless=True)
    greys[0].save(tmp_path / "clip.png", save_all=True, append_images=greys[1:])
    for name in ("clip", "clip.webp", "clip.png"):
        found = clips.frames(name, tmp_path)
        assert [each.getpixel((0, 0)) for each in found] == [each.getpixel((0, 0)) for each in greys]


def test_what_is_no_clip_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0 ftypisom")
    for name, says in {
        "empty": "no frames",
        "film.mp4": "damaged, or no clip",
        "none": "no such file",
        "..": "leads out",
    }.items():
        with pytest.raises(ImageError, match=says):
            clips.frames(name, tmp_path)


# records


def test_rulings_on_disk(tmp_path: Path) -> None:
    made = [Ruling("p", ("a", "b"), 0.25, 1, mass=0.9), Ruling("p", ("a", "b"), math.nan, reason="why")]
    rulings.write(made, tmp_path / "x.rulings")
    found = list(rulings.read(tmp_path / "x.rulings"))
    assert found[0] == made[0] and found[0].first_shown == 0.75
    assert not found[1].valid and found[1].reason == "why"
    (tmp_path / "y").write_text('{"prompt": "p", "items": ["a", "b"], "chance": 2}\n')
    with pytest.raises(DataError, match=r"y:1: no ruling: a chance lies in"):
        list(rulings.read(tmp_path / "y"))


def test_label_writes_what_the_judge_thinks_and_asks_nothing_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, shown in {"red.png": RED, "blue.png": BLUE, "also.png": RED}.items():
        shown.save(tmp_path / name)
    (tmp_path / "bad.png").write_bytes(b"junk")
    items = [("red.png", "blue.png", "also.png"), ("blue.png", "bad.png")]
    store.write([Preference(judging.PROMPT, each) for each in items], tmp_path / "records.jsonl")
    rubric = tmp_path / "warm.yaml"
    rubric.write_text("about: Judge.\naspects: [{name: overall, question: 'Warmer?'}]\n")
    judge = f"{{name: vlm, backend: {{name: local, folder: {folder}}}, rubric: {rubric}}}"
    out = tmp_path / "out" / "judged.jsonl"
    command = ["label", str(tmp_path / "records.jsonl"), "--judge", judge, "--out", str(out)]
    assert main(command) == 0
    made = {tuple(Path(item).stem for item in each.items): each for each in store.read(out)}
    verdicts = {pair: each.verdict for pair, each in made.items()}
    assert verdicts["red", "blue"] == "first" and verdicts["blue", "also"] == "second"
    assert verdicts["blue", "bad"] is None and math.isnan(made["blue", "bad"].utilities[0])
    assert {each.scale for each in made.values()} == {"probability"} and made["red", "blue"].judge == "warm-warm"
    answered = (out.parent / ".judge-answers").read_bytes()
    assert answered.count(b"\n") == 3  # of six questions: two of the pictures are the same
    assert main(command) == 0
    assert (out.parent / ".judge-answers").read_bytes() == answered
    assert "not a PNG" in capsys.readouterr().out
    report = tmp_path / "bias.json"
    assert main(["judge", "bias", str(out.with_suffix(".rulings")), "--out", str(report)]) == 0
    assert json.loads(report.read_text())["rulings"] == 7
    assert main(["judge", "bias", str(tmp_path / "none")]) == 2
