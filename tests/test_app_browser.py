"""The app in a real browser: a whole session by keyboard, words of strangers, and no request to anybody else."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compared import EVIL, PROMPTS, Broken, app, chromium, drawn, setup
from PIL import Image

from visalign import registry
from visalign.apps import compare
from visalign.data import store
from visalign.evaluation import arena, statistics
from visalign.records import Preference

VIEWS = ("", "vote", "leaderboard", "answers", "runs")
PHONE = {"width": 390, "height": 844}
PATIENCE = 120_000  # milliseconds: a machine with much else to do is slow, not wrong
Open = Callable[..., Any]


def question(folder: Path) -> Path:
    """Answers in a stranger's words about a picture with a stranger's name."""
    name = "<img src=x onerror=alert(1)>.png"
    Image.new("RGB", (8, 8), "red").save(folder / name)
    row = {"image": name, "question": EVIL, "answers": {EVIL: f"a dog and {EVIL}"}, "objects": ["cat"],
           "hallucinated": {EVIL: ["dog"]}}  # fmt: skip
    (folder / "answers.jsonl").write_text(json.dumps(row) + "\n")
    return folder / "answers.jsonl"


def run(folder: Path) -> Path:
    """What a training run leaves behind, so far."""
    (folder / "validation").mkdir(parents=True)
    rows = [{"step": step, "loss": 1 / step, "implicit_accuracy": 0.5, "grad_norm": None} for step in range(1, 40)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "run.yaml").write_text("steps: 80\n")
    for step in (10, 20):
        Image.new("RGB", (64, 32)).save(folder / "validation" / f"step-{step:06d}.png")
    return folder


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[compare.Served]:
    """Two models, one with the worst of names; the worst of prompts; a scorer that fails in the worst of words."""
    folder = tmp_path_factory.mktemp("browser")
    plain = setup(folder / "session")
    given = setup(
        folder / "session",
        models={"base": plain.models["base"], EVIL: plain.models["shaken"]},
        prompts=PROMPTS,
        seeds=range(3),
        scorers=[registry.build("scorer", "rules"), Broken()],
        aspects=("colours",),
        answers=question(folder),
        runs={EVIL: run(folder / "run")},
    )
    with app(given) as made:
        yield made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture
def visit(browser: Any, served: compare.Served) -> Iterator[Open]:
    """Open a view; at the end nothing was said to another host, nothing failed and no stranger's script ran."""
    contexts: list[Any] = []
    wrong: list[str] = []

    def watched(page: Any) -> None:
        page.on("request", lambda each: wrong.extend([] if _own(each.url, served.url) else [each.url]))
        page.on("console", lambda each: wrong.extend([each.text] if each.type == "error" else []))
        page.on("pageerror", lambda each: wrong.append(str(each)))
        page.on("dialog", lambda each: wrong.append(each.message))

    def opened(view: str, rater: str = "ada", **given: Any) -> Any:
        context = browser.new_context(reduced_motion="reduce", **given)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        context.add_init_script(f"if (location.host) localStorage['visalign-rater'] ??= {json.dumps(rater)}")
        page = context.new_page()
        watched(page)
        context.on("page", watched)
        page.goto(f"{served.url}/{view}")
        page.wait_for_selector("#room > *")
        return page

    yield opened
    for context in contexts:
        for page in context.pages:
            assert page.evaluate("window.__xss") is None
        context.close()
    assert wrong == []


def _own(url: str, base: str) -> bool:
    return url.startswith((base + "/", "data:", "blob:"))


def state(page: Any, name: str) -> None:
    """Wait until the vote's page asks for an answer ("open") or has told who drew what ("told")."""
    page.wait_for_selector({"open": ".answers .left", "told": ".answers .next"}[name])


def numbers(text: str) -> list[float]:
    """The whole numbers in a text."""
    return [float(each) for each in re.findall(r"-?\d+", text)]


def cells(page: Any, rows: str, head: str) -> dict[str, list[str]]:
    """The texts of each row's cells, by the row's own `head`."""
    found = page.query_selector_all(rows)
    return {each.query_selector(head).inner_text(): [cell.inner_text() for cell in each.query_selector_all("td")]
            for each in found}  # fmt: skip


def overall(served: compare.Served, rater: str) -> list[Preference]:
    """A rater's votes on the disk."""
    return [each for each in store.read(served.desk.votes) if (each.user, each.aspect) == (rater, "overall")]


