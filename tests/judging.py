"""A tiny vision-language model that has learned to judge: of two pictures it prefers the red one, and knows a tie."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import tiny_vlm
import torch
from PIL import Image

from visalign.scorers.chat import Question
from visalign.scorers.local_vlm import LocalVLM
from visalign.scorers.rubrics import load
from visalign.scorers.wording import comparison, opening, subject
from visalign.scoring import Sample

RUBRIC = load({"name": "warm", "about": "Judge.", "aspects": [{"name": "overall", "question": "Warmer?"}]})
PROMPT = "p"
STEPS = 400


def picture(red: bool, rng: random.Random) -> Image.Image:
    """32 x 32 of one colour, reddish or bluish."""
    base = (200, 30, 30) if red else (30, 30, 200)
    return Image.new("RGB", (32, 32), tuple(min(255, each + rng.randint(0, 50)) for each in base))


def pair(first: Image.Image, second: Image.Image) -> Question:
    """What the judge asks about two pictures."""
    samples = [Sample(PROMPT, image=each) for each in (first, second)]
    shown = [subject(each, 64) for each in samples]
    return comparison(opening(samples[0], RUBRIC, 64), *shown, RUBRIC, RUBRIC.aspects[0])


def taught(folder: Path) -> Path:
    """A LLaVA of two layers, taught on some hundred pairs until it errs no more; its folder."""
    backend = LocalVLM(tiny_vlm.llava(folder, layers=2))
    network, processor, rng = backend.network.requires_grad_(True), backend.processor, random.Random(0)
    learner = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        shown = [(rng.random() < 0.5, rng.random() < 0.5) for _ in range(8)]
        pictures = [[picture(red, rng) for red in each] for each in shown]
        answers = ["C" if one == other else "A" if one else "B" for one, other in shown]
        texts = [backend.text(pair(*each)) + said + "<|end|>" for each, said in zip(pictures, answers, strict=True)]
        inputs = processor(text=texts, images=[each for both in pictures for each in both], return_tensors="pt")
        logits = network(**inputs).logits[:, -3:-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, inputs["input_ids"][:, -2:].flatten())
        learner.zero_grad()
        loss.backward()
        learner.step()
        if loss.item() < 0.01:
            break
    network.save_pretrained(folder)
    return folder


@contextmanager
def transformers_serve(folder: Path, log: Path) -> Iterator[str]:
    """The address of `transformers serve` with a model's folder, once it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            _wait(f"http://127.0.0.1:{port}/health", process, log)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, timeout=2.0).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    raise RuntimeError(f"transformers serve did not start: {log.read_text(errors='replace')[-2000:]}")
