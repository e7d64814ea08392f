"""How fast `visalign compare` answers: first component, one vote, sixteen raters for a minute, every vote on the disk.

    python benchmarks/app.py                       # writes benchmarks/results/app.json; about two minutes

Models are loaded and pictures drawn before anything is timed. Pages are opened in headless Chromium, votes are sent as
the page sends them. The machine's load is written beside the numbers: they mean little on a busy one.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from visalign.data import store

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
FIRST, VOTE, BUSY = 4.0, 0.3, 1.0  # seconds: what is promised of a view, a vote, and a vote among sixteen raters (p95)
SAID = ("left", "right", "tie", "both_bad")
VIEWS = ("", "vote", "leaderboard")


@contextmanager
def opened(folder: Path, models: list[str]) -> Iterator[tuple[str, str]]:
    """The app in a process of its own, everything drawn: its address, and the key that its pages carry."""
    words = ["compare", *models, "--prompts", "playground:heldout:24", "--seeds", "4", "--out", str(folder)]
    command = [sys.executable, "-u", "-m", "visalign", *words, "--steps", "4", "--guidance", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = next(line for line in process.stdout if line.startswith("compare: ")).split()[1]
            while httpx.get(f"{url}/desk/about", timeout=60).json()["progress"]["waiting"]:
                time.sleep(0.2)
            key = re.search(r"visalign-key\W+content=\W+([\w-]+)", httpx.get(url, timeout=60).text)
            assert key is not None
            yield url, key[1]
        finally:
            process.terminate()


def views(url: str, rounds: int) -> dict[str, Any]:
    """Seconds from a fresh browser profile to the first thing on each view, and from a key to who drew what."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        raise SystemExit("no browser: apt-get install chromium")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=program, args=FLAGS)
        first = {view or "grid": [_first(browser, url, view) for _ in range(rounds)] for view in VIEWS}
        votes = _votes(browser, url, rounds)
        browser.close()
    return {"first_component": {view: summary(each) for view, each in first.items()}, "vote": summary(votes)}


def _first(browser: Any, url: str, view: str) -> float:
    page = browser.new_page()
    began = time.perf_counter()
    page.goto(f"{url}/{view}", wait_until="commit")
    page.wait_for_selector("#room > *")
    seconds = time.perf_counter() - began
    page.close()
    return seconds


def _votes(browser: Any, url: str, rounds: int) -> list[float]:
    """By keyboard, as a rater does."""
    page, found = browser.new_page(), []
    page.goto(f"{url}/vote")
    for _ in range(rounds):
        page.wait_for_selector(".answers .left")
        began = time.perf_counter()
        page.keyboard.press("1")
        page.wait_for_selector(".answers .next")
        found.append(time.perf_counter() - began)
        page.keyboard.press("Enter")
    page.close()
    return found


def crowd(url: str, key: str, raters: int, seconds: float) -> tuple[list[float], int]:
    """Seconds that each vote took, with so many raters at one vote a second each; and how many were sent."""
    with ThreadPoolExecutor(raters) as threads:
        found = list(
            threads.map(lambda number: _rate(url, key, f"rater {number}", seconds, number / raters), range(raters))
        )
    times = [each for one in found for each in one]
    return times, len(times)


def _rate(url: str, key: str, rater: str, seconds: float, offset: float) -> list[float]:
    times: list[float] = []
    with httpx.Client(base_url=url, headers={"x-visalign-key": key}, timeout=60) as web:
        begin = time.monotonic() + offset
        while (turn := begin + len(times)) < begin + seconds:
            time.sleep(max(0.0, turn - time.monotonic()))
            trial = web.post("/desk/trial", json={"rater": rater}).json()["trial"]
            if trial is None:
                break
            for name in trial["pictures"]:
                web.get(f"/desk/blind/{name}").raise_for_status()
            began = time.perf_counter()
            vote = {"trial": trial["id"], "rater": rater, "said": SAID[len(times) % 4]}
            web.post("/desk/vote", json=vote).raise_for_status()
            times.append(time.perf_counter() - began)
    return times


def summary(values: list[float]) -> dict[str, float]:
    """Median, p95 and worst, in seconds."""
    return {
        "median": round(statistics.median(values), 4),
        "p95": round(float(np.percentile(values, 95)), 4),
        "worst": round(max(values), 4),
        "count": len(values),
    }


def measured(folder: Path, raters: int, seconds: float, models: list[str]) -> dict[str, Any]:
    """Everything, with what must hold."""
    with opened(folder, models) as (url, key):
        load = os.getloadavg()[0]
        found = views(url, rounds=5)
        before = len(store.read(folder / "votes"))
        times, sent = crowd(url, key, raters, seconds)
        kept = len(store.read(folder / "votes")) - before
    holds = {
        "first component": all(each["median"] <= FIRST for each in found["first_component"].values()),
        "vote": found["vote"]["median"] < VOTE,
        "vote among raters, p95": summary(times)["p95"] < BUSY,
        "every vote on the disk": kept == sent,
    }
    about = {"raters": raters, "seconds": seconds, "sent": sent, "on_disk": kept, **summary(times)}
    machine = {"cores": os.cpu_count(), "load_before": round(load, 2), "load_after": round(os.getloadavg()[0], 2),
               "platform": platform.platform(), "python": platform.python_version()}  # fmt: skip
    return {"date": date.today().isoformat(), "machine": machine, **found, "crowd": about, "holds": holds}


def main() -> None:
    """Measure, print and write."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs="+", default=["playground", "runs/demo/dpo"])
    asked.add_argument("--raters", type=int, default=16)
    asked.add_argument("--seconds", type=float, default=60.0)
    asked.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "app.json")
    given = asked.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), given.raters, given.seconds, given.models)
    given.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))
    raise SystemExit(not all(found["holds"].values()))


if __name__ == "__main__":
    main()