def test_a_session_by_keyboard_from_votes_to_a_model_in_the_grid(visit: Open, served: compare.Served) -> None:
    """Twenty pairs, the leaderboard against our own statistics, the recipe trained, its model in the grid."""
    for rater in ("grace", "ada"):
        page = visit("vote", rater)
        for number in range(10):
            state(page, "open")
            page.keyboard.press(("1", "2", "3", "4", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown")[number % 8])
            state(page, "told")
            page.keyboard.press("Enter")
        state(page, "open")
        assert len(overall(served, rater)) == 10
    votes = [each for rater in ("grace", "ada") for each in overall(served, rater)]
    assert {each.verdict for each in votes} == {"first", "second", "tie", "both_bad"}
    page = visit("leaderboard")
    page.wait_for_selector(".rank")
    _board_is(page, votes, served)
    page.click("text=Write the recipe")
    command = page.wait_for_selector("#command").inner_text()
    _trained(command, served)
    page = visit("")
    page.click("text=Add it to the comparison")
    page.wait_for_selector("th >> text=trained")
    drawn(served.desk)
    page.wait_for_selector("img[alt*='drawn by trained']")


def _board_is(page: Any, votes: list[Preference], served: compare.Served) -> None:
    """The page's numbers are those of the statistics for the votes on the disk."""
    ids = [artist.id for artist in served.desk.pool.artists]
    bouts = arena.Bouts.of(votes, ids)
    wins = bouts.wins()
    points = statistics.strengths(wins + arena.PRIOR) * 400 / math.log(10)
    shown = cells(page, ".rank:has(code) tbody tr", "code")
    for place, name in enumerate(ids):
        row = shown[name.split("@")[-1]]
        share = wins[place].sum() / len(bouts)
        low, high = statistics.wilson(share, len(bouts))
        expected = [points[place], 100 * share, 100 * low, 100 * high]
        assert numbers(f"{row[2]} {row[4]}") == pytest.approx(expected, abs=0.501)  # as rounded on the page
        assert int(row[5]) == len(votes)
    decided = [each for each in votes if each.verdict in ("first", "second")]
    left = np.mean([(each.verdict == "first") == (each.shown_first == 0) for each in decided])
    assert numbers(page.inner_text(".big")) == pytest.approx([100 * left], abs=0.501)


def _trained(given: str, served: compare.Served) -> None:
    """Run the recipe's own command, short."""
    _, *words = given.split()
    short = ["steps=2", "batch=2", "micro_batch=2", "save_every=0"]
    command = [sys.executable, "-m", "visalign", *words, *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (served.desk.folder / "trained" / "weights").is_dir()


def test_a_double_click_is_one_vote_and_undo_takes_it_back(visit: Open, served: compare.Served) -> None:
    page = visit("vote", "bo")
    state(page, "open")
    page.dblclick("text=A is better")
    state(page, "told")
    assert len(overall(served, "bo")) == 1
    shown = page.inner_text("h1.prompt")
    page.keyboard.press("u")
    state(page, "open")
    assert overall(served, "bo") == []
    assert page.inner_text("h1.prompt") == shown
    page.keyboard.press("s")
    page.wait_for_function("document.querySelector('.answers .left') && !document.querySelector('.told')")
    assert overall(served, "bo") == []


def test_keys_are_letters_while_somebody_types(visit: Open, served: compare.Served) -> None:
    page = visit("vote", "cleo")
    state(page, "open")
    page.fill("input[aria-label='Your name as a rater']", "")
    page.type("input[aria-label='Your name as a rater']", "cleo 1234")
    assert store.read(served.desk.votes) == [] or not overall(served, "cleo")
    page.keyboard.press("Tab")
    state(page, "open")
    page.keyboard.press("2")
    state(page, "told")
    assert len(overall(served, "cleo 1234")) == 1


def test_the_back_button_and_a_second_window_do_not_vote_twice(visit: Open, served: compare.Served) -> None:
    page = visit("vote", "dora")
    state(page, "open")
    other = page.context.new_page()
    other.goto(page.url)
    state(other, "open")
    for each in (page, other):
        each.keyboard.press("1")
        state(each, "told")
    page.goto(f"{served.url}/leaderboard")
    page.go_back()
    state(page, "open")
    assert len(overall(served, "dora")) == 2


def test_before_the_vote_the_page_tells_nothing_and_after_it_everything(visit: Open, served: compare.Served) -> None:
    page = visit("vote", "emmy")
    state(page, "open")
    before = page.content()
    hidden = [artist.weights for artist in served.desk.pool.artists] + ["onerror=", "evil.test", "rules", "broken"]
    prompt = page.inner_text("h1.prompt")
    assert not any(word in before for word in hidden) or prompt == EVIL
    assert not re.search(r"\bbase\b", page.inner_text("body"))
    assert page.query_selector_all(".scores") == []
    page.keyboard.press("1")
    state(page, "told")
    told = {each.inner_text() for each in page.query_selector_all(".side .model")}
    assert len(told) == 2 and told <= {artist.name for artist in served.desk.pool.artists}
    scores = page.inner_text(".side .scores >> nth=0")
    assert "rules" in scores and "ValueError" in scores


def test_strangers_words_are_words(visit: Open, served: compare.Served) -> None:
    """In prompts, names of models, raters, runs and files, questions, answers and a scorer's error."""
    page = visit("", EVIL)
    page.wait_for_selector("button.picture")
    assert EVIL in page.inner_text("thead") and "ValueError" in page.inner_text("tbody >> nth=0")
    page.fill("input[name=prompt]", EVIL + " again")
    page.click("text=Draw")
    page.wait_for_selector(f"th.prompt >> text={EVIL} again")
    page.click("button.picture >> nth=0")
    page.wait_for_selector(".facts")
    page = visit("vote", EVIL[:64])
    state(page, "open")
    page.keyboard.press("1")
    state(page, "told")
    for view, within in (("leaderboard", EVIL[:40]), ("answers", EVIL), ("runs", "onerror")):
        page = visit(view)
        page.wait_for_selector({"leaderboard": ".rank", "answers": "mark", "runs": ".chart"}[view])
        assert within in page.inner_text("main")
    assert [each.inner_text() for each in visit("answers").query_selector_all("mark")] == ["dog"]


def test_the_same_noise_is_proven_and_pictures_are_compared_by_keyboard(visit: Open, served: compare.Served) -> None:
    page = visit("")
    page.wait_for_selector("button.picture")
    page.focus("button.picture >> nth=1")
    page.keyboard.press("Enter")
    page.wait_for_selector(".seal.good >> text=Same initial noise")
    facts = cells(page, ".facts tbody tr", "th")
    assert {"seed", "sampler", "steps", "guidance", "weights", "noise", "size"} <= set(facts)
    assert len(set(facts["noise"])) == 1 and len(set(facts["weights"])) == 2
    page.focus("dialog input[value=pair]")
    page.keyboard.press("ArrowRight")
    slider = page.wait_for_selector("dialog input.slide")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "51 % base"
    assert (
        page.evaluate("getComputedStyle(document.querySelector('dialog .layers')).getPropertyValue('--cut')") == "51%"
    )
    page.click("dialog >> text=Flicker")
    before = page.inner_text("dialog .now")
    page.click("dialog >> text=Other picture")
    assert page.inner_text("dialog .now") != before
    page.click("dialog >> text=Difference")
    page.wait_for_selector("dialog .said >> text=Mean difference")
    page.keyboard.press("Escape")
    assert not page.is_visible("dialog")


def test_a_run_is_watched_while_it_trains(visit: Open, served: compare.Served) -> None:
    page = visit("runs")
    page.wait_for_selector(".live >> text=step 39 of 80")
    with (served.desk.runs.folders[EVIL] / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "loss": 0.01, "implicit_accuracy": 0.9}\n{"step": 41, "lo')
    page.wait_for_selector(".live >> text=step 40 of 80")
    assert page.get_attribute("img.sheet", "alt") == "Validation pictures at step 20"
    page.focus("input[aria-label='Step of the validation sheet']")
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("img.sheet", "alt") == "Validation pictures at step 10"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_can_be_read_and_used_by_everybody(view: str, scheme: str, visit: Open) -> None:
    """Every control has a name, every picture words, every text contrast of 4.5; nothing is wider than a phone."""
    page = visit(view, "fay", color_scheme=scheme, viewport=PHONE)
    page.wait_for_timeout(500)
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(FAINT) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.evaluate("[...document.querySelectorAll('h1')].length") == 1
    if view == "vote":
        sizes = [each.bounding_box() for each in page.query_selector_all(".answers button")]
        assert all(box["height"] >= 44 and box["y"] + box["height"] <= PHONE["height"] for box in sizes)


UNNAMED = """() => {
  const kinds = ['button', 'a', 'input', 'select', 'img', 'canvas'].map((kind) => `.visalign ${kind}`).join();
  const named = (each) => each.getAttribute('aria-label') || each.getAttribute('alt') || each.innerText?.trim()
    || each.labels?.[0]?.innerText.trim() || each.querySelector('img')?.getAttribute('alt');
  return [...document.querySelectorAll(kinds)].filter((each) => each.checkVisibility() && !named(each))
    .map((each) => each.outerHTML.slice(0, 200));
}"""

# Contrast by WCAG 2.2 (1.4.3) of every element with text of its own, against the nearest ground that is opaque.
FAINT = """() => {
  const pen = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const solid = (color) => {
    pen.clearRect(0, 0, 1, 1);
    pen.fillStyle = color;
    pen.fillRect(0, 0, 1, 1);
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const [r, g, b] = color.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const color = solid(getComputedStyle(at).backgroundColor);
      if (color[3] > 230) return color;
    }
    return [255, 255, 255];
  };
  const words = (each) => [...each.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.querySelectorAll('.visalign *')].filter((each) => each.checkVisibility() && words(each))
    .map((each) => {
      const [a, b] = [solid(getComputedStyle(each).color), ground(each)].map(light).sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), each.outerHTML.slice(0, 120)];
    }).filter(([ratio]) => ratio < 4.5);
}"""
