"""Pictures of every view of `visalign compare`, or of a report, for the documentation, taken in headless Chromium.

    visalign demo && python benchmarks/screenshots.py                        # docs/images/compare_*.png
    python benchmarks/screenshots.py --report runs/report/report.html        # docs/images/mllm_report.png

The votes are cast by the playground's simulated voters, the answers are made up.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from visalign import images, playground, registry
from visalign.apps import booth, compare, desk
from visalign.diffusion.source import Source
from visalign.drawing import Settings
from visalign.playground import corpus
from visalign.playground.voters import Voters

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
RATERS = ("ada", "grace", "edsger")
VOTES = 60  # of each
POOR = 0.2  # utility below which both of a pair are bad
DESK, PHONE, PAGE = (1280, 860), (390, 844), (1120, 1690)


@dataclass(frozen=True)
class Shot:
    """One picture: its name, where it is taken, and what is done there first."""

    name: str
    page: str
    size: tuple[int, int] = DESK
    scheme: str = "light"
    steps: tuple[tuple[str, str], ...] = ()  # ("click" or "press", what)


SHOTS = (
    Shot("grid", ""),
    Shot("grid_dark", "", scheme="dark"),
    Shot("grid_phone", "", size=PHONE),
    Shot("prompt", "", steps=(("click", "button.picture >> nth=4"),)),
    Shot("prompt_slider", "", steps=(("click", "button.picture >> nth=4"), ("click", "dialog >> text=Slider"))),
    Shot("prompt_difference", "", scheme="dark",
         steps=(("click", "button.picture >> nth=4"), ("click", "dialog >> text=Difference"))),
    Shot("vote", "vote"),
    Shot("vote_dark", "vote", scheme="dark"),
    Shot("vote_told", "vote", steps=(("press", "1"),)),
    Shot("vote_aspects", "vote", steps=(("click", "text=Vote on aspects"),)),
    Shot("vote_phone", "vote", size=PHONE),
    Shot("vote_phone_told", "vote", size=PHONE, scheme="dark", steps=(("click", "text=A is better"),)),
    Shot("leaderboard", "leaderboard", size=(1280, 1100)),
    Shot("leaderboard_dark", "leaderboard", size=(1280, 1100), scheme="dark"),
    Shot("leaderboard_phone", "leaderboard", size=PHONE),
    Shot("answers", "answers"),
    Shot("answers_dark", "answers", scheme="dark"),
    Shot("answers_phone", "answers", size=PHONE),
    Shot("runs", "runs"),
    Shot("runs_dark", "runs", scheme="dark"),
    Shot("runs_phone", "runs", size=PHONE),
)  # fmt: skip


def opened(folder: Path, models: list[str]) -> compare.Served:
    """The app on these models, its pictures drawn."""
    answers = folder / "answers.jsonl"
    answers.parent.mkdir(parents=True, exist_ok=True)
    made_up(answers)
    setup = desk.Setup(
        models={model.rstrip("/").split("/")[-1]: Source.find(model) for model in models},
        prompts=corpus.prompts("heldout", 24),
        settings=Settings(steps=playground.STEPS, guidance=playground.GUIDANCE),
        scorers=[registry.build("scorer", name) for name in ("rules", "redrawing")],
        folder=folder,
        aspects=("colours", "layout"),
        answers=answers,
        runs={Path(model).name: Path(model) for model in models if (Path(model) / "metrics.jsonl").is_file()},
    )
    served = compare.serve(setup, compare.Door())
    while served.desk.pool.progress()["waiting"]:
        time.sleep(0.2)
    return served


def made_up(path: Path) -> None:
    """Answers about three playground pictures, some of them wrong."""
    from PIL import Image

    from visalign.playground import captions, world

    asked = [("a red circle left of a blue square", ["circle", "square"]), ("two green rings", ["ring"]),
             ("an orange triangle above a purple diamond", ["triangle", "diamond"])]  # fmt: skip
    said = [
        {"base": "A red circle and a blue square stand side by side below an orange triangle.",
         "aligned": "A red circle stands to the left of a blue square."},
        {"base": "I see three green rings and a triangle.", "aligned": "Two green rings on a plain background."},
        {"base": "A triangle and two rings.", "aligned": "An orange triangle above a purple diamond."},
    ]  # fmt: skip
    rows = []
    for number, ((caption, objects), answers) in enumerate(zip(asked, said, strict=True)):
        picture = world.draw(world.place(captions.parse(caption), np.random.default_rng(number)))
        Image.fromarray(np.asarray(picture)).resize((512, 512), Image.Resampling.NEAREST).save(
            path.parent / f"{number}.png"
        )
        question = "What does the picture show?"
        rows.append({"image": f"{number}.png", "question": question, "answers": answers, "objects": objects})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def elect(votes: booth.Booth, rater: str, count: int) -> None:
    """Votes as the playground's voters cast them, each by their own noise."""
    voters = Voters(tie=0.02)
    for _ in range(count):
        trial = votes.next(rater)
        if trial is None:
            return
        seen = [np.asarray(images.load(votes.picture(name))) for name in trial.blind]
        left, right = voters.utility(seen, [trial.spot.prompt] * 2)
        word = (
            "both_bad"
            if max(left, right) < POOR
            else voters.vote(float(left), float(right), seed=0, key=rater + trial.id)
        )
        votes.vote(trial.id, rater, {"first": "left", "second": "right"}.get(word, word))


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, closed at the end."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        yield play.chromium.launch(executable_path=program, args=FLAGS)


def reported(page: Path, path: Path) -> Path:
    """The head of a report's page."""
    with chromium() as browser:
        width, height = PAGE
        opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
        opened.goto(page.resolve().as_uri())
        opened.screenshot(path=str(path))
    return path


def taken(served: compare.Served, out: Path, wanted: list[str]) -> Iterator[Path]:
    """Each shot's file, once it is written."""
    with chromium() as browser:
        for shot in SHOTS:
            if not wanted or shot.name in wanted:
                yield _taken(browser, served.url, shot, out)


def _taken(browser: Any, url: str, shot: Shot, out: Path) -> Path:
    width, height = shot.size
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=shot.scheme, reduced_motion="reduce",
        device_scale_factor=2 if shot.size == PHONE else 1,
    )  # fmt: skip
    page.add_init_script("localStorage.setItem('visalign-rater', 'you')")
    page.goto(f"{url}/{shot.page}")
    page.wait_for_selector("#room > *")
    page.wait_for_load_state("load")
    page.wait_for_timeout(900)
    for act, what in shot.steps:
        page.click(what) if act == "click" else page.keyboard.press(what)
        page.wait_for_timeout(700)
    path = out / f"compare_{shot.name}.png"
    page.screenshot(path=str(path))
    page.close()
    return path


def main() -> None:
    """Open the app, vote, take the pictures."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs="+", default=["playground", "runs/demo/dpo", "runs/demo/sft"])
    asked.add_argument("--folder", type=Path, default=Path("runs/screenshots"))
    asked.add_argument("--out", type=Path, default=Path("docs/images"))
    asked.add_argument("--report", type=Path, help="a page of a report, in place of the app")
    asked.add_argument("--only", nargs="*", default=[], help="names of shots")
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.report:
        print(reported(given.report, given.out / "mllm_report.png"))
        return
    served = opened(given.folder, given.models)
    for rater in RATERS:
        elect(served.desk.booth, rater, VOTES)
    for path in taken(served, given.out, given.only):
        print(path)
    served.close()


if __name__ == "__main__":
    main()
